"""LOAD: the next row of a buffer, or its halo, from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from codesign.hw.commands.kind import Engine, Kind, Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.numerics import ceil_div
from codesign.hw.program.tokens import Tokens

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.engines import Engines


class Load(Kind):
    opcode: ClassVar[Opcode] = Opcode.LOAD
    engine: ClassVar[Engine | None] = "load"
    buffer: ClassVar[str | None] = "buffer"

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        return tokens.load(cmd)

    def check(self, state: Verification, cmd: Command) -> None:
        if (row := state.tokens.load(cmd)) is None:
            return
        program, buffer = state.program, state.tokens.buffer(cmd["buffer"])
        start = cmd["address"] + row * cmd["row_stride"]
        if cmd["x_count"] == 0 or cmd["x_first"] + cmd["x_count"] > (buffer.width if buffer.loaded else buffer.halo):
            raise ProgramError("the loaded columns are not the buffer's to load")
        span = cmd["skip"] + (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
        if start + min(max(span, 0), cmd["row_bytes"]) > program.memory_bytes:
            raise ProgramError(f"row {row} is read outside the program's memory")
        groups = ceil_div(cmd["pixel_bytes"], program.spec.ci_lanes)
        if cmd["group"] + groups > buffer.groups or cmd["pixel_bytes"] == 0:
            raise ProgramError(f"{cmd['pixel_bytes']} channels do not fit the buffer's {buffer.groups} groups")
        if cmd["pixel_pitch"] < cmd["pixel_bytes"] and groups > 1:
            raise ProgramError("overlapping pixels must fit one word")

    def execute(self, machine: Machine, cmd: Command) -> None:
        if (row := machine.tokens.load(cmd)) is None:
            return
        buffer, lanes = machine.tokens.buffer(cmd["buffer"]), machine.spec.ci_lanes
        start = cmd["address"] + row * cmd["row_stride"]
        channels = ceil_div(cmd["pixel_bytes"], lanes) * lanes
        span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
        line = np.full(span, buffer.zero_point, np.int8)
        first, last = max(cmd["skip"], 0), min(cmd["skip"] + span, cmd["row_bytes"])
        if last > first:
            line[first - cmd["skip"] : last - cmd["skip"]] = machine.memory[start + first : start + last].view(np.int8)
        pixels = np.lib.stride_tricks.as_strided(line, (cmd["x_count"], cmd["pixel_bytes"]), (cmd["pixel_pitch"], 1))
        at = cmd["group"] * lanes
        target = machine.data[cmd["buffer"]][row % buffer.rows][cmd["x_first"] : cmd["x_first"] + cmd["x_count"]]
        target[:, at : at + channels] = buffer.zero_point
        target[:, at : at + cmd["pixel_bytes"]] = pixels

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.load.take(cmd, rows=True)
