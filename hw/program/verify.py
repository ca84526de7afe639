"""The rules of the machine for a whole program. Those for a command are in :mod:`codesign.hw.commands`.

A dry run of the tokens shows that commands one after another never wait, so the decoupled engines cannot deadlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codesign.hw.commands import COMMANDS
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.program.statistics import Statistics
from codesign.hw.program.tokens import Tokens
from codesign.hw.spec import COMMAND_BYTES

if TYPE_CHECKING:
    from codesign.hw.program.program import Program

MAX_EXECUTED = 2**25
"""Commands that a frame takes at most, loops unrolled: a larger program could not be checked in a minute."""


def verify(program: Program) -> None:
    """Raise :class:`ProgramError` unless every rule of the machine holds; see :meth:`Program.verify`."""
    spec = program.spec
    body_length = _longest_body(program.commands)
    if (executed := _executed(program.commands)) > MAX_EXECUTED:
        raise ProgramError(f"{executed} commands are executed, loops unrolled, more than {MAX_EXECUTED}")
    if body_length > spec.command_slots:
        raise ProgramError(f"a loop body of {body_length} commands exceeds the {spec.command_slots} kept on chip")
    verify_map(program)
    state = Verification(program, Tokens(spec), Statistics(spec))
    for index, cmd in program.walk():
        state.index = index
        try:
            COMMANDS[cmd.opcode].check(state, cmd)
        except ProgramError as error:
            raise ProgramError(error.what, where=f"command {index} ({cmd.opcode.name})") from error


def verify_map(program: Program) -> None:
    """Commands, weights, tensors and the write window lie in the program's memory."""
    end = program.memory_bytes
    for what, offset, size in (
        ("commands", program.commands_offset, len(program.commands) * COMMAND_BYTES),
        ("weights", program.blob_offset, len(program.blob)),
        *((slot.name, slot.offset, slot.size_bytes) for slot in (*program.inputs, *program.outputs)),
    ):
        if offset < 0 or offset + size > end:
            raise ProgramError(f"{what} lie outside the program's {end} bytes of memory")
    if program.commands_offset % COMMAND_BYTES:
        raise ProgramError(f"the command stream must be aligned to {COMMAND_BYTES} bytes")
    if not 0 <= program.write_first <= program.write_end <= end:
        raise ProgramError("the write window lies outside the program's memory")


def _executed(commands: tuple[Command, ...]) -> int:
    """Commands executed, loops unrolled."""
    total, times = 0, [1]
    for cmd in commands:
        if cmd.opcode is Opcode.LOOP:
            times.append(times[-1] * cmd["count"])
        elif cmd.opcode is Opcode.END and len(times) > 1:
            times.pop()
        total += times[-1]
    return total


def _longest_body(commands: tuple[Command, ...]) -> int:
    starts: list[int] = []
    longest = 0
    for index, cmd in enumerate(commands):
        if cmd.opcode is Opcode.LOOP:
            starts.append(index)
        elif cmd.opcode is Opcode.END and starts:
            longest = max(longest, index - starts.pop())
    return longest
