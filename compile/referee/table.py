"""Any function of one value at a time, as a table of 256 codes.

``apply_table(q, function_table(steps, s_in, z_in, s_out, z_out))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codesign.compile.graph.graph import Node
from codesign.compile.referee.values import Format, Operand, Rule, Tensor, Value, tensor
from codesign.hw import numerics


@dataclass(frozen=True)
class Tabled(Value):
    """A tensor's values after a sequence of steps."""

    source: Tensor
    steps: tuple[str, ...]

    def rounded(self, to: Format) -> Tensor:
        to.demand_8_bits()
        source = self.source
        table = numerics.function_table(self.steps, source.scale, source.zero_point, to.scale, to.zero_point)
        return to.tensor(numerics.apply_table(source.codes, table))


def tabled(node: Node, operands: Sequence[Operand]) -> Tabled:
    return Tabled(tensor(operands[0]), tuple(node.attributes["steps"]))


RULES: Mapping[str, Rule] = {"table": tabled}
