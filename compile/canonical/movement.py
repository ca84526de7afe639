"""Canonicalisation of data movement: pixel shuffle, pixel unshuffle and channel copies under one spelling each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from codesign.compile.canonical.affine import conv_attributes
from codesign.compile.graph.graph import Array, Editor, Graph, Node
from codesign.compile.operators.convolution import CONVOLUTIONS

_EXACT_NEAREST: Mapping[str, tuple[str, ...]] = {
    # Coordinate modes with the roundings under which an integer factor copies every pixel into a square block.
    "asymmetric": ("floor", ""),
    "half_pixel": ("round", "round_prefer_floor", "round_prefer_ceil", ""),
    "pytorch_half_pixel": ("round", "round_prefer_floor", "round_prefer_ceil", ""),
}


def recognise_movement(graph: Graph) -> Graph:
    """Replace the exporters' spellings of pixel shuffle, unshuffle, nearest up-scaling and channel copies."""
    editor = Editor(graph)
    for node in graph.nodes:
        if node.op == "reshape" and (found := _shuffle(graph, node)):
            _keep_shuffle(editor, node, *found)
        elif node.op == "reshape" and (found := _unshuffle(graph, node)):
            _keep_unshuffle(editor, node, *found)
        elif node.op == "reshape" and (copied := _interleaved(graph, node)):
            source, repeats = copied
            editor.keep(node, op="repeat", inputs=(source,), attributes={"repeats": repeats, "axis": 1})
        elif (
            node.op == "concat" and node.attributes["axis"] == 1 and len(set(node.inputs)) == 1 and len(node.inputs) > 1
        ):
            _keep_tile(editor, node, len(node.inputs))
        elif node.op == "tile" and (times := _channel_tile(graph, node)):
            _keep_tile(editor, node, times)
        elif node.op == "image.resize2d" and (factor := _nearest_factor(graph, node)):
            channels, height, width = graph.shape_of(node.inputs[0])[1:]
            repeated = editor.add(
                f"{node.name}.copies",
                "repeat",
                node.inputs,
                {"repeats": factor * factor, "axis": 1},
                shape=(1, channels * factor * factor, height, width),
            )
            editor.keep(node, op="nn.pixel_shuffle", inputs=(repeated,), attributes={"upscale_factor": factor})
        else:
            editor.keep(node)
    return editor.graph()


def _keep_tile(editor: Editor, node: Node, times: int) -> None:
    if editor.source.shape_of(node.inputs[0])[1] == 1:
        attributes = {"repeats": times, "axis": 1}
        editor.keep(node, op="repeat", inputs=node.inputs[:1], attributes=attributes)
    else:
        editor.keep(node, op="tile", inputs=node.inputs[:1], attributes={"repeats": (1, times, 1, 1)})


def _channel_tile(graph: Graph, node: Node) -> int:
    repeats = tuple(node.attributes["repeats"])
    only_channels = len(repeats) == 4 and repeats[0] == 1 and repeats[2:] == (1, 1) and repeats[1] > 1
    settled = "call" not in node.attributes
    return repeats[1] if only_channels and not (settled and graph.shape_of(node.inputs[0])[1] > 1) else 0


def _three(graph: Graph, node: Node) -> tuple[str, Node, Node] | None:
    """``(source, split, turn)`` when ``node`` reshapes a permutation of a 6-D reshape of a 4-D source."""
    turn = graph.by_name.get(node.inputs[0])
    if turn is None or turn.op != "permute_dims" or len(turn.shape) != 6 or len(node.shape) != 4:
        return None
    split = graph.by_name.get(turn.inputs[0])
    if split is None or split.op != "reshape" or len(graph.shape_of(split.inputs[0])) != 4:
        return None
    return split.inputs[0], split, turn


