"""A convolution's weights as steps of the array: which operands each cycle takes, and which row segments it needs.

The unit of work is a tap of one channel part: ``(kernel row, kernel column, part of a channel group)``. A step takes
``channel_parts`` units per lane group. Few-channel layers pack different taps into the parts of one step (*tap
packing*); layers with few outputs give each lane group taps of its own and sum the groups (*lane grouping*). Both fall
out of listing the units that carry weights and dealing them out in order; all-zero blocks are never listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codesign.hw.isa import Fill, Selector, Step, encode_fill, encode_step
from codesign.hw.numerics import ceil_div, weight_planes
from codesign.hw.spec import AccelSpec
from codesign.hw.timing.row import RowCommand, group_cycles

Int8 = NDArray[np.int8]
Weights = Int8 | NDArray[np.int16]


@dataclass(frozen=True)
class Mapping:
    """A layer on the array. ``words[i]`` is the weight word of ``steps[i]``: ``int8[co_lanes, ci_lanes]``.

    There are no words where the weights are pixels of a tensor, and no steps where the array is not used.
    """

    words: Int8 = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)
    fills: tuple[Fill, ...] = field(repr=False)  # one pass
    passes: int  # over the fills per pixel group
    lane_groups_log2: int
    output_words: int  # channel groups written per pixel

    def encoded_steps(self) -> bytes:
        return b"".join(encode_step(step).to_bytes(8, "little") for step in self.steps)

    def encoded_fills(self) -> bytes:
        return b"".join(encode_fill(fill).to_bytes(4, "little") for fill in self.fills)


@dataclass(frozen=True)
class _Unit:
    row: int
    column: int
    group: int  # channel group of ci_lanes
    part: int
    plane: int = 0  # of the weights' bytes
    carry: bool = False  # no weights; the sum so far counts 256-fold


class Mappings:
    """Mappings of one machine, each made once: the planner meets every layer in many plans."""

    def __init__(self, spec: AccelSpec) -> None:
        self.spec = spec
        self._made: dict[Hashable, Mapping] = {}
        self._cycles: dict[tuple[int, bool], int] = {}

    def of(self, weights: Weights, stride: int, sources: tuple[int, ...], *, carries: int = 0) -> Mapping:
        """:func:`map_conv` of these."""
        key = (hashlib.sha256(weights.tobytes()).digest(), weights.shape, stride, sources, carries)
        return self.kept(key, lambda: map_conv(self.spec, weights, stride=stride, sources=sources, carries=carries))

    def kept(self, key: Hashable, make: Callable[[], Mapping]) -> Mapping:
        """The mapping that ``make`` makes the first time that ``key`` is asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def group_cycles(self, mapping: Mapping, *, add: bool) -> int:
        """Cycles of one pixel group of ``mapping`` (made here) in a long row; ``add``: there is a second operand."""
        key = (id(mapping), add)
        if key not in self._cycles:
            words_per_set = max(1, (self.spec.co_lanes >> mapping.lane_groups_log2) // self.spec.ci_lanes)
            fills = len(mapping.fills) * mapping.passes
            command = RowCommand(mapping.steps, fills, mapping.output_words, words_per_set, add)
            self._cycles[key] = group_cycles(self.spec, command)
        return self._cycles[key]


def map_conv(
    spec: AccelSpec, weights: Weights, *, stride: int, sources: tuple[int, ...] = (), carries: int = 0
) -> Mapping:
    """Map ``weights: int8[KY, KX, Cin, Cout]`` (channels in their order in the scratchpad) at column stride 1 or 2.

    ``sources``: how many of the input channels each source has, when there are several; a source begins with a group
    of its own. Of ``int16`` weights the steps of the high bytes come first. ``carries``: so often the whole sum counts
    256-fold in the end.
    """
    weights, first_groups = _by_source(spec, weights, sources)
    rows, columns, inputs, outputs = weights.shape
    groups_log2 = 0
    while (2 << groups_log2) <= spec.lane_groups and outputs <= spec.co_lanes >> (groups_log2 + 1):
        groups_log2 += 1
    classes = 1 << groups_log2  # lane groups that take different taps
    per_cog = spec.co_lanes >> groups_log2
    cogs = ceil_div(outputs, per_cog)

    parts = ceil_div(inputs, spec.part_lanes)
    padded = np.zeros((rows, columns, parts * spec.part_lanes, cogs * per_cog), weights.dtype)
    padded[:, :, :inputs, :outputs] = weights
    # By plane of bytes: [rows, columns, parts, lanes, cogs, outputs]
    blocks = [plane.reshape(rows, columns, parts, spec.part_lanes, cogs, per_cog) for plane in weight_planes(padded)]
    present = [np.any(block, axis=(3, 5)) for block in blocks]  # [rows, columns, parts, cogs]
    # At stride 2 a segment holds every second pixel, so each column is a segment of its own.
    reach = 1 if stride == 2 else spec.window_reach + 1
    segments = len(list(product(range(rows), range(0, columns, reach), range(ceil_div(inputs, spec.ci_lanes)))))
    apart = segments > spec.window_slots  # then a segment for both planes is brought twice

    def segment(unit: _Unit) -> tuple[bool, int, int, int]:
        return bool(unit.plane) and apart, unit.row, unit.column // reach * reach, unit.group

    deals: list[list[list[_Unit]]] = []  # [cog][step][unit]
    for cog in range(cogs):
        deals.append([])
        for plane, taps in enumerate(present):
            units = [
                _Unit(row, column, part // spec.channel_parts, part % spec.channel_parts, plane)
                for row, column, part in zip(*(axis.tolist() for axis in np.nonzero(taps[..., cog])), strict=True)
            ] or [_Unit(0, 0, 0, 0, plane)]
            units.sort(key=lambda unit: (segment(unit), unit.column, unit.part))
            size = classes * spec.channel_parts
            deals[cog] += [units[at : at + size] for at in range(0, len(units), size)]
        deals[cog] += [[replace(deals[cog][-1][0], carry=True)] for _ in range(carries)]

    wanted = [sorted({segment(unit) for deal in cog for unit in deal}) for cog in deals]
    everything = sorted(set().union(*wanted))
    if len(everything) <= spec.window_slots:
        order, passes = everything, 1  # one fill serves every channel group
        bases = [0] * cogs
    elif all(one == wanted[0] for one in wanted):
        order, passes = wanted[0], cogs
        bases = [index * len(order) for index in range(cogs)]
    else:
        order, passes = [one for cog in wanted for one in cog], 1
        bases = np.cumsum([0, *(len(one) for one in wanted[:-1])]).tolist()
    shared = bases.count(0) == cogs

    # Every use of every fill, in order, tells when the oldest slots may be freed.
    places = [
        {one: bases[cog] + index for index, one in enumerate(everything if shared else wanted[cog])}
        for cog in range(cogs)
    ]
    flat = [(cog, deal) for cog in range(cogs) for deal in deals[cog]]
    last_use = {places[cog][segment(unit)]: at for at, (cog, deal) in enumerate(flat) for unit in deal}
    total = len(order) * passes
    words = np.zeros((len(flat), spec.co_lanes, spec.ci_lanes), np.int8)
    steps: list[Step] = []
    freed = 0
    per_class = spec.lane_groups // classes
    for at, (cog, deal) in enumerate(flat):
        chosen: list[Selector] = []
        for lane_group in range(spec.lane_groups):
            for part in range(spec.channel_parts):
                index = (lane_group // per_class) * spec.channel_parts + part
                unit = deal[index] if index < len(deal) else deal[0]
                key = segment(unit)
                shift = 0 if stride == 2 else unit.column - key[2]
                chosen.append(Selector(places[cog][key] - freed, shift, unit.part))
        for index, unit in enumerate(deal if not deal[0].carry else ()):
            klass, part = divmod(index, spec.channel_parts)
            block = blocks[unit.plane][unit.row, unit.column, unit.group * spec.channel_parts + unit.part, :, cog]
            lanes = slice(klass * per_cog, (klass + 1) * per_cog)
            words[at, lanes, part * spec.part_lanes : (part + 1) * spec.part_lanes] = block.T
        release = 0
        while freed + release < total and last_use[freed + release] <= at:
            release += 1
        freed += release
        begins = deal[0].plane > 0 and (at == 0 or not flat[at - 1][1][0].plane)
        steps.append(Step(tuple(chosen), release, deal is deals[cog][-1], begins or deal[0].carry))
    return Mapping(
        words=words,
        steps=tuple(steps),
        fills=tuple(_fill(row, column, group, first_groups) for _, row, column, group in order),
        passes=passes,
        lane_groups_log2=groups_log2,
        output_words=ceil_div(outputs, spec.ci_lanes),
    )


def _by_source(spec: AccelSpec, weights: Weights, sources: tuple[int, ...]) -> tuple[Weights, tuple[int, ...]]:
    """Weights with every source's channels padded to whole groups, and the first group of each source."""
    if len(sources) < 2:
        return weights, (0,)
    parts, groups, at = [], [0], 0
    for count in sources:
        share = weights[:, :, at : at + count]
        parts.append(np.pad(share, ((0, 0), (0, 0), (0, -count % spec.ci_lanes), (0, 0))))
        groups.append(groups[-1] + ceil_div(count, spec.ci_lanes))
        at += count
    return np.concatenate(parts, axis=2), tuple(groups[:-1])


def _fill(row: int, column: int, group: int, first_groups: tuple[int, ...]) -> Fill:
    source = max(index for index, first in enumerate(first_groups) if first <= group)
    return Fill(row, column, group - first_groups[source], source)
