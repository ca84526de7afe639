"""The cycle model: what a program takes on a machine, row by row, without computing a value.

Every engine is a clock of its own; commands advance the clocks through the same tokens as in hardware: rows finished,
rows freed, LOADWs finished, places in the queues. Within a row the array follows :mod:`codesign.hw.timing.row`, the
sampler :mod:`codesign.hw.timing.sample`, the store engine :mod:`codesign.hw.timing.store`. What is left out is
which of the beats that compete at the memory is served first: reads and writes take turns.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from codesign.hw import normalise
from codesign.hw.counters import STALL_CAUSES, Counters, LayerCounters
from codesign.hw.errors import ProgramError
from codesign.hw.isa import COMPUTE, ROWS, SAMPLED, Command, Opcode, WeightKind
from codesign.hw.program.program import Program
from codesign.hw.program.tokens import Buffer, ConvRow, Tokens, first_row, keeps_pace, more_sources
from codesign.hw.spec import COMMAND_BYTES
from codesign.hw.timing.bus import Bus, Memory
from codesign.hw.timing.conv import ConvShape, ConvShapes
from codesign.hw.timing.loop import Body, every_command
from codesign.hw.timing.row import Before, Stretch
from codesign.hw.timing.sample import Fetching, SampledRow, lost_to_store, resized_words, sampled_row, warped_words
from codesign.hw.timing.store import Batch, sub_row_batches
from codesign.hw.timing.window import Window, pace_of, window_row

# Latencies in cycles, as the RTL has them.
START = -1  # start write to the first command request
COMMAND = 2  # sequencer, per command
TAKE = 1  # a command in a queue to its engine's first check
TO_GRANT = 4  # passed check of a CONV to its first segment
LANDING = 2  # segment granted to the first step that may use it
FINISH = 2  # last segment granted to the next command taken
REPORT = 8  # last chunk requantised to its row seen as finished
NEXT_ROW = 2  # last chunk of a row to the first of the next
OPERAND = -1  # first segment granted, at the earliest, to the first second operand read
TO_REQUEST, TO_REQUEST_WEIGHTS = 4, 3  # passed check of a LOAD, of a LOADW, to its first burst
JOBS = 5  # LOADs and LOADWs requested and not yet unpacked: a queue of four, and the one being unpacked
JOB_TAKEN = 3  # a job unpacked to the request of the one that waited for its place
UNPACK = 3  # first beat to the first word written
NEXT_JOB = 3  # last word of a LOAD to the first of the next, when its beats wait
STORE_BEGIN = 2  # passed check of a STORE to its first sub-row
SUB_ROW = 2  # begin of a sub-row to its first fetch
PACKED = 2  # a word packed to its beat on the bus
SUB_ROW_END = 3  # last word of a sub-row to the begin of the next
RESPONSE = -1  # end of a row to its last response, besides the memory's latency
SETTLE = 2  # last step until the array counts as idle
END = 3  # HALT executed to done

_SAMPLED_ROWS = 4
"""Rows of the sampler beside which a store may run that comes after them."""

_LONG_PAST = 256  # cycles after which a time can no longer be the latest of those waited for

_Work = tuple[Opcode, str]
"""What an event belongs to: the kind of command, and the layer or tensor that it is for."""


@dataclass
class _Rows:
    """When the rows of a buffer were loaded, computed and freed."""

    loaded: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    by_conv: list[float] = field(default_factory=list)
    by_store: list[float] = field(default_factory=list)

    def done(self, buffer: Buffer, row: int) -> list[tuple[float, str]]:
        """When ``row`` was there, and what one waited for until then; both parts of a row with a halo."""
        computed = [] if buffer.loaded else [(self.computed[row], "drain")]
        return [*computed, (self.loaded[row], "load")] if buffer.by_load else computed

    def freed(self, buffer: Buffer, row: int) -> float:
        lists = [times for times, used in ((self.by_conv, buffer.freed_by_conv), (self.by_store, buffer.freed_by_store))
                 if used]  # fmt: skip
        return max(times[row] for times in lists)


def _free_to(times: list[float], row: int, time: float) -> None:
    times.extend([time] * (row - len(times)))


def _behind(row: int | None, next_row: int) -> int:
    return 0 if row is None else next_row - row


@dataclass(frozen=True)
class _Waiting:
    """A command handed over to an engine and not yet followed, with what was known then."""

    cmd: Command
    work: _Work
    dispatched: float
    row: int | None  # of its buffer; None: it has no more, or has no rows


@dataclass(frozen=True)
class _Row(_Waiting):
    """A row for the convolution engine."""

    top: int  # as in ConvRow
    shape: ConvShape | None  # None: it is sampled
    height: int  # of its sources
    freed: tuple[int, ...]  # rows of each source that are free after it


@dataclass(frozen=True)
class _Snapshot:
    """Where a loop stood after ``done`` executions."""

    done: int
    time: float
    rows: dict[int, int]  # of every buffer
    stalls: dict[str, float]
    events: Counter[tuple[_Work, str]]


class _Model:
    def __init__(self, program: Program, memory: Memory, patient: bool = False) -> None:
        """``patient``: follow every execution of every loop."""
        self.patient = patient
        self.bodies: dict[int, Body | None] = {}
        self.program, self.spec, self.memory = program, program.spec, memory
        spec = self.spec
        self.bus = Bus(spec.bus_bytes / memory.bytes_per_cycle)
        self.left_out = 0.0  # cycles of loop executions that were counted and not followed
        self.alignments: list[int] = []  # of the rows loaded and stored in this execution of the outermost loop
        self.seen: dict[tuple[object, ...], _Snapshot] = {}  # states after executions of the outermost loop
        self.tokens = Tokens(spec)
        self.rows: dict[int, _Rows] = {}
        self.sequencer = float(START)
        self.fetched = 0  # commands on chip, and when each arrived
        self.arrived: list[float] = []
        # Commands for an engine: when the last were taken up, and those that are not yet followed.
        self.waiting: dict[str, deque[_Waiting]] = {"load": deque(), "conv": deque()}
        self.queues: dict[str, deque[float]] = {"load": deque(), "conv": deque(), "store": deque()}
        # Engines: when each can take its next command, and when it has finished all.
        self.request = self.front = self.store = 0.0
        self.unpacked = self.array = self.drain = self.written = 0.0
        self.bursts: deque[tuple[int, float, float]] = deque()  # last beat's number, when it was unpacked, pace
        self.beats = 0  # requested by the load engine
        self.jobs = deque([0.0] * JOBS, maxlen=JOBS)  # when the load engine unpacked its last jobs
        self.chunks_since_load, self.last_load = 0, 0.0
        self.taken: deque[Stretch] = deque()  # by the store engine, of the scratchpad's port
        self.freed = (0.0,) * spec.window_slots  # when each slot of the window became free, the next one first
        self.place = 0.0  # when a set of psums finds its place empty
        # What of the store engine's and the sampler's last work may meet at the scratchpad's port.
        self.samples = any(cmd.opcode in SAMPLED for cmd in program.commands)
        self.fetching: list[Fetching] = []
        self.sampling: deque[SampledRow] = deque(maxlen=_SAMPLED_ROWS)
        self.begun = deque([0.0, 0.0], maxlen=2)  # when the array began the last rows
        self.weights: list[float] = []
        self.shapes = ConvShapes(program, self.tokens)
        self.stalls = dict.fromkeys(STALL_CAUSES, 0.0)
        self.work = (Opcode.HALT, "")  # opcode and label of the command being executed
        self.events: Counter[tuple[_Work, str]] = Counter()
        self.spans: dict[_Work, tuple[float, float]] = {}  # when the array began and ended its rows

    # Commands

    def run(self) -> float:
        """Returns the cycle of done."""
        leave_out = (lambda *_: 0) if self.patient else self._leave_out
        for index, oldest, cmd, delayed in every_command(self.program.commands, leave_out):
            self._fetch(oldest)
            self.sequencer = max(self.sequencer, self.arrived[index] + 1) + COMMAND
            self.work = (cmd.opcode, self.program.labels[index] if self.program.labels else "")
            self._count("commands", 1)
            try:
                if not delayed:
                    self._execute(cmd)
            except IndexError as error:
                raise ProgramError("waits for a row that never comes", where=f"command {index}") from error
            if cmd.opcode is Opcode.HALT:
                break
        return self.left_out + self.sequencer + END

    # Loops in their steady state

    def _leave_out(self, first: int, end: int, done: int, left: int) -> int:
        """How many of the ``left`` executions of the loop body [first, end) need not be followed.

        When the state after an execution is one met before, shifted in time, what happened in between happens again
        and again: it is counted as often as it fits into the frame, and the frame is that much lower.
        """
        if done == 1:
            self.seen.clear()
        alignments, self.alignments = tuple(self.alignments), []
        body = self._body(first, end)
        if body is None or left < 2 or done < body.delay:
            return 0
        buffers = {index: self.tokens.buffer(index) for index in body.buffers}
        if any(buffer.next_row < buffer.rows or buffer.begun >= buffer.height for buffer in buffers.values()):
            return 0
        if any(first_row(cmd, buffers[cmd["destination"]].next_computed) < 0 for cmd in body.convs):
            return 0
        state = (alignments, *self._state(body, buffers))
        now = self._snapshot(done, buffers)
        before = self.seen.setdefault(state, now)
        if before is now:
            return 0
        period = done - before.done
        rates = {index: row - before.rows[index] for index, row in now.rows.items()}
        if not all(rates.values()) or not all(
            keeps_pace(cmd, rates[source], rates[cmd["destination"]])
            for cmd in body.convs
            for source in (cmd["source"], *(index for index, _ in more_sources(cmd)))
        ):
            return 0
        times = min((buffer.height - 1 - buffer.begun) // rates[index] for index, buffer in buffers.items())
        times = min(times, (left - 1) // period)
        if times <= 0:
            return 0
        for index, buffer in buffers.items():
            buffer.height -= times * rates[index]
        self.left_out += times * (now.time - before.time)
        for cause, stalled in before.stalls.items():
            self.stalls[cause] += times * (now.stalls[cause] - stalled)
        for event, count in now.events.items():
            self.events[event] += times * (count - before.events[event])
        self.seen.clear()
        return times * period

    def _body(self, first: int, end: int) -> Body | None:
        """What a loop's body works on; None for one that configures the machine."""
        if first not in self.bodies:
            commands = self.program.commands[first:end]
            rows = [cmd for cmd in commands if cmd.opcode in ROWS]
            plain = all(cmd.opcode in (Opcode.LOOP, Opcode.END) or cmd in rows for cmd in commands)
            self.bodies[first] = Body.of(rows) if plain else None
        return self.bodies[first]

    def _state(self, body: Body, buffers: dict[int, Buffer]) -> Iterator[object]:
        """All that decides about the future, times relative to the sequencer's; what is long past is all the same."""
        base = self.sequencer
        oldest = min(base, self.array, self.front) - _LONG_PAST

        def times(*values: float) -> tuple[float, ...]:
            return tuple(round(max(value, oldest) - base, 3) for value in values)

        yield times(self.request, self.front, self.store, self.unpacked, self.array, self.drain, self.written)
        yield times(*self.begun, *self.jobs)
        yield times(*self.freed, self.place)
        yield tuple(times(*stretch) for stretch in self.taken if stretch.end > self.front)
        yield tuple((times(span.begin, span.end), span.reads) for span in self.fetching if span.end > oldest)
        yield tuple((times(row.start, row.end), row.reads) for row in self.sampling if row.end > oldest)
        yield tuple(times(*queue) for queue in self.queues.values())
        for one in self.waiting["load"]:
            loaded = self.tokens.buffer(one.cmd["buffer"]).next_loaded
            yield id(one.cmd), _behind(one.row, loaded), times(one.dispatched)
        for one in self.waiting["conv"]:
            computed = self.tokens.buffer(one.cmd["destination"]).next_computed
            yield id(one.cmd), _behind(one.row, computed), times(one.dispatched)
        self.bus.forget(min([base, *(one.dispatched for one in self.waiting["load"])]))
        yield times(*self.bus.state())
        if body.loads:
            yield self.chunks_since_load, round(self.last_load - base, 3)
            yield tuple((number - self.beats, times(popped), pace) for number, popped, pace in self.bursts)
        for index, buffer in buffers.items():
            rows, window = self.rows[index], buffer.next_row - buffer.rows
            yield buffer.begun - buffer.next_row, times(*rows.loaded[window:]), times(*rows.computed[window:])
            if buffer.freed_by_conv:
                yield buffer.next_row - buffer.freed_conv, times(*rows.by_conv[max(0, window) :])
            if buffer.freed_by_store:
                yield buffer.next_row - buffer.freed_store, times(*rows.by_store[max(0, window) :])
            if index in body.stored:
                yield buffer.next_row - buffer.stored

    def _snapshot(self, done: int, buffers: dict[int, Buffer]) -> _Snapshot:
        rows = {index: buffer.next_row for index, buffer in buffers.items()}
        return _Snapshot(done, self.sequencer, rows, dict(self.stalls), self.events.copy())

    def _count(self, event: str, number: int) -> None:
        self.events[self.work, event] += number

    def _fetch(self, oldest: int) -> None:
        """Commands stream in ahead of the sequencer, one request a cycle, while an open loop leaves room on chip."""
        beats = max(1, COMMAND_BYTES // self.spec.bus_bytes)
        while self.fetched < min(oldest + self.spec.command_slots, len(self.program.commands)):
            number = self.fetched
            asked = START + number if number < self.spec.command_slots else max(START + number, self.sequencer)
            self.arrived.append(self.bus.transfer("commands", asked + self.memory.latency_cycles, beats))
            self._count("command_bytes", COMMAND_BYTES)
            self.fetched += 1

    # Commands on their way to the engines

    def _dispatch(self, queue: str, engine: float) -> float:
        """Hand a command over; returns when the engine takes it."""
        self._place(queue)
        start = max(self.sequencer, engine)
        self.queues[queue].append(start)
        return start

    def _place(self, queue: str) -> None:
        """The sequencer waits for a place in a queue, which holds a few commands."""
        taken, waiting = self.queues[queue], self.waiting.get(queue, ())
        if len(taken) + len(waiting) >= self.spec.queue_depth:
            if not taken:
                self._follow(queue)
            self.sequencer = max(self.sequencer, taken.popleft() + 1)

    def _follow(self, queue: str) -> None:
        """Follow the oldest command that waits for an engine."""
        command = self.waiting[queue].popleft()
        now, self.work = self.work, command.work
        taken = max(command.dispatched, self.front if queue == "conv" else self.request)
        self.queues[queue].append(taken)
        if isinstance(command, _Row):
            self._compute(command, taken + TAKE)
        else:
            self._move(command, taken + TAKE)
        self.work = now
        if queue == "conv":
            self._move_on()

    def _move_on(self) -> None:
        """Follow the loads that wait for nothing unknown: the memory serves them before stores that come later."""
        while self.waiting["load"]:
            one = self.waiting["load"][0]
            if one.row is not None:
                buffer = self.tokens.buffer(one.cmd["buffer"])
                freed = one.row - buffer.rows
                if freed >= 0 and buffer.freed_by_conv and len(self.rows[one.cmd["buffer"]].by_conv) <= freed:
                    return
            self._follow("load")

    def _until(self, queue: str, times: list[float], row: int) -> None:
        """Follow an engine until ``times`` of rows that it finishes or frees include ``row``."""
        while len(times) <= row and self.waiting[queue]:
            self._follow(queue)

    def _there(self, index: int, row: int) -> list[tuple[float, str]]:
        """When a buffer's row was there, and what one waited for until then."""
        buffer, rows = self.tokens.buffer(index), self.rows[index]
        if buffer.by_load:
            self._until("load", rows.loaded, row)
        if not buffer.loaded:
            self._until("conv", rows.computed, row)
        return rows.done(buffer, row)

    def _free(self, index: int, row: int) -> float:
        """When a buffer's row was freed."""
        buffer, rows = self.tokens.buffer(index), self.rows[index]
        if buffer.freed_by_conv:
            self._until("conv", rows.by_conv, row)
        return rows.freed(buffer, row)

    def _execute(self, cmd: Command) -> None:
        if cmd.opcode in (Opcode.BUFFER, Opcode.SYNC, Opcode.HALT):
            for queue, waiting in self.waiting.items():
                while waiting:
                    self._follow(queue)
        if cmd.opcode is Opcode.BUFFER:
            self.tokens.configure(cmd)
            self.rows[cmd["id"]] = _Rows()
            self.shapes.forget()
        elif cmd.opcode in (Opcode.SYNC, Opcode.HALT):
            self._wait_for_engines()
            self.tokens.sync()
            self.weights = []
        elif cmd.opcode is Opcode.LOADW:
            self._load_weights(cmd)
        elif cmd.opcode is Opcode.LOAD:
            self._load(cmd)
        elif cmd.opcode in COMPUTE:
            self._conv(cmd)
        elif cmd.opcode is Opcode.STORE:
            self._store(cmd)

    def _wait_for_engines(self) -> None:
        """SYNC and HALT go on when every engine is idle; meanwhile the array waits for whoever still works."""
        now = self.array
        drained = self.drain + REPORT
        for cause, until in (
            ("fill", now + SETTLE if self.spans else now),
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
        self._place("load")
        self.waiting["load"].append(_Waiting(cmd, self.work, self.sequencer, None))
        self.tokens.weights_loaded += 1
        self.shapes.load(cmd)
        self._move_on()

    def _load(self, cmd: Command) -> None:
        self._place("load")
        row = self.tokens.load(cmd)
        self.waiting["load"].append(_Waiting(cmd, self.work, self.sequencer, row))
        if row is not None:
            self.alignments.append((cmd["address"] + row * cmd["row_stride"]) % self.spec.burst_bytes)
        self._move_on()

    def _move(self, command: _Waiting, checked: float) -> None:
        """A LOAD or LOADW."""
        cmd, row = command.cmd, command.row
        if cmd.opcode is Opcode.LOADW:
            words = normalise.CYCLES * (cmd["elements"] // 2) if cmd["kind"] == WeightKind.NORM else cmd["elements"]
            beats = cmd["bytes"] // self.spec.bus_bytes
            self.weights.append(self._job(checked + TO_REQUEST_WEIGHTS, cmd["address"], beats, words))
            self._count("weight_bytes", cmd["bytes"])
            return
        if row is None:
            self.request = checked + 1
            return
        buffer = self.tokens.buffer(cmd["buffer"])
        start = checked if row < buffer.rows else max(checked, self._free(cmd["buffer"], row - buffer.rows))
        at = cmd["address"] + row * cmd["row_stride"]
        span = min(cmd["skip"] + (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"], cmd["row_bytes"])
        beats = self._beats(at + max(cmd["skip"], 0), at + span)
        words = cmd["x_count"] * -(-cmd["pixel_bytes"] // self.spec.ci_lanes)
        self.rows[cmd["buffer"]].loaded.append(self._job(start + TO_REQUEST, at + max(cmd["skip"], 0), beats, words))
        self._count("load_bytes", beats * self.spec.bus_bytes)
        self._count("write_words", words)

    def _beats(self, first: int, end: int) -> int:
        bus = self.spec.bus_bytes
        return -(-end // bus) - first // bus if end > first else 0

    # The convolution engine

    def _conv(self, cmd: Command) -> None:
        self._place("conv")
        at, destination = self.tokens.conv(cmd), self.tokens.buffer(cmd["destination"])
        y, top = at if at is not None else (None, 0)
        shape = None if y is None or cmd.opcode in SAMPLED else self.shapes.shape(cmd, destination)
        sources = [self.tokens.buffer(index) for index in (cmd["source"], *(index for index, _ in more_sources(cmd)))]
        freed = tuple(buffer.freed_conv for buffer in sources)
        self.waiting["conv"].append(_Row(cmd, self.work, self.sequencer, y, top, shape, sources[0].height, freed))

    def _compute(self, row: _Row, checked: float) -> None:
        cmd, shape = row.cmd, row.shape
        if row.row is None:
            self.front = checked + 1
            return
        at = ConvRow(row.row, row.top)
        source, destination = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"])
        waits = self._waits(row, at, destination)
        ready = max([checked + len(more_sources(cmd)), *(time for time, _ in waits)])
        # Rows are handed over through a queue of two: the row before the last must have begun.
        start = max(ready, self.begun[0])
        if shape is None:
            self._sampled(row, at, checked, waits, ready)
            return
        granted = start + TO_GRANT
        begin = max(self.array, granted + LANDING)
        self._idle(self.array, begin, checked, waits, ready)
        self.begun.append(begin)
        while self.taken and self.taken[0].end <= granted:
            self.taken.popleft()
        operand = max(granted + OPERAND, self.drain + 1)
        before = Before(begin, granted, self.freed, self.place, self.drain + NEXT_ROW, operand)
        after = shape.rows.follow(before, self.taken)
        if after.reads:
            self.taken = deque(sorted((*self.taken, *(Stretch(time, time + 1) for time in after.reads))))
        self.stalls["fill"] += after.fill_stalls
        self.stalls["requantise"] += after.requantise_stalls
        self._count("busy", shape.rows.steps)
        first, _ = self.spans.get(self.work, (self.left_out + begin, 0.0))
        self.spans[self.work] = (first, self.left_out + after.end)
        self.chunks_since_load += shape.rows.chunks
        self.array, last_grant = after.end, after.granted
        self.front = last_grant + FINISH + len(more_sources(cmd))
        self.drain, self.freed, self.place = after.drained, after.freed, after.place
        inside = range(row.height)
        window = (words for y, words in enumerate(shape.words_by_row, at.top) if cmd["edge"] or y in inside)
        self._finish_row(row, at, source, destination, shape.add_words + sum(window), last_grant)

    def _sampled(self, what: _Row, at: ConvRow, checked: float, waits: list[tuple[float, str]], ready: float) -> None:
        """A row that is sampled, as if all of it were on chip: what a WARP must gather depends on the flow."""
        spec, cmd = self.spec, what.cmd
        source, destination = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"])
        width, words = destination.computed_width, cmd["words"]
        start = max(ready + 1, self.array + SETTLE)
        self._idle(self.array, start + 1, checked, waits, ready)
        if cmd.opcode is Opcode.WINDOW:
            row = self._looked_up(cmd, destination, start)
        else:
            row = sampled_row(spec, width, words, start, self.drain, flow=cmd.opcode is Opcode.WARP)
        self.fetching = [span for span in self.fetching if span.end > start]
        lost = sum(lost_to_store(row, span) for span in self.fetching)
        now, self.drain = row.end + lost, row.drain + lost
        self.sampling.append(row._replace(end=now))
        self.stalls["sample"] += now - start
        begun, _ = self.spans.get(self.work, (self.left_out + start + 1, 0.0))
        self.spans[self.work] = (begun, self.left_out + now + 1)
        self.begun.append(start)
        self.array, self.front = now + 1, now + FINISH
        self.chunks_since_load += -(-width // spec.pixel_lanes) * words * (spec.pixel_lanes // spec.requantise_pixels)
        read = width
        if cmd.opcode is not Opcode.WINDOW:
            read = warped_words(width, words) if cmd.opcode is Opcode.WARP else resized_words(cmd, source, width)
        self._finish_row(what, at, source, destination, read, now)

    def _looked_up(self, cmd: Command, destination: Buffer, start: float) -> SampledRow:
        """A row of windows, as if no pixel moved; what it reads of memory takes no others' bandwidth."""
        spec, width = self.spec, destination.computed_width
        pace = pace_of(spec, Window.of(cmd, destination), self.memory.latency_cycles, self.bus.cycles_per_beat)
        self._count("gather_bytes", round(width * pace.beats) * spec.bus_bytes)
        self._count("gathered_reads", round(width * pace.rows))
        return window_row(spec, cmd["radius"], width, pace, start, self.drain)

    def _waits(self, row: _Row, at: ConvRow, destination: Buffer) -> list[tuple[float, str]]:
        """What the row waits for, in the order in which the front looks: when it is there, and whose it is."""
        cmd = row.cmd
        waits: list[tuple[float, str]] = []
        if cmd["weights_needed"]:
            self._until("load", self.weights, cmd["weights_needed"] - 1)
            waits.append((self.weights[cmd["weights_needed"] - 1], "weights"))
        last = min(at.top + cmd["kernel_rows"], row.height) - 1
        sources = (cmd["source"], *(index for index, _ in more_sources(cmd)))
        for number, index in enumerate(sources, 1):
            if last >= 0:  # sources are looked at one a cycle: those behind this one still have to be
                waits += [(time + len(sources) - number, cause) for time, cause in self._there(index, last)]
        if cmd["add_enable"]:
            waits += self._there(cmd["add_buffer"], at.y)
        if at.y >= destination.rows:
            freed = self._free(cmd["destination"], at.y - destination.rows)
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
        self, row: _Row, at: ConvRow, source: Buffer, destination: Buffer, read_words: int, last_grant: float
    ) -> None:
        cmd = row.cmd
        reported = self.drain + REPORT
        self.rows[cmd["destination"]].computed.append(reported)
        if cmd["free_source"]:
            freed = reported if source.freed_late else last_grant + 2
            _free_to(self.rows[cmd["source"]].by_conv, row.freed[0], freed)
        at_hand = last_grant + 3
        for number, (index, free) in enumerate(more_sources(cmd), 1):
            if free:
                buffer = self.tokens.buffer(index)
                if buffer.freed_late:  # not before nothing is under way
                    at_hand = max(at_hand, reported)
                _free_to(self.rows[index].by_conv, row.freed[number], at_hand)
            at_hand += 1
        self.front = max(self.front, at_hand - 1)
        if cmd["add_enable"] and cmd["add_free"]:
            _free_to(self.rows[cmd["add_buffer"]].by_conv, at.y + 1, reported)
        self._count("values", destination.computed_width * cmd["words"] * self.spec.ci_lanes)
        self._count("write_words", destination.computed_width * cmd["words"])
        self._count("read_words", read_words)

    # The store engine

    def _store(self, cmd: Command) -> None:
        spec = self.spec
        row = self.tokens.store(cmd)
        start = self._dispatch("store", self.store) + TAKE
        if row is None:
            self.store = start + 1
            return
        rows = self.rows[cmd["buffer"]]
        time = max([start, *(there for there, _ in self._there(cmd["buffer"], row))]) + STORE_BEGIN
        sent = self.written
        for sub in range(cmd["sub_rows"]):
            channel = cmd["channel"] + sub * cmd["channel_step"]
            groups = (channel + cmd["pixel_bytes"] - 1) // spec.ci_lanes - channel // spec.ci_lanes + 1
            at = cmd["address"] + row * cmd["row_stride"] + sub * cmd["sub_stride"]
            span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
            self.alignments.append(at % spec.bus_bytes)
            beats = self._beats(at, at + span)
            began = time + SUB_ROW
            batches = sub_row_batches(
                spec.banks, spec.bus_bytes, groups, cmd["x_count"], cmd["pixel_bytes"], cmd["pixel_pitch"],
                at % spec.bus_bytes,
            )  # fmt: skip
            ended, sent = self._pack(batches, began)
            if self.samples:
                self._fetched(Fetching(began, ended, sum(batch.segments for batch in batches)))
            time = ended + SUB_ROW_END
            self._count("write_bytes", beats * spec.bus_bytes)
            self._count("read_words", cmd["x_count"] * groups)
        self.store = time
        self.written = max(time, sent) + self.memory.latency_cycles + RESPONSE
        if self.tokens.buffer(cmd["buffer"]).freed_by_store:
            _free_to(rows.by_store, row + 1, time)

    def _fetched(self, span: Fetching) -> None:
        """What the sampler loses to a store: of rows to come, and of those that were followed before it.

        Engines are followed in program order, but a store whose command comes later may run beside an earlier row.
        """
        self.fetching.append(span)
        lost = sum(lost_to_store(row, span) for row in self.sampling)
        self.stalls["sample"] += lost
        self.array += lost
        self.front += lost
        self.drain += lost

    def _pack(self, batches: tuple[Batch, ...], began: float) -> tuple[float, float]:
        """Fetch and send a sub-row from ``began`` on. Returns when it is packed and when its last beat is sent."""
        room = self.spec.store_fifo_beats * self.bus.cycles_per_beat
        sent = ended = began
        for batch in batches:
            at = began + batch.fetched
            if at + batch.segments > self.front:
                self.taken.append(Stretch(at, at + batch.segments))
            ended = began + batch.packed
            if batch.beats:
                sent = self.bus.transfer("writes", ended + PACKED - batch.beats, batch.beats)
                if sent - room > ended:  # the packer has waited for places in the FIFO
                    began += sent - room - ended
                    ended = sent - room
        return ended, sent


def predict(program: Program, memory: Memory | None = None, *, patient: bool = False) -> Counters:
    """Predict one frame's counters.

    ``patient``: follow every row, instead of multiplying what repeats itself. Raises :class:`ProgramError` for a
    program that ``verify`` refuses.
    """
    return _predict(program, memory, patient)[0]


def profile(program: Program, memory: Memory | None = None) -> tuple[Counters, tuple[LayerCounters, ...]]:
    """Predict one frame's counters, and what of them belongs to each layer, in the order in which the layers begin.

    What belongs to no layer, the loads of weights and tensors and the stores, is in the counters alone. Raises
    :class:`ProgramError` as :func:`predict`.
    """
    counters, model = _predict(program, memory, patient=False)
    layers = []
    for (opcode, label), (begin, end) in sorted(model.spans.items(), key=lambda item: item[1]):
        work = (opcode, label)
        layers.append(
            LayerCounters(
                name=label, begin_cycle=round(begin), end_cycle=round(end), busy_cycles=model.events[work, "busy"],
                scratchpad_read_words=model.events[work, "read_words"],
                scratchpad_write_words=model.events[work, "write_words"],
                requantised_values=model.events[work, "values"],
            )
        )  # fmt: skip
    return counters, tuple(layers)


def _predict(program: Program, memory: Memory | None, patient: bool) -> tuple[Counters, _Model]:
    model = _Model(program, memory or Memory.of(program.spec), patient)
    cycles = round(model.run())
    events: Counter[str] = Counter()
    for (_, event), number in model.events.items():
        events[event] += number
    stalls = {cause: round(time) for cause, time in model.stalls.items()}
    stalls["control"] += cycles - events["busy"] - sum(stalls.values())
    counters = Counters(
        cycles=cycles,
        busy_cycles=events["busy"],
        **{f"{cause}_stall_cycles": time for cause, time in stalls.items()},
        macs_issued=events["busy"] * program.spec.macs_per_cycle,
        dram_command_read_bytes=events["command_bytes"],
        dram_weight_read_bytes=events["weight_bytes"],
        dram_load_read_bytes=events["load_bytes"],
        dram_write_bytes=events["write_bytes"],
        dram_gather_read_bytes=events["gather_bytes"],
        gathered_reads=events["gathered_reads"],
        scratchpad_read_words=events["read_words"],
        scratchpad_write_words=events["write_words"],
        weight_read_words=events["busy"],
        requantised_values=events["values"],
        commands=events["commands"],
    )
    return counters, model


__all__ = ["Memory", "predict", "profile"]