def _shuffle(graph: Graph, node: Node) -> tuple[str, int, bool] | None:
    """``(source, factor, depth first)`` of a depth-to-space written as three operators."""
    found = _three(graph, node)
    if found is None:
        return None
    source, split, turn = found
    _, channels, height, width = node.shape
    axes = tuple(turn.attributes["axes"])
    rows, columns = split.shape[4:]
    if rows == 0 or height % rows or height // rows != width // columns or width % columns:
        return None
    r = height // rows
    if axes == (0, 1, 4, 2, 5, 3) and split.shape == (1, channels, r, r, rows, columns):
        return source, r, False
    if axes == (0, 3, 4, 1, 5, 2) and split.shape == (1, r, r, channels, rows, columns):
        return source, r, True
    return None


def _unshuffle(graph: Graph, node: Node) -> tuple[str, int, bool] | None:
    """``(source, factor, depth first)`` of a space-to-depth written as three operators."""
    found = _three(graph, node)
    if found is None:
        return None
    source, split, turn = found
    _, channels, rows, columns = graph.shape_of(source)
    axes = tuple(turn.attributes["axes"])
    r = split.shape[3]
    if r < 2 or split.shape != (1, channels, rows // r, r, columns // r, r):
        return None
    if node.shape != (1, channels * r * r, rows // r, columns // r):
        return None
    return (source, r, axes == (0, 3, 5, 1, 2, 4)) if axes in ((0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)) else None


def _interleaved(graph: Graph, node: Node) -> tuple[str, int] | None:
    """``(source, repeats)`` of channels repeated by expand, broadcast and reshape."""
    wide = graph.by_name.get(node.inputs[0])
    if wide is None or wide.op not in ("broadcast_to", "tile") or len(wide.shape) != 5 or len(node.shape) != 4:
        return None
    thin = graph.by_name.get(wide.inputs[0])
    if thin is None or thin.op not in ("expand_dims", "reshape"):
        return None
    shape = graph.shape_of(thin.inputs[0])
    if len(shape) != 4:
        return None
    _, channels, height, width = shape
    repeats = wide.shape[2]
    if thin.shape != (1, channels, 1, height, width) or wide.shape != (1, channels, repeats, height, width):
        return None
    return (thin.inputs[0], repeats) if node.shape == (1, channels * repeats, height, width) else None


def _nearest_factor(graph: Graph, node: Node) -> int:
    attributes = node.attributes
    if attributes["method"] != "nearest_neighbor" or attributes["layout"] != "NCHW" or len(node.shape) != 4:
        return 0
    roundings = _EXACT_NEAREST.get(attributes["coordinate_transformation_mode"], ())
    if attributes["rounding_method"] not in roundings:
        return 0
    _, _, rows, columns = graph.shape_of(node.inputs[0])
    height, width = node.shape[2:]
    exact = height % rows == 0 and width % columns == 0 and height // rows == width // columns
    return height // rows if exact and height > rows else 0


def slice_splits(graph: Graph) -> Graph:
    """``graph`` with the parts of every split as slices."""
    editor = Editor(graph)
    for node in graph.nodes:
        source = graph.by_name[node.inputs[0]] if node.op == "tuple_item" else None
        if source is None or source.op != "split":
            if node.op != "split":
                editor.keep(node)
            continue
        axis, sections = int(source.attributes["axis"]) % len(node.shape), source.attributes["indices_or_sections"]
        extent = graph.shape_of(source.inputs[0])[axis]
        cuts = range(0, extent, -(-extent // sections)) if isinstance(sections, int) else (0, *map(int, sections))
        first = cuts[node.attributes["index"]]
        attributes = {"axes": [axis], "begin": [first], "end": [first + node.shape[axis]], "strides": [1]}
        editor.keep(node, op="strided_slice", inputs=source.inputs[:1], attributes=attributes)
    return editor.graph()


def depth_order(channels: int, factor: int) -> Array:
    """``order[k]``: which channel of a depth-first (DCR) tensor is channel ``k`` in the column-row (CRD) order."""
    square = factor * factor
    k = np.arange(channels * square)
    return (k % square) * channels + k // square


def _keep_shuffle(editor: Editor, node: Node, source: str, factor: int, depth_first: bool) -> None:
    if depth_first and node.shape[1] > 1:
        source = reorder(editor, source, depth_order(node.shape[1], factor), node.name)
    editor.keep(node, op="nn.pixel_shuffle", inputs=(source,), attributes={"upscale_factor": factor})


def _keep_unshuffle(editor: Editor, node: Node, source: str, factor: int, depth_first: bool) -> None:
    attributes = {"downscale_factor": factor}
    channels = editor.source.shape_of(source)[1]
    if not depth_first or channels == 1:
        editor.keep(node, op="pixel_unshuffle", inputs=(source,), attributes=attributes)
        return
    moved = editor.add(f"{node.name}.rows", "pixel_unshuffle", (source,), attributes, shape=node.shape)
    inverse = np.argsort(depth_order(channels, factor))
    editor.alias(node.name, _permutation(editor, moved, inverse, node.name, node.shape))


def reorder(editor: Editor, name: str, order: Array, reader: str) -> str:
    """A tensor whose channel ``k`` is channel ``order[k]`` of ``name``: by permuting the weights that made it, if
    nobody else sees them, else by a 1x1 convolution with a permutation matrix."""
    name = editor.resolve(name)
    chain = _private_chain(editor, name)
    if chain is None:
        made = (node.shape for node in editor.nodes if node.name == name)
        shape = next(made, None) or editor.source.shape_of(name)  # of an operator, else of the network's input
        return _permutation(editor, name, order, reader, shape)
    for index in chain:
        node = editor.nodes[index]
        permuted = [_permuted_operand(editor, node, position, order) for position in range(len(node.inputs))]
        attributes = conv_attributes(node) if node.op in CONVOLUTIONS else node.attributes
        editor.nodes[index] = Node(node.name, node.op, tuple(permuted), attributes, node.shape, node.dtype)
    return name


def _private_chain(editor: Editor, name: str) -> list[int] | None:
    """Indices of the nodes from ``name`` back to a convolution when each feeds only the next."""
    consumers = editor.source.consumers()
    positions = {node.name: index for index, node in enumerate(editor.nodes)}
    chain: list[int] = []
    while True:
        index = positions.get(name)
        if index is None or len(consumers.get(name, ())) != 1 or name == editor.source.output:
            return None
        node = editor.nodes[index]
        chain.append(index)
        if node.op == "nn.conv2d" and node.attributes["groups"] == 1:
            weight = positions.get(node.inputs[1])
            return chain if weight is None else [*chain, weight]
        activations = [operand for operand in node.inputs if operand not in editor.constants]
        if len(activations) != 1 or node.op not in _CHANNELWISE:
            return None
        name = activations[0]


_CHANNELWISE = frozenset(
    {"add", "multiply", "nn.relu", "clip", "nn.leakyrelu", "nn.prelu", "table", "quantize", "dequantize"}
)


def _permuted_operand(editor: Editor, node: Node, position: int, order: Array) -> str:
    """Constants that vary along the permuted channels, permuted."""
    name = node.inputs[position]
    value = editor.constants.get(name)
    if value is None or value.size == 1:
        return name
    axis = {"nn.conv2d": 0, "nn.prelu": 0, "dequantize": 0, "quantize": 0}.get(node.op, 1 if value.ndim == 4 else 0)
    return editor.constant(f"{name}.reordered", np.take(value, order, axis=axis))


def _permutation(editor: Editor, source: str, order: Array, reader: str, shape: tuple[int, ...]) -> str:
    channels = len(order)
    kernel = np.zeros((channels, channels, 1, 1), np.float32)
    kernel[np.arange(channels), order] = 1.0
    weight = editor.constant(f"{reader}.order", kernel)
    attributes = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    return editor.add(f"{reader}.permuted", "nn.conv2d", (source, weight), attributes, shape=shape)
