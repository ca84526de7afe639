"""Concatenations of channels."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import batch_is_one
from codesign.compile.scanline.layers import Concat as ConcatLayer
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.tensors import Tensor

MAX_OPERANDS = 16


def joins_channels(graph: Graph, node: Node) -> bool:
    """Only channels may be concatenated, of at most 16 tensors."""
    return node.attributes["axis"] == 1 and len(node.inputs) <= MAX_OPERANDS


class Concat(Operator):
    """The channels of several tensors, one after another."""

    ops = ("concat",)
    spellings = ("torch: cat", "ONNX: Concat")
    joins_scales = True
    bits = "8 or 16, mixed"
    cuda = "read in place, or a kernel of its own"
    rules = (batch_is_one, joins_channels)

    def begins(self, graph: Graph, node: Node) -> bool:
        return node.op in self.ops and node.attributes["axis"] == 1 and all(map(graph.is_activation, node.inputs))

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return True

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return result_wide

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return True

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        parts = tuple(lowering.rescaled(part, target) for part in lowering.operands(unit))
        lowering.layers.append(ConcatLayer(unit.name, parts, target.name))
