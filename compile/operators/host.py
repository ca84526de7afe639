"""Whatever the machine does not know: it stays in float, and TVM compiles it for the host."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.operator import Operator


def no_command(graph: Graph, node: Node) -> bool:
    """The machine has no command for this operator."""
    return False


class Host(Operator):
    """Any other operator, in float on the host."""

    rules = (no_command,)

    def begins(self, graph: Graph, node: Node) -> bool:
        return False

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return True

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return True


HOST = Host()
