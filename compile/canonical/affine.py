"""Canonicalisation around convolutions: biases, scales, padding and channels of zeros move into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codesign.compile.graph.graph import Array, Editor, Graph, Node
from codesign.compile.operators.convolution import CONVOLUTIONS


def per_channel(graph: Graph, node: Node, name: str) -> Array | None:
    """Constant ``name`` as ``float32[1, C, 1, 1]`` for the channels of ``node``, or ``None`` if it varies elsewhere."""
    value = graph.constants.get(name)
    if value is None or len(node.shape) != 4:
        return None
    padded = (1,) * (4 - value.ndim) + tuple(value.shape)
    channels = node.shape[1]
    if value.ndim > 4 or padded not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    return np.broadcast_to(value.reshape(padded), (1, channels, 1, 1)).astype(np.float32)


def is_bias(graph: Graph, node: Node) -> bool:
    """Whether ``node`` adds a canonical bias to a convolution."""
    source = graph.by_name.get(node.inputs[0])
    return (
        node.op == "add"
        and source is not None
        and source.op in CONVOLUTIONS
        and graph.is_constant(node.inputs[1])
        and graph.shape_of(node.inputs[1]) == (1, node.shape[1], 1, 1)
    )


def _scaled_weight(weight: Array, node: Node, scale: Array) -> Array:
    """Weights whose output channels are multiplied by ``scale: [C]``."""
    wide, factors = weight.astype(np.float64), scale.reshape(-1).astype(np.float64)
    if node.op == "nn.conv2d":
        return (wide * factors[:, None, None, None]).astype(np.float32)
    groups = node.attributes["groups"]
    grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * factors.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape).astype(np.float32)


def fold_affine(graph: Graph) -> Graph:
    """Per-channel constants added to or multiplied with a convolution's output become its bias and weights."""
    editor = Editor(graph)
    consumers = graph.consumers()
    made: dict[str, Node] = {}

    def private(name: str) -> bool:
        return len(consumers.get(name, ())) == 1 and name != graph.output

    def remake(name: str, **changes: object) -> None:
        index = next(i for i, node in enumerate(editor.nodes) if node.name == name)
        editor.nodes[index] = made[name] = replace(editor.nodes[index], **changes)  # type: ignore[arg-type]

    for node in graph.nodes:
        value = per_channel(graph, node, node.inputs[1]) if node.op in ("add", "multiply") else None
        producer = made.get(editor.resolve(node.inputs[0])) if value is not None else None
        if value is None or producer is None or producer.shape != node.shape:
            name = editor.keep(node)
            made[name] = editor.nodes[-1]
            continue
        convolution = producer if producer.op in CONVOLUTIONS else made.get(producer.inputs[0])
        biased = producer.op == "add" and convolution is not None and convolution.op in CONVOLUTIONS
        biased = biased and producer.inputs[1] in editor.constants
        float_weight = (
            convolution is not None and len(convolution.inputs) > 1 and convolution.inputs[1] in editor.constants
        )
        sole = private(node.inputs[0])
        if is_bias(graph, node):  # as it should be: a new constant each round would never be stable
            name = editor.keep(node)
            made[name] = editor.nodes[-1]
        elif node.op == "add" and producer.op in CONVOLUTIONS:
            bias = editor.constant(f"{producer.name}.bias.value", value)
            name = editor.keep(node, inputs=(producer.name, bias), attributes={})
            made[name] = editor.nodes[-1]
        elif node.op == "add" and biased and sole:
            total = editor.constants[producer.inputs[1]] + value
            remake(producer.name, inputs=(producer.inputs[0], editor.constant(f"{producer.name}.value", total)))
            editor.alias(node.name, producer.name)
        elif node.op == "multiply" and float_weight and convolution is not None and sole:
            sole_bias = producer is convolution or (biased and private(convolution.name))
            if not (producer is convolution or sole_bias):
                made[editor.keep(node)] = editor.nodes[-1]
                continue
            weight = _scaled_weight(editor.constants[convolution.inputs[1]], convolution, value)
            named = editor.constant(f"{convolution.name}.weight", weight)
            remake(convolution.name, inputs=(convolution.inputs[0], named))
            if producer is not convolution:
                scaled = (editor.constants[producer.inputs[1]].astype(np.float64) * value).astype(np.float32)
                remake(producer.name, inputs=(producer.inputs[0], editor.constant(f"{producer.name}.value", scaled)))
            editor.alias(node.name, producer.name)
        else:
            made[editor.keep(node)] = editor.nodes[-1]
    return editor.graph()


def fold_padding(graph: Graph) -> Graph:
    """Zero padding of rows and columns before a convolution becomes the convolution's own."""
    editor = Editor(graph)
    for node in graph.nodes:
        pad = graph.by_name.get(node.inputs[0])
        if node.op != "nn.conv2d" or pad is None or not _pads_with_zeros(pad):
            editor.keep(node)
            continue
        widths = pad.attributes["pad_width"]
        top, left, bottom, right = node.attributes["padding"]
        padding = (top + widths[4], left + widths[6], bottom + widths[5], right + widths[7])
        editor.keep(node, inputs=(pad.inputs[0], node.inputs[1]), attributes=conv_attributes(node, padding=padding))
    return editor.graph()


