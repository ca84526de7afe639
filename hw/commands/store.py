"""STORE: the next row of a buffer to memory, shuffled, and its sums to the statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import normalise
from codesign.hw.commands.kind import Engine, Kind, Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.numerics import round_up
from codesign.hw.program.tokens import Tokens

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.engines import Engines


class Store(Kind):
    opcode: ClassVar[Opcode] = Opcode.STORE
    engine: ClassVar[Engine | None] = "store"
    buffer: ClassVar[str | None] = "buffer"

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        return tokens.store(cmd)

    def check(self, state: Verification, cmd: Command) -> None:
        if (row := state.tokens.store(cmd)) is None:
            return
        program, buffer = state.program, state.tokens.buffer(cmd["buffer"])
        outside = cmd["x_first"] + cmd["x_count"] > buffer.width
        if outside or 0 in (cmd["x_count"], cmd["pixel_bytes"], cmd["sub_rows"]):
            raise ProgramError("the stored columns are not the buffer's")
        if cmd["pixel_pitch"] < cmd["pixel_bytes"]:
            raise ProgramError("stored pixels overlap")
        first = cmd["address"] + row * cmd["row_stride"]
        last = first + (cmd["sub_rows"] - 1) * cmd["sub_stride"]
        span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
        if first < program.write_first or last + span > program.write_end:
            raise ProgramError(f"row {row} is written outside the write window")
        top = cmd["channel"] + (cmd["sub_rows"] - 1) * cmd["channel_step"] + cmd["pixel_bytes"]
        if top > buffer.groups * program.spec.ci_lanes:
            raise ProgramError(f"channel {top - 1} is not in the buffer")
        state.statistics.stored(cmd, row)

    def execute(self, machine: Machine, cmd: Command) -> None:
        if (row := machine.tokens.store(cmd)) is None:
            return
        buffer = machine.tokens.buffer(cmd["buffer"])
        held = machine.data[cmd["buffer"]][row % buffer.rows][cmd["x_first"] : cmd["x_first"] + cmd["x_count"]]
        for sub in range(cmd["sub_rows"]):
            channel = cmd["channel"] + sub * cmd["channel_step"]
            start = cmd["address"] + row * cmd["row_stride"] + sub * cmd["sub_stride"]
            target = np.lib.stride_tricks.as_strided(
                machine.memory[start:], (cmd["x_count"], cmd["pixel_bytes"]), (cmd["pixel_pitch"], 1)
            )
            target[:] = held[:, channel : channel + cmd["pixel_bytes"]].view(np.uint8)
        if cmd["statistics"]:
            _count(machine, cmd, row, held[:, cmd["channel"] : cmd["channel"] + cmd["pixel_bytes"]])

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.store.take(cmd)


def _count(machine: Machine, cmd: Command, row: int, codes: NDArray[np.int8]) -> None:
    """Add ``codes: int8[n, C]`` to the statistics."""
    first = cmd["statistics_base"] * machine.spec.ci_lanes
    channels = slice(first, first + codes.shape[1])
    if cmd["statistics_begin"] and row == 0:
        whole = slice(first, first + round_up(codes.shape[1], machine.spec.ci_lanes))
        machine.totals[whole] = 0
        machine.squares[whole] = 0
    totals, squares = normalise.sums(codes)
    machine.totals[channels] += totals
    machine.squares[channels] += squares
