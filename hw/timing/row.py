"""One output row of a convolution on the array, cycle by cycle: window fills, steps, psums handed to the requantiser.

The rules are those of ``scanline_conv_front.sv``, ``scanline_conv_array.sv`` and ``scanline_requantiser.sv``. Pixel
groups of a row are alike, so after a few of them the engine repeats itself, and groups that nothing disturbs are
multiplied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from codesign.hw.isa import Step
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec
from codesign.hw.timing.latencies import LANDING

HANDOVER = 3  # from a last step until the requantiser may take its psums
EARLY = 2  # chunks that may still leave when the array is told that the place is free
SETTLED_GROUPS = 6
"""Groups after which the engine's pattern repeats."""

OPERAND = 2  # a second operand's read to the first chunk that takes it
_OPERANDS = 2  # words that are read ahead
_NEVER, _LONG_AGO = 1e12, -1e12


@dataclass(frozen=True)
class RowCommand:
    """The part of a CONV that decides a row's timing."""

    steps: tuple[Step, ...]
    fills: int  # per pixel group, all passes
    words: int
    words_per_set: int  # channel groups that one set of psums holds
    add: bool

    @cached_property
    def plan(self) -> list[tuple[int, int, bool]]:
        """For each step the youngest slot it takes, the slots it frees, and whether it finishes a set of psums."""
        return [(max(selector.slot for selector in step.selectors), step.free, step.last) for step in self.steps]


class Stretch(NamedTuple):
    """The cycles [begin, end)."""

    begin: float
    end: float


class Before(NamedTuple):
    """State of the engine when a row comes."""

    array: float  # when the first step may be issued, if its segment has come
    granted: float  # when the first segment may be granted
    freed: tuple[float, ...]  # when each slot of the window became free, the next one first
    place: float  # when a set of psums finds its place empty
    chunk: float  # when the requantiser may issue the row's first chunk
    operand: float  # when it may read the row's first second operand


class After(NamedTuple):
    """State of the engine after a row, and its stalls."""

    end: float  # after its last step
    group: float  # cycles of its last pixel group
    fill_stalls: float
    requantise_stalls: float
    granted: float  # its last segment
    freed: tuple[float, ...]  # as in Before
    place: float
    drained: float  # issue of its last chunk
    reads: tuple[float, ...]  # of second operands, after its last segment


class _Operands:
    """Second operands of a row as they are read ahead: two words wait for the requantiser, or are on their way.

    They are read when nothing in ``stretches`` is, and before segments.
    """

    def __init__(self, first: float, words: int, stretches: list[Stretch]) -> None:
        self.left = words  # to be read
        self.reads: deque[float] = deque()  # that no grant has met
        self.arriving: deque[float] = deque()  # when the requantiser may take a word
        self._next, self._coming, self._stretches = first, 0, stretches
        for _ in range(_OPERANDS):
            self.want(first)

    def want(self, time: float) -> None:
        """There is place for another word from ``time`` on."""
        if not self.left:
            return
        time = max(time, self._next)
        while time >= self._stretches[self._coming].begin:
            time = max(time, self._stretches[self._coming].end)
            self._coming += 1
        self.reads.append(time)
        self.arriving.append(time + OPERAND)
        self._next, self.left = time + 1.0, self.left - 1

    def shift(self, words: int, time: float) -> None:
        """``words`` are read in ``time``, like those before."""
        self.left -= words
        self._next += time
        self.reads.extend([self.reads.popleft() + time for _ in self.reads.copy()])
        self.arriving.extend([self.arriving.popleft() + time for _ in self.arriving.copy()])


def follow(spec: AccelSpec, command: RowCommand, groups: int, before: Before, taken: Iterable[Stretch]) -> After:
    """A row of ``groups`` pixel groups, step by step. In the cycles ``taken``, in order, nothing else is read."""
    return _Walk(spec, command, groups, before, [*taken, Stretch(_NEVER, _NEVER)]).follow()


