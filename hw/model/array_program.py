"""Steps and fills of a CONV or CORR, decoded for the golden model: which taps meet which weights.

A *tap* is a kernel row, a column, a source and a channel of it. The window's ring of slots is followed through one
pixel group; every other group does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Fill, Step, decode_fill, decode_step
from codesign.hw.spec import AccelSpec

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class Taps:
    """The pixels that an output pixel looks at."""

    rows: tuple[int, ...]  # kernel rows that appear
    first_column: int
    columns: int
    channels: tuple[int, ...]  # of each source, whole groups


@dataclass(frozen=True)
class Kernel:
    """A CONV: dense weights over the taps."""

    taps: Taps
    matrix: NDArray[Any]  # float[rows x columns x channels, outputs], exact


@dataclass(frozen=True)
class Products:
    """A CORR: pairs of taps whose products are summed, by output."""

    taps: Taps
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]  # [3, pairs] each: indices of row, column and channel
    outputs: NDArray[np.int64]  # that any pair belongs to, ascending
    starts: NDArray[np.int64]  # of their pairs
    count: int  # of outputs


class _Tap(NamedTuple):
    """The first channel of a part of a word."""

    row: int
    column: int
    source: int
    channel: int


class _Use(NamedTuple):
    """One selector of one step: the tap it takes, the oldest slot's segment, and the outputs of its lanes."""

    tap: _Tap
    oldest: Fill
    step: int
    group: int  # of lanes
    part: int
    lanes: tuple[tuple[int, int], ...]  # lane within the group, output channel


def decode_kernel(
    spec: AccelSpec, cmd: Command, weights: Int8, steps: NDArray[np.uint64], fills: NDArray[np.uint32]
) -> Kernel:
    """The weights of a CONV at their taps. ``weights: int8[words, co_lanes, ci_lanes]``.

    Raises :class:`ProgramError` when a step reads a slot that is not filled or when slots remain.
    """
    outputs = cmd["words"] * spec.ci_lanes
    lanes_of_group = spec.co_lanes // spec.lane_groups
    blocks: dict[_Tap, NDArray[np.int64]] = {}  # [part lanes, outputs]
    for event in _walk(spec, cmd, steps, fills):
        if isinstance(event, range):  # the sums so far count 256-fold
            for block in blocks.values():
                block[:, event.start : event.stop] *= 256
            continue
        block = blocks.setdefault(event.tap, np.zeros((spec.part_lanes, outputs), np.int64))
        words = weights[event.step, event.group * lanes_of_group : (event.group + 1) * lanes_of_group]
        words = words[:, event.part * spec.part_lanes : (event.part + 1) * spec.part_lanes]
        for lane, output in event.lanes:
            block[:, output] += words[lane]
    taps = _extent(spec, cmd, list(blocks))
    dense = np.zeros((len(taps.rows), taps.columns, sum(taps.channels), outputs), np.int64)
    for tap, block in blocks.items():
        row, column, channel = _index(taps, tap)
        dense[row, column, channel : channel + spec.part_lanes] += block
    matrix = dense.reshape(-1, outputs)
    exact = np.float32 if int(np.abs(matrix).sum(axis=0).max()) * 128 < 2**24 else np.float64
    return Kernel(taps, matrix.astype(exact))


def decode_products(
    spec: AccelSpec, cmd: Command, weights: Int8, steps: NDArray[np.uint64], fills: NDArray[np.uint32]
) -> Products:
    """The pairs of taps that a CORR multiplies. Raises as :func:`decode_kernel`, and for a step that carries."""
    lanes_of_group = spec.co_lanes // spec.lane_groups
    pairs: list[tuple[int, _Tap, _Tap]] = []
    for event in _walk(spec, cmd, steps, fills):
        if isinstance(event, range):
            raise ProgramError("a step of a CORR carries")
        for lane, output in event.lanes:
            for j in np.nonzero(weights[event.step, event.group * lanes_of_group + lane] & 1)[0].tolist():
                part, at = divmod(j, spec.part_lanes)
                if part == event.part:
                    oldest = event.oldest
                    held = _Tap(oldest.row, oldest.column, oldest.source, oldest.group * spec.ci_lanes + j)
                    pairs.append((output, event.tap._replace(channel=event.tap.channel + at), held))
    if not pairs:
        raise ProgramError("a CORR that multiplies nothing")
    pairs.sort()
    sides = [first for _, first, _ in pairs], [second for _, _, second in pairs]
    taps = _extent(spec, cmd, [*sides[0], *sides[1]])
    first, second = (np.array([_index(taps, tap) for tap in side], np.int64).T for side in sides)
    outputs, starts = np.unique([output for output, _, _ in pairs], return_index=True)
    return Products(taps, (first, second), outputs, starts, cmd["words"] * spec.ci_lanes)


def _walk(
    spec: AccelSpec, cmd: Command, steps: NDArray[np.uint64], fills: NDArray[np.uint32]
) -> Iterator[_Use | range]:
    """Every selector of every step in order; a range of outputs where a step carries."""
    sequence = [decode_fill(int(fills[cmd["fills_base"] + i])) for i in range(cmd["fills_count"])] * cmd["fills_repeat"]
    if max(fill.source for fill in sequence) > cmd["more_sources"]:
        raise ProgramError("a fill names a source that the command does not have")
    per_cog = spec.co_lanes >> cmd["lane_groups_log2"]
    slots_out = max(per_cog, spec.ci_lanes)
    outputs = cmd["words"] * spec.ci_lanes
    lanes_of_group = spec.co_lanes // spec.lane_groups
    oldest, base = 0, 0
    for index in range(cmd["steps_base"], cmd["steps_base"] + cmd["steps_count"]):
        step: Step = decode_step(int(steps[index]), spec)
        if step.carry:
            yield range(base, base + slots_out)
        for which, selector in enumerate(step.selectors):
            group, part = divmod(which, spec.channel_parts)
            if selector.slot >= spec.window_slots or oldest + selector.slot >= len(sequence):
                raise ProgramError(f"step {index} reads window slot {selector.slot}, which is never filled")
            fill = sequence[oldest + selector.slot]
            tap = _Tap(
                fill.row,
                fill.column + selector.shift * cmd["x_stride"],
                fill.source,
                fill.group * spec.ci_lanes + selector.part * spec.part_lanes,
            )
            lanes = tuple(
                (lane, out)
                for lane in range(lanes_of_group)
                for out in range(
                    base + (group * lanes_of_group + lane) % per_cog, min(base + slots_out, outputs), per_cog
                )
            )
            yield _Use(tap, sequence[oldest], index, group, part, lanes)
        oldest += step.free
        if step.last:
            base += slots_out
    if oldest != len(sequence) or base < outputs:
        raise ProgramError("the steps do not consume the fills, or leave output channels out")


def _extent(spec: AccelSpec, cmd: Command, taps: list[_Tap]) -> Taps:
    """The smallest box around ``taps``."""
    first = min(tap.column for tap in taps)
    channels = tuple(
        max((tap.channel // spec.ci_lanes + 1 for tap in taps if tap.source == source), default=0) * spec.ci_lanes
        for source in range(cmd["more_sources"] + 1)
    )
    columns = max(tap.column for tap in taps) - first + 1
    return Taps(tuple(sorted({tap.row for tap in taps})), first, columns, channels)


def _index(taps: Taps, tap: _Tap) -> tuple[int, int, int]:
    """Index of a tap among rows, columns and the channels of all sources."""
    return taps.rows.index(tap.row), tap.column - taps.first_column, sum(taps.channels[: tap.source]) + tap.channel
