"""A float graph cut into units: what the accelerator computes between two roundings.

A unit reads int8 tensors and stores one; it rounds once. Its head says which operator it is, and the operator which
activations join it.
"""

from __future__ import annotations

from collections.abc import Container

from codesign.compile.canonical.affine import is_bias
from codesign.compile.graph.graph import STEP, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.host import HOST
from codesign.compile.operators.registry import operator_of
from codesign.compile.operators.scale import Scale, turns_sign


def units(graph: Graph, stored: Container[str] = ()) -> tuple[Unit, ...]:
    """The float graph cut into units, in topological order of their heads.

    An activation joins the operator before it when nothing else reads that operator's result, and when that is not
    among the tensors that must be ``stored``.
    """
    consumers = graph.consumers()
    taken: set[str] = set()
    found: list[Unit] = []

    def sole_reader(node: Node) -> Node | None:
        readers = consumers[node.name]
        alone = len(readers) == 1 and node.name != graph.output and node.name not in stored
        return readers[0] if alone else None

    for node in graph.nodes:
        if node.name in taken:
            continue
        operator = operator_of(graph, node)
        nodes = [node]
        reader = sole_reader(node)
        if operator.weighs and reader is not None and is_bias(graph, reader):
            nodes.append(reader)
            reader = sole_reader(reader)
        scales = reader is not None and isinstance(operator_of(graph, reader), Scale)
        if reader is not None and scales and operator.takes_factor:
            nodes.append(reader)
            reader = None
        if reader is not None and reader.op in operator.fuses and not turns_sign(graph, node):
            nodes.append(reader)
        taken.update(member.name for member in nodes)
        found.append(Unit(operator, tuple(nodes)))
    return tuple(found)


def stays_float(graph: Graph, parts: tuple[Unit, ...]) -> frozenset[str]:
    """Tensors that stay float: those read only by host operators, or only as a flow."""
    operators = {node.name: unit.operator for unit in parts for node in unit.nodes}
    consumers = graph.consumers()

    def stays(unit: Unit) -> bool:
        if unit.head.op == STEP:
            return True
        if unit.operator is not HOST or unit.name == graph.output:
            return False
        readers = consumers[unit.name]
        sampled = any(operators[one.name].at_a_flow and one.inputs[0] == unit.name for one in readers)
        in_float = all(operators[one.name] is HOST or operators[one.name].at_a_flow for one in readers)
        return in_float and not sampled

    return frozenset(unit.name for unit in parts if stays(unit))
