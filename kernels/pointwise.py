"""CUDA kernels on chunked FP16 tensors that need no neighbours, or few.

Element-wise chains (:class:`Chain`), layer normalisation over channels (:class:`LayerNorm`), the global average
(:class:`SegmentSums`, then :class:`SegmentAverage`), instance normalisation (:class:`SegmentMoments`, then
:class:`InstanceNorm`), depthwise 3x3 convolution (:class:`Depthwise`), and NCHW to
chunked and back (:class:`ToChunked`, :class:`ToPlanar`).

An operator is a frozen description; :func:`render` writes its kernel, :func:`render_naive` the reference beside it,
with the same arguments, :func:`pack` the parameters it reads. Channels, constants and tiles are in the text; heights,
widths and the batch are not. A chunked tensor is ``[batch][planes][H][W][8 halves]``; every kernel writes zeros to the
channels that only fill up the last chunk. Outputs must not overlap inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.chain import FORMULAS, NAIVE_FORMULAS, Chain, Kind, chain_text, naive_chain_text, operand_count
from codesign.kernels.chunked import (
    CHUNK,
    NAIVE_THREADS,
    WARP,
    Grid,
    Number,
    flag,
    kernel_text,
    literal,
    naive_grid,
    padded,
    plane_count,
)


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``(x - mean) / sqrt(variance + epsilon) * scale + shift`` over the channels of each pixel, FP32 statistics.

    ``scale``, ``shift``: ``[C]``.
    """

    scale: NDArray[Any] = field(repr=False)
    shift: NDArray[Any] = field(repr=False)
    epsilon: float = 1e-6
    pixel_warps: int = 4
    """Groups of 32 pixels in a block."""
    channel_warps: int = 0
    """Warps that share a pixel's planes; 0 for as many as leave each 8 planes at most."""

    @property
    def channels(self) -> int:
        return int(self.scale.shape[0])

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def members(self) -> int:
        return self.channel_warps or -(-self.planes // 8)

    @property
    def groups(self) -> int:
        """Of 32 pixels in a block, of at most 16 warps."""
        return max(1, min(self.pixel_warps, 16 // self.members))

    @property
    def threads(self) -> int:
        return self.groups * self.members * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * self.threads * 4 if self.members > 1 else 0


@dataclass(frozen=True)
class SegmentSums:
    """First half of the global average: FP32 ``[batch][planes][segments][8]``, in a fixed order of additions."""

    channels: int
    segments: int = 32
    threads: int = 256

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return self.threads * CHUNK * 4


@dataclass(frozen=True)
class SegmentAverage:
    """Second half: a chunked tensor of 1 x 1 pixels, ``[batch][planes][8]``, from what :class:`SegmentSums` left.

    ``height`` and ``width`` are those of the frame that was summed.
    """

    channels: int
    segments: int = 32
    threads: int = 64

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


@dataclass(frozen=True)
class SegmentMoments:
    """First half of an instance normalisation: FP32 sums and sums of squares ``[batch][planes][segments][16]``.

    Of the values less the frame's first one, so that a large mean does not swallow the variance; in a fixed order.
    """

    channels: int
    segments: int = 32
    threads: int = 256

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return self.threads * 2 * CHUNK * 4


@dataclass(frozen=True)
class InstanceNorm:
    """Second half: ``(x - mean) / sqrt(variance + epsilon)`` of each channel over the frame, then ``relu`` if wanted.

    Inputs: the frame, and what :class:`SegmentMoments` left.
    """

    channels: int
    epsilon: float = 1e-5
    relu: bool = False
    segments: int = 32
    threads: int = 128
    items: int = 4

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 2 * CHUNK * 4


@dataclass(frozen=True, eq=False)
class Depthwise:
    """3x3 convolution of each channel by itself, stride 1, zeros outside; then ``activation`` of ``constants``.

    ``weights [C, 3, 3]``, ``bias [C]``. ``gate``: the result is the activation of the first half of the channels times
    the second half: NAFNet's SimpleGate, or with a GELU the gate of Restormer's feed-forward layer.
    """

    weights: NDArray[Any] = field(repr=False)
    bias: NDArray[Any] = field(repr=False)
    activation: Kind = "copy"
    constants: tuple[float, ...] = ()
    gate: bool = False
    rows: int = 8
    """Of the result that a thread makes."""
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
    def planes(self) -> int:
        """Of the output."""
        return plane_count(self.output_channels)

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * 10 * CHUNK * 4 if self.gate else 0


@dataclass(frozen=True)
class ToChunked:
    """NCHW ``[batch][C][H][W]`` to chunked."""

    channels: int
    number: Number = "fp16"
    threads: int = 128
    items: int = 2

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


@dataclass(frozen=True)
class ToPlanar:
    """Chunked to NCHW ``[batch][C][H][W]``."""

    channels: int
    number: Number = "fp16"
    threads: int = 128
    items: int = 2

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


Operator = (
    Chain | LayerNorm | SegmentSums | SegmentAverage | SegmentMoments | InstanceNorm | Depthwise | ToChunked | ToPlanar
)


def pack(op: Operator) -> bytes:
    """The parameters, FP32, to lie on a 16-byte boundary; empty for operators without."""
    if isinstance(op, Chain):
        return b"".join(padded(np.array(item.values), op.channels).tobytes() for item in op.per_channel)
    if isinstance(op, LayerNorm):
        return padded(op.scale, op.channels).tobytes() + padded(op.shift, op.channels).tobytes()
    if isinstance(op, Depthwise):
        rows = np.concatenate([op.weights.reshape(op.channels, 9).T, op.bias[None]])  # [10, C]
        return padded(rows, op.channels).reshape(10, -1, CHUNK).transpose(1, 0, 2).tobytes()
    return b""


def pointers(op: Operator) -> tuple[str, ...]:
    """Names of the kernel's pointers, in order: inputs, outputs, parameters if it has any."""
    if isinstance(op, Chain):
        inputs = tuple(f"input_{i}" for i in range(len(op.inputs)))
        outputs = tuple(f"output_{i}" for i in range(len(op.outputs)))
        return inputs + outputs + (("parameters",) if op.per_channel else ())
    if isinstance(op, InstanceNorm):
        return "input", "moments", "output"
    return ("input", "output", "parameters") if isinstance(op, LayerNorm | Depthwise) else ("input", "output")


def grid(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z for a frame of ``height`` x ``width`` pixels."""
    pixels = height * width
    if isinstance(op, LayerNorm):
        return -(-pixels // (op.groups * WARP)), 1, batch
    if isinstance(op, SegmentSums | SegmentMoments):
        return op.segments, op.planes, batch
    if isinstance(op, SegmentAverage):
        return -(-op.planes * CHUNK // op.threads), 1, batch
    if isinstance(op, Depthwise):
        return -(-width // WARP) * op.planes, -(-height // (op.warps * op.rows)), batch
    return -(-pixels // (op.threads * op.items)), op.planes, batch


def render(op: Operator, name: str) -> str:
    """The kernel's CUDA text. Its arguments: :func:`pointers`, then ``int height, int width``."""
    before = ""
    if isinstance(op, Chain):
        body = chain_text(op)
    elif isinstance(op, LayerNorm):
        body = (
            f"  LayerNorm<{op.channels}, {op.groups}, {op.members}>::run(input, output, parameters, "
            f"{literal(op.epsilon)}, height, width);\n"
        )
    elif isinstance(op, SegmentSums):
        body = f"  sum_segments<{op.planes}, {op.segments}, {op.threads}>(input, output, height, width);\n"
    elif isinstance(op, SegmentMoments):
        body = f"  sum_moments<{op.planes}, {op.segments}, {op.threads}>(input, output, height, width);\n"
    elif isinstance(op, InstanceNorm):
        body = (
            f"  instance_norm<{op.channels}, {op.segments}, {flag(op.relu)}, {op.items}, {op.threads}>(input, moments, "
            f"output, {literal(op.epsilon)}, height, width);\n"
        )
    elif isinstance(op, SegmentAverage):
        body = f"  average_segments<{op.channels}, {op.segments}, {op.threads}>(input, output, height, width);\n"
    elif isinstance(op, Depthwise):
        before = _functor(op, name, FORMULAS)
        body = (
            f"  depthwise<{op.channels}, {op.warps}, {op.rows}, {flag(op.gate)}, {name}_activation>(input, output, "
            "parameters, height, width);\n"
        )
    else:
        function = "planar_to_chunked" if isinstance(op, ToChunked) else "chunked_to_planar"
        single = flag(op.number == "fp32")
        body = f"  {function}<{op.channels}, {single}, {op.items}, {op.threads}>(input, output, height, width);\n"
    return kernel_text("pointwise.cuh", name, op.threads, pointers(op), body, before=before)


def render_naive(op: Operator, name: str) -> str:
    """The reference, with the same arguments; see :func:`naive_grid_of`. An instance normalisation has none."""
    if isinstance(op, SegmentMoments | InstanceNorm):
        raise TypeError(f"{type(op).__name__} has no naive kernel")
    before = ""
    if isinstance(op, Chain):
        body = naive_chain_text(op)
    elif isinstance(op, LayerNorm):
        body = f"  naive_layer_norm<{op.channels}>(input, output, parameters, {literal(op.epsilon)}, height, width);\n"
    elif isinstance(op, SegmentSums):
        body = f"  naive_sum_segments<{op.planes}, {op.segments}>(input, output, height, width);\n"
    elif isinstance(op, SegmentAverage):
        body = f"  naive_average_segments<{op.channels}, {op.segments}>(input, output, height, width);\n"
    elif isinstance(op, Depthwise):
        before = _functor(op, name, NAIVE_FORMULAS)
        body = (
            f"  naive_depthwise<{op.channels}, {flag(op.gate)}, {name}_activation>(input, output, parameters, height, "
            "width);\n"
        )
    else:
        function = "planar_to_chunked" if isinstance(op, ToChunked) else "chunked_to_planar"
        body = f"  naive_{function}<{op.channels}, {flag(op.number == 'fp32')}>(input, output, height, width);\n"
    return kernel_text("naive.cuh", name, NAIVE_THREADS, pointers(op), body, before=before)


def naive_grid_of(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    if isinstance(op, SegmentSums):
        return naive_grid(op.channels, op.segments, 1, batch)
    if isinstance(op, SegmentAverage):
        return naive_grid(op.channels, 1, 1, batch)
    channels = op.output_channels if isinstance(op, Depthwise) else op.channels
    return naive_grid(channels, height, width, batch)


def _functor(op: Depthwise, name: str, formulas: dict[Kind, str]) -> str:
    formula = formulas[op.activation].format("x", *(literal(value) for value in op.constants))
    return f"struct {name}_activation {{\n  static DEVICE float apply(float x) {{ return {formula}; }}\n}};\n\n"
