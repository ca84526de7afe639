"""Products of all pairs of pixels: a 1x1 convolution whose weights are the pixels of another tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from codesign.compile.scanline.kernels.kernel import Int64, Kernel
from codesign.compile.scanline.plan import mapping
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import Command, Fill, Opcode, Selector, Step, WeightKind, command
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class AllPairs(Kernel):
    """Each pixel of the source with pixels [first, first + pixels) of ``weights``, one output channel for each.

    ``weights`` is a tensor that lies in memory as weights. Zero points are 0.
    """

    weights: str
    pixels: int
    first: int = 0

    @property
    def channels(self) -> int:
        return self.pixels

    @property
    def label(self) -> str:
        return "all pairs"

    @property
    def whole(self) -> tuple[str, ...]:
        return (self.weights,)

    @property
    def cost_key(self) -> Hashable:
        return type(self), self.pixels

    def slice(self, first: int, count: int) -> AllPairs:
        return dataclasses.replace(self, pixels=count, first=self.first + first)

    def refuses(self, sources: Sequence[str], made: Collection[str], alone: bool) -> str | None:
        return None if alone else "pixels that serve as weights are loaded for one layer alone"

    def map(self, mappings: mapping.Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> mapping.Mapping:
        spec, key = mappings.spec, (AllPairs, source_channels, self.pixels)
        return mappings.kept(key, lambda: map_all_pairs(spec, source_channels[0], self.pixels))

    def psum_reach(self, source_channels: int) -> Int64:
        return np.full(self.pixels, 128 * 128 * source_channels, np.int64)

    def weight_loads(
        self, spec: AccelSpec, tensors: Mapping[str, Tensor], addresses: Mapping[str, int]
    ) -> list[Command]:
        """A load for each group of channels: the words of a group lie apart in the weight memory."""
        tensor = tensors[self.weights]
        groups, words = tensor.groups(spec), ceil_div(self.pixels, spec.co_lanes)
        size = words * spec.weight_word_bytes
        first = addresses[tensor.name] + self.first // spec.co_lanes * spec.weight_word_bytes
        return [
            command(
                Opcode.LOADW,
                kind=WeightKind.WEIGHTS,
                destination=group,
                gap=groups - 1,
                elements=size // spec.bus_bytes,
                address=first + group * tensor.group_bytes(spec),
                bytes=size,
            )
            for group in range(groups)
        ]


def map_all_pairs(spec: AccelSpec, channels: int, outputs: int) -> mapping.Mapping:
    """Map a 1x1 convolution of one source whose weights are the ``outputs`` pixels of a tensor of ``channels``.

    Its words are not here but in memory, word ``b G + g`` for set ``b`` of outputs and group ``g`` of ``G``.
    """
    groups, sets = ceil_div(channels, spec.ci_lanes), ceil_div(outputs, spec.co_lanes)
    resident = groups <= spec.window_slots
    parts = [part for _ in range(spec.lane_groups) for part in range(spec.channel_parts)]
    steps: list[Step] = []
    for number, group in product(range(sets), range(groups)):
        frees = not resident or number == sets - 1
        slot = group if resident and not frees else 0
        steps.append(Step(tuple(Selector(slot, 0, part) for part in parts), int(frees), group == groups - 1))
    words = np.zeros((0, spec.co_lanes, spec.ci_lanes), np.int8)
    fills = tuple(Fill(0, 0, group) for group in range(groups))
    return mapping.Mapping(words, tuple(steps), fills, 1 if resident else sets, 0, ceil_div(outputs, spec.ci_lanes))
