"""Every operator, one a file of this folder; stages iterate over them and know none by name."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.operators.activation import Clamp
from codesign.compile.operators.all_pairs import AllPairs
from codesign.compile.operators.concat import Concat
from codesign.compile.operators.convolution import Convolution, TransposedConvolution
from codesign.compile.operators.correlation import Correlation
from codesign.compile.operators.host import HOST
from codesign.compile.operators.instance_norm import InstanceNorm
from codesign.compile.operators.movement import Copies, PixelShuffle, PixelUnshuffle
from codesign.compile.operators.operator import Composite, Operator
from codesign.compile.operators.pair import Product, Sum
from codesign.compile.operators.resample import AveragePool, Resize
from codesign.compile.operators.scale import Scale
from codesign.compile.operators.table import Table
from codesign.compile.operators.warp import Warp
from codesign.compile.operators.window import Window
from codesign.hw.spec import AccelSpec

OPERATORS: tuple[Operator, ...] = (
    Convolution(),
    TransposedConvolution(),
    Sum(),
    Product(),
    Scale(),
    Clamp(),
    PixelShuffle(),
    PixelUnshuffle(),
    Copies(),
    Concat(),
    AveragePool(),
    Resize(),
    Warp(),
    Correlation(),
    Window(),  # recognised before the products that its volume is made of
    AllPairs(),
    InstanceNorm(),
    Table(),  # recognised last: it would take parts of the others
)

COMPOSITES: Mapping[str, Composite] = {one.op: one for one in OPERATORS if isinstance(one, Composite)}
"""Operators that Relax spells as several, by the names of their nodes."""


def operator_of(graph: Graph, node: Node) -> Operator:
    """The operator whose unit ``node`` begins; the host's, where it begins none."""
    if len(node.shape) != 4:
        return HOST
    return next((operator for operator in OPERATORS if operator.begins(graph, node)), HOST)


def named(op: str) -> Operator:
    """The first operator that has nodes named ``op``; the host's, where none has."""
    return next((operator for operator in OPERATORS if op in operator.ops), HOST)


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
