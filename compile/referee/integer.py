"""The referee: what a quantised network computes, in integers, the whole frame at once.

This evaluates a quantised graph (the form that :mod:`codesign.compile.quantise.quantise` documents) and shares nothing
with the lowering but :mod:`codesign.hw.numerics` and :mod:`codesign.hw.normalise`. It says exactly how
real numbers become integers, and the lowering does the same: every operator's rule stands at the head of its file in
this folder, and :mod:`codesign.compile.referee.values` says how psums are rounded. Scales ``s`` are the float32
constants, all rules compute in float64, ``q`` are codes and ``z`` zero points.

Only ``quantize`` and ``dequantize`` are known here by name, the form of a quantised graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.referee.arrays import AnyInts, Codes
from codesign.compile.referee.registry import RULES
from codesign.compile.referee.values import (
    Format,
    Incoming,
    NoMeaningError,
    Operand,
    Rule,
    Tensor,
    Value,
    Weight,
    constant,
    value,
)
from codesign.hw import numerics
from codesign.hw.errors import InputError, UnsupportedError


def evaluate(graph: Graph, x: Codes) -> Codes:
    """Run a whole quantised network on codes.

    ``x: int8[1, C, H, W]`` are codes of the network's input; the result is ``int8[1, C', H', W']``, the codes of its
    output. Raises :class:`InputError` for a wrong input, :class:`UnsupportedError`, naming the operator, for what has
    no integer meaning, and ``OverflowError`` for a psum beyond 32 bits.
    """
    if x.dtype != np.int8 or tuple(x.shape) != graph.input_shape:
        raise InputError(
            f"the input is {x.dtype}{list(x.shape)}",
            where="main",
            hint=f"This network takes int8{list(graph.input_shape)}.",
        )
    return _followed(graph, {graph.input: Incoming(x)}, (graph.output,))[0].codes


def evaluate_region(graph: Graph, inputs: Mapping[str, Codes], outputs: Sequence[str]) -> tuple[Codes, ...]:
    """Compute ``outputs`` of a quantised graph from ``inputs``, both names of tensors of codes: ``int8[1, C, H, W]``.

    A network that the host has a part in is judged region by region, as the host's floats have no integer meaning.
    Tensors of 16 bits come and go as ``int8[1, 2 C, H, W]``, in byte planes. Raises as :func:`evaluate`.
    """
    known = {
        name: Incoming(_from_byte_planes(codes) if graph.dtype_of(name) == "int16" else codes)
        for name, codes in inputs.items()
    }
    found = _followed(graph, known, outputs)
    return tuple(_byte_planes(tensor.codes) if tensor.wide else tensor.codes for tensor in found)


def _byte_planes(codes: AnyInts) -> Codes:
    return numerics.byte_planes(codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _from_byte_planes(codes: Codes) -> AnyInts:
    return numerics.from_byte_planes(codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _followed(graph: Graph, known: Mapping[str, Incoming], outputs: Sequence[str]) -> list[Tensor]:
    """``outputs`` from what is ``known``, node by node; nothing else is computed."""
    needed = set(outputs) - known.keys()
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed |= {name for name in node.inputs if name in graph.by_name and name not in known}
    values: dict[str, Operand] = {**graph.constants, **known}
    for node in graph.nodes:
        if node.name in needed:
            values[node.name] = _computed(node, [values[name] for name in node.inputs])
    found = [values[name] for name in outputs]
    tensors = [one for one in found if isinstance(one, Tensor)]
    if len(tensors) < len(found):
        raise InputError("the network's output is not quantised", where="main", hint="Quantise the network first.")
    return tensors


def _computed(node: Node, operands: Sequence[Operand]) -> Value:
    try:
        rule = _FORM.get(node.op) or RULES.get(node.op)
        if rule is None:
            raise NoMeaningError("an operator of the host")
        return rule(node, operands)
    except (NoMeaningError, ValueError) as error:
        raise UnsupportedError(
            f"no integer meaning here ({error})",
            where=f"{node.op} '{node.name}'",
            hint="The referee evaluates what runs on the accelerator.",
        ) from error


def _rounded(node: Node, operands: Sequence[Operand]) -> Tensor:
    source, scale, zero_point = operands
    to = Format(float(constant(scale)), int(constant(zero_point)), node.dtype == "int16")
    return value(source).rounded(to)


def _dequantised(node: Node, operands: Sequence[Operand]) -> Tensor | Weight:
    source, scale, zero_point = operands[0], constant(operands[1]), constant(operands[2])
    if not isinstance(source, Value):
        if np.any(zero_point):
            raise NoMeaningError("weights with a zero point")
        return Weight(source, np.asarray(scale, np.float64).reshape(-1), int(node.attributes["axis"]))
    read_as = Format(float(scale), int(zero_point))
    if isinstance(source, Incoming):
        return read_as.tensor(source.codes)
    if not isinstance(source, Tensor) or (source.scale, source.zero_point) != (read_as.scale, read_as.zero_point):
        raise NoMeaningError("codes are read with another scale than they were written with")
    return source


_FORM: Mapping[str, Rule] = {"quantize": _rounded, "dequantize": _dequantised}
"""Rounding, and codes read again."""