class _Walk:
    """The engine on its way through a row. Times are those of its last events."""

    def __init__(
        self, spec: AccelSpec, command: RowCommand, groups: int, before: Before, stretches: list[Stretch]
    ) -> None:
        self.spec, self.command, self.left = spec, command, groups
        self.per_word = spec.pixel_lanes // spec.requantise_pixels
        sets = ceil_div(command.words, command.words_per_set)
        self.words = [min(command.words_per_set, command.words - s * command.words_per_set) for s in range(sets)]
        self.stretches, self.coming = stretches, 0
        self.freed_at = list(before.freed)  # of the slot that each fill goes to
        self.fills = self.freed = self.finished = 0
        self.last_fill = command.fills * groups - 1
        self.granted, self.issue = before.granted - 1.0, before.array - 1.0
        self.place, self.chunk = before.place, before.chunk
        self.operands = _Operands(before.operand, command.words * groups if command.add else 0, stretches)
        self.fill_stalls = self.psum_stalls = self.group_cycles = 0.0

    def follow(self) -> After:
        settled: tuple[float, ...] = ()
        while self.left:
            issue, stalls, coming = self.issue, (self.fill_stalls, self.psum_stalls), self.coming
            self._group()
            self.left -= 1
            self.group_cycles = self.issue - issue
            if self.left > 1:
                # When two groups leave everything as it was, so do all that are granted before the next stretch.
                state = self._state()
                if state == settled and coming == self.coming:
                    self._repeat(self.fill_stalls - stalls[0], self.psum_stalls - stalls[1])
                settled = state
        return After(
            self.issue + 1.0,
            self.group_cycles,
            self.fill_stalls,
            self.psum_stalls,
            self.granted,
            tuple(self.freed_at[-self.spec.window_slots :]),
            self.place,
            self.chunk - 1.0,
            tuple(time for time in self.operands.reads if time > self.granted),
        )

    def _group(self) -> None:
        """The steps of a pixel group."""
        freed_at, last_fill = self.freed_at, self.last_fill
        issue, fills, freed = self.issue, self.fills, self.freed
        for slot, free, last in self.command.plan:
            now = issue + 1.0
            wanted = min(freed + slot, last_fill)
            if fills <= wanted:
                landed = self._granted(fills, wanted) + LANDING
                fills = wanted + 1
                if landed > now:
                    self.fill_stalls += landed - now
                    now = landed
            if last:
                if self.place > now:
                    self.psum_stalls += self.place - now
                    now = self.place
                self._hand_over(now)
            issue = now
            if free:
                freed_at.extend([now] * free)
                freed += free
        self.issue, self.fills, self.freed = issue, fills, freed

    def _granted(self, first: int, wanted: int) -> float:
        """When the fill ``wanted`` is granted: after those from ``first`` on, in cycles in which nobody else reads."""
        granted, reads, freed_at = self.granted, self.operands.reads, self.freed_at
        begin, end = self.stretches[self.coming]
        for fill in range(first, wanted + 1):
            freed = freed_at[fill]
            granted = (freed if freed > granted else granted) + 1.0
            while granted >= begin or (reads and granted >= reads[0]):
                if reads and reads[0] < begin:
                    granted = max(granted, reads.popleft() + 1.0)
                else:
                    granted = max(granted, end)
                    self.coming += 1
                    begin, end = self.stretches[self.coming]
        self.granted = granted
        return granted

    def _hand_over(self, now: float) -> None:
        """A set of psums to the requantiser, after a last step at ``now``."""
        words = self.words[self.finished]
        self.chunk = max(now + HANDOVER, self.chunk)
        sure = words * self.per_word
        if self.command.add:
            operands = self.operands
            for _ in range(words):
                self.chunk = max(self.chunk, operands.arriving.popleft()) + self.per_word
                operands.want(self.chunk)
            sure = self.per_word  # the others may still wait for an operand
        else:
            self.chunk += sure
        self.place = self.chunk - 1.0 - min(EARLY, sure - 1)
        self.finished = (self.finished + 1) % len(self.words)

    def _state(self) -> tuple[float, ...]:
        """Everything that decides the next group, relative to the last step."""
        issue, operands = self.issue, self.operands
        return (
            self.granted - issue,
            self.place - issue,
            self.chunk - issue,
            self.fills - self.freed,
            *[time - issue for time in self.freed_at[self.fills :]],
            *[time - issue for time in operands.reads],
            *[time - issue for time in operands.arriving],
        )

    def _repeat(self, fill_stalls: float, psum_stalls: float) -> None:
        """Groups like the last one, as many as end before the next stretch; each has these stalls."""
        begin = self.stretches[self.coming].begin
        times = int(min(self.left - 1, (begin - 1.0 - max(self.granted, self.chunk)) // self.group_cycles))
        if self.command.add:
            times = min(times, self.operands.left // self.command.words)
        if times <= 0:
            return
        shift = times * self.group_cycles
        self.granted, self.place = self.granted + shift, self.place + shift
        self.chunk, self.issue = self.chunk + shift, self.issue + shift
        self.freed_at[self.fills :] = [time + shift for time in self.freed_at[self.fills :]]
        self.operands.shift(times * self.command.words if self.command.add else 0, shift)
        self.fill_stalls += times * fill_stalls
        self.psum_stalls += times * psum_stalls
        self.last_fill -= times * self.command.fills
        self.left -= times


def group_cycles(spec: AccelSpec, command: RowCommand) -> int:
    """Cycles that one more pixel group of a long row takes: its steps, and their waits."""
    window = (_LONG_AGO,) * spec.window_slots
    filled = Before(0.0, -float(LANDING + spec.window_slots), window, _LONG_AGO, _LONG_AGO, _LONG_AGO)
    return int(follow(spec, command, SETTLED_GROUPS, filled, ()).group)


@dataclass
class Rows:
    """Rows of one kind. Many begin alike, so the results of those that nothing disturbed are remembered."""

    spec: AccelSpec
    command: RowCommand
    groups: int
    known: dict[Before, After] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return self.groups * len(self.command.steps)

    @property
    def chunks(self) -> int:
        return self.groups * self.command.words * (self.spec.pixel_lanes // self.spec.requantise_pixels)

    def follow(self, before: Before, taken: Iterable[Stretch]) -> After:
        """A row that comes ``before``; in the cycles ``taken``, in order, no segment is granted."""
        base = before.array
        granted = max(before.granted, before.freed[0] + 1.0)
        alike = Before(
            0.0,
            granted - base,
            tuple(max(time, granted - 1.0) - base for time in before.freed),
            max(before.place - base, 0.0),
            max(before.chunk - base, float(HANDOVER)),
            max(before.operand, granted - _OPERANDS) - base if self.command.add else 0.0,
        )
        if (after := self.known.get(alike)) is None:
            after = self.known[alike] = follow(self.spec, self.command, self.groups, alike, ())
        last = after.drained if self.command.add else after.granted
        near = [stretch for stretch in taken if stretch.end > granted]
        if near and near[0].begin <= base + last:
            return follow(self.spec, self.command, self.groups, before, near)
        return After(
            base + after.end,
            after.group,
            after.fill_stalls,
            after.requantise_stalls,
            base + after.granted,
            tuple(base + time for time in after.freed),
            base + after.place,
            base + after.drained,
            tuple(base + time for time in after.reads),
        )
