"""The cycle model's parts: rows whose groups repeat, the shared bus, sub-rows of a store."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.plan.mapping import map_conv
from codesign.hw.spec import BASE, EDGE, LARGE, TINY, AccelSpec
from codesign.hw.timing import row
from codesign.hw.timing.bus import Bus, beats_between
from codesign.hw.timing.row import Before, RowCommand, Stretch, follow, group_cycles
from codesign.hw.timing.store import sub_row_batches

machines = st.sampled_from([TINY, EDGE, BASE, LARGE])
quick = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@st.composite
def commands(draw: st.DrawFn, spec: AccelSpec) -> RowCommand:
    """A row of a convolution with drawn weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 60))
    mapping = map_conv(spec, rng.integers(-127, 128, shape).astype(np.int8), stride=draw(st.sampled_from([1, 2])))
    words_per_set = max(1, (spec.co_lanes >> mapping.lane_groups_log2) // spec.ci_lanes)
    fills = len(mapping.fills) * mapping.passes
    return RowCommand(mapping.steps, fills, mapping.output_words, words_per_set, draw(st.booleans()))


@st.composite
def stretches(draw: st.DrawFn) -> list[Stretch]:
    """Cycles that somebody else takes, apart from each other."""
    spans = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 5)), max_size=6))
    found, time = [], 0
    for gap, length in spans:
        found.append(Stretch(float(time + gap), float(time + gap + length)))
        time += gap + length
    return found


def befores(spec: AccelSpec) -> st.SearchStrategy[Before]:
    times = st.integers(0, 40).map(float)
    slots = st.lists(st.integers(-20, 20).map(float), min_size=spec.window_slots, max_size=spec.window_slots)
    return st.builds(
        Before,
        array=st.integers(5, 30).map(float),
        granted=times,
        freed=slots.map(lambda freed: tuple(sorted(freed))),
        place=times,
        chunk=times,
        operand=times,
    )


@quick
@given(machines, st.data(), st.integers(1, 40))
def test_groups_that_repeat_are_multiplied_exactly(spec: AccelSpec, data: st.DataObject, groups: int) -> None:
    command, before, taken = data.draw(commands(spec)), data.draw(befores(spec)), data.draw(stretches())
    found = follow(spec, command, groups, before, taken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row._Walk, "_repeat", lambda *_: None)
        assert follow(spec, command, groups, before, taken) == found


@quick
@given(machines, st.data())
def test_a_row_takes_its_steps_and_its_stalls(spec: AccelSpec, data: st.DataObject) -> None:
    command, groups = data.draw(commands(spec)), data.draw(st.integers(1, 30))
    before = data.draw(befores(spec))
    after = follow(spec, command, groups, before, [])
    stalls = after.fill_stalls + after.requantise_stalls
    assert after.end - before.array == groups * len(command.steps) + stalls
    assert group_cycles(spec, command) >= len(command.steps)


@given(machines, st.integers(0, 500), st.integers(-9, 500))
def test_beats_hold_bytes(spec: AccelSpec, first: int, length: int) -> None:
    wanted = {byte // spec.bus_bytes for byte in range(first, first + length)}
    assert beats_between(spec, first, first + length) == len(wanted)


transfers = st.lists(
    st.tuples(st.sampled_from(["commands", "loads", "writes"]), st.integers(0, 200), st.integers(1, 30))
)


def booked(cycles_per_beat: float, wanted: list[tuple[str, int, int]]) -> float:
    """The time when the last beat has moved; every transfer takes its cycles, and every stream keeps its order."""
    bus, ends = Bus(cycles_per_beat), dict[str, list[float]]()
    for stream, ready, beats in wanted:
        end = bus.transfer(stream, float(ready), beats)
        assert end >= ready + beats * cycles_per_beat - 1e-6
        ends.setdefault(stream, []).append(end)
    assert all(before <= after for times in ends.values() for before, after in pairwise(times))
    return max(calendar.ends[-1] for calendar in (bus.reads, bus.writes) if calendar.ends)


@given(st.sampled_from([1.0, 1.5, 4.0]), transfers.filter(bool))
def test_the_bus_moves_no_more_than_it_can(cycles_per_beat: float, wanted: list[tuple[str, int, int]]) -> None:
    """All beats together take at least their cycles when they are booked in order of time."""
    wanted = sorted(wanted, key=lambda transfer: transfer[1])
    busy = sum(beats for _, _, beats in wanted) * cycles_per_beat
    assert booked(cycles_per_beat, wanted) >= wanted[0][1] + busy - 1e-6


@given(st.sampled_from([1.0, 1.5, 4.0]), transfers.filter(bool))
def test_each_direction_of_the_bus_moves_no_more_than_it_can(
    cycles_per_beat: float, wanted: list[tuple[str, int, int]]
) -> None:
    """Out of order of time, reads and writes still take their own cycles (what they share is then approximate)."""
    for direction in (("commands", "loads"), ("writes",)):
        own = [transfer for transfer in wanted if transfer[0] in direction]
        if own:
            busy = sum(beats for _, _, beats in own) * cycles_per_beat
            assert booked(cycles_per_beat, wanted) >= min(ready for _, ready, _ in own) + busy - 1e-6


@given(
    st.sampled_from([4, 8, 16]),
    st.sampled_from([8, 16]),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(0, 20),
    st.integers(0, 15),
)
def test_a_sub_row_fills_its_beats(
    banks: int, bus_bytes: int, groups: int, pixels: int, pixel_bytes: int, gap: int, first_byte: int
) -> None:
    """All segments are fetched, in order of time; the beats are those that hold the sub-row's bytes."""
    first_byte %= bus_bytes
    pitch = pixel_bytes + gap
    batches = sub_row_batches(banks, bus_bytes, groups, pixels, pixel_bytes, pitch, first_byte)
    assert all(before.fetched < after.fetched for before, after in pairwise(batches))
    assert all(batch.packed > batch.fetched for batch in batches)
    assert sum(batch.beats for batch in batches) == -(-(first_byte + (pixels - 1) * pitch + pixel_bytes) // bus_bytes)
