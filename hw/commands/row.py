"""A computed row: common to CONV, CORR, WARP, RESIZE and WINDOW. Psums differ; the way there and the results do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw.commands.kind import Engine, Kind, Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command
from codesign.hw.program.tokens import ConvRow, Tokens
from codesign.hw.spec import Unit

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.conv import ConvShape
    from codesign.hw.timing.engines.array import ArrayEngine, Turn
    from codesign.hw.timing.engines.engines import Engines


class Row(Kind):
    """The next row of the destination, from rows of the sources and, perhaps, of a second operand."""

    engine: ClassVar[Engine | None] = "conv"
    buffer: ClassVar[str | None] = "destination"
    unit: ClassVar[Unit | None] = None
    """What a machine may lack that computes it."""
    cause: ClassVar[str | None] = None
    """The stall that the array's cycles count as while a unit beside it makes the row; None: the array does."""
    streams: ClassVar[bool] = False
    """The unit hands the requantiser psums chunk by chunk, past the array's registers."""

    def first_row(self, cmd: Command, y: int) -> int:
        """The first row of the sources that row ``y`` may need; it may lie above the frame."""
        return y - cmd["pad_rows"]

    def rates_match(self, cmd: Command, sources: int, destinations: int) -> bool:
        """Whether this many source rows correspond to this many destination rows."""
        return sources == destinations

    def advance(self, tokens: Tokens, cmd: Command) -> ConvRow | None:
        """Moves the tokens on; returns the row and where its sources' rows begin."""
        return tokens.conv(cmd, self.first_row)

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        at = self.advance(tokens, cmd)
        return None if at is None else at.y

    def check(self, state: Verification, cmd: Command) -> None:
        if self.advance(state.tokens, cmd) is None:
            return
        state.statistics.computed(cmd)
        if state.index not in state.sound:
            if self.unit is not None and self.unit not in state.program.spec.units:
                raise ProgramError(f"the machine has no {self.unit.title} ({self.unit.value})")
            _check_results(state, cmd)
            self.check_row(state, cmd)
            state.sound.add(state.index)

    def check_row(self, state: Verification, cmd: Command) -> None:
        """The rules for the psums of this kind."""
        raise NotImplementedError

    def execute(self, machine: Machine, cmd: Command) -> None:
        at = self.advance(machine.tokens, cmd)
        if at is None:
            return
        result = machine.requantised(cmd, self.psums(machine, cmd, at))
        machine.write(cmd, at.y, self.joined(machine, cmd, at, result))

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        """The psums of the row's pixels without bias, ``int64[width, words x ci_lanes]``."""
        raise NotImplementedError

    def joined(self, machine: Machine, cmd: Command, at: ConvRow, result: NDArray[np.int8]) -> NDArray[np.int8]:
        """The requantised row with its second operand."""
        return result

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.array.take(self, cmd)

    def shape(self, engine: ArrayEngine, cmd: Command) -> ConvShape | None:
        """The array's work for a row, by the steps and fills in its memories now."""
        return None

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        """The row's time, once its rows are there."""
        raise NotImplementedError


def _check_results(state: Verification, cmd: Command) -> None:
    spec, tokens = state.program.spec, state.tokens
    destination = tokens.buffer(cmd["destination"])
    if cmd["group"] + cmd["words"] > destination.groups or cmd["words"] == 0:
        raise ProgramError(f"{cmd['words']} output groups do not fit the buffer's {destination.groups}")
    if cmd["parameters_base"] + cmd["words"] > spec.parameter_words:
        raise ProgramError("parameters lie outside their memory")
    if cmd["table_enable"] and cmd["table"] >= spec.tables:
        raise ProgramError(f"table {cmd['table']} of {spec.tables}")
    if cmd["add_enable"] and not tokens.buffer(cmd["add_buffer"]).operand:
        raise ProgramError(f"adds rows of buffer {cmd['add_buffer']}, which is not configured as an operand")
    if cmd["add_enable"] and cmd["add_channel"] >= spec.ci_lanes:
        raise ProgramError(f"channel {cmd['add_channel']} is not in a group's first word")
