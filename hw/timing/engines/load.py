"""The load engine in the cycle model: bursts on the bus, beats in a FIFO, words unpacked one a cycle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.hw import normalise
from codesign.hw.isa import Command, WeightKind
from codesign.hw.numerics import ceil_div
from codesign.hw.program.tokens import Tokens
from codesign.hw.timing.bus import beats_between
from codesign.hw.timing.engines.waiting import Times, Waiting
from codesign.hw.timing.latencies import JOB_TAKEN, NEXT_JOB, TO_REQUEST, TO_REQUEST_WEIGHTS, UNPACK

if TYPE_CHECKING:
    from codesign.hw.timing.engines.engines import Engines

JOBS = 5
"""LOADs and LOADWs requested and not yet unpacked: a queue of four, and the one being unpacked."""


class LoadEngine:
    """Times at which it can take its next command and has finished all."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.request = self.unpacked = 0.0
        self.bursts: deque[tuple[int, float, float]] = deque()  # last beat's number, when it was unpacked, pace
        self.beats = 0  # requested
        self.jobs = deque([0.0] * JOBS, maxlen=JOBS)  # when the last jobs were unpacked
        self.last_load = 0.0

    def take(self, cmd: Command, *, rows: bool) -> None:
        """A LOAD, whose ``rows`` a buffer has, or a LOADW."""
        engines = self.engines
        engines.place("load")
        if rows:
            row = engines.tokens.load(cmd)
            engines.waiting["load"].append(_LoadedRow(cmd, engines.work, engines.sequencer, row, self))
            if row is not None:
                engines.alignments.append((cmd["address"] + row * cmd["row_stride"]) % engines.spec.burst_bytes)
        else:
            engines.waiting["load"].append(_LoadedWeights(cmd, engines.work, engines.sequencer, None, self))
            engines.tokens.weights_loaded += 1
            engines.array.shapes.load(cmd)
        self.move_on()

    def move_on(self) -> None:
        """Follow the loads that wait for nothing unknown: the memory serves them before stores that come later."""
        engines = self.engines
        while engines.waiting["load"]:
            one = engines.waiting["load"][0]
            if one.row is not None:
                buffer = engines.tokens.buffer(one.cmd["buffer"])
                freed = one.row - buffer.rows
                if freed >= 0 and buffer.freed_by_conv and len(engines.rows[one.cmd["buffer"]].by_conv) <= freed:
                    return
            engines.follow("load")

    def job(self, start: float, address: int, beats: int, words: float) -> float:
        """Bursts from ``start`` on, as their beats find room in the FIFO; a word leaves a cycle. Returns the end."""
        spec, bus = self.engines.spec, self.engines.bus
        burst = spec.burst_bytes // spec.bus_bytes
        start = max(start, self.jobs[0] + JOB_TAKEN)
        words += self._conflicts(start, words)
        pace = max(bus.cycles_per_beat, words / max(1, beats))
        begin = self.unpacked + NEXT_JOB
        asked, moved, popped = start - 1, 0, start + 2
        while moved < beats:
            count = min(beats - moved, burst - (address // spec.bus_bytes + moved) % burst)
            asked = max(asked + 1, self._popped(self.beats + count - spec.load_fifo_beats) + 1)
            arrived = bus.transfer("loads", asked + self.engines.memory.latency_cycles, count)
            if moved == 0:
                begin = max(begin, arrived - count * bus.cycles_per_beat + UNPACK)
            moved += count
            self.beats += count
            popped = max(arrived + UNPACK, begin + moved * pace)
            self.bursts.append((self.beats, popped, pace))
        self.unpacked = max(begin + words, popped)
        self.jobs.append(self.unpacked)
        self.request = asked + 2
        return self.unpacked

    def _conflicts(self, start: float, words: float) -> float:
        """Cycles in which a word waits while the requantiser writes its bank."""
        spec, array = self.engines.spec, self.engines.array
        conflicts = array.chunks_since_load * spec.requantise_pixels / spec.banks
        since = max(1.0, start - self.last_load)
        array.chunks_since_load, self.last_load = 0, start
        return conflicts * min(1.0, words / since)

    def _popped(self, beat: int) -> float:
        """Time at which the unpacker has taken beat number ``beat``, and its place in the FIFO is free."""
        while len(self.bursts) > 1 and self.bursts[0][0] < beat:
            self.bursts.popleft()
        if beat <= 0 or not self.bursts:
            return 0.0
        end, popped, pace = self.bursts[0]
        return popped - max(0, end - beat) * pace

    def state(self, times: Times) -> Iterator[object]:
        """Everything that decides its loads to come."""
        yield self.engines.array.chunks_since_load, round(self.last_load - self.engines.sequencer, 3)
        yield tuple((number - self.beats, times(popped), pace) for number, popped, pace in self.bursts)


@dataclass(frozen=True)
class _Load(Waiting):
    engine: LoadEngine


class _LoadedWeights(_Load):
    def follow(self, checked: float) -> None:
        cmd, engines = self.cmd, self.engine.engines
        words = cmd["elements"]
        if cmd["kind"] == WeightKind.NORM:
            words = normalise.CYCLES_PER_CHANNEL * (cmd["elements"] // 2)
        beats = cmd["bytes"] // engines.spec.bus_bytes
        engines.weights.append(self.engine.job(checked + TO_REQUEST_WEIGHTS, cmd["address"], beats, words))
        engines.count("weight_bytes", cmd["bytes"])

    def behind(self, tokens: Tokens) -> int:
        return 0


class _LoadedRow(_Load):
    def follow(self, checked: float) -> None:
        cmd, engines = self.cmd, self.engine.engines
        if self.row is None:
            self.engine.request = checked + 1
            return
        buffer = engines.tokens.buffer(cmd["buffer"])
        lapped = self.row - buffer.rows
        start = checked if lapped < 0 else max(checked, engines.free(cmd["buffer"], lapped))
        at = cmd["address"] + self.row * cmd["row_stride"]
        first = at + max(cmd["skip"], 0)
        span = min(cmd["skip"] + (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"], cmd["row_bytes"])
        beats = beats_between(engines.spec, first, at + span)
        words = cmd["x_count"] * ceil_div(cmd["pixel_bytes"], engines.spec.ci_lanes)
        engines.rows[cmd["buffer"]].loaded.append(self.engine.job(start + TO_REQUEST, first, beats, words))
        engines.count("load_bytes", beats * engines.spec.bus_bytes)
        engines.count("write_words", words)

    def behind(self, tokens: Tokens) -> int:
        return 0 if self.row is None else tokens.buffer(self.cmd["buffer"]).next_loaded - self.row
