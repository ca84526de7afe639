"""Units read back from a quantised graph: what the machine computes between two roundings, with its scales.

:func:`~codesign.compile.quantise.insertion.insert` writes a unit as one dequantise node an operand, the operators, and
one quantise node. Whatever has this form is a unit; every other operator is the host's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compile.canonical.affine import is_bias
from codesign.compile.ir.graph import Array, Graph, Node
from codesign.compile.quantise.units import SLOPES, Kind, fuses, kind_of, turns_sign

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Codes:
    """A stored tensor: real = ``scale`` x (code - ``zero_point``); ``shape``: ``[1, C, H, W]``."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    bits: int


@dataclass(frozen=True)
class Weights:
    """A convolution's codes, ``int8`` or ``int16``, with a scale for each channel of ``axis``."""

    codes: Array
    scales: Reals
    axis: int


@dataclass(frozen=True)
class Activation:
    """Piecewise linear: below 0 times ``slope`` (a number, or one a channel), then limited to [``low``, ``high``]."""

    slope: float | Reals = 1.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class RoundedUnit:
    """A unit of a quantised graph.

    ``kind``: by its head; None for a tensor that is only rounded anew. ``nodes``: the head and what fuses into it.
    """

    kind: Kind | None
    nodes: tuple[Node, ...]
    operands: tuple[Codes, ...]
    result: Codes
    weights: Weights | None = field(default=None, repr=False)
    bias: Array | None = field(default=None, repr=False)
    """``float32[C]``, real."""
    factor: float = 1.0
    """Multiplies a scale's or a resampling's result."""
    activation: Activation = Activation()

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def name(self) -> str:
        """The last operator's name, as the user's model has it."""
        return self.nodes[-1].name if self.nodes else self.result.name

    @property
    def narrow(self) -> bool:
        """Whether operands and result have 8 bits."""
        return all(codes.bits == 8 for codes in (*self.operands, self.result))


def rounded_units(graph: Graph) -> dict[str, RoundedUnit]:
    """The units of a quantised graph, by the names of the quantise nodes that end them."""
    consumers = graph.consumers()
    ends = (node for node in graph.nodes if node.op == "quantize")
    units = {node.name: _unit(graph, consumers, node) for node in ends}
    return {name: unit for name, unit in units.items() if unit is not None}


def _unit(graph: Graph, consumers: Mapping[str, list[Node]], end: Node) -> RoundedUnit | None:
    nodes = _between(graph, consumers, end.inputs[0])
    result = _codes(graph, end, end.name, end.dtype)
    if nodes is None or result is None:
        return None
    if not nodes:
        source = _operand(graph, end.inputs[0])
        return None if source is None else RoundedUnit(None, (), (source,), result)
    head = nodes[0]
    kind = kind_of(graph, head)
    if kind is Kind.HOST:
        return None
    weights = _weights(graph, head) if kind is Kind.CONVOLUTION else None
    read = head.inputs[:1] if kind is Kind.CONVOLUTION else tuple(filter(graph.is_activation, head.inputs))
    operands = [one for name in read if (one := _operand(graph, name)) is not None]
    if len(operands) != len(read) or (kind is Kind.CONVOLUTION and weights is None):
        return None
    unit = RoundedUnit(kind, tuple(nodes), tuple(operands), result, weights)
    if kind is Kind.SCALE:
        unit = replace(unit, factor=_factor(graph, head))
    if kind is Kind.ACTIVATION:
        unit = replace(unit, activation=_activation(graph, kind, head))
    return _followed(graph, unit, nodes[1:])


def _followed(graph: Graph, unit: RoundedUnit, rest: list[Node]) -> RoundedUnit | None:
    """``unit`` with the bias, factor and activation of the nodes after its head; None if they do not fuse."""
    kind, waiting = unit.kind, list(rest)
    assert kind is not None
    if waiting and kind is Kind.CONVOLUTION and is_bias(graph, waiting[0]):
        unit = replace(unit, bias=graph.constants[waiting.pop(0).inputs[1]].reshape(-1))
    if waiting and kind is Kind.RESAMPLING and kind_of(graph, waiting[0]) is Kind.SCALE:
        unit = replace(unit, factor=_factor(graph, waiting.pop(0)))
    if waiting and waiting[0].op in fuses(kind) and not (turns_sign(graph, kind, unit.head)):
        unit = replace(unit, activation=_activation(graph, kind, waiting.pop(0)))
    return None if waiting else unit


def _factor(graph: Graph, scale: Node) -> float:
    return float(graph.constants[scale.inputs[1]].reshape(-1)[0])


def _activation(graph: Graph, kind: Kind, node: Node) -> Activation:
    match node.op:
        case "clip":
            return Activation(low=float(node.attributes["min"]), high=float(node.attributes["max"]))
        case "nn.relu" if not set(SLOPES) & set(fuses(kind)) and kind is not Kind.ACTIVATION:
            return Activation(low=0.0)  # the sum of two tensors has no slope
        case "nn.relu":
            return Activation(slope=0.0)
        case "nn.leakyrelu":
            return Activation(slope=float(node.attributes["alpha"]))
        case _:
            return Activation(slope=graph.constants[node.inputs[1]].astype(np.float64).reshape(-1))


def _between(graph: Graph, consumers: Mapping[str, list[Node]], name: str) -> list[Node] | None:
    """The operators between dequantised operands and ``name``, in order; None if others read what lies between."""
    nodes: list[Node] = []
    while True:
        node = graph.by_name.get(name)
        if node is None or node.op == "dequantize":
            return nodes if node is not None else None
        if len(consumers[name]) != 1 or name == graph.output:
            return None
        nodes.insert(0, node)
        sources = list(filter(graph.is_activation, node.inputs))
        if sources and all(_is_dequantised(graph, source) for source in sources):
            return nodes
        if len(sources) != 1:
            return None
        (name,) = sources


def _is_dequantised(graph: Graph, name: str) -> bool:
    node = graph.by_name.get(name)
    return node is not None and node.op == "dequantize"


def _operand(graph: Graph, name: str) -> Codes | None:
    """The stored tensor that the dequantise node ``name`` reads; None for constants."""
    node = graph.by_name[name]
    code = node.inputs[0]
    return None if graph.is_constant(code) else _codes(graph, node, code, graph.dtype_of(code))


def _codes(graph: Graph, node: Node, name: str, dtype: str) -> Codes | None:
    """The tensor ``name`` with the scale and zero point that ``node`` has; None unless they are constant scalars."""
    scale, zero_point = (graph.scalar(constant) for constant in node.inputs[1:3])
    if scale is None or zero_point is None or dtype not in ("int8", "int16") or len(node.shape) != 4:
        return None
    return Codes(name, node.shape, scale, int(zero_point), 16 if dtype == "int16" else 8)


def _weights(graph: Graph, convolution: Node) -> Weights | None:
    node = graph.by_name.get(convolution.inputs[1])
    if node is None or node.op != "dequantize" or not graph.is_constant(node.inputs[0]):
        return None
    codes, scales = (graph.constants[name] for name in node.inputs[:2])
    return Weights(codes, scales.astype(np.float64).reshape(-1), int(node.attributes["axis"]))
