"""The cycle model: what a program takes on a machine, row by row, without computing a value.

Every engine is a clock of its own; commands advance the clocks through the same tokens as in hardware: rows finished,
rows freed, LOADWs finished, places in the queues. Within a row the array follows :mod:`codesign.hw.row_timing`. What is
left out: cycles in which the store engine or a second operand takes the scratchpad's port from the window, and the
memory's order of service when reads and writes compete (its bandwidth is kept).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.hw.counters import STALL_CAUSES, Counters
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode, WeightKind, decode_fill, decode_step
from codesign.hw.program import Program
from codesign.hw.row_timing import RowCommand, RowTiming, row_timing
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, STEP_BYTES, AccelSpec
from codesign.hw.tokens import Buffer, ConvRow, Tokens, more_sources

# Latencies in cycles, as the RTL has them.
START = -1  # start write to the first command request
COMMAND = 2  # sequencer, per command
TAKE = 1  # a command in a queue to its engine's first check
TO_GRANT = 4  # passed check of a CONV to its first segment
LANDING = 2  # segment granted to the first step that may use it
FINISH = 2  # last segment granted to the next command taken
REPORT = 8  # last chunk requantised to its row seen as finished
NEXT_ROW, NEXT_ROW_ADD = 2, 3  # last chunk of a row to the first of the next
TO_REQUEST, TO_REQUEST_WEIGHTS = 4, 3  # passed check of a LOAD, of a LOADW, to its first burst
JOBS = 5  # LOADs and LOADWs requested and not yet unpacked: a queue of four, and the one being unpacked
JOB_TAKEN = 3  # a job unpacked to the request of the one that waited for its place
UNPACK = 3  # first beat to the first word written
NEXT_JOB = 3  # last word of a LOAD to the first of the next, when its beats wait
STORE_BEGIN = 2  # passed check of a STORE to its first sub-row
SUB_ROW = 2  # begin of a sub-row to its first fetch
FETCH = 2  # of a batch, besides a cycle per group
SUB_ROW_END = 3  # last word of a sub-row to the begin of the next
RESPONSE = -1  # end of a row to its last response, besides the memory's latency
SETTLE = 2  # last step until the array counts as idle
END = 3  # HALT executed to done


@dataclass(frozen=True)
class Memory:
    """DRAM bandwidth (shared by reads and writes) and latency (address to first data)."""

    bytes_per_cycle: float
    latency_cycles: int = 100

    @staticmethod
    def of(spec: AccelSpec, bytes_per_cycle: float | None = None, latency_cycles: int = 100) -> Memory:
        """``bytes_per_cycle`` None is the bus width."""
        return Memory(min(bytes_per_cycle or spec.bus_bytes, spec.bus_bytes), latency_cycles)


class _Bus:
    """The memory's data beats. Each stream is served in order; streams share the bandwidth.

    A calendar of pages, because engines book in program order, not in the order of time.
    """

    PERIOD = 64  # cycles of a page

    def __init__(self, cycles_per_beat: float) -> None:
        self.cycles_per_beat = cycles_per_beat
        self.used: dict[int, float] = {}  # page -> cycles booked
        self.last = {"commands": 0.0, "loads": 0.0, "writes": 0.0}

    def transfer(self, stream: str, ready: float, beats: int) -> float:
        """The time when ``beats`` that may move from ``ready`` on have moved."""
        left, at = beats * self.cycles_per_beat, max(ready, self.last[stream])
        while left > 0.0:
            page = int(at // self.PERIOD)
            used = self.used.get(page, 0.0)
            end = (page + 1) * self.PERIOD
            take = min(left, self.PERIOD - used, end - at)
            if take > 0.0:
                self.used[page] = used + take
                left -= take
                at += take
            if left > 0.0:
                at = end
        self.last[stream] = at
        return at


@dataclass
class _Rows:
    """When the rows of a buffer were finished and freed."""

    done: list[float] = field(default_factory=list)
    by_conv: list[float] = field(default_factory=list)
    by_store: list[float] = field(default_factory=list)

    def freed(self, buffer: Buffer, row: int) -> float:
        lists = [times for times, used in ((self.by_conv, buffer.freed_by_conv), (self.by_store, buffer.freed_by_store))
                 if used]  # fmt: skip
        return max(times[row] for times in lists)


def _free_to(times: list[float], row: int, time: float) -> None:
    times.extend([time] * (row - len(times)))


@dataclass(frozen=True)
class _ConvShape:
    """What the rows of one CONV command have in common."""

    timing: RowTiming
    chunk_cycles: int
    fills: int
    words_by_row: tuple[int, ...]  # scratchpad words read per kernel row, all pixel groups
    add_words: int


class _Model:
    def __init__(self, program: Program, memory: Memory) -> None:
        self.program, self.spec, self.memory = program, program.spec, memory
        spec = self.spec
        self.bus = _Bus(spec.bus_bytes / memory.bytes_per_cycle)
        self.tokens = Tokens(spec.buffers)
        self.rows: dict[int, _Rows] = {}
        self.sequencer = float(START)
        self.fetched = 0  # commands on chip, and when each arrived
        self.arrived: list[float] = []
        self.queues: dict[str, deque[float]] = {"load": deque(), "conv": deque(), "store": deque()}
        # Engines: when each can take its next command, and when it has finished all.
        self.request = self.front = self.store = 0.0
        self.unpacked = self.array = self.drain = self.written = 0.0
        self.bursts: deque[tuple[int, float, float]] = deque()  # last beat's number, when it was unpacked, pace
        self.beats = 0  # requested by the load engine
        self.jobs = deque([0.0] * JOBS, maxlen=JOBS)  # when the load engine unpacked its last jobs
        self.chunks_since_load, self.last_load = 0, 0.0
        self.begun = deque([0.0, 0.0], maxlen=2)  # when the array began the last rows
        self.weights: list[float] = []
        self.steps: NDArray[np.uint64] = np.zeros(spec.weight_words, np.uint64)
        self.fills: NDArray[np.uint32] = np.zeros(spec.fill_words, np.uint32)
        self.shapes: dict[tuple[int, ...], _ConvShape] = {}
        self.busy = 0
        self.stalls = dict.fromkeys(STALL_CAUSES, 0.0)
        self.events = dict.fromkeys(
            ("commands", "command_bytes", "weight_bytes", "load_bytes", "write_bytes", "read_words", "write_words",
             "values"), 0
        )  # fmt: skip

    # Commands

    def run(self) -> float:
        """Returns the cycle of done."""
        for index, oldest, cmd, delayed in _every_command(self.program.commands):
            self._fetch(oldest)
            self.sequencer = max(self.sequencer, self.arrived[index] + 1) + COMMAND
            self.events["commands"] += 1
            try:
                if not delayed:
                    self._execute(cmd)
            except IndexError as error:
                raise ProgramError("waits for a row that never comes", where=f"command {index}") from error
            if cmd.opcode is Opcode.HALT:
                break
        return self.sequencer + END

    def _fetch(self, oldest: int) -> None:
        """Commands stream in ahead of the sequencer, one request a cycle, while an open loop leaves room on chip."""
        beats = max(1, COMMAND_BYTES // self.spec.bus_bytes)
        while self.fetched < min(oldest + self.spec.command_slots, len(self.program.commands)):
            number = self.fetched
            asked = START + number if number < self.spec.command_slots else max(START + number, self.sequencer)
            self.arrived.append(self.bus.transfer("commands", asked + self.memory.latency_cycles, beats))
            self.events["command_bytes"] += COMMAND_BYTES
            self.fetched += 1

    def _dispatch(self, queue: str, engine: float) -> float:
        """Hand a command over; returns when the engine takes it. The queue holds a few commands."""
        taken = self.queues[queue]
        if len(taken) >= self.spec.queue_depth:
            self.sequencer = max(self.sequencer, taken.popleft() + 1)
        start = max(self.sequencer, engine)
        taken.append(start)
        return start

    def _execute(self, cmd: Command) -> None:
        if cmd.opcode is Opcode.BUFFER:
            self.tokens.configure(cmd)
            self.rows[cmd["id"]] = _Rows()
        elif cmd.opcode in (Opcode.SYNC, Opcode.HALT):
            self._wait_for_engines()
            self.tokens.sync()
            self.weights = []
        elif cmd.opcode is Opcode.LOADW:
            self._load_weights(cmd)
        elif cmd.opcode is Opcode.LOAD:
            self._load(cmd)
        elif cmd.opcode is Opcode.CONV:
            self._conv(cmd)
        elif cmd.opcode is Opcode.STORE:
            self._store(cmd)

    def _wait_for_engines(self) -> None:
        """SYNC and HALT go on when every engine is idle; meanwhile the array waits for whoever still works."""
        now = self.array
        drained = self.drain + REPORT
        for cause, until in (
            ("fill", now + SETTLE if self.busy else now),
            ("control", min(self.sequencer, drained)),
            ("drain", drained),
            ("store", self.written),
            ("weights", max(self.weights, default=0.0)),
            ("load", self.unpacked),
        ):
            if until > now:
                self.stalls[cause] += until - now
                now = until
        self.array = self.front = self.sequencer = max(self.sequencer, now) + 1

    # The load engine

    def _job(self, start: float, address: int, beats: int, words: float) -> float:
        """Bursts from ``start`` on, as their beats find room in the FIFO; a word leaves a cycle. Returns the end."""
        burst = self.spec.burst_bytes // self.spec.bus_bytes
        start = max(start, self.jobs[0] + JOB_TAKEN)
        # A word waits while the requantiser writes its bank.
        conflicts = self.chunks_since_load * self.spec.requantise_pixels / self.spec.banks
        since = max(1.0, start - self.last_load)
        words += conflicts * min(1.0, words / since)
        self.chunks_since_load, self.last_load = 0, start
        pace = max(self.bus.cycles_per_beat, words / max(1, beats))
        begin = self.unpacked + NEXT_JOB
        asked, moved, popped = start - 1, 0, start + 2
        while moved < beats:
            count = min(beats - moved, burst - (address // self.spec.bus_bytes + moved) % burst)
            asked = max(asked + 1, self._popped(self.beats + count - self.spec.load_fifo_beats) + 1)
            arrived = self.bus.transfer("loads", asked + self.memory.latency_cycles, count)
            if moved == 0:
                begin = max(begin, arrived - count * self.bus.cycles_per_beat + UNPACK)
            moved += count
            self.beats += count
            popped = max(arrived + UNPACK, begin + moved * pace)
            self.bursts.append((self.beats, popped, pace))
        self.unpacked = max(begin + words, popped)
        self.jobs.append(self.unpacked)
        self.request = asked + 2
        return self.unpacked

    def _popped(self, beat: int) -> float:
        """When the unpacker has taken beat number ``beat``, and its place in the FIFO is free."""
        while len(self.bursts) > 1 and self.bursts[0][0] < beat:
            self.bursts.popleft()
        if beat <= 0 or not self.bursts:
            return 0.0
        end, popped, pace = self.bursts[0]
        return popped - max(0, end - beat) * pace

    def _load_weights(self, cmd: Command) -> None:
        start = self._dispatch("load", self.request) + TAKE + TO_REQUEST_WEIGHTS
        self.weights.append(self._job(start, cmd["address"], cmd["bytes"] // self.spec.bus_bytes, cmd["elements"]))
        self.tokens.weights_loaded += 1
        self.events["weight_bytes"] += cmd["bytes"]
        offset = cmd["address"] - self.program.blob_offset
        kind, first, count = WeightKind(cmd["kind"]), cmd["destination"], cmd["elements"]
        if kind is WeightKind.STEPS:
            data = self.program.blob[offset : offset + count * STEP_BYTES]
            self.steps[first : first + count] = np.frombuffer(data, "<u8")
        elif kind is WeightKind.FILLS:
            data = self.program.blob[offset : offset + count * FILL_BYTES]
            self.fills[first : first + count] = np.frombuffer(data, "<u4")
        self.shapes.clear()

    def _load(self, cmd: Command) -> None:
        buffer = self.tokens.buffer(cmd["buffer"])
        row = self.tokens.load(cmd)
        start = self._dispatch("load", self.request) + TAKE
        if row is None:
            self.request = start + 1
            return
        rows = self.rows[cmd["buffer"]]
        if row >= buffer.rows:
            start = max(start, rows.freed(buffer, row - buffer.rows))
        at = cmd["address"] + row * cmd["row_stride"]
        span = min(cmd["skip"] + (buffer.width - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"], cmd["row_bytes"])
        beats = self._beats(at + max(cmd["skip"], 0), at + span)
        words = buffer.width * -(-cmd["pixel_bytes"] // self.spec.ci_lanes)
        rows.done.append(self._job(start + TO_REQUEST, at + max(cmd["skip"], 0), beats, words))
        self.events["load_bytes"] += beats * self.spec.bus_bytes
        self.events["write_words"] += words

    def _beats(self, first: int, end: int) -> int:
        bus = self.spec.bus_bytes
        return -(-end // bus) - first // bus if end > first else 0

    # The convolution engine

    def _conv(self, cmd: Command) -> None:
        source, destination = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"])
        taken = self._dispatch("conv", self.front)
        at = self.tokens.conv(cmd)
        if at is None:
            self.front = taken + TAKE + 1
            return
        checked = taken + TAKE
        waits = self._waits(cmd, at, source, destination)
        ready = max(checked + len(more_sources(cmd)), *(time for time, _ in waits))
        # Rows are handed over through a queue of two: the row before the last must have begun.
        start = max(ready, self.begun[0])
        shape = self._shape(cmd, source, destination)
        timing = shape.timing
        granted = start + TO_GRANT
        begin = max(self.array, granted + LANDING)
        self._idle(self.array, begin, checked, waits, ready)
        self.begun.append(begin)
        end = max(self.array + timing.warm, granted + timing.cold)
        gap = NEXT_ROW_ADD if cmd["add_enable"] else NEXT_ROW
        end_by_drain = self.drain + gap + timing.drain - 1 - timing.tail
        stalled = end - begin - timing.steps
        fill = max(0.0, min(stalled, float(timing.fill_stalls))) if timing.requantise_stalls else max(0.0, stalled)
        self.stalls["fill"] += fill
        self.stalls["requantise"] += max(0.0, stalled - fill) + max(0.0, end_by_drain - end)
        end = max(end, end_by_drain)
        self.busy += timing.steps
        self.chunks_since_load += timing.drain
        self.array = end
        last_grant = max(granted + shape.fills - 1, end - 1 - timing.last_grant)
        self.front = last_grant + FINISH + len(more_sources(cmd))
        self.drain = max(end - 1 + timing.tail, self.drain + gap + timing.drain - 1)
        self._finish_row(cmd, at, source, destination, shape, last_grant)

    def _waits(self, cmd: Command, at: ConvRow, source: Buffer, destination: Buffer) -> list[tuple[float, str]]:
        """What the row waits for, in the order in which the front looks: when it is there, and whose it is."""
        waits: list[tuple[float, str]] = []
        if cmd["weights_needed"]:
            waits.append((self.weights[cmd["weights_needed"] - 1], "weights"))
        last = min(at.top + cmd["kernel_rows"], source.height) - 1
        for number, index in enumerate((cmd["source"], *(index for index, _ in more_sources(cmd)))):
            cause = "load" if self.tokens.buffer(index).command["loaded"] else "drain"
            # Sources are looked at one a cycle.
            waits.append((self.rows[index].done[last] + number if last >= 0 else 0.0, cause))
        if cmd["add_enable"]:
            other = self.tokens.buffer(cmd["add_buffer"])
            cause = "load" if other.command["loaded"] else "drain"
            waits.append((self.rows[cmd["add_buffer"]].done[at.y], cause))
        if at.y >= destination.rows:
            freed = self.rows[cmd["destination"]].freed(destination, at.y - destination.rows)
            waits.append((freed, "store" if destination.freed_by_store else "drain"))
        return waits

    def _idle(self, since: float, until: float, checked: float, waits: list[tuple[float, str]], ready: float) -> None:
        """Attribute the array's idle cycles [since, until): no command yet, waiting for a row, filling the window."""
        now = since
        for cause, end in (
            ("control", checked), *((cause, time) for time, cause in waits), ("fill", until),
        ):  # fmt: skip
            end = min(end, until)
            if end > now:
                self.stalls[cause] += end - now
                now = end

    def _finish_row(
        self, cmd: Command, at: ConvRow, source: Buffer, destination: Buffer, shape: _ConvShape, last_grant: float
    ) -> None:
        reported = self.drain + REPORT
        self.rows[cmd["destination"]].done.append(reported)
        if cmd["free_source"]:
            freed = reported if source.command["loaded"] else last_grant + 2
            _free_to(self.rows[cmd["source"]].by_conv, source.freed_conv, freed)
        at_hand = last_grant + 3
        for index, free in more_sources(cmd):
            if free:
                buffer = self.tokens.buffer(index)
                if buffer.command["loaded"]:  # not before nothing is under way
                    at_hand = max(at_hand, reported)
                _free_to(self.rows[index].by_conv, buffer.freed_conv, at_hand)
            at_hand += 1
        self.front = max(self.front, at_hand - 1)
        if cmd["add_enable"] and cmd["add_free"]:
            _free_to(self.rows[cmd["add_buffer"]].by_conv, at.y + 1, reported)
        self.events["values"] += destination.width * cmd["words"] * self.spec.ci_lanes
        self.events["write_words"] += destination.width * cmd["words"]
        self.events["read_words"] += shape.add_words + sum(
            words for row, words in enumerate(shape.words_by_row) if 0 <= at.top + row < source.height
        )

    def _shape(self, cmd: Command, source: Buffer, destination: Buffer) -> _ConvShape:
        names = ("steps_base", "steps_count", "fills_base", "fills_count", "fills_repeat", "words", "lane_groups_log2",
                 "x_stride", "x_offset", "source", "more_sources", "source_1", "source_2", "source_3", "source_4",
                 "add_enable", "add_broadcast", "add_buffer", "add_x_offset")  # fmt: skip
        key = (source.width, destination.width, *(cmd[name] for name in names))
        if key not in self.shapes:
            self.shapes[key] = self._new_shape(cmd, source, destination)
        return self.shapes[key]

    def _new_shape(self, cmd: Command, source: Buffer, destination: Buffer) -> _ConvShape:
        spec = self.spec
        groups = -(-destination.width // spec.pixel_lanes)
        first = cmd["steps_base"]
        command = RowCommand(
            steps=tuple(decode_step(int(word), spec) for word in self.steps[first : first + cmd["steps_count"]]),
            fills=cmd["fills_count"] * cmd["fills_repeat"],
            words=cmd["words"],
            words_per_set=max(1, (spec.co_lanes >> cmd["lane_groups_log2"]) // spec.ci_lanes),
            add=bool(cmd["add_enable"]),
        )
        x = cmd["x_offset"] + np.arange(groups) * spec.pixel_lanes * cmd["x_stride"]
        reach = 2 * spec.pixel_lanes if cmd["x_stride"] == 2 else spec.segment_pixels
        words = [0] * cmd["kernel_rows"]
        for index in range(cmd["fills_count"]):
            fill = decode_fill(int(self.fills[cmd["fills_base"] + index]))
            index, delta = (cmd[f"source_{fill.source}"], cmd[f"x_delta_{fill.source}"]) if fill.source else (
                cmd["source"], 0)  # fmt: skip
            width = self.tokens.buffer(index).width
            words[fill.row] += cmd["fills_repeat"] * _pixels(x + fill.column + delta, reach, width)
        add_words = 0
        if cmd["add_enable"]:
            other = self.tokens.buffer(cmd["add_buffer"])
            starts = cmd["add_x_offset"] + np.arange(groups) * spec.pixel_lanes
            add_words = cmd["words"] * _pixels(starts, spec.pixel_lanes, other.width)
        return _ConvShape(
            timing=row_timing(spec, command, groups),
            chunk_cycles=spec.pixel_lanes // spec.requantise_pixels,
            fills=command.fills * groups,
            words_by_row=tuple(words),
            add_words=add_words,
        )

    # The store engine

    def _store(self, cmd: Command) -> None:
        spec = self.spec
        row = self.tokens.store(cmd)
        start = self._dispatch("store", self.store) + TAKE
        if row is None:
            self.store = start + 1
            return
        rows = self.rows[cmd["buffer"]]
        time = max(start, rows.done[row]) + STORE_BEGIN
        sent = self.written
        for sub in range(cmd["sub_rows"]):
            channel = cmd["channel"] + sub * cmd["channel_step"]
            groups = (channel + cmd["pixel_bytes"] - 1) // spec.ci_lanes - channel // spec.ci_lanes + 1
            at = cmd["address"] + (row * cmd["sub_rows"] + sub) * cmd["row_stride"]
            span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
            beats = self._beats(at, at + span)
            began = time + SUB_ROW
            packed = began + self._packing(cmd, groups)
            sent = self.bus.transfer("writes", began + FETCH + 2, beats)
            time = max(packed, sent - spec.store_fifo_beats) + SUB_ROW_END
            self.events["write_bytes"] += beats * spec.bus_bytes
            self.events["read_words"] += cmd["x_count"] * groups
        self.store = time
        self.written = max(time, sent) + self.memory.latency_cycles + RESPONSE
        if self.tokens.buffer(cmd["buffer"]).freed_by_store:
            _free_to(rows.by_store, row + 1, time)

    def _packing(self, cmd: Command, groups: int) -> int:
        """Cycles to fetch and pack one sub-row: batches of segments, then a word a cycle; gaps are stepped over."""
        spec = self.spec
        words = cmd["x_count"] * groups
        if groups <= spec.banks:
            batches = -(-cmd["x_count"] // (1 << (spec.banks // groups).bit_length() - 1))
            fetches = batches * (groups + FETCH)
        else:
            fetches = cmd["x_count"] * (groups + FETCH * -(-groups // spec.banks))
        if cmd["pixel_pitch"] == cmd["pixel_bytes"]:
            return fetches + words
        gap = cmd["pixel_pitch"] - cmd["pixel_bytes"]
        return fetches + 2 * words + cmd["x_count"] * (1 + gap // spec.bus_bytes)


def _pixels(starts: NDArray[np.int64], count: int, width: int) -> int:
    """Pixels of a row of ``width`` in the spans of ``count`` from ``starts``."""
    return int(np.sum(np.maximum(np.minimum(starts + count, width) - np.maximum(starts, 0), 0)))


def _every_command(commands: tuple[Command, ...]) -> Iterator[tuple[int, int, Command, bool]]:
    """Commands as the sequencer meets them, loop commands and delayed ones (True) included.

    Yields a command's index, the oldest index that must stay on chip, the command and whether it is left out.
    """
    stack: list[list[int]] = []  # [body, executions left, executions done]
    pc = 0
    while pc < len(commands):
        cmd = commands[pc]
        late = cmd.opcode in (Opcode.LOAD, Opcode.CONV, Opcode.STORE) and bool(stack) and stack[-1][2] < cmd["delay"]
        yield pc, (stack[0][0] if stack else pc), cmd, late
        pc += 1
        if cmd.opcode is Opcode.LOOP:
            stack.append([pc, cmd["count"], 0])
        elif cmd.opcode is Opcode.END:
            loop = stack[-1]
            loop[1] -= 1
            loop[2] += 1
            if loop[1]:
                pc = loop[0]
            else:
                stack.pop()


def predict(program: Program, memory: Memory | None = None) -> Counters:
    """Predict one frame's counters. Raises :class:`ProgramError` for a program that ``verify`` refuses."""
    model = _Model(program, memory or Memory.of(program.spec))
    cycles = round(model.run())
    stalls = {cause: round(time) for cause, time in model.stalls.items()}
    stalls["control"] += cycles - model.busy - sum(stalls.values())
    spec = program.spec
    return Counters(
        cycles=cycles,
        busy_cycles=model.busy,
        **{f"{cause}_stall_cycles": time for cause, time in stalls.items()},
        macs_issued=model.busy * spec.macs_per_cycle,
        dram_command_read_bytes=model.events["command_bytes"],
        dram_weight_read_bytes=model.events["weight_bytes"],
        dram_load_read_bytes=model.events["load_bytes"],
        dram_write_bytes=model.events["write_bytes"],
        scratchpad_read_words=model.events["read_words"],
        scratchpad_write_words=model.events["write_words"],
        weight_read_words=model.busy,
        requantised_values=model.events["values"],
        commands=model.events["commands"],
    )


__all__ = ["Memory", "predict"]
