"""A warp: the source sampled at each pixel's own place plus a flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from codesign.compile.scanline.kernels.kernel import Footprint, RowPlace
from codesign.compile.scanline.kernels.sampled import Sampled
from codesign.hw.isa import Opcode
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Warp(Sampled):
    """Samples at ``field``, a flow of two 16-bit numbers in ``2**-fraction_bits`` pixels: to the right and down.

    The machine keeps ``reach`` rows and columns of the source around a pixel on chip and fetches pixels beyond them.
    """

    field: str
    fraction_bits: int
    image_channels: int
    edge: bool = False
    reach: int = 0
    opcode: ClassVar[Opcode] = Opcode.WARP

    @property
    def channels(self) -> int:
        return self.image_channels

    @property
    def footprint(self) -> Footprint:
        side = 2 * self.reach + 2
        return Footprint(side, side, pad_top=self.reach, pad_left=self.reach, edge=self.edge)

    @property
    def flow(self) -> str | None:
        return self.field

    def on(self, spec: AccelSpec) -> Warp:
        return dataclasses.replace(self, reach=spec.warp_reach)

    def refuses(self, sources: Sequence[str], made: Collection[str], alone: bool) -> str | None:
        return "a warp fetches from memory pixels that are not on chip" if sources[0] in made else None

    def fields(self, at: RowPlace) -> dict[str, int]:
        tensor = at.tensors[at.sources[0]]
        return {
            "x_first": at.held,
            "x_offset": at.first - at.held,  # of the pixel itself, not of the first column around it
            "frame_width": tensor.width,
            "pixel_pitch": tensor.channels,
            "channels": tensor.channels,
            "fraction_bits": self.fraction_bits,
            "edge": self.edge,
            "address": at.addresses[tensor.name],
            "row_stride": tensor.width * tensor.channels,
        }
