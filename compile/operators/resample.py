"""Average pooling and bilinear resizing.

Where all pixels have the same weights they are convolutions with whole weights, exact sums rounded once like any other.
Where corners lie on corners no two pixels have, and the sampler computes them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import (
    FRAME,
    MAX_COLUMNS,
    MAX_PADDING,
    MAX_ROWS,
    stride_is_one_or_two,
)
from codesign.compile.scanline.kernels import convolution as kernels
from codesign.compile.scanline.kernels.resize import Resize as SampledResize
from codesign.compile.scanline.lowering import Lowering, Psums
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.spec import AccelSpec
from codesign.hw.spec import Unit as MachineUnit
from codesign.kernels import resize
from codesign.kernels.frame_kernel import FrameKernel

MOST_ENLARGED = 5
"""A bilinear weight is a whole number of ``4 f^2``-ths, at most ``(2 f - 1)^2`` of them, which must fit int8."""


_CUDA_MODES = ("align_corners", "half_pixel", "pytorch_half_pixel")

HALVED = -2
"""Stands for a factor of 1/2."""

ENLARGED = (2, 4, 8)
"""By what the sampler enlarges."""


def resize_factor(before: tuple[int, int], after: tuple[int, int], method: str, coordinates: str) -> int:
    """By what a bilinear resize of a frame enlarges it, :data:`HALVED`, or 0 where it does anything else.

    ``coordinates`` is the ONNX standard's coordinate transformation mode; ``half_pixel`` (pixels are areas, beyond the
    border lies the border's value) is the one whose weights are the same all over the frame.
    """
    (height, width), (rows, columns) = before, after
    if method != "linear" or coordinates not in ("half_pixel", "pytorch_half_pixel"):
        return 0
    if coordinates == "pytorch_half_pixel" and 1 in after:
        return 0
    if (2 * rows, 2 * columns) == (height, width):
        return HALVED
    factor = rows // height
    exact = (rows, columns) == (factor * height, factor * width)
    return factor if exact and 2 <= factor <= MOST_ENLARGED else 0


def corner_factor(before: tuple[int, int], after: tuple[int, int], method: str, coordinates: str) -> int:
    """By what power of two a bilinear resize with ``align_corners`` enlarges a frame, 0 where it does anything else."""
    factor = after[0] // before[0]
    exact = after == (factor * before[0], factor * before[1])
    return factor if (method, coordinates) == ("linear", "align_corners") and exact and factor in ENLARGED else 0


def average_weights(channels: int, rows: int, columns: int) -> NDArray[np.int8]:
    """``int8[rows, columns, C, C]``: every channel's sum over a window."""
    return np.broadcast_to(np.eye(channels, dtype=np.int8), (rows, columns, channels, channels))


def bilinear_weights(channels: int, factor: int) -> NDArray[np.int8]:
    """``int8[3, 3, C, C factor^2]``: pixel ``(i, j)`` of a block is output channel ``c factor^2 + i factor + j``.

    In units of ``1 / (4 factor^2)``. Pixel ``i`` lies ``(2 i + 1 - factor) / (2 factor)`` off its source's centre.
    """
    taps = np.zeros((3, factor), np.int64)
    for i in range(factor):
        off = 2 * i + 1 - factor
        taps[:, i] = max(-off, 0), 2 * factor - abs(off), max(off, 0)
    weights = np.zeros((3, 3, channels, channels, factor, factor), np.int8)
    both = np.einsum("yi,xj->yxij", taps, taps)
    for channel in range(channels):
        weights[:, :, channel, channel] = both
    return weights.reshape(3, 3, channels, channels * factor**2)


class _Resampling(Operator):
    carries_flows = True
    takes_factor = True
    bits = "8 or 16"
    cuda = "a kernel of its own"

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return True

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return True

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return True


def averages_plainly(graph: Graph, node: Node) -> bool:
    """An average pool must divide by its whole window, by floor of the frame, undilated."""
    attributes = node.attributes
    counted = bool(attributes["count_include_pad"]) or not any(int(p) for p in attributes["padding"])
    return counted and not attributes["ceil_mode"] and all(int(d) == 1 for d in attributes["dilation"])


def pool_fits(graph: Graph, node: Node) -> bool:
    """An average pool's window may have 62 rows and 127 columns, with at most 63 rows and columns of padding."""
    rows, columns = (int(extent) for extent in node.attributes["pool_size"])
    return rows < MAX_ROWS and columns < MAX_COLUMNS and max(int(p) for p in node.attributes["padding"]) <= MAX_PADDING


