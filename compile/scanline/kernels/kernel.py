"""Questions that planner, rewriting and emission ask of a kind of layer.

The defaults of :class:`Kernel` are a convolution's answers, wherever a kind can share them; a kind's file states only
its own. Tensors are named, not held: a kernel is asked with the layer's sources and the graph's tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.plan import mapping
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import Command, Opcode
from codesign.hw.spec import AccelSpec

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]

LATENCY_CYCLES = 100
"""DRAM latency in cycles that the planner assumes: it only weighs the start of a strip, and scattered reads."""


@dataclass(frozen=True)
class Footprint:
    """Rows and columns of the sources that a pixel of the output needs."""

    rows: int = 1
    columns: int = 1
    stride: int = 1
    pad_top: int = 0
    pad_left: int = 0
    enlarges: int = 1  # output rows and columns for each of the sources', where the stride does not make them fewer
    edge: bool = False  # beyond the frame reads as the nearest pixel instead of the zero point

    def rows_for(self, y: int) -> range:
        """Rows of the sources that row ``y`` of the output needs; they may lie beyond the frame."""
        first = y * self.stride // self.enlarges - self.pad_top
        return range(first, first + self.rows)

    def columns_for(self, x: int) -> range:
        """Columns of the sources that column ``x`` of the output needs; they may lie beyond the frame."""
        first = x * self.stride // self.enlarges - self.pad_left
        return range(first, first + self.columns)


@dataclass(frozen=True)
class RowPlace:
    """Places of a layer's operands while a strip's rows are computed, for the fields of its command."""

    sources: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, int]  # number of a tensor's rolling buffer
    columns: Mapping[str, tuple[int, int]]  # columns [first, end) of a tensor that are on chip
    addresses: Mapping[str, int]  # of a tensor in memory
    frees: tuple[bool, ...]  # by source: its rows are free once this layer has read them
    first: int  # column of the output that is computed first
    unfolded: bool  # the source is loaded with a pixel's neighbours as its channels
    mapping: mapping.Mapping
    steps_base: int
    fills_base: int

    @property
    def held(self) -> int:
        """The first column of the first source that is on chip."""
        return self.columns[self.sources[0]][0]


class Kernel:
    """The part of a layer that makes psums; its epilogue makes codes."""

    opcode: ClassVar[Opcode] = Opcode.CONV
    orders_channels: ClassVar[bool] = False
    """Its sources' channels and its own may lie in any order and among others: its weights follow them."""
    splits: ClassVar[bool] = True
    """It may be computed a slice of its output channels at a time."""
    takes_operand: ClassVar[bool] = True
    """A second operand may be added to its result or multiplied with it."""
    needs_statistics: ClassVar[bool] = False
    """It needs the sums of its source over the whole frame."""

    # What it is

    @property
    def channels(self) -> int:
        """Output channels."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Its kind, to be printed."""
        return type(self).__name__.lower()

    @property
    def footprint(self) -> Footprint:
        return Footprint()

    @property
    def whole(self) -> tuple[str, ...]:
        """Tensors that it reads from memory, where they must lie whole."""
        return ()

    @property
    def flow(self) -> str | None:
        """A tensor read at each output pixel's own place, besides the sources."""
        return None

    def seen(self, sources: Sequence[str]) -> str:
        """The tensor whose values are summed up; its zero point is folded into the bias."""
        return sources[0]

    @property
    def cost_key(self) -> Hashable:
        """Equal for kernels that cost the same and fit the same cascades, given tensors of the same shapes."""
        return type(self), self.footprint, self.channels

    # How it may be rewritten

    def on(self, spec: AccelSpec) -> Kernel:
        """This kernel with as much of its source on chip as ``spec`` grants."""
        return self

    def slice(self, first: int, count: int) -> Kernel:
        """This kernel for output channels [first, first + count) alone."""
        raise TypeError(f"a {self.label} is computed whole")

    def pick(self, channels: Int64 | Sequence[int]) -> Kernel:
        """This kernel for the output channels ``channels``, in that order."""
        raise TypeError(f"the channels of a {self.label} have a fixed order")

    def laid_out(self, spec: AccelSpec) -> tuple[Kernel, Int64] | None:
        """The kernel as ``spec`` computes it and the place of every output channel there; None: in order, no gaps."""
        return None

    def on_byte_planes(self, sources: int) -> Kernel:
        """This kernel for ``sources`` sources of 16 bits, whose channels are high bytes, then low bytes."""
        return self

    def in_byte_planes(self) -> Kernel:
        """This kernel for a result of 16 bits: every channel twice, for the high byte and for the low one."""
        return self.pick([*range(self.channels), *range(self.channels)])

    # How it fits into a cascade

    def refuses(self, sources: Sequence[str], made: Collection[str], alone: bool) -> str | None:
        """Why it cannot be in a cascade that computes the tensors ``made``; ``alone``: it is the only layer."""
        return None

    def unfolding(self, spec: AccelSpec) -> int:
        """Neighbours of a pixel that are loaded as the channels of a one-channel source; 0: none."""
        return 0

    def map(self, mappings: mapping.Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> mapping.Mapping:
        """The array's steps and fills; ``unfold`` neighbours of a pixel are loaded as its channels."""
        raise NotImplementedError

    # What it costs

    def group_cycles(self, mappings: mapping.Mappings, made: mapping.Mapping, output: Tensor, operand: bool) -> int:
        """Cycles of one pixel group in a long row; ``operand``: another tensor is read at each pixel's own place."""
        return mappings.group_cycles(made, add=operand)

    def beats_per_pixel(self, spec: AccelSpec, output: Tensor) -> float:
        """Beats of the bus that each output pixel fetches from memory."""
        return 0.0

    @property
    def setup(self) -> tuple[float, float]:
        """Bytes moved and cycles taken before the first row of a frame."""
        return 0.0, 0.0

    @property
    def weight_bytes(self) -> int:
        """Bytes of dense weights, which any machine must move."""
        return 0

    # What the machine is told

    def folded_bias(self, bias: Int64, zero_point: int) -> Int64:
        """The bias less what the zero point of the source adds to every psum."""
        return bias

    def psum_unit(self, source_bits: int) -> float:
        """The worth of a unit of the psum, in units of a source of so many bits times the weights' scale."""
        return 1.0

    def psum_reach(self, source_channels: int) -> Int64:
        """The largest magnitude, by output channel, of a psum without bias, whatever the operands."""
        raise NotImplementedError

    def fields(self, at: RowPlace) -> dict[str, int]:
        """Fields of its command that are not shared by all kinds."""
        footprint, made = self.footprint, at.mapping
        first = at.first if at.unfolded else footprint.columns_for(at.first).start
        found = {
            "steps_base": at.steps_base,
            "steps_count": len(made.steps),
            "fills_base": at.fills_base,
            "fills_count": len(made.fills),
            "fills_repeat": made.passes,
            "lane_groups_log2": made.lane_groups_log2,
            "stride_rows": footprint.stride,
            "x_stride": footprint.stride,
            "edge": footprint.edge,
            "x_offset": first - at.held,
            "more_sources": len(at.sources) - 1,
        }
        for number, name in enumerate(at.sources[1:], start=1):
            found[f"source_{number}"] = at.buffers[name]
            found[f"x_delta_{number}"] = at.held - at.columns[name][0]
            found[f"free_{number}"] = at.frees[number]
        return found

    def weight_loads(
        self, spec: AccelSpec, tensors: Mapping[str, Tensor], addresses: Mapping[str, int]
    ) -> list[Command]:
        """Commands that load weights from tensors in memory."""
        return []

    def statistic_records(self, spec: AccelSpec, base: int) -> bytes:
        """Records of a LOADW of kind NORM, where the statistics of the source begin at word ``base``."""
        return b""
