"""A resize whose corners lie on corners: the source sampled at equal steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from codesign.compile.scanline.kernels.kernel import Footprint, RowPlace
from codesign.compile.scanline.kernels.sampled import Sampled
from codesign.hw.isa import RESIZE_ROWS, Opcode
from codesign.hw.numerics import corner_step


@dataclass(frozen=True)
class Resize(Sampled):
    """Samples that make the source ``factor`` times as large, a power of two."""

    factor: int
    output_channels: int
    opcode: ClassVar[Opcode] = Opcode.RESIZE

    @property
    def channels(self) -> int:
        return self.output_channels

    @property
    def footprint(self) -> Footprint:
        """The row and column at the pixel's own place in the source, and both neighbours."""
        return Footprint(RESIZE_ROWS, 3, pad_top=1, pad_left=1, enlarges=self.factor, edge=True)

    @property
    def cost_key(self) -> Hashable:
        return type(self), self.factor, self.output_channels

    def in_byte_planes(self) -> Resize:
        """This kernel for a result of 16 bits: a channel for every byte."""
        return dataclasses.replace(self, output_channels=2 * self.output_channels)

    def fields(self, at: RowPlace) -> dict[str, int]:
        tensor = at.tensors[at.sources[0]]
        return {
            "x_first": at.held,
            "x_offset": at.first - self.factor * at.held,
            "frame_width": tensor.width,
            "enlarge_log2": self.factor.bit_length() - 1,
            "flow": tensor.bits == 16,
            "step_x": corner_step(tensor.width, self.factor * tensor.width),
            "step_y": corner_step(tensor.height, self.factor * tensor.height),
        }
