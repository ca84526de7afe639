"""Piecewise-linear activations: a slope below zero, and limits. They join the operator before them, or stand alone."""

from __future__ import annotations

from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import clips_to_8_bits
from codesign.compile.scanline.lowering import Lowering, identity_of
from codesign.compile.scanline.tensors import Tensor

SLOPES = ("nn.leakyrelu", "nn.prelu")
CLIPS = ("nn.relu", "clip")
PIECEWISE_LINEAR = (*SLOPES, *CLIPS)


class Clamp(Operator):
    """A ReLU, clip, leaky ReLU or PReLU: a slope below zero, one for all or one a channel, and limits."""

    ops = PIECEWISE_LINEAR
    bits = "8 or 16; limits make 8"
    cuda = "joins a convolution, or an element-wise chain"
    spellings = (
        "torch: ReLU, ReLU6, Hardtanh, LeakyReLU, PReLU, clamp, minimum, maximum, where(x > 0, x, a x)",
        "ONNX: Relu, Clip, LeakyRelu, PRelu, Max, Min, Where",
    )

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return clips_to_8_bits(unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        lowering.close(identity_of(unit.name, source).activated(unit), target)
