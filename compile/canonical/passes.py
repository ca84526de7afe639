"""Brings an imported graph to the few spellings that the quantiser and the lowering know.

After :func:`canonicalise`

- a convolution is ``conv2d``/``conv2d_transpose`` with constant weights, optionally followed by ``add`` of a constant
  ``[1, C, 1, 1]``; batch normalisation, per-channel scaling, zero padding and channels of zeros are folded into it;
- activations are ``relu``, ``clip``, ``leakyrelu``, ``prelu`` (constant slope ``[C]``, axis 1) or ``table``, which is
  any other function of one value at a time;
- sub-pixel up-scaling is ``pixel_shuffle``, whatever the exporter wrote; nearest up-scaling by an integer is ``repeat``
  along the channels and ``pixel_shuffle``; copies of channels are ``repeat`` (each one r times in a row) or ``tile``
  (the whole group r times); the parts of a split are ``strided_slice``;
- a local cost volume is ``correlation``;
- what makes every channel's mean 0 and its variance 1 is ``instance_norm``, without scale and shift;
- a bilinear ``grid_sample`` at every pixel's own place plus a flow is ``warp``; at its own place it is nothing;
- a per-channel scale or offset that no convolution can take is a 1x1 convolution with a diagonal kernel;
- nothing constant is computed, and identities are gone.

Each pass takes a graph and returns a new one; they repeat until nothing changes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import torch

from codesign.compile.canonical.affine import fold_affine, fold_padding, fold_zero_channels, is_bias, standalone_affine
from codesign.compile.canonical.movement import recognise_movement, slice_splits
from codesign.compile.graph.graph import COPY, Array, Editor, Graph, Node
from codesign.compile.graph.passes import Pass, passed, run_passes
from codesign.compile.ir.evaluate import apply
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.operators.operator import Composite
from codesign.compile.operators.registry import COMPOSITES
from codesign.hw.errors import UnsupportedError

STAGE = "canonical"


def _recogniser(composite: Composite) -> Pass:
    def recognise(graph: Graph) -> Graph:
        return composite.recognise(graph)

    recognise.__name__ = f"recognise_{composite.op}"
    return recognise


RECOGNISED: tuple[Pass, ...] = tuple(map(_recogniser, COMPOSITES.values()))
"""A pass an operator of :mod:`codesign.compile.operators`, tables last."""


def canonicalise(graph: Graph) -> Graph:
    """The same function in canonical spelling."""
    *composites, tables = RECOGNISED
    passes: tuple[Pass, ...] = (
        fold_constants,
        unpack_tuples,
        slice_splits,
        respell_takes,
        respell_arithmetic,
        respell_activations,
        recognise_movement,
        *composites,
        fold_affine,
        fold_padding,
        fold_zero_channels,
    )
    graph = _until_stable(graph, passes)
    graph = run_passes(STAGE, graph, (tables, standalone_affine))
    return passed(STAGE, run_passes(STAGE, _until_stable(graph, (*passes, tables)), (tidy_names,)))


def _until_stable(graph: Graph, passes: tuple[Pass, ...]) -> Graph:
    for _ in range(20):
        before = [(node.name, node.op, node.inputs) for node in graph.nodes]
        graph = run_passes(STAGE, graph, passes)
        if [(node.name, node.op, node.inputs) for node in graph.nodes] == before:
            return graph
    return graph


def tidy_names(graph: Graph) -> Graph:
    """The user's own name for the first node that has it, and ``NAME.bias`` for the bias of convolution ``NAME``."""
    taken = {graph.input, *graph.constants}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        wanted = f"{renamed[node.inputs[0]]}.bias" if is_bias(graph, node) else node.name.split(COPY)[0]
        copies = (f"{wanted}{COPY}{count}" for count in itertools.count(1))
        renamed[node.name] = next(name for name in itertools.chain((wanted, node.name), copies) if name not in taken)
        taken.add(renamed[node.name])
    nodes = tuple(
        replace(node, name=renamed[node.name], inputs=tuple(renamed.get(name, name) for name in node.inputs))
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, output=renamed.get(graph.output, graph.output))


