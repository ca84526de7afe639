"""LAYER_NORM: a row whose pixels are normalised over their channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw.commands.beside import Streamed
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.numerics import ceil_div
from codesign.hw.numerics.layer_norm import MAX_CHANNELS, LayerNorm, layer_norm_psums, reciprocal_of
from codesign.hw.program.tokens import Buffer, ConvRow
from codesign.hw.spec import Unit
from codesign.hw.timing.beside import UnitRow
from codesign.hw.timing.latencies import NEXT_ROW

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.array import ArrayEngine

BEGIN = 3  # cycles from a row's begin to its first word summed up
FIGURED = 8  # a group's last word summed up to its first one taken apart from the mean
MADE = 3  # a word taken apart to its psums at the requantiser
KEPT = 8  # groups whose figures are kept


class LayerNormRow(Streamed):
    """Two passes over a pixel group's words: their sums, then, while the next groups' are summed, their psums."""

    opcode: ClassVar[Opcode] = Opcode.LAYER_NORM
    unit: ClassVar[Unit | None] = Unit.LAYER_NORM
    cause: ClassVar[str | None] = "normalise"

    def check_row(self, state: Verification, cmd: Command) -> None:
        source, destination = state.tokens.buffer(cmd["source"]), state.tokens.buffer(cmd["destination"])
        lanes = state.program.spec.ci_lanes
        if cmd["add_enable"] or cmd["more_sources"]:
            raise ProgramError("a normalised row has one source and no second operand")
        if not 1 <= cmd["norm_channels"] <= min(MAX_CHANNELS, source.groups * lanes):
            raise ProgramError(f"the source has not the {cmd['norm_channels']} channels that are normalised")
        if cmd["words"] != ceil_div(cmd["norm_channels"], lanes):
            raise ProgramError(f"{cmd['norm_channels']} channels are not {cmd['words']} words")
        if cmd["norm_channels"] << cmd["norm_doublings"] > MAX_CHANNELS or cmd["norm_epsilon"] == 0:
            raise ProgramError("the sums of the channels, or their root, leave their bits")
        if cmd["norm_reciprocal"] != reciprocal_of(cmd["norm_channels"] << cmd["norm_doublings"]):
            raise ProgramError("the reciprocal is not that of the doubled count of channels")
        if (cmd["kernel_rows"], cmd["pad_rows"]) != (1, 0) or source.height < destination.height:
            raise ProgramError("a normalised row needs the source's row, and no other")
        if cmd["x_offset"] < 0 or cmd["x_offset"] + destination.computed_width > source.width:
            raise ProgramError("the source has not the columns that are normalised")

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        """Of all lanes of the words, as the unit computes them, those behind the last channel too."""
        source, width = machine.tokens.buffer(cmd["source"]), machine.tokens.buffer(cmd["destination"]).computed_width
        lanes = cmd["words"] * machine.spec.ci_lanes
        constants = LayerNorm(*(cmd[f"norm_{name}"] for name in ("channels", "doublings", "reciprocal", "epsilon")))
        codes = machine.data[cmd["source"]][at.y % source.rows][cmd["x_offset"] :][:width, :lanes]
        return layer_norm_psums(codes, constants)

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        """As long as the store engine reads nothing."""
        spec, words = engine.spec, cmd["words"]
        groups = ceil_div(destination.computed_width, spec.pixel_lanes)
        chunks = spec.pixel_lanes // spec.requantise_pixels
        taken = words * max(chunks, 2)  # cycles of a group: a word is read twice
        before = engine.stream.read
        first = max(start + BEGIN, engine.stream.taken)
        ready = max(first + words * chunks - 1 + FIGURED, engine.drain + NEXT_ROW - MADE)
        end = ready + groups * words * chunks - 1 + MADE
        # One read a cycle: where a chunk is a word, that is what takes longest. A pass alone reads in two of three.
        alone = (FIGURED + words) / 3
        end = max(end, max(first + alone, before + 1) + 2 * groups * words + alone + MADE)
        # The figures of KEPT groups are kept: further ones are not summed up before some are used.
        engine.stream.taken = max(first + groups * words * chunks, end - MADE - (KEPT - 1) * taken + chunks)
        engine.stream.read = end - MADE - 2 * chunks + 1
        return UnitRow(max(start, before), end, end, 2 * groups * words)

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Every pixel's words, twice."""
        return int(2 * width * cmd["words"])
