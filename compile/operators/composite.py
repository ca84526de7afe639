"""An operator that networks have and Relax spells as several: one node in a graph, one composite function in Relax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from tvm import relax

from codesign.compile.ir.graph import Graph, Node

Bind = Callable[[str, Any], Any]
"""Binds a Relax expression to a variable of the given name, which it returns."""


class Composite:
    """What an operator means, however an exporter wrote it.

    ``op`` is the name of its nodes. A node's attributes are numbers, strings, and tuples of them: they become the typed
    attributes of the composite function.
    """

    op: str
    size_free: bool = False
    """Whether its attributes hold for frames of every size."""

    def evaluate(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """The result in float; differentiable where torch is."""
        raise NotImplementedError

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        """The same in plain Relax operators, bound under names that begin with the node's; returns the result's
        variable, named as the node is."""
        raise NotImplementedError

    def recognise(self, graph: Graph) -> Graph:
        """``graph`` with this operator's nodes in place of the exporters' spellings. It keeps the function."""
        return graph


def constant(value: NDArray[Any], node: Node) -> Any:
    """``value`` as a Relax constant, in the type that ``node`` computes in."""
    return relax.const(value.astype(node.dtype), node.dtype)
