"""One output row of a convolution on the array, cycle by cycle: window fills, steps, psums handed to the requantiser.

The rules are those of ``conv_front.sv``, ``conv_array.sv`` and ``requantiser.sv``. Pixel groups of a row are alike, so
after a few of them the engine repeats itself and the rest of the row follows by multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.hw.isa import Step
from codesign.hw.spec import AccelSpec

LANDING = 2  # cycles from a segment's grant until a step may use it
HANDOVER = 3  # from a last step until the requantiser may take its psums
EARLY = 2  # chunks that may still leave when the array is told that the place is free
SETTLED_GROUPS = 6
"""Groups after which the engine's pattern repeats."""


@dataclass(frozen=True)
class RowCommand:
    """What of a CONV decides a row's timing."""

    steps: tuple[Step, ...]
    fills: int  # per pixel group, all passes
    words: int
    words_per_set: int  # channel groups that one set of psums holds
    add: bool


@dataclass(frozen=True)
class RowTiming:
    """A row's cycles. Warm: its first segments are in the window already. Cold: counted from its first grant."""

    steps: int
    warm: int  # first step to last step, both included
    cold: int  # first grant to last step, the last step included
    fill_stalls: int  # of a warm row
    requantise_stalls: int
    last_grant: int  # cycles that the last grant comes before the last step (may be negative)
    tail: int  # last step to the last chunk's issue
    drain: int  # chunks


def row_timing(spec: AccelSpec, command: RowCommand, groups: int) -> RowTiming:
    """Timing of a row of ``groups`` pixel groups that has scratchpad and requantiser to itself."""
    simulated = min(groups, SETTLED_GROUPS)
    warm, cold = _simulate(spec, command, simulated, True), _simulate(spec, command, simulated, False)
    more = groups - simulated
    count = len(command.steps)
    warm_end, cold_end = warm.ends[-1], cold.ends[-1]
    fills, requantise = warm.fill_stalls, warm.requantise_stalls
    if more:
        period = warm.ends[-1] - warm.ends[-2]
        warm_end += more * period
        cold_end += more * (cold.ends[-1] - cold.ends[-2])
        if warm.last_stall_is_psum:
            requantise += more * (period - count)
        else:
            fills += more * (period - count)
    chunks = groups * command.words * (spec.pixel_lanes // spec.requantise_pixels)
    return RowTiming(
        steps=groups * count,
        warm=warm_end + 1,
        cold=cold_end + 1,
        fill_stalls=fills,
        requantise_stalls=requantise,
        last_grant=warm.ends[-1] - warm.last_grant,
        tail=warm.drained - warm.ends[-1],
        drain=chunks,
    )


def group_cycles(spec: AccelSpec, command: RowCommand) -> int:
    """Cycles that one more pixel group of a long row takes: its steps, and what they wait for."""
    ends = _simulate(spec, command, SETTLED_GROUPS, True).ends
    return ends[-1] - ends[-2]


@dataclass(frozen=True)
class _Run:
    ends: list[int]  # last step of each group
    fill_stalls: int
    requantise_stalls: int
    last_stall_is_psum: bool
    last_grant: int
    drained: int  # issue of the last chunk


def _simulate(spec: AccelSpec, command: RowCommand, groups: int, warm: bool) -> _Run:
    chunks_per_word = spec.pixel_lanes // spec.requantise_pixels
    sets = -(-command.words // command.words_per_set)
    per_set = [
        min(command.words_per_set, command.words - s * command.words_per_set) * chunks_per_word for s in range(sets)
    ]
    total = command.fills * groups
    slots = spec.window_slots
    grants: list[int] = []
    freed_at: list[int] = []  # freed_at[k]: when slot of fill k became free
    freed = 0
    issue = -1
    drained, place_free = -(10**6), -(10**6)
    ends: list[int] = []
    fill_stalls = requantise_stalls = 0
    last_is_psum = False
    set_index = 0

    def grant(index: int) -> int:
        while len(grants) <= index:
            k = len(grants)
            time = grants[-1] + 1 if grants else 0
            if warm and k < slots:
                time = -LANDING
            elif k >= slots:
                time = max(time, freed_at[k - slots] + 1)
            grants.append(time)
        return grants[index]

    for _ in range(groups):
        for step in command.steps:
            wanted = freed + max(selector.slot for selector in step.selectors)
            landed = grant(min(wanted, total - 1)) + LANDING
            start = issue + 1
            now = max(start, landed)
            fill_stalls += now - start
            if now > start:
                last_is_psum = False
            if step.last:
                later = max(now, place_free)
                requantise_stalls += later - now
                if later > now:
                    last_is_psum = True
                now = later
                chunks = per_set[set_index]
                begin = max(now + HANDOVER, drained + 1)
                drained = begin + chunks - 1
                # With a second operand only the last word's chunks are sure to leave without a wait.
                sure = min(chunks, chunks_per_word) if command.add else chunks
                place_free = drained - min(EARLY, sure - 1)
                set_index = (set_index + 1) % sets
            issue = now
            freed_at.extend([now] * step.free)
            freed += step.free
        ends.append(issue)
    return _Run(ends, fill_stalls, requantise_stalls, last_is_psum, grant(total - 1), drained)
