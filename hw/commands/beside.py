"""A row that a unit beside the array makes: common to WARP, RESIZE, WINDOW and LAYER_NORM."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from codesign.hw.commands.row import Row
from codesign.hw.isa import Command
from codesign.hw.numerics import ceil_div
from codesign.hw.program.tokens import Buffer
from codesign.hw.timing.beside import UnitRow, lost_to_store
from codesign.hw.timing.latencies import FINISH, SETTLE

if TYPE_CHECKING:
    from codesign.hw.timing.engines.array import ArrayEngine, Turn


class Beside(Row):
    """The unit begins when the array has finished, and the array waits for it."""

    @property
    def stall(self) -> str:
        assert self.cause is not None
        return self.cause

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        start = max(turn.ready + 1, turn.start + 1, engine.array + SETTLE)
        engine.idle(start + 1, turn)
        row = self.delayed(engine, self.made(engine, turn.cmd, turn.destination, start))
        engine.stalls[self.stall] += row.end - start
        engine.array, engine.front = row.end + 1, row.end + FINISH
        self.leave(engine, turn, start, row)
        engine.finish(turn, self.words_read(turn.cmd, turn.source, turn.destination.computed_width), row.end)

    def delayed(self, engine: ArrayEngine, row: UnitRow) -> UnitRow:
        """The row with what the store engine takes from it."""
        engine.fetching = [span for span in engine.fetching if span.end > row.start]
        lost = sum(lost_to_store(row, span) for span in engine.fetching)
        row = row._replace(end=row.end + lost, drain=row.drain + lost)
        engine.beside.append((self, row))
        return row

    def leave(self, engine: ArrayEngine, turn: Turn, start: float, row: UnitRow) -> None:
        """What the engine keeps of a row that began in cycle ``start``."""
        spec = engine.spec
        engine.drain = row.drain
        engine.span(start + 1, row.end + 1)
        engine.begun.append(start)
        groups = ceil_div(turn.destination.computed_width, spec.pixel_lanes)
        engine.chunks_since_load += groups * turn.cmd["words"] * (spec.pixel_lanes // spec.requantise_pixels)

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        """The row on its unit from cycle ``start`` on."""
        raise NotImplementedError

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Scratchpad words that a row of ``width`` pixels reads."""
        raise NotImplementedError


class Streamed(Beside):
    """The unit keeps its rows, two of them, and the front goes on; it begins while the array may still work."""

    streams: ClassVar[bool] = True

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        stream = engine.stream
        start = max(turn.ready + 1, engine.begun[-1] + 1, stream.ends[0] + 1)
        engine.idle(max(start + 1, engine.counted), turn)
        made = self.made(engine, turn.cmd, turn.destination, start)
        row = self.delayed(engine, made)
        stream.delay(row.end - made.end)
        counted = max(start + 1, engine.counted, engine.array)
        engine.stalls[self.stall] += max(0.0, row.end + 1 - counted)
        engine.counted = max(counted, row.end + 1)
        engine.front = start + FINISH
        stream.ends = stream.ends[1], row.end
        self.leave(engine, turn, start, row)
        engine.finish(turn, self.words_read(turn.cmd, turn.source, turn.destination.computed_width), stream.read, start)


class Sampled(Beside):
    """Followed as if no pixel had to be fetched: a flow decides that, which no model knows."""

    cause: ClassVar[str | None] = "sample"
