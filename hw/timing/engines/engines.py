"""The clocks of the cycle model: the sequencer and its three engines, with the tokens that they wait for.

Commands advance the clocks through the same tokens as in hardware: rows finished, rows freed, LOADWs finished, places
in the queues. A command is handed over first and followed later, when its result is needed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codesign.hw.counters import STALL_CAUSES
from codesign.hw.isa import Command, Opcode
from codesign.hw.program.tokens import Buffer, Tokens
from codesign.hw.spec import COMMAND_BYTES
from codesign.hw.timing.bus import Bus, Memory
from codesign.hw.timing.engines.array import ArrayEngine
from codesign.hw.timing.engines.load import LoadEngine
from codesign.hw.timing.engines.store import StoreEngine
from codesign.hw.timing.engines.waiting import Times, Waiting, Work
from codesign.hw.timing.latencies import SETTLE, START, TAKE

if TYPE_CHECKING:
    from codesign.hw.program.program import Program


@dataclass
class Rows:
    """Times at which the rows of a buffer were loaded, computed and freed."""

    loaded: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    by_conv: list[float] = field(default_factory=list)
    by_store: list[float] = field(default_factory=list)

    def done(self, buffer: Buffer, row: int) -> list[tuple[float, str]]:
        """Time at which ``row`` was there, and the cause to wait until then; both parts of a row with a halo."""
        computed = [] if buffer.loaded else [(self.computed[row], "drain")]
        return [*computed, (self.loaded[row], "load")] if buffer.by_load else computed

    def freed(self, buffer: Buffer, row: int) -> float:
        """Time at which all who free ``row`` had freed it."""
        pairs = (self.by_conv, buffer.freed_by_conv), (self.by_store, buffer.freed_by_store)
        return max(times[row] for times, used in pairs if used)


class Engines:
    """All clocks, in cycles since the start write."""

    def __init__(self, program: Program, memory: Memory) -> None:
        self.program, self.spec, self.memory = program, program.spec, memory
        self.bus = Bus(self.spec.bus_bytes / memory.bytes_per_cycle)
        self.tokens = Tokens(self.spec)
        self.rows: dict[int, Rows] = {}
        self.weights: list[float] = []  # when each LOADW since the last SYNC had finished
        self.sequencer = float(START)
        self.fetched = 0  # commands on chip, and when each arrived
        self.arrived: list[float] = []
        # Commands for an engine: when the last were taken up, and those that are not yet followed.
        self.waiting: dict[str, deque[Waiting]] = {"load": deque(), "conv": deque()}
        self.queues: dict[str, deque[float]] = {"load": deque(), "conv": deque(), "store": deque()}
        self.left_out = 0.0  # cycles of loop executions that were counted and not followed
        self.alignments: list[int] = []  # of the rows loaded and stored in this execution of the outermost loop
        self.work: Work = (Opcode.HALT, "")  # opcode and label of the command being followed
        self.stalls = dict.fromkeys(STALL_CAUSES, 0.0)
        self.events: Counter[tuple[Work, str]] = Counter()
        self.array = ArrayEngine(self)
        self.load = LoadEngine(self)
        self.store = StoreEngine(self)

    def count(self, event: str, number: int) -> None:
        self.events[self.work, event] += number

    def fetch(self, oldest: int) -> None:
        """Commands stream in ahead of the sequencer, one request a cycle, while an open loop leaves room on chip."""
        beats = max(1, COMMAND_BYTES // self.spec.bus_bytes)
        while self.fetched < min(oldest + self.spec.command_slots, len(self.program.commands)):
            number = self.fetched
            asked = START + number if number < self.spec.command_slots else max(START + number, self.sequencer)
            self.arrived.append(self.bus.transfer("commands", asked + self.memory.latency_cycles, beats))
            self.count("command_bytes", COMMAND_BYTES)
            self.fetched += 1

    # Commands on their way to the engines

    def dispatch(self, queue: str, engine: float) -> float:
        """Hand a command over; returns when the engine takes it."""
        self.place(queue)
        start = max(self.sequencer, engine)
        self.queues[queue].append(start)
        return start + TAKE

    def place(self, queue: str) -> None:
        """The sequencer waits for a place in a queue, which holds a few commands."""
        taken, waiting = self.queues[queue], self.waiting.get(queue, ())
        if len(taken) + len(waiting) >= self.spec.queue_depth:
            if not taken:
                self.follow(queue)
            self.sequencer = max(self.sequencer, taken.popleft() + 1)

    def follow(self, queue: str) -> None:
        """Follow the oldest command that waits for an engine."""
        command = self.waiting[queue].popleft()
        now, self.work = self.work, command.work
        taken = max(command.dispatched, self.array.front if queue == "conv" else self.load.request)
        self.queues[queue].append(taken)
        command.follow(taken + TAKE)
        self.work = now
        if queue == "conv":
            self.load.move_on()

    def follow_all(self) -> None:
        for queue, waiting in self.waiting.items():
            while waiting:
                self.follow(queue)

    def until(self, queue: str, times: list[float], row: int) -> None:
        """Follow an engine until ``times`` of rows that it finishes or frees include ``row``."""
        while len(times) <= row and self.waiting[queue]:
            self.follow(queue)

    # Rows and weights

    def configure(self, cmd: Command) -> None:
        """A buffer, anew."""
        self.tokens.configure(cmd)
        self.rows[cmd["id"]] = Rows()
        self.array.shapes.forget()

    def there(self, index: int, row: int) -> list[tuple[float, str]]:
        """Time at which a buffer's row was there, and the cause to wait until then."""
        buffer, rows = self.tokens.buffer(index), self.rows[index]
        if buffer.by_load:
            self.until("load", rows.loaded, row)
        if not buffer.loaded:
            self.until("conv", rows.computed, row)
        return rows.done(buffer, row)

    def free(self, index: int, row: int) -> float:
        """Time at which a buffer's row was freed."""
        buffer, rows = self.tokens.buffer(index), self.rows[index]
        if buffer.freed_by_conv:
            self.until("conv", rows.by_conv, row)
        return rows.freed(buffer, row)

    def synchronise(self) -> None:
        """SYNC and HALT go on when every engine is idle; meanwhile the array waits for those that still work."""
        array = self.array
        now, drained = max(array.array, array.counted), array.reported
        for cause, until in (
            ("fill", now + SETTLE if array.spans else now),
            ("control", min(self.sequencer, drained)),
            ("drain", drained),
            ("store", self.store.written),
            ("weights", max(self.weights, default=0.0)),
            ("load", self.load.unpacked),
        ):
            if until > now:
                self.stalls[cause] += until - now
                now = until
        array.array = array.front = self.sequencer = max(self.sequencer, now) + 1
        self.tokens.sync()
        self.weights = []

    def state(self, times: Times) -> Iterator[object]:
        """Everything but the tokens that decides the future, with times made relative by ``times``."""
        yield times(self.load.request, self.array.front, self.store.now, self.load.unpacked)
        yield from self.array.state(times)
        yield times(self.store.written, *self.load.jobs)
        yield tuple(times(*queue) for queue in self.queues.values())
        for queue in self.waiting.values():
            for one in queue:
                yield id(one.cmd), one.behind(self.tokens), times(one.dispatched)
        self.bus.forget(min([self.sequencer, *(one.dispatched for one in self.waiting["load"])]))
        yield times(*self.bus.state())
