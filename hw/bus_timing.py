"""The memory as the cycle model sees it: a bandwidth that reads and writes share, and a latency."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

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


class Bus:
    """The memory's data beats. Each stream is served in order; streams share the bandwidth.

    A calendar of the stretches that are taken, because engines book in program order, not in the order of time.
    """

    def __init__(self, cycles_per_beat: float) -> None:
        self.cycles_per_beat = cycles_per_beat
        self.begins: list[float] = []  # stretches taken, in order of time, apart from each other
        self.ends: list[float] = []
        self.last = {"commands": 0.0, "loads": 0.0, "writes": 0.0}

    def transfer(self, stream: str, ready: float, beats: int) -> float:
        """The time when ``beats`` that may move from ``ready`` on have moved."""
        begins, ends = self.begins, self.ends
        left, begin = beats * self.cycles_per_beat, max(ready, self.last[stream])
        first = after = bisect_left(ends, begin)  # stretches that the transfer touches or fills the gaps of
        at = begin
        while after < len(begins) and begins[after] <= at + left:
            left -= max(0.0, begins[after] - at)
            at = max(at, ends[after])
            after += 1
        at += left
        if first < after:
            begin = min(begin, begins[first])
        begins[first:after] = [begin]
        ends[first:after] = [at]
        self.last[stream] = at
        return at

    def forget(self, time: float) -> None:
        """Nobody books before ``time`` any more."""
        count = bisect_left(self.ends, time)
        del self.begins[:count], self.ends[:count]
