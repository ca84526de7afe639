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

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        spec, cmd = engine.spec, turn.cmd
        width, words = turn.destination.computed_width, cmd["words"]
        assert self.cause is not None
        start = max(turn.ready + 1, engine.array + SETTLE)
        engine.idle(start + 1, turn)
        row = self.made(engine, cmd, turn.destination, start)
        engine.fetching = [span for span in engine.fetching if span.end > start]
        lost = sum(lost_to_store(row, span) for span in engine.fetching)
        now, engine.drain = row.end + lost, row.drain + lost
        engine.beside.append((self.cause, row._replace(end=now)))
        engine.stalls[self.cause] += now - start
        engine.span(start + 1, now + 1)
        engine.begun.append(start)
        engine.array, engine.front = now + 1, now + FINISH
        groups = ceil_div(width, spec.pixel_lanes)
        engine.chunks_since_load += groups * words * (spec.pixel_lanes // spec.requantise_pixels)
        engine.finish(turn, self.words_read(cmd, turn.source, width), now)

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        """The row on its unit from cycle ``start`` on."""
        raise NotImplementedError

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Scratchpad words that a row of ``width`` pixels reads."""
        raise NotImplementedError


class Sampled(Beside):
    """Followed as if no pixel had to be fetched: a flow decides that, which no model knows."""

    cause: ClassVar[str | None] = "sample"
