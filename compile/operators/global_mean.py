"""Means over the whole frame, as channel attention has them."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.operators.host import no_command
from codesign.compile.operators.operator import Operator
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.pointwise import SegmentAverage, SegmentSums


class GlobalMean(Operator):
    """The mean of every channel over the frame, one pixel."""

    ops = ("mean",)
    spellings = ("torch: AdaptiveAvgPool2d(1), x.mean((2, 3), keepdim=True)", "ONNX: GlobalAveragePool, ReduceMean")
    bits = "on the host"
    cuda = "two kernels of its own"
    rules = (no_command,)

    def begins(self, graph: Graph, node: Node) -> bool:
        return False

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        axes = sorted(int(axis) % 4 for axis in node.attributes["axis"] or ())
        if axes != [2, 3] or not node.attributes["keepdims"]:
            return ()
        return SegmentSums(node.shape[1]), SegmentAverage(node.shape[1])
