"""An instance normalisation: an identity whose requantisation the machine computes from its source's sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from codesign.compile.scanline.kernels.kernel import Int64, Kernel
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.hw.isa import NORM_BYTES, encode_norm
from codesign.hw.normalise import CYCLES_PER_CHANNEL, UNIT_BITS, UNIT_CARRIES, UNIT_WEIGHT, Normalisation
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Normalise(Kernel):
    """Channels [first, first + count) of the source, normalised; ``constants`` are known before the frame is."""

    constants: Normalisation
    count: int
    first: int = 0
    needs_statistics: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return self.count

    @property
    def cost_key(self) -> Hashable:
        return type(self), self.count

    def slice(self, first: int, count: int) -> Normalise:
        return dataclasses.replace(self, count=count, first=self.first + first)

    def refuses(self, sources: Sequence[str], made: Collection[str], alone: bool) -> str | None:
        return "a normalisation needs the sums of the whole frame" if sources[0] in made else None

    def map(self, mappings: Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> Mapping:
        """The identity, whose sums count 256-fold again and again: they have room for the mean's fraction."""
        chosen = np.eye(source_channels[0], dtype=np.int8)[None, None, :, self.first : self.first + self.count]
        return mappings.of(UNIT_WEIGHT * chosen, 1, source_channels, carries=UNIT_CARRIES)

    def psum_reach(self, source_channels: int) -> Int64:
        return np.full(self.count, 128 << UNIT_BITS, np.int64)

    @property
    def setup(self) -> tuple[float, float]:
        return self.count * NORM_BYTES, self.count * CYCLES_PER_CHANNEL

    def statistic_records(self, spec: AccelSpec, base: int) -> bytes:
        first = base + self.first // spec.ci_lanes
        return b"".join(encode_norm(self.constants, first + k // spec.ci_lanes) for k in range(self.count))
