"""The memory as the cycle model sees it: a bandwidth that reads and writes share, and a latency."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Memory:
    """DRAM bandwidth (shared by reads and writes) and latency (address to first data)."""

    bytes_per_cycle: float
    latency_cycles: int = 100

    @staticmethod
    def of(spec: AccelSpec, bytes_per_cycle: float | None = None, latency_cycles: int = 100) -> Memory:
        """``bytes_per_cycle`` None is the bus width."""
        return Memory(min(bytes_per_cycle or spec.bus_bytes, spec.bus_bytes), latency_cycles)


def beats_between(spec: AccelSpec, first: int, end: int) -> int:
    """Beats of the bus that hold the bytes [first, end)."""
    return ceil_div(end, spec.bus_bytes) - first // spec.bus_bytes if end > first else 0


_NEVER, _NOTHING = 1e12, 1e-9


class Bus:
    """The memory's data beats. Each stream is served in order; reads and writes that want the same cycles take turns.

    Calendars of the stretches that reads and writes take, because engines book in program order, not in the order of
    time. Who books in a stretch of the other's makes it that much longer, although its end has been told. What is
    booked in order of time takes all its cycles; a stretch that a late booking lengthens may run into one of the
    other direction's, and those cycles then count twice.
    """

    def __init__(self, cycles_per_beat: float) -> None:
        self.cycles_per_beat = cycles_per_beat
        self.reads, self.writes = _Calendar(), _Calendar()
        self.last = {"commands": 0.0, "loads": 0.0, "writes": 0.0}

    def transfer(self, stream: str, ready: float, beats: int) -> float:
        """The time when ``beats`` that may move from ``ready`` on have moved."""
        begin, left = max(ready, self.last[stream]), beats * self.cycles_per_beat
        if stream == "writes":
            end = self.writes.book(begin, left, self.reads)
            self.last["loads"] = max([self.last["loads"], *self.reads.ends[-1:]])
        else:
            end = self.reads.book(begin, left, self.writes)
            self.last["writes"] = max([self.last["writes"], *self.writes.ends[-1:]])
        self.last[stream] = end
        return end

    def forget(self, time: float) -> None:
        """Nobody books before ``time`` any more."""
        self.reads.forget(time)
        self.writes.forget(time)

    def state(self) -> tuple[float, ...]:
        """All times that decide about the future."""
        return (*self.last.values(), *self.reads.begins, *self.reads.ends, *self.writes.begins, *self.writes.ends)


class _Calendar:
    """The stretches that are taken, in order of time, apart from each other."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def book(self, begin: float, left: float, other: _Calendar) -> float:
        """Take ``left`` cycles from ``begin`` on, in this calendar's gaps, by turns where ``other`` has a stretch."""
        begins, ends = self.begins, self.ends
        first = after = bisect_left(ends, begin)  # stretches that the transfer touches or fills the gaps of
        theirs = bisect_right(other.ends, begin)
        at = begin
        while left > _NOTHING:
            if after < len(begins) and begins[after] <= at:
                at = max(at, ends[after])
                after += 1
                continue
            gap_end = begins[after] if after < len(begins) else _NEVER
            while theirs < len(other.ends) and other.ends[theirs] <= at:
                theirs += 1
            if theirs < len(other.ends) and other.begins[theirs] <= at:
                turns = min(2.0 * left, 2.0 * (other.ends[theirs] - at), gap_end - at)
                other.lengthen(theirs, turns / 2.0)
                at, left = at + turns, left - turns / 2.0
            else:
                until = min(gap_end, other.begins[theirs] if theirs < len(other.begins) else _NEVER)
                step = min(left, until - at)
                at, left = at + step, left - step
        end = at
        while after < len(begins) and begins[after] <= end:
            end = max(end, ends[after])
            after += 1
        if first < after:
            begin = min(begin, begins[first])
        begins[first:after] = [begin]
        ends[first:after] = [end]
        return at

    def lengthen(self, index: int, more: float) -> None:
        """A stretch takes ``more`` cycles, and so do those that it then runs into."""
        end, after = self.ends[index] + more, index + 1
        while after < len(self.begins) and self.begins[after] <= end:
            end += self.ends[after] - self.begins[after]
            after += 1
        self.begins[index:after] = [self.begins[index]]
        self.ends[index:after] = [end]

    def forget(self, time: float) -> None:
        count = bisect_left(self.ends, time)
        del self.begins[:count], self.ends[:count]
