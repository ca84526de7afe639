"""The convolution engine in the cycle model: array, units beside it and requantiser, row by row.

The time of a row once its operands are there is its command's (:mod:`codesign.hw.commands`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.hw.commands import COMPUTED
from codesign.hw.isa import Command
from codesign.hw.program.tokens import Buffer, ConvRow, Tokens, more_sources
from codesign.hw.timing.beside import Fetching, Stream, UnitRow
from codesign.hw.timing.conv import ConvShape, ConvShapes
from codesign.hw.timing.engines.waiting import Times, Waiting, Work, free_to
from codesign.hw.timing.latencies import REPORT
from codesign.hw.timing.row import Stretch

if TYPE_CHECKING:
    from codesign.hw.commands.beside import Beside
    from codesign.hw.commands.row import Row
    from codesign.hw.timing.engines.engines import Engines

LONG_PAST = 256
"""Cycles after which a time can no longer be the latest of those waited for."""

_UNIT_ROWS = 4
"""Rows of units beside the array with which a store may meet that comes after them."""


class ArrayEngine:
    """Times at which it can take its next command and its parts have finished all."""

    def __init__(self, engines: Engines) -> None:
        self.engines, self.spec = engines, engines.spec
        self.front = self.array = self.drain = 0.0
        self.counted = 0.0  # the array's cycles are busy or have a cause, up to here
        self.stream = Stream()
        self.chunks_since_load = 0  # written by the requantiser
        self.taken: deque[Stretch] = deque()  # by the store engine, of the scratchpad's port
        self.freed = (0.0,) * self.spec.window_slots  # when each slot of the window became free, the next one first
        self.place = 0.0  # when a set of psums finds its place empty
        self.begun = deque([0.0, 0.0], maxlen=2)  # when the array began the last rows
        # The last work of the store engine and of units beside the array that may meet at the scratchpad's port.
        kinds = {COMPUTED[cmd.opcode] for cmd in engines.program.commands if cmd.opcode in COMPUTED}
        self.has_units = any(kind.cause is not None for kind in kinds)
        self.fetching: list[Fetching] = []
        self.beside: deque[tuple[Beside, UnitRow]] = deque(maxlen=_UNIT_ROWS)
        self.spans: dict[Work, tuple[float, float]] = {}  # when the array began and ended its rows
        self.stalls = engines.stalls
        self.shapes = ConvShapes(engines.program, engines.tokens)

    @property
    def reported(self) -> float:
        """Time at which the last row is seen as finished."""
        return self.drain + REPORT

    def take(self, kind: Row, cmd: Command) -> None:
        """The next row of ``cmd``."""
        engines, tokens = self.engines, self.engines.tokens
        engines.place("conv")
        at = kind.advance(tokens, cmd)
        sources = [tokens.buffer(index) for index in (cmd["source"], *(index for index, _ in more_sources(cmd)))]
        freed = tuple(buffer.freed_conv for buffer in sources)
        row = ComputedRow(
            cmd,
            engines.work,
            engines.sequencer,
            None if at is None else at.y,
            self,
            kind,
            at,
            None if at is None else kind.shape(self, cmd),
            sources[0].height,
            freed,
        )
        engines.waiting["conv"].append(row)

    def count(self, event: str, number: int) -> None:
        self.engines.count(event, number)

    def span(self, begin: float, end: float) -> None:
        """The array works on a row from ``begin`` to ``end``."""
        left_out, work = self.engines.left_out, self.engines.work
        first, _ = self.spans.get(work, (left_out + begin, 0.0))
        self.spans[work] = (first, left_out + end)

    def idle(self, until: float, turn: Turn) -> None:
        """Attribute the array's idle cycles up to ``until``: no command yet, waiting for a row, filling the window."""
        now = max(self.array, self.counted)
        if max(until, self.array) < self.counted:  # something begins while a stream's last psums are on their way
            self.stalls[self.beside[-1][0].stall] -= self.counted - max(until, self.array)
            self.counted = until
        for cause, end in (
            ("control", turn.checked),
            *((cause, time) for time, cause in turn.waits),
            ("fill", until),
        ):
            end = min(end, until)
            if end > now:
                self.stalls[cause] += end - now
                now = end

    def finish(self, turn: Turn, read_words: int, last_grant: float, granted: float | None = None) -> None:
        """The row is written, and rows are freed that it has read.

        ``last_grant``: of its first source. ``granted``: when the front has done with it, if that is not then.
        """
        granted = last_grant if granted is None else granted
        cmd, tokens, rows = turn.cmd, self.engines.tokens, self.engines.rows
        reported = self.reported
        rows[cmd["destination"]].computed.append(reported)
        if cmd["free_source"]:
            freed = reported if turn.source.freed_late else last_grant + 2
            free_to(rows[cmd["source"]].by_conv, turn.row.freed[0], freed)
        at_hand = granted + 3
        for number, (index, free) in enumerate(more_sources(cmd), 1):
            if free:
                if tokens.buffer(index).freed_late:  # not before nothing is under way
                    at_hand = max(at_hand, reported)
                free_to(rows[index].by_conv, turn.row.freed[number], at_hand)
            at_hand += 1
        self.front = max(self.front, at_hand - 1)
        if cmd["add_enable"] and cmd["add_free"]:
            free_to(rows[cmd["add_buffer"]].by_conv, turn.at.y + 1, reported)
        self.count("values", turn.destination.computed_width * cmd["words"] * self.spec.ci_lanes)
        self.count("write_words", turn.destination.computed_width * cmd["words"])
        self.count("read_words", read_words)

    def state(self, times: Times) -> Iterator[object]:
        """Everything that decides its rows to come."""
        oldest = min(self.engines.sequencer, self.array, self.front) - LONG_PAST
        yield times(self.array, self.drain, *self.begun)
        yield times(*self.freed, self.place)
        yield times(self.counted, self.stream.taken, self.stream.read, *self.stream.ends)
        yield tuple(times(*stretch) for stretch in self.taken if stretch.end > self.front)
        yield tuple((times(span.begin, span.end), span.reads) for span in self.fetching if span.end > oldest)
        yield tuple((times(row.start, row.end), row.reads) for _, row in self.beside if row.end > oldest)


