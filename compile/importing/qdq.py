"""Imported quantise/dequantise graphs, brought to the form that our own quantiser makes.

The graph is taken apart into a float graph, the parameters of every tensor that was rounded, and the weights' own
codes; then the quantiser's :func:`~codesign.compile.quantise.insertion.insert` puts it together again, rounding exactly
where the imported model did. uint8 becomes int8 by an offset of 128.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.compile.graph.graph import Array, Editor, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.quantise.calibration import QuantParams
from codesign.compile.quantise.insertion import insert
from codesign.compile.quantise.units import units
from codesign.hw.errors import UnsupportedError

_OFFSETS = {"uint8": 128, "int8": 0}


def is_quantised(graph: Graph) -> bool:
    """Whether the graph carries quantisation of activations."""
    return any(node.op == "quantize" for node in graph.nodes)


def normalise_qdq(graph: Graph) -> Graph:
    """The same network in canonical quantise/dequantise form.

    Raises :class:`UnsupportedError`, naming the operator, for activations that are not 8 bits per tensor, for weights
    that are asymmetric, and for operators that the model left without quantisation around them.
    """
    bare, chosen, weights = _apart(graph)
    parts = units(bare, stored=chosen)
    bare, chosen = _completed(bare, parts, dict(chosen))
    parts = units(bare, stored=chosen)
    for unit in parts:
        _check(unit, chosen, weights)
    if bare.input not in chosen:
        raise UnsupportedError(
            "the network's input is not quantised",
            where=f"input '{bare.input}'",
            hint="Quantise the whole model (no nodes excluded).",
        )
    return insert(bare, parts, chosen, weights)


Weights = dict[str, tuple[Array, Array]]


def _apart(graph: Graph) -> tuple[Graph, dict[str, QuantParams], Weights]:
    """The float graph, the parameters of its rounded tensors, and codes and scales by convolution."""
    editor = Editor(graph)
    chosen: dict[str, QuantParams] = {}
    weights: Weights = {}
    for node in graph.nodes:
        source = editor.resolve(node.inputs[0])
        if node.op == "quantize":
            params = _params(graph, node, node.dtype)
            if chosen.setdefault(source, params) == params:
                editor.alias(node.name, source)
                continue
            # Rounded a second time with another scale: an operator of its own.
            one = editor.constant(f"{node.name}.one", np.array(1.0, np.float32))
            again = editor.add(f"{node.name}.rescaled", "multiply", (source, one), shape=node.shape)
            chosen[again] = params
            editor.alias(node.name, again)
        elif node.op == "dequantize" and graph.is_constant(node.inputs[0]):
            weights[node.name] = _weight(graph, node)
            codes, scales = weights[node.name]
            axis = node.attributes["axis"]
            shape = [1] * codes.ndim
            shape[axis] = scales.size
            real = codes.astype(np.float32) * scales.reshape(shape)
            editor.alias(node.name, editor.constant(f"{node.name}.real", real))
        elif node.op == "dequantize":
            params = _params(graph, node, _code_type(graph, node.inputs[0]))
            if chosen.get(source) != params:
                raise UnsupportedError(
                    "codes are read with another scale than they were written with",
                    where=node.where,
                    hint="Quantise the model again.",
                )
            editor.alias(node.name, source)
        else:
            editor.keep(node)
    by_convolution = {
        node.name: weights[node.inputs[1]]
        for node in graph.nodes
        if node.op in CONVOLUTIONS and node.inputs[1] in weights
    }
    return editor.graph(), chosen, by_convolution


def _code_type(graph: Graph, name: str) -> str:
    return graph.by_name[name].dtype if name in graph.by_name else graph.input_dtype


def _params(graph: Graph, node: Node, dtype: str) -> QuantParams:
    scale, zero_point = (graph.constants.get(name) for name in node.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        raise UnsupportedError(
            "activations must have one constant scale and zero point",
            where=node.where,
            hint="Quantise activations statically and per tensor.",
        )
    if dtype not in _OFFSETS:
        raise UnsupportedError(
            f"activations of type {dtype}", where=node.where, hint="Quantise activations to int8 or uint8."
        )
    zero = int(zero_point.reshape(-1)[0]) - _OFFSETS[dtype]
    return QuantParams(float(np.float32(scale.reshape(-1)[0])), zero)


def _weight(graph: Graph, node: Node) -> tuple[Array, Array]:
    """``int8`` codes and ``float32[Cout]`` scales of a weight's dequantise node."""
    codes, scale, zero_point = (graph.constants[name] for name in node.inputs[:3])
    dtype = str(codes.dtype)
    if dtype not in _OFFSETS:
        raise UnsupportedError(f"weights of type {dtype}", where=node.where, hint="Quantise weights to int8.")
    centre = _OFFSETS[dtype]
    if np.any(zero_point.astype(np.int64) != centre):
        raise UnsupportedError(
            f"asymmetric weights (zero point {int(zero_point.reshape(-1)[0])} of {dtype})",
            where=node.where,
            hint="Quantise weights symmetrically (per channel, int8).",
        )
    signed = (codes.astype(np.int16) - centre).astype(np.int8)
    count = scale.size if scale.size > 1 else 1
    return signed, np.broadcast_to(scale.reshape(-1), (count,)).astype(np.float32)


def _completed(
    graph: Graph, parts: Sequence[Unit], chosen: dict[str, QuantParams]
) -> tuple[Graph, dict[str, QuantParams]]:
    """Parameters for tensors that data movement shares with its source or result, as a model may round only one."""
    movement = [unit.head for unit in parts if unit.operator.keeps_scale]
    for node in movement:
        if node.inputs[0] in chosen:
            chosen.setdefault(node.name, chosen[node.inputs[0]])
    for node in reversed(movement):
        if node.name in chosen:
            chosen.setdefault(node.inputs[0], chosen[node.name])
    editor = Editor(graph)
    rescaled = {node.name for node in movement if node.name in chosen and chosen[node.inputs[0]] != chosen[node.name]}
    for node in graph.nodes:
        if node.name not in rescaled:
            editor.keep(node)
            continue
        one = editor.constant(f"{node.name}.one", np.array(1.0, np.float32))
        shape = graph.shape_of(node.inputs[0])
        source = editor.add(f"{node.name}.rescaled", "multiply", (node.inputs[0], one), shape=shape)
        chosen[source] = chosen[node.name]
        editor.keep(node, inputs=(source, *node.inputs[1:]))
    return editor.graph(), chosen


def _check(unit: Unit, chosen: dict[str, QuantParams], weights: Weights) -> None:
    hint = "Quantise the whole model (no nodes excluded)."
    if unit.name not in chosen:
        raise UnsupportedError("the model does not quantise its result", where=unit.nodes[-1].where, hint=hint)
    if unit.operator.weighs and unit.head.name not in weights:
        raise UnsupportedError("the model does not quantise its weights", where=unit.head.where, hint=hint)