def fold_constants(graph: Graph) -> Graph:
    """Compute what depends on constants alone, except the dequantisation of 8-bit weights, which stays visible."""
    editor = Editor(graph)
    weights = {node.inputs[1] for node in graph.nodes if node.op in CONVOLUTIONS}
    for node in graph.nodes:
        inputs = [editor.resolve(name) for name in node.inputs]
        constant = all(name in editor.constants for name in inputs) and node.dtype != "tuple"
        narrow = node.op == "dequantize" and constant and editor.constants[inputs[0]].dtype.itemsize == 1
        narrow = narrow and node.name in weights
        if not constant or narrow:
            editor.keep(node)
            continue
        # In float64, so that the dequantised int32 bias of an imported model is rounded once. Codes come of a division
        # in float32, as in the model's engine: many weights lie half-way between two of them.
        operands = [torch.from_numpy(editor.constants[name].copy()) for name in inputs]
        single = node.op == "quantize"
        wide = [value.double() if value.dtype == torch.float32 and not single else value for value in operands]
        value = apply(node, wide).numpy()
        editor.alias(node.name, editor.constant(f"{node.name}.value", value.astype(node.dtype)))
    return editor.graph()


def unpack_tuples(graph: Graph) -> Graph:
    """Inference-time batch normalisation becomes scale and offset per channel; dropout disappears."""
    editor = Editor(graph)
    for node in graph.nodes:
        if node.op == "nn.batch_norm":
            continue
        if node.op != "tuple_item":
            editor.keep(node)
            continue
        source = graph.by_name[node.inputs[0]]
        if source.op == "nn.dropout" and node.attributes["index"] == 0:
            editor.alias(node.name, source.inputs[0])
        elif source.op == "nn.batch_norm" and node.attributes["index"] == 0:
            scale, offset = _batch_norm(graph, source)
            editor.constants[scale_name := editor.fresh(f"{source.name}.scale")] = scale
            editor.constants[offset_name := editor.fresh(f"{source.name}.offset")] = offset
            scaled = editor.add(f"{source.name}.scaled", "multiply", (source.inputs[0], scale_name), shape=node.shape)
            editor.keep(node, op="add", inputs=(scaled, offset_name), attributes={})
        else:
            editor.keep(node)
    return editor.graph()


def respell_takes(graph: Graph) -> Graph:
    """``take`` of one constant index is a slice, reshaped."""
    editor = Editor(graph)
    for node in graph.nodes:
        axis = node.attributes.get("axis") if node.op == "take" else None
        index = None if axis is None else graph.constants.get(node.inputs[1])
        if axis is None or index is None or index.ndim != 0:
            editor.keep(node)
            continue
        shape = list(graph.shape_of(node.inputs[0]))
        first = int(index) % shape[axis]
        shape[axis] = 1
        attributes = {"axes": [axis], "begin": [first], "end": [first + 1], "strides": [1]}
        cut = editor.add(
            f"{node.name}.cut", "strided_slice", node.inputs[:1], attributes, shape=tuple(shape), dtype=node.dtype
        )
        editor.keep(node, op="reshape", inputs=(cut,), attributes={"shape": list(node.shape)})
    return editor.graph()


def _batch_norm(graph: Graph, node: Node) -> tuple[Array, Array]:
    parameters = node.inputs[1:5]
    if any(name not in graph.constants for name in parameters) or node.attributes["axis"] != 1:
        raise UnsupportedError(
            "batch normalisation whose statistics are computed at run time",
            where=node.where,
            hint="Export the network in evaluation mode (module.eval()).",
        )
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in parameters)
    scale = gamma / np.sqrt(variance + node.attributes["epsilon"])
    offset = beta - mean * scale
    return scale.astype(np.float32).reshape(1, -1, 1, 1), offset.astype(np.float32).reshape(1, -1, 1, 1)


