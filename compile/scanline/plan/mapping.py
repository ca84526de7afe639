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
        self._orders: dict[Hashable, _Order] = {}
        self._cycles: dict[tuple[int, int, int, int, bool], int] = {}

    def of(self, weights: Weights, stride: int, sources: tuple[int, ...], *, carries: int = 0) -> Mapping:
        """:func:`map_conv` of these."""
        key = (hashlib.sha256(weights.tobytes()).digest(), weights.shape, stride, sources, carries)
        orders = self._orders
        return self.kept(
            key, lambda: map_conv(self.spec, weights, stride=stride, sources=sources, carries=carries, orders=orders)
        )

    def kept(self, key: Hashable, make: Callable[[], Mapping]) -> Mapping:
        """The mapping that ``make`` makes the first time that ``key`` is asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def group_cycles(self, mapping: Mapping, *, add: bool) -> int:
        """Cycles of one pixel group of ``mapping`` (made here) in a long row; ``add``: there is a second operand."""
        fills = len(mapping.fills) * mapping.passes
        key = (id(mapping.steps), fills, mapping.output_words, mapping.lane_groups_log2, add)
        if key not in self._cycles:
            words_per_set = max(1, (self.spec.co_lanes >> mapping.lane_groups_log2) // self.spec.ci_lanes)
            command = RowCommand(mapping.steps, fills, mapping.output_words, words_per_set, add)
            self._cycles[key] = group_cycles(self.spec, command)
        return self._cycles[key]


def map_conv(
    spec: AccelSpec,
    weights: Weights,
    *,
    stride: int,
    sources: tuple[int, ...] = (),
    carries: int = 0,
    orders: dict[Hashable, _Order] | None = None,
) -> Mapping:
    """Map ``weights: int8[KY, KX, Cin, Cout]`` (channels in their order in the scratchpad) at column stride 1 or 2.

    ``sources``: how many of the input channels each source has, when there are several; a source begins with a group
    of its own. Of ``int16`` weights the steps of the high bytes come first. ``carries``: so often the whole sum counts
    256-fold in the end. ``orders`` keeps the steps of weights that were mapped on ``spec`` before: they depend only on
    which blocks of the array have weights.
    """
    weights, first_groups = _by_source(spec, weights, sources)
    array = _ArrayWeights(spec, weights, stride)
    orders = {} if orders is None else orders
    key = (weights.shape, stride, carries, tuple(blocks.tobytes() for blocks in array.present))
    if key not in orders:
        orders[key] = array.order(carries)
    order = orders[key]
    return Mapping(
        words=array.words(order.deals),
        steps=order.steps,
        fills=tuple(_fill(row, column, group, first_groups) for _, row, column, group in order.fills.order),
        passes=order.fills.passes,
        lane_groups_log2=array.lane_groups_log2,
        output_words=ceil_div(weights.shape[3], spec.ci_lanes),
    )


Segment = tuple[bool, int, int, int]
"""A row segment of the window: whether it is brought again for the low bytes, kernel row, first column, group."""

Deal = list[_Unit]
"""The units of one step."""


@dataclass(frozen=True)
class _Fills:
    """The segments in the order in which they are brought, and where each set of output channels finds them."""

    order: list[Segment]  # of one pass
    passes: int
    places: list[dict[Segment, int]]  # by set of output channels: the number of the fill


def _fill_order(spec: AccelSpec, wanted: list[list[Segment]]) -> _Fills:
    """Fills for the segments ``wanted`` by each set of output channels."""
    everything = sorted(set().union(*wanted))
    if len(everything) <= spec.window_slots:  # one fill serves every set
        places = {segment: index for index, segment in enumerate(everything)}
        return _Fills(everything, 1, [places] * len(wanted))
    alike = all(one == wanted[0] for one in wanted)
    bases = np.cumsum([0, *(len(one) for one in wanted[:-1])]).tolist()
    places_by_set = [
        {segment: base + index for index, segment in enumerate(one)} for base, one in zip(bases, wanted, strict=True)
    ]
    order = wanted[0] if alike else [segment for one in wanted for segment in one]
    return _Fills(order, len(wanted) if alike else 1, places_by_set)


@dataclass(frozen=True)
class _Order:
    """What the array does step by step, whatever the weights."""

    deals: list[list[Deal]]  # by set of output channels
    fills: _Fills
    steps: tuple[Step, ...]


class _ArrayWeights:
    """Weights in blocks of the array: which of them are there, and which lanes they meet.

    A *set* is as many output channels as the lanes compute at once. Where outputs are few, ``classes`` of lane groups
    take different taps of the same set.
    """

    def __init__(self, spec: AccelSpec, weights: Weights, stride: int) -> None:
        self.spec, self.stride = spec, stride
        rows, columns, inputs, outputs = weights.shape
        self.lane_groups_log2 = 0
        while (2 << self.lane_groups_log2) <= spec.lane_groups and (
            outputs <= spec.co_lanes >> (self.lane_groups_log2 + 1)
        ):
            self.lane_groups_log2 += 1
        self.classes = 1 << self.lane_groups_log2
        self.per_set = spec.co_lanes >> self.lane_groups_log2
        self.sets = ceil_div(outputs, self.per_set)
        parts = ceil_div(inputs, spec.part_lanes)
        padded = np.zeros((rows, columns, parts * spec.part_lanes, self.sets * self.per_set), weights.dtype)
        padded[:, :, :inputs, :outputs] = weights
        # By plane of bytes: [rows, columns, parts, lanes, sets, outputs]
        shape = (rows, columns, parts, spec.part_lanes, self.sets, self.per_set)
        self.blocks = [plane.reshape(shape) for plane in weight_planes(padded)]
        # At stride 2 a segment holds every second pixel, so each column is a segment of its own.
        self.reach = 1 if stride == 2 else spec.window_reach + 1
        segments = rows * len(range(0, columns, self.reach)) * ceil_div(inputs, spec.ci_lanes)
        self.apart = segments > spec.window_slots  # then a segment for both planes is brought twice
        self.present = [np.any(block, axis=(3, 5)) for block in self.blocks]  # [rows, columns, parts, sets]

    def segment(self, unit: _Unit) -> Segment:
        return bool(unit.plane) and self.apart, unit.row, unit.column // self.reach * self.reach, unit.group

    def order(self, carries: int) -> _Order:
        """The steps; the oldest slots are freed with their last use."""
        deals = [self._deals_of([taps[..., number] for taps in self.present], carries) for number in range(self.sets)]
        wanted = [sorted({self.segment(unit) for deal in of_set for unit in deal}) for of_set in deals]
        fills = _fill_order(self.spec, wanted)
        return _Order(deals, fills, self._steps(deals, fills))

    def _deals_of(self, present: list[NDArray[np.bool_]], carries: int) -> list[Deal]:
        size, per_group = self.classes * self.spec.channel_parts, self.spec.channel_parts
        found: list[Deal] = []
        for plane, taps in enumerate(present):
            units = [
                _Unit(row, column, part // per_group, part % per_group, plane)
                for row, column, part in zip(*(axis.tolist() for axis in np.nonzero(taps)), strict=True)
            ] or [_Unit(0, 0, 0, 0, plane)]
            units.sort(key=lambda unit: (self.segment(unit), unit.column, unit.part))
            found += [units[at : at + size] for at in range(0, len(units), size)]
        return found + [[replace(found[-1][0], carry=True)] for _ in range(carries)]

    def words(self, deals: list[list[Deal]]) -> Int8:
        """Each step's weight word."""
        flat = [(number, deal) for number, of_set in enumerate(deals) for deal in of_set]
        words = np.zeros((len(flat), self.spec.co_lanes, self.spec.ci_lanes), np.int8)
        for at, (number, deal) in enumerate(flat):
            self._fill_word(words[at], number, deal)
        return words

    def _steps(self, deals: list[list[Deal]], fills: _Fills) -> tuple[Step, ...]:
        flat = [(number, deal) for number, of_set in enumerate(deals) for deal in of_set]
        last_use = {
            fills.places[number][self.segment(unit)]: at for at, (number, deal) in enumerate(flat) for unit in deal
        }
        steps: list[Step] = []
        freed, total = 0, len(fills.order) * fills.passes
        for at, (number, deal) in enumerate(flat):
            selectors = self._selectors(deal, fills.places[number], freed)
            release = 0
            while freed + release < total and last_use[freed + release] <= at:
                release += 1
            freed += release
            begins = deal[0].plane > 0 and (at == 0 or not flat[at - 1][1][0].plane)
            steps.append(Step(selectors, release, deal is deals[number][-1], begins or deal[0].carry))
        return tuple(steps)

    def _selectors(self, deal: Deal, places: dict[Segment, int], freed: int) -> tuple[Selector, ...]:
        """The operands of every lane group and channel part; idle ones take the first unit's."""
        per_class = self.spec.lane_groups // self.classes
        chosen: list[Selector] = []
        for lane_group, part in product(range(self.spec.lane_groups), range(self.spec.channel_parts)):
            index = (lane_group // per_class) * self.spec.channel_parts + part
            unit = deal[index] if index < len(deal) else deal[0]
            key = self.segment(unit)
            shift = 0 if self.stride == 2 else unit.column - key[2]
            chosen.append(Selector(places[key] - freed, shift, unit.part))
        return tuple(chosen)

    def _fill_word(self, word: Int8, number: int, deal: Deal) -> None:
        """Put the weights of ``deal`` for set ``number`` into ``word: int8[co_lanes, ci_lanes]``."""
        if deal[0].carry:
            return
        parts, lanes_of_part = self.spec.channel_parts, self.spec.part_lanes
        for index, unit in enumerate(deal):
            klass, part = divmod(index, parts)
            block = self.blocks[unit.plane][unit.row, unit.column, unit.group * parts + unit.part, :, number]
            lanes = slice(klass * self.per_set, (klass + 1) * self.per_set)
            word[lanes, part * lanes_of_part : (part + 1) * lanes_of_part] = block.T


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