def fold_zero_channels(graph: Graph) -> Graph:
    """Remove the parts of a concatenation that are zero all over the frame from the convolution that reads it.

    Coarse-to-fine networks begin with a flow of zeros.
    """
    editor = Editor(graph)
    for node in graph.nodes:
        joined = graph.by_name.get(node.inputs[0]) if node.op == "nn.conv2d" else None
        zeros = _zero_parts(graph, joined) if joined is not None and graph.is_constant(node.inputs[1]) else []
        if joined is None or not any(zeros) or all(zeros) or node.attributes["groups"] != 1:
            editor.keep(node)
            continue
        counts = [graph.shape_of(name)[1] for name in joined.inputs]
        read = np.repeat(~np.array(zeros), counts)
        parts = tuple(name for name, zero in zip(joined.inputs, zeros, strict=True) if not zero)
        shape = (joined.shape[0], int(np.count_nonzero(read)), *joined.shape[2:])
        rest = editor.add(joined.name, "concat", parts, {"axis": 1}, shape=shape)
        weight = editor.constant(f"{node.name}.weight", graph.constants[node.inputs[1]][:, read])
        editor.keep(node, inputs=(rest, weight))
    return editor.graph()


def lift_zero_channels(graph: Graph) -> Graph:
    """A concatenation of another that has operands of zeros is one of all their operands: the zeros can be left out."""
    editor, parts = Editor(graph), dict[str, tuple[str, ...]]()
    for node in graph.nodes:
        if node.op == "concat" and node.attributes["axis"] == 1:
            spread = tuple(one for name in node.inputs for one in parts.get(name, (name,)))
            if spread != node.inputs:
                node = replace(node, inputs=spread, attributes={"axis": 1})
            if any(graph.is_constant(name) and not graph.constants[name].any() for name in spread):
                parts[node.name] = spread
        editor.keep(node)
    return editor.graph()


def _zero_parts(graph: Graph, node: Node) -> list[bool]:
    """Which operands of a concatenation along the channels are constant zeros."""
    if node.op != "concat" or node.attributes["axis"] != 1 or len(node.shape) != 4:
        return []
    return [graph.is_constant(name) and not graph.constants[name].any() for name in node.inputs]


def _pads_with_zeros(node: Node) -> bool:
    if node.op != "nn.pad" or len(node.shape) != 4:
        return False
    attributes = node.attributes
    widths = attributes["pad_width"]
    constant = attributes["pad_mode"] == "constant" and float(attributes["pad_value"]) == 0.0
    return constant and not any(widths[:4]) and all(width >= 0 for width in widths)


def conv_attributes(node: Node, **changes: object) -> dict[str, object]:
    """The attributes of a convolution that mean something here, some of them changed."""
    names = ["strides", "padding", "dilation", "groups"]
    names += ["output_padding"] if node.op == "nn.conv2d_transpose" else []
    return {**{name: node.attributes[name] for name in names}, **changes}


def standalone_affine(graph: Graph) -> Graph:
    """A per-channel scale or an offset that no convolution takes becomes a 1x1 convolution with a diagonal kernel.

    Multiplication by one scalar stays: the machine requantises for that. A scale and then an offset, as in ``1 - x``,
    are one convolution; of an offset and then a scale, as in ``(x - mean) / std``, the scale is left to be folded.
    """
    editor = Editor(graph)
    consumers = graph.consumers()
    made: set[str] = set()
    for node in graph.nodes:
        value = per_channel(graph, node, node.inputs[1]) if node.op in ("add", "multiply") else None
        alone = value is not None and graph.shape_of(node.inputs[0]) == node.shape and not is_bias(graph, node)
        if value is None or not alone or (node.op == "multiply" and graph.scalar(node.inputs[1]) is not None):
            editor.keep(node)
            continue
        channels, source = node.shape[1], node.inputs[0]
        if node.op == "multiply" and source in made and len(consumers[source]) == 1 and source != graph.output:
            editor.keep(node)
            continue
        diagonal = value.reshape(-1) if node.op == "multiply" else np.ones(channels, np.float32)
        scaling = graph.by_name.get(source)
        if node.op == "add" and scaling is not None and scaling.op == "multiply" and len(consumers[source]) == 1:
            scale = per_channel(graph, scaling, scaling.inputs[1])
            if scale is not None and graph.shape_of(scaling.inputs[0]) == node.shape:
                diagonal, source = scale.reshape(-1), scaling.inputs[0]
        kernel = np.diag(diagonal).astype(np.float32).reshape(channels, channels, 1, 1)
        weight = editor.constant(f"{node.name}.weight", kernel)
        attributes = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
        if node.op == "multiply":
            editor.keep(node, op="nn.conv2d", inputs=(source, weight), attributes=attributes)
            continue
        made.add(node.name)
        product = editor.add(f"{node.name}.identity", "nn.conv2d", (source, weight), attributes, shape=node.shape)
        editor.keep(node, inputs=(product, editor.constant(f"{node.name}.bias", value)), attributes={})
    return editor.graph()
