"""BUFFER, SYNC and HALT, which the sequencer executes itself; LOOP and END, which it has followed already."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from codesign.hw.commands.kind import Kind, Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.program.tokens import Tokens

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.engines import Engines


class Buffer(Kind):
    """Configures a rolling buffer."""

    opcode: ClassVar[Opcode] = Opcode.BUFFER
    buffer: ClassVar[str | None] = "id"

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        tokens.configure(cmd)
        return None

    def check(self, state: Verification, cmd: Command) -> None:
        state.tokens.configure(cmd)
        state.statistics.configure(cmd["id"])
        state.sound.clear()
        spec = state.program.spec
        first, last = cmd["base"], cmd["base"] + cmd["rows"] * cmd["row_pitch"]
        if last > spec.bank_words:
            raise ProgramError(f"buffer {cmd['id']} ends at word {last} of a bank of {spec.bank_words}")
        if cmd["group_pitch"] * spec.banks < cmd["width"] or cmd["groups"] * cmd["group_pitch"] > cmd["row_pitch"]:
            raise ProgramError(f"buffer {cmd['id']} has rows that do not hold its pixels")
        state.words.pop(cmd["id"], None)
        for other, (begin, end) in state.words.items():
            if first < end and begin < last:
                raise ProgramError(f"buffers {cmd['id']} and {other} overlap")
        state.words[cmd["id"]] = (first, last)

    def execute(self, machine: Machine, cmd: Command) -> None:
        machine.tokens.configure(cmd)
        shape = (cmd["rows"], cmd["width"], cmd["groups"] * machine.spec.ci_lanes)
        machine.data[cmd["id"]] = np.zeros(shape, np.int8)

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.follow_all()
        engines.configure(cmd)


class Sync(Kind):
    """Waits for all engines; buffers may then be configured anew and weights loaded."""

    opcode: ClassVar[Opcode] = Opcode.SYNC

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        tokens.sync()
        return None

    def check(self, state: Verification, cmd: Command) -> None:
        state.words.clear()
        state.tokens.sync()
        state.statistics.sync()

    def execute(self, machine: Machine, cmd: Command) -> None:
        machine.tokens.sync()

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.follow_all()
        engines.synchronise()


class Halt(Kind):
    """Waits for all engines and ends the program."""

    opcode: ClassVar[Opcode] = Opcode.HALT

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.follow_all()
        engines.synchronise()


class Loop(Kind):
    """Begins a loop's body."""

    opcode: ClassVar[Opcode] = Opcode.LOOP


class End(Kind):
    """Ends a loop's body."""

    opcode: ClassVar[Opcode] = Opcode.END