class AveragePool(_Resampling):
    """The mean of every window of a channel."""

    ops = ("nn.avg_pool2d",)
    spellings = ("torch: AvgPool2d", "ONNX: AveragePool")
    rules = (*FRAME, averages_plainly, pool_fits, stride_is_one_or_two)

    def begins(self, graph: Graph, node: Node) -> bool:
        return node.op in self.ops and averages_plainly(graph, node) and node.attributes["layout"] == "NCHW"

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        attributes, (height, width) = node.attributes, graph.shape_of(node.inputs[0])[2:]
        halves = node.shape[2:] == (height // 2, width // 2) and not any(attributes["padding"])
        if not halves or {*attributes["pool_size"], *attributes["strides"]} != {2}:
            return ()
        return (resize.Resize(node.shape[1], "average", 2),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        rows, columns = (int(extent) for extent in unit.head.attributes["pool_size"])
        top, left, *_ = (int(side) for side in unit.head.attributes["padding"])
        stride = int(unit.head.attributes["strides"][0])
        lowering.close(_mean(unit, source, rows, columns, stride, top, left), target)


def resizes_alike(graph: Graph, node: Node) -> bool:
    """A bilinear resize must be by 1/2, 2, 3, 4 or 5 with half-pixel centres, or by 2, 4 or 8 with aligned corners."""
    (height, width), (rows, columns) = graph.shape_of(node.inputs[0])[2:], node.shape[2:]
    how = str(node.attributes["method"]), str(node.attributes["coordinate_transformation_mode"])
    frames = (height, width), (rows, columns), *how
    return resize_factor(*frames) != 0 or corner_factor(*frames) != 0


class Resize(_Resampling):
    """A bilinear resize: by 1/2, 2, 3, 4 or 5 with half-pixel centres, by 2, 4 or 8 with aligned corners."""

    ops = ("image.resize2d",)
    spellings = ("torch: Upsample and interpolate (bilinear)", "ONNX: Resize (linear)")
    rules = (*FRAME, resizes_alike)

    def begins(self, graph: Graph, node: Node) -> bool:
        return node.op in self.ops and node.attributes["layout"] == "NCHW" and resizes_alike(graph, node)

    def unsupported(self, graph: Graph, node: Node, spec: AccelSpec) -> str | None:
        if keeps_corners(node) and MachineUnit.SAMPLER not in spec.units:
            return MachineUnit.SAMPLER.missing
        return super().unsupported(graph, node, spec)

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return not keeps_corners(unit.head) or graph is None or unit.head.shape[1] == 2

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return result_wide if keeps_corners(unit.head) else True

    def widens_operands(self, unit: Unit) -> bool:
        return keeps_corners(unit.head)

    def bits_fit(self, unit: RoundedUnit) -> bool:
        if not keeps_corners(unit.head):
            return True
        return unit.operands[0].bits == unit.result.bits and (unit.narrow or unit.head.shape[1] == 2)

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        attributes, before, after = node.attributes, graph.shape_of(node.inputs[0])[2:], node.shape[2:]
        mode = attributes["coordinate_transformation_mode"]
        bilinear = (attributes["method"], attributes["layout"]) == ("linear", "NCHW") and mode in _CUDA_MODES
        if not bilinear or (mode == "pytorch_half_pixel" and 1 in after):
            return ()
        factor = after[0] // before[0]
        exact = factor > 1 and (before[0] * factor, before[1] * factor) == tuple(after)
        return (resize.Resize(node.shape[1], "bilinear", factor if exact else 0, mode == "align_corners"),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        frames = _frames(unit)
        if factor := corner_factor(*frames):
            lowering.close(_stepped(unit, source, factor), target)
        elif (factor := resize_factor(*frames)) == HALVED:
            lowering.close(_mean(unit, source, 2, 2, 2), target)
        else:
            lowering.close(_enlarged(unit, source, factor), target)


def _frames(unit: RoundedUnit) -> tuple[tuple[int, int], tuple[int, int], str, str]:
    (height, width), (rows, columns) = unit.operands[0].shape[2:], unit.head.shape[2:]
    method, coordinates = (str(unit.head.attributes[key]) for key in ("method", "coordinate_transformation_mode"))
    return (height, width), (rows, columns), method, coordinates


def _mean(
    unit: RoundedUnit, source: Tensor, rows: int, columns: int, stride: int, top: int = 0, left: int = 0
) -> Psums:
    """The mean of every window."""
    _, channels, height, width = unit.head.shape
    return Psums(
        name=unit.name,
        sources=(source.name,),
        kernel=kernels.Convolution(average_weights(channels, rows, columns), stride, top, left),
        scales=np.full(channels, 1.0 / (rows * columns)) * unit.factor,
        height=height,
        width=width,
    )


def _enlarged(unit: RoundedUnit, source: Tensor, factor: int) -> Psums:
    weights = bilinear_weights(source.values, factor)
    return Psums(
        name=unit.name,
        sources=(source.name,),
        kernel=kernels.Convolution(weights, pad_top=1, pad_left=1, edge=True),
        scales=np.full(weights.shape[3], 1.0 / (4 * factor**2)) * unit.factor,
        height=source.height,
        width=source.width,
        shuffle=factor,
    )


def _stepped(unit: RoundedUnit, source: Tensor, factor: int) -> Psums:
    """A resize whose corners lie on corners."""
    _, _, height, width = unit.head.shape
    return Psums(
        name=unit.name,
        sources=(source.name,),
        kernel=SampledResize(factor, source.values),
        scales=np.full(source.values, 1.0 / numerics.SAMPLE_UNITS) * unit.factor,
        height=height,
        width=width,
    )


def keeps_corners(node: Node) -> bool:
    """Whether ``node`` resizes with aligned corners: the sampler does, 8 bits to 8 and 16 to 16."""
    return node.attributes.get("coordinate_transformation_mode") == "align_corners"
