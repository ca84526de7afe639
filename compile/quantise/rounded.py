"""Units read back from a quantised graph: what the machine computes between two roundings, with its scales.

:func:`~codesign.compile.quantise.insertion.insert` writes a unit as one dequantise node an operand, the operators, and
one quantise node. Whatever has this form is a unit; every other operator is the host's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from codesign.compile.canonical.affine import is_bias
from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import Activation, Codes, RoundedUnit, Weights
from codesign.compile.operators.activation import CLIPS, Clamp
from codesign.compile.operators.host import HOST
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.registry import operator_of
from codesign.compile.operators.scale import RESCALE, Scale, turns_sign


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
        return None if source is None else RoundedUnit(RESCALE, (), (source,), result)
    head = nodes[0]
    operator = operator_of(graph, head)
    if operator is HOST:
        return None
    weights = _weights(graph, head) if operator.weighs else None
    read = head.inputs[:1] if operator.weighs else tuple(filter(graph.is_activation, head.inputs))
    operands = [one for name in read if (one := _operand(graph, name)) is not None]
    if len(operands) != len(read) or (operator.weighs and weights is None):
        return None
    plain = () if operator.weighs else filter(graph.is_constant, head.inputs)
    constants = tuple(graph.constants[name] for name in plain)
    unit = RoundedUnit(operator, tuple(nodes), tuple(operands), result, weights, constants=constants)
    return _collected(graph, unit)


def _collected(graph: Graph, unit: RoundedUnit) -> RoundedUnit | None:
    """``unit`` with what its nodes say of bias, factor and activation; None if they do not fuse."""
    operator, (head, *waiting) = unit.operator, unit.nodes
    if isinstance(operator, Scale):
        unit = replace(unit, factor=_factor(graph, head))
    if isinstance(operator, Clamp):
        unit = replace(unit, activation=_activation(graph, operator, head))
    if waiting and operator.weighs and is_bias(graph, waiting[0]):
        unit = replace(unit, bias=graph.constants[waiting.pop(0).inputs[1]].reshape(-1))
    if waiting and operator.takes_factor and isinstance(operator_of(graph, waiting[0]), Scale):
        unit = replace(unit, factor=_factor(graph, waiting.pop(0)))
    if waiting and waiting[0].op in operator.fuses and not turns_sign(graph, head):
        unit = replace(unit, activation=_activation(graph, operator, waiting.pop(0)))
    return None if waiting else unit


def _factor(graph: Graph, scale: Node) -> float:
    return float(graph.constants[scale.inputs[1]].reshape(-1)[0])


def _activation(graph: Graph, operator: Operator, node: Node) -> Activation:
    match node.op:
        case "clip":
            return Activation(low=float(node.attributes["min"]), high=float(node.attributes["max"]))
        case "nn.relu" if operator.fuses == CLIPS:
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
