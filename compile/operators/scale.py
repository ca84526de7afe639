"""Multiplication by one number: the requantisation's business."""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.activation import PIECEWISE_LINEAR, SLOPES
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import clips_to_8_bits
from codesign.compile.scanline.lowering import Lowering, identity_of
from codesign.compile.scanline.tensors import Tensor


class Scale(Operator):
    """A tensor multiplied or divided by one number."""

    ops = ("multiply",)
    spellings = ("torch: x * 0.5, x / 2, -x", "ONNX: Mul, Div, Neg")
    fuses = PIECEWISE_LINEAR
    bits = "8 or 16"
    cuda = "joins a convolution, or an element-wise chain"
    carries_flows = True

    def begins(self, graph: Graph, node: Node) -> bool:
        activations = [name for name in node.inputs if graph.is_activation(name)]
        return node.op in self.ops and len(activations) == 1 and graph.scalar(node.inputs[1]) is not None

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return {node.op for node in unit.nodes[1:]} <= {"nn.relu", *SLOPES}

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return True

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return clips_to_8_bits(unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        identity = identity_of(unit.name, source)
        lowering.close(replace(identity, scales=identity.scales * unit.factor).activated(unit), target)


class Rescale(Operator):
    """A tensor rounded anew, to another scale."""

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return True

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        lowering.close(identity_of(unit.name, source), target)


RESCALE = Rescale()


def turns_sign(graph: Graph, node: Node) -> bool:
    """Whether ``node`` multiplies by a negative number: the machine chooses a slope by the psum's sign, not by the
    result's."""
    if node.op != "multiply":
        return False
    factor = graph.scalar(node.inputs[1])
    return factor is not None and factor < 0
