"""Whatever the machine does not know: it stays in float, and TVM compiles it for the host."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.operator import Operator
from codesign.hw.spec import AccelSpec


class Host(Operator):
    """Any other operator, in float on the host."""

    def begins(self, graph: Graph, node: Node) -> bool:
        return False

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return True

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return True

    def unsupported(self, graph: Graph, node: Node, spec: AccelSpec) -> str | None:
        return "The machine has no command for this operator."


HOST = Host()
