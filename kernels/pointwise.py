"""Kernels on chunked FP16 tensors whose results need no neighbours, or few.

Layer normalisation over channels (:class:`LayerNorm`), the global average (:class:`SegmentSums`, then
:class:`SegmentAverage`), instance normalisation (:class:`SegmentMoments`, then :class:`InstanceNorm`), depthwise 3x3
convolution (:class:`Depthwise`), and NCHW to chunked and back (:class:`ToChunked`, :class:`ToPlanar`).

A chunked tensor is ``[batch][planes][H][W][8 halves]``; every kernel writes zeros to the channels that only fill up the
last chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.chain import FORMULAS, NAIVE_FORMULAS, Kind, operand_count
from codesign.kernels.chunked import CHUNK, WARP, Grid, Number, flag, literal, naive_grid, padded
from codesign.kernels.frame_kernel import FrameKernel

MAX_WARPS = 32
"""Warps of a block."""


@dataclass(frozen=True, eq=False)
class LayerNorm(FrameKernel):
    """``(x - mean) / sqrt(variance + epsilon) * scale + shift`` over the channels of each pixel, FP32 statistics.

    ``scale``, ``shift``: ``[C]``.
    """

    scale: NDArray[Any] = field(repr=False)
    shift: NDArray[Any] = field(repr=False)
    epsilon: float = 1e-6
    pixel_warps: int = 4
    """Groups of 32 pixels in a block."""
    channel_warps: int = 0
    """Warps that share a pixel's planes; 0: as many as it takes for at most 8 planes each, and 32 at most."""

    @property
    def channels(self) -> int:
        return int(self.scale.shape[0])

    @property
    def members(self) -> int:
        """Warps that share a pixel's planes."""
        return self.channel_warps or min(-(-self.planes // 8), MAX_WARPS)

    @property
    def groups(self) -> int:
        """Groups of 32 pixels per block; a block of more than one has at most 16 warps."""
        return max(1, min(self.pixel_warps, 16 // self.members))

    @property
    def threads(self) -> int:
        return self.groups * self.members * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * self.threads * 4 if self.members > 1 else 0

    @property
    def pointers(self) -> tuple[str, ...]:
        return "input", "output", "parameters"

    def parameters(self) -> bytes:
        return padded(self.scale, self.channels).tobytes() + padded(self.shift, self.channels).tobytes()

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // (self.groups * WARP)), 1

    def body(self, name: str) -> str:
        return (
            f"  LayerNorm<{self.channels}, {self.groups}, {self.members}>::run(input, output, parameters, "
            f"{literal(self.epsilon)}, height, width);\n"
        )

    def naive_body(self, name: str) -> str:
        epsilon = literal(self.epsilon)
        return f"  naive_layer_norm<{self.channels}>(input, output, parameters, {epsilon}, height, width);\n"


@dataclass(frozen=True)
class SegmentSums(FrameKernel):
    """First half of the global average: FP32 ``[batch][planes][segments][8]``, in a fixed order of additions."""

    channels: int
    segments: int = 32
    threads: int = 256

    @property
    def rows(self) -> int:
        """Rows of the output, as a tensor one pixel wide: 8 floats a segment and chunk are two chunks of halves."""
        return 2 * self.segments

    @property
    def shared_bytes(self) -> int:
        return self.threads * CHUNK * 4

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return self.segments, self.planes

    def body(self, name: str) -> str:
        return f"  sum_segments<{self.planes}, {self.segments}, {self.threads}>(input, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        return f"  naive_sum_segments<{self.planes}, {self.segments}>(input, output, height, width);\n"

    def naive_grid(self, integers: Sequence[int], batch: int = 1) -> Grid:
        return naive_grid(self.channels, self.segments, 1, batch)


@dataclass(frozen=True)
class SegmentAverage(FrameKernel):
    """Second half: a chunked tensor of 1 x 1 pixels, ``[batch][planes][8]``.

    Inputs: the frame, of which only the size is read, and the sums of :class:`SegmentSums`.
    """

    channels: int
    segments: int = 32
    threads: int = 64

    @property
    def pointers(self) -> tuple[str, ...]:
        return "input", "sums", "output"

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-self.planes * CHUNK // self.threads), 1

    def body(self, name: str) -> str:
        return f"  average_segments<{self.channels}, {self.segments}, {self.threads}>(sums, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        return f"  naive_average_segments<{self.channels}, {self.segments}>(sums, output, height, width);\n"

    def naive_grid(self, integers: Sequence[int], batch: int = 1) -> Grid:
        return naive_grid(self.channels, 1, 1, batch)


@dataclass(frozen=True)
class SegmentMoments(FrameKernel):
    """First half of an instance normalisation: FP32 sums and sums of squares ``[batch][planes][segments][16]``.

    The frame's first value is subtracted from all, so that a large mean does not swallow the variance; the order of
    additions is fixed.
    """

    channels: int
    segments: int = 32
    threads: int = 256

    @property
    def rows(self) -> int:
        """Rows of the output, as a tensor one pixel wide: 16 floats a segment and chunk are four chunks of halves."""
        return 4 * self.segments

    @property
    def shared_bytes(self) -> int:
        return self.threads * 2 * CHUNK * 4

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return self.segments, self.planes

    def body(self, name: str) -> str:
        return f"  sum_moments<{self.planes}, {self.segments}, {self.threads}>(input, output, height, width);\n"


@dataclass(frozen=True)
class InstanceNorm(FrameKernel):
    """Second half: ``(x - mean) / sqrt(variance + epsilon)`` of each channel over the frame, then a ReLU if ``relu``.

    Inputs: the frame, and the sums of :class:`SegmentMoments`.
    """

    channels: int
    epsilon: float = 1e-5
    relu: bool = False
    segments: int = 32
    threads: int = 128
    items: int = 4
    """Pixels of a thread."""

    @property
    def shared_bytes(self) -> int:
        return 2 * CHUNK * 4

    @property
    def pointers(self) -> tuple[str, ...]:
        return "input", "moments", "output"

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // (self.threads * self.items)), self.planes

    def body(self, name: str) -> str:
        return (
            f"  instance_norm<{self.channels}, {self.segments}, {flag(self.relu)}, {self.items}, {self.threads}>"
            f"(input, moments, output, {literal(self.epsilon)}, height, width);\n"
        )


@dataclass(frozen=True, eq=False)
class Depthwise(FrameKernel):
    """3x3 convolution of each channel by itself, stride 1, zeros outside; then ``activation`` with ``constants``.

    ``weights [C, 3, 3]``, ``bias [C]``. ``gate``: the result is the activation of the first half of the channels times
    the second half: NAFNet's SimpleGate, or with a GELU the gate of Restormer's feed-forward layer.
    """

    weights: NDArray[Any] = field(repr=False)
    bias: NDArray[Any] = field(repr=False)
    activation: Kind = "copy"
    constants: tuple[float, ...] = ()
    gate: bool = False
    rows: int = 8
    """Rows of the result that a thread computes."""
    warps: int = 4

    def __post_init__(self) -> None:
        if self.weights.shape != (self.channels, 3, 3):
            raise ValueError(f"weights {self.weights.shape} of a depthwise 3x3 convolution of {self.channels} channels")
        if operand_count(self.activation) != 1 + len(self.constants):
            raise ValueError(f"{self.activation} with {len(self.constants)} constants")
        if self.gate and self.channels % (2 * CHUNK):
            raise ValueError(f"the halves of {self.channels} channels are not whole chunks")

    @property
    def channels(self) -> int:
        return int(self.bias.shape[0])

    @property
    def output_channels(self) -> int:
        return self.channels // 2 if self.gate else self.channels

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * 10 * CHUNK * 4 if self.gate else 0

    @property
    def pointers(self) -> tuple[str, ...]:
        return "input", "output", "parameters"

    def parameters(self) -> bytes:
        rows = np.concatenate([self.weights.reshape(self.channels, 9).T, self.bias[None]])  # [10, C]
        return padded(rows, self.channels).reshape(10, -1, CHUNK).transpose(1, 0, 2).tobytes()

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-width // WARP) * self.planes, -(-height // (self.warps * self.rows))

    def functions(self, name: str) -> str:
        return self._functor(name, FORMULAS)

    def body(self, name: str) -> str:
        return (
            f"  depthwise<{self.channels}, {self.warps}, {self.rows}, {flag(self.gate)}, {name}_activation>"
            "(input, output, parameters, height, width);\n"
        )

    def naive_functions(self, name: str) -> str:
        return self._functor(name, NAIVE_FORMULAS)

    def naive_body(self, name: str) -> str:
        return (
            f"  naive_depthwise<{self.channels}, {flag(self.gate)}, {name}_activation>(input, output, parameters, "
            "height, width);\n"
        )

    def _functor(self, name: str, formulas: dict[Kind, str]) -> str:
        formula = formulas[self.activation].format("x", *(literal(value) for value in self.constants))
        return f"struct {name}_activation {{\n  static DEVICE float apply(float x) {{ return {formula}; }}\n}};\n\n"


@dataclass(frozen=True)
class _Conversion(FrameKernel):
    """A tensor between NCHW ``[batch][C][H][W]`` and chunks; ``number``: the planar side's elements."""

    function: ClassVar[str]

    channels: int
    number: Number = "fp16"
    threads: int = 128
    items: int = 2
    """Pixels of a thread."""

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // (self.threads * self.items)), self.planes

    def body(self, name: str) -> str:
        numbers = f"{self.channels}, {flag(self.number == 'fp32')}, {self.items}, {self.threads}"
        return f"  {self.function}<{numbers}>(input, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        single = flag(self.number == "fp32")
        return f"  naive_{self.function}<{self.channels}, {single}>(input, output, height, width);\n"


@dataclass(frozen=True)
class ToChunked(_Conversion):
    """NCHW to chunked."""

    function = "planar_to_chunked"


@dataclass(frozen=True)
class ToPlanar(_Conversion):
    """Chunked to NCHW."""

    writes = "planar"
    function = "chunked_to_planar"
