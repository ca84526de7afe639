"""Every operator, found by its file in this folder; stages iterate over them and know none by name."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.operators.host import HOST
from codesign.compile.operators.operator import Composite, Operator
from codesign.hw.discovery import classes_of, modules_of
from codesign.hw.spec import AccelSpec

_FOUND = classes_of(modules_of("codesign.compile.operators", but=("registry", "page")), Operator)

OPERATORS: tuple[Operator, ...] = tuple(
    sorted((found() for found in _FOUND if found.ops), key=lambda operator: operator.rank)
)
"""The operators of this folder's files, in the order in which they are recognised."""

COMPOSITES: Mapping[str, Composite] = {one.op: one for one in OPERATORS if isinstance(one, Composite)}
"""Operators that Relax spells as several, by the names of their nodes."""


def operator_of(graph: Graph, node: Node) -> Operator:
    """The operator whose unit ``node`` begins; the host's, where it begins none."""
    if len(node.shape) != 4:
        return HOST
    return next((operator for operator in OPERATORS if operator.begins(graph, node)), HOST)


def named(op: str) -> Operator:
    """The first operator that has nodes named ``op``; the host's, where none has."""
    return next((operator for operator in OPERATORS if op in (*operator.ops, *operator.cuda_ops)), HOST)


def why_unsupported(graph: Graph, node: Node, spec: AccelSpec) -> str | None:
    """Why a machine of ``spec`` cannot run ``node``, in a sentence for the user; None if it can."""
    if len(node.shape) != 4:
        return "Only tensors [1, C, H, W] run on the machine."
    operator = operator_of(graph, node)
    if operator is HOST:
        operator = named(node.op)
    return operator.unsupported(graph, node, spec)


def macs_of(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of ``node``, by the project's definition."""
    return operator_of(graph, node).macs(graph, node)
