"""A window of a map of every pixel's own, around its place plus a flow: RAFT reads its correlations so."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from codesign.compile.scanline.kernels.kernel import LATENCY_CYCLES, Int64, RowPlace
from codesign.compile.scanline.kernels.sampled import Sampled
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import Opcode
from codesign.hw.spec import AccelSpec
from codesign.hw.timing import window as timing
from codesign.hw.windows import window_channels, window_words


@dataclass(frozen=True)
class Window(Sampled):
    """Samples of ``maps``, whose channels are a map for every pixel of the frame; the source is the flow.

    The flow is in ``2**-fraction_bits`` pixels of the frame; a map has ``2**level`` times fewer pixels than the frame.
    Output channels are the ``2 radius + 1`` rows and columns of the window, columns slower, until :meth:`laid_out` puts
    them where a machine has them.
    """

    maps: str
    map_height: int
    map_width: int
    radius: int
    level: int
    fraction_bits: int
    machine_channels: int | None = None
    opcode: ClassVar[Opcode] = Opcode.WINDOW

    @property
    def channels(self) -> int:
        return (2 * self.radius + 1) ** 2 if self.machine_channels is None else self.machine_channels

    @property
    def map_bytes(self) -> int:
        return self.map_height * self.map_width

    @property
    def whole(self) -> tuple[str, ...]:
        return (self.maps,)

    def seen(self, sources: Sequence[str]) -> str:
        return self.maps

    @property
    def cost_key(self) -> Hashable:
        return dataclasses.replace(self, maps="")

    def laid_out(self, spec: AccelSpec) -> tuple[Window, Int64]:
        made = dataclasses.replace(self, machine_channels=window_words(spec, self.radius) * spec.ci_lanes)
        return made, window_channels(spec, self.radius).T.reshape(-1)

    def refuses(self, sources: Sequence[str], made: Collection[str], alone: bool) -> str | None:
        return "windows are read from maps that are whole in memory" if self.maps in made else None

    def group_cycles(self, mappings: Mappings, made: Mapping, output: Tensor, operand: bool) -> int:
        return round(mappings.spec.pixel_lanes * self._pace(mappings.spec, output).cycles)

    def beats_per_pixel(self, spec: AccelSpec, output: Tensor) -> float:
        return self._pace(spec, output).beats

    def _pace(self, spec: AccelSpec, output: Tensor) -> timing.Pace:
        maps = self.map_height, self.map_width
        window = timing.Window(self.radius, self.level, *maps, output.height, output.width)
        return timing.pace_of(spec, window, LATENCY_CYCLES)

    def fields(self, at: RowPlace) -> dict[str, int]:
        volume = at.tensors[self.maps]
        return {
            "x_offset": at.first - at.held,
            "map_width": self.map_width,
            "map_height": self.map_height,
            "x_first": at.first,
            "radius": self.radius,
            "level": self.level,
            "fraction_bits": self.fraction_bits,
            "map_zero_point": volume.zero_point,
            "address": at.addresses[volume.name] + at.first * self.map_bytes,
            "row_stride": volume.width * self.map_bytes,
        }
