"""A local cost volume: products of two sources at all displacements up to a reach."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from codesign.compile.scanline.kernels.kernel import Footprint, Int8, Int64, Kernel
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Fill, Opcode, Selector, Step
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Correlation(Kernel):
    """Each pixel of the first source with those of the second up to ``reach`` rows and columns away.

    An output channel is a displacement: ``2 reach + 1`` rows of as many columns. Zero points are 0.
    """

    reach: int
    opcode: ClassVar[Opcode] = Opcode.CORR
    splits: ClassVar[bool] = False

    @property
    def channels(self) -> int:
        return (2 * self.reach + 1) ** 2

    @property
    def footprint(self) -> Footprint:
        side = 2 * self.reach + 1
        return Footprint(side, side, pad_top=self.reach, pad_left=self.reach)

    def map(self, mappings: Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> Mapping:
        spec, key = mappings.spec, (Correlation, source_channels, self.reach)
        return mappings.kept(key, lambda: map_correlation(spec, source_channels[0], self.reach))

    def psum_reach(self, source_channels: int) -> Int64:
        return np.full(self.channels, 128 * 128 * (source_channels // 2), np.int64)  # half of them of each source


def map_correlation(spec: AccelSpec, channels: int, reach: int) -> Mapping:
    """Map products of two sources of ``channels`` at all displacements up to ``reach``, rows of them first.

    The first source lies in the oldest slot. Lane ``o`` of a set of output channels sums displacement ``o`` of the
    second, and every step one lane of each lane group, as all lanes of a group read the same pixels. Raises
    :class:`UnsupportedError` where a set's displacements lie in more segments than the window holds.
    """
    side, columns = 2 * reach + 1, spec.window_reach + 1
    per_group = spec.co_lanes // spec.lane_groups
    words: list[Int8] = []
    steps: list[Step] = []
    fills: list[Fill] = []
    for first, group in product(range(0, side * side, spec.co_lanes), range(ceil_div(channels, spec.ci_lanes))):
        taps = dict(enumerate(divmod(tap, side) for tap in range(first, min(first + spec.co_lanes, side * side))))
        segments = list(dict.fromkeys((row, column // columns * columns) for row, column in taps.values()))
        if len(segments) >= spec.window_slots:
            raise UnsupportedError(f"displacements up to {reach} lie in more segments than the window has slots")
        fills.append(Fill(reach, reach, group, 0))
        fills += [Fill(row, column, group, 1) for row, column in segments]
        held = min(spec.ci_lanes, channels - group * spec.ci_lanes)
        rounds = min(per_group, len(taps))
        for lane in range(rounds):
            word = np.zeros((spec.co_lanes, spec.ci_lanes), np.int8)
            selectors: list[Selector] = []
            for output in range(lane, spec.co_lanes, per_group):
                row, column = taps.get(output, taps[0])
                slot = 1 + segments.index((row, column // columns * columns))
                selectors += [Selector(slot, column % columns, part) for part in range(spec.channel_parts)]
                word[output, :held] = output in taps
            ends = lane == rounds - 1
            last = ends and (group + 1) * spec.ci_lanes >= channels
            words.append(word)
            steps.append(Step(tuple(selectors), 1 + len(segments) if ends else 0, last))
    return Mapping(np.stack(words), tuple(steps), tuple(fills), 1, 0, ceil_div(side * side, spec.ci_lanes))
