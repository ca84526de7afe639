"""Piecewise-linear activations: a slope below zero, and limits. They join the operator before them, or stand alone."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import clips_to_8_bits
from codesign.compile.scanline.lowering import Lowering, identity_of
from codesign.compile.scanline.tensors import Tensor
from codesign.kernels.chain import Apply, PerChannel, each_value
from codesign.kernels.frame_kernel import FrameKernel

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

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        step = _step(graph, node)
        return () if step is None else (each_value(node.shape[1], (step,)),)

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return clips_to_8_bits(unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        lowering.close(identity_of(unit.name, source).activated(unit), target)


def _step(graph: Graph, node: Node) -> Apply | None:
    """``node`` as the step of a chain; None for slopes that are computed."""
    attributes = node.attributes
    match node.op:
        case "nn.relu":
            return Apply("relu", (0,))
        case "clip":
            return Apply("clip", (0, float(attributes["min"]), float(attributes["max"])))
        case "nn.leakyrelu":
            return Apply("leaky_relu", (0, float(attributes["alpha"])))
        case _ if graph.is_constant(node.inputs[1]):
            return Apply("prelu", (0, PerChannel(tuple(map(float, graph.constants[node.inputs[1]].reshape(-1))))))
        case _:
            return None