@dataclass(frozen=True)
class ComputedRow(Waiting):
    """A row for the engine."""

    engine: ArrayEngine
    kind: Row
    at: ConvRow | None
    shape: ConvShape | None  # where the array computes it
    height: int  # of its sources
    freed: tuple[int, ...]  # rows of each source that are free after it

    def follow(self, checked: float) -> None:
        if self.at is None:
            self.engine.front = checked + 1
            return
        engine, tokens = self.engine, self.engine.engines.tokens
        source, destination = tokens.buffer(self.cmd["source"]), tokens.buffer(self.cmd["destination"])
        waits = self._waits(self.at, destination)
        ready = max([checked + len(more_sources(self.cmd)), *(time for time, _ in waits)])
        # Rows are handed over through a queue of two: the row before the last must have begun.
        start = max(ready, engine.begun[0])
        if not self.kind.streams:
            start = max(start, engine.stream.read)
        self.kind.follow(engine, Turn(self, self.at, source, destination, checked, waits, ready, start))

    def behind(self, tokens: Tokens) -> int:
        return 0 if self.row is None else tokens.buffer(self.cmd["destination"]).next_computed - self.row

    def _waits(self, at: ConvRow, destination: Buffer) -> list[tuple[float, str]]:
        """The row's operands in the order in which the front looks: when each is there, and the cause to wait."""
        cmd, engines = self.cmd, self.engine.engines
        waits: list[tuple[float, str]] = []
        if cmd["weights_needed"]:
            engines.until("load", engines.weights, cmd["weights_needed"] - 1)
            waits.append((engines.weights[cmd["weights_needed"] - 1], "weights"))
        last = min(at.top + cmd["kernel_rows"], self.height) - 1
        sources = (cmd["source"], *(index for index, _ in more_sources(cmd)))
        for number, index in enumerate(sources, 1):
            if last >= 0:  # sources are looked at one a cycle: those behind this one still have to be
                waits += [(time + len(sources) - number, cause) for time, cause in engines.there(index, last)]
        if cmd["add_enable"]:
            waits += engines.there(cmd["add_buffer"], at.y)
        if at.y >= destination.rows:
            freed = engines.free(cmd["destination"], at.y - destination.rows)
            waits.append((freed, "store" if destination.freed_by_store else "drain"))
        return waits


@dataclass(frozen=True)
class Turn:
    """A row whose operands are there."""

    row: ComputedRow
    at: ConvRow
    source: Buffer
    destination: Buffer
    checked: float  # when the engine first looked at it
    waits: list[tuple[float, str]]
    ready: float  # when its operands were there
    start: float  # when it may begin

    @property
    def cmd(self) -> Command:
        return self.row.cmd