def respell_arithmetic(graph: Graph) -> Graph:
    """Identities go, what is multiplied by zero is; division and subtraction of a constant become multiplication and
    addition."""
    editor = Editor(graph)
    for node in graph.nodes:
        source = graph.by_name.get(editor.resolve(node.inputs[0]))
        if _is_identity(graph, node):
            kept = next(name for name in node.inputs if graph.is_activation(name))
            editor.alias(node.name, kept)
        elif node.op == "multiply" and any(graph.scalar(name) == 0.0 for name in node.inputs):
            editor.alias(node.name, editor.constant(f"{node.name}.zeros", np.zeros(node.shape, np.float32)))
        elif node.op in ("divide", "subtract") and graph.is_constant(node.inputs[1]):
            value = graph.constants[node.inputs[1]].astype(np.float64)
            op, value = ("multiply", 1.0 / value) if node.op == "divide" else ("add", -value)
            constant = editor.constant(f"{node.name}.operand", value.astype(np.float32))
            editor.keep(node, op=op, inputs=(node.inputs[0], constant), attributes={})
        elif node.op in ("add", "multiply") and graph.is_constant(node.inputs[0]):
            editor.keep(node, inputs=(node.inputs[1], node.inputs[0]), attributes={})
        elif node.op == "subtract" and graph.is_constant(node.inputs[0]):
            minus = editor.constant(f"{node.name}.minus", np.array(-1, np.float32))
            negated = editor.add(f"{node.name}.negated", "multiply", (node.inputs[1], minus), shape=node.shape)
            editor.keep(node, op="add", inputs=(negated, node.inputs[0]), attributes={})
        elif node.op == "negative":
            minus = editor.constant(f"{node.name}.minus", np.array(-1, np.float32))
            editor.keep(node, op="multiply", inputs=(node.inputs[0], minus), attributes={})
        elif node.op == "add" and _is_negated(graph, node.inputs[1]):
            editor.keep(
                node, op="subtract", inputs=(node.inputs[0], graph.by_name[node.inputs[1]].inputs[0]), attributes={}
            )
        elif node.op == "multiply" and source and source.op == "multiply" and _two_scalars(graph, node, source):
            value = graph.constants[node.inputs[1]].astype(np.float64) * graph.constants[source.inputs[1]]
            constant = editor.constant(f"{node.name}.operand", value.astype(np.float32))
            editor.keep(node, inputs=(source.inputs[0], constant), attributes={})
        else:
            editor.keep(node)
    return editor.graph()


def _is_identity(graph: Graph, node: Node) -> bool:
    attributes = node.attributes
    if node.op == "strided_slice" and any(int(stride) < 0 for stride in attributes.get("strides") or ()):
        return False
    if node.op in ("reshape", "broadcast_to", "squeeze", "expand_dims", "strided_slice"):
        return graph.shape_of(node.inputs[0]) == node.shape and node.dtype == _dtype(graph, node.inputs[0])
    if node.op == "astype":
        return _dtype(graph, node.inputs[0]) == node.dtype
    if node.op == "permute_dims":
        return tuple(attributes["axes"] or ()) == tuple(range(len(node.shape)))
    if node.op == "clip":
        return float(attributes["min"]) == -math.inf and float(attributes["max"]) == math.inf
    if node.op == "nn.pad":
        return not any(attributes["pad_width"])
    if node.op == "concat":
        return len(node.inputs) == 1
    if node.op in ("repeat", "tile"):
        return graph.shape_of(node.inputs[0]) == node.shape
    if node.op in ("add", "multiply"):
        neutral = 0.0 if node.op == "add" else 1.0
        constants = [name for name in node.inputs if graph.is_constant(name)]
        kept = [name for name in node.inputs if graph.is_activation(name)]
        return (
            len(constants) == 1
            and bool(np.all(graph.constants[constants[0]] == neutral))
            and graph.shape_of(kept[0]) == node.shape
        )
    return False


def _dtype(graph: Graph, name: str) -> str:
    if name == graph.input:
        return graph.input_dtype
    return str(graph.constants[name].dtype) if name in graph.constants else graph.by_name[name].dtype


def _is_negated(graph: Graph, name: str) -> bool:
    node = graph.by_name.get(name)
    return node is not None and node.op == "multiply" and graph.scalar(node.inputs[1]) == -1.0


def _two_scalars(graph: Graph, node: Node, source: Node) -> bool:
    single = len(graph.consumers()[source.name]) == 1
    return single and graph.scalar(node.inputs[1]) is not None and graph.scalar(source.inputs[1]) is not None


