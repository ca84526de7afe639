"""A row that is sampled beside the array: common to WARP, RESIZE and WINDOW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codesign.hw.commands.row import Row
from codesign.hw.isa import Command
from codesign.hw.numerics import ceil_div
from codesign.hw.program.tokens import Buffer
from codesign.hw.timing.latencies import FINISH, SETTLE
from codesign.hw.timing.sample import SampledRow, lost_to_store

if TYPE_CHECKING:
    from codesign.hw.timing.engines.array import ArrayEngine, Turn


class Sampled(Row):
    """Followed as if no pixel had to be fetched: a flow decides that, which no model knows."""

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        spec, cmd = engine.spec, turn.cmd
        width, words = turn.destination.computed_width, cmd["words"]
        start = max(turn.ready + 1, engine.array + SETTLE)
        engine.idle(start + 1, turn)
        row = self.samples(engine, cmd, turn.destination, start)
        engine.fetching = [span for span in engine.fetching if span.end > start]
        lost = sum(lost_to_store(row, span) for span in engine.fetching)
        now, engine.drain = row.end + lost, row.drain + lost
        engine.sampling.append(row._replace(end=now))
        engine.stalls["sample"] += now - start
        engine.span(start + 1, now + 1)
        engine.begun.append(start)
        engine.array, engine.front = now + 1, now + FINISH
        groups = ceil_div(width, spec.pixel_lanes)
        engine.chunks_since_load += groups * words * (spec.pixel_lanes // spec.requantise_pixels)
        engine.finish(turn, self.words_read(cmd, turn.source, width), now)

    def samples(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> SampledRow:
        """The row on the sampler from cycle ``start`` on."""
        raise NotImplementedError

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Scratchpad words that a row of ``width`` pixels reads."""
        raise NotImplementedError