def respell_activations(graph: Graph) -> Graph:
    """ReLU, clip, LeakyReLU and PReLU, whatever the exporter wrote."""
    editor = Editor(graph)
    for node in graph.nodes:
        source = graph.by_name.get(node.inputs[0])
        if node.op == "nn.relu6":
            editor.keep(node, op="clip", attributes={"min": 0.0, "max": 6.0})
        elif node.op in ("maximum", "minimum") and (bound := _bound(graph, node)) is not None:
            low, high = (bound, math.inf) if node.op == "maximum" else (-math.inf, bound)
            kept = next(name for name in node.inputs if graph.is_activation(name))
            editor.keep(node, op="clip", inputs=(kept,), attributes={"min": low, "max": high})
        elif node.op == "clip" and (float(node.attributes["min"]), float(node.attributes["max"])) == (0.0, math.inf):
            editor.keep(node, op="nn.relu", attributes={})
        elif node.op == "clip" and source and source.op in ("clip", "nn.relu") and _private(graph, source):
            low, high = _limits(source)
            low, high = max(low, float(node.attributes["min"])), min(high, float(node.attributes["max"]))
            editor.keep(node, inputs=source.inputs, attributes={"min": min(low, high), "max": high})
        elif node.op == "nn.relu" and source and source.op in ("clip", "nn.relu") and _private(graph, source):
            low, high = _limits(source)
            editor.keep(node, op="clip", inputs=source.inputs, attributes={"min": max(low, 0.0), "max": max(high, 0.0)})
        elif node.op == "nn.leakyrelu" and node.attributes["alpha"] == 0.0:
            editor.keep(node, op="nn.relu", attributes={})
        elif node.op == "nn.prelu" and graph.is_constant(node.inputs[1]):
            _keep_prelu(editor, node, graph.constants[node.inputs[1]])
        elif node.op in ("where", "maximum") and (slope := _slope(graph, node)) is not None:
            _keep_prelu(editor, node, slope)
        else:
            editor.keep(node)
    return editor.graph()


def _private(graph: Graph, node: Node) -> bool:
    return len(graph.consumers()[node.name]) == 1 and node.name != graph.output


def _limits(node: Node) -> tuple[float, float]:
    if node.op == "nn.relu":
        return 0.0, math.inf
    return float(node.attributes["min"]), float(node.attributes["max"])


def _bound(graph: Graph, node: Node) -> float | None:
    """The scalar operand of a maximum or minimum with one activation."""
    scalars = [graph.scalar(name) for name in node.inputs if graph.is_constant(name)]
    return scalars[0] if len(scalars) == 1 else None


def _keep_prelu(editor: Editor, node: Node, slope: Array) -> None:
    channels = node.shape[1]
    values = slope.reshape(-1).astype(np.float32)
    source = _activation_of_slope(editor.source, node)
    if np.all(values == values[0]):
        editor.keep(node, op="nn.leakyrelu", inputs=(source,), attributes={"alpha": float(values[0])})
        return
    if values.size != channels:
        raise UnsupportedError(
            f"a PReLU with {values.size} slopes on {channels} channels",
            where=node.where,
            hint="Use one slope in all, or one per channel.",
        )
    if node.op == "nn.prelu" and node.attributes["axis"] == 1 and slope.shape == (channels,):
        editor.keep(node)
        return
    constant = editor.constant(f"{node.name}.slope", values)
    editor.keep(node, op="nn.prelu", inputs=(source, constant), attributes={"axis": 1})


def _activation_of_slope(graph: Graph, node: Node) -> str:
    if node.op == "where":
        return graph.by_name[node.inputs[0]].inputs[0]
    if node.op == "maximum":
        return next(name for name in node.inputs if not _scaled_from(graph, name, node.inputs))
    return node.inputs[0]


def _scaled_from(graph: Graph, name: str, operands: tuple[str, ...]) -> bool:
    node = graph.by_name.get(name)
    return (
        node is not None and node.op == "multiply" and node.inputs[0] in operands and graph.is_constant(node.inputs[1])
    )


def _slope(graph: Graph, node: Node) -> Array | None:
    """The slope of ``where(x > 0, x, slope x)`` or of ``maximum(x, slope x)`` with slopes up to 1."""
    if node.op == "maximum":
        scaled = [name for name in node.inputs if _scaled_from(graph, name, node.inputs)]
        if len(scaled) != 1:
            return None
        slope = graph.constants[graph.by_name[scaled[0]].inputs[1]]
        return slope if bool(np.all((slope >= 0) & (slope <= 1))) else None
    condition = graph.by_name.get(node.inputs[0])
    if condition is None or condition.op not in ("greater", "greater_equal") or graph.scalar(condition.inputs[1]) != 0:
        return None
    x, positive, negative = condition.inputs[0], node.inputs[1], node.inputs[2]
    if positive != x or not _scaled_from(graph, negative, (x,)):
        return None
    return graph.constants[graph.by_name[negative].inputs[1]]
