"""Hardware loops as the cycle model walks them, command after command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codesign.hw.isa import COMPUTE, ROWS, Command, Opcode
from codesign.hw.program.tokens import more_sources


@dataclass(frozen=True)
class Body:
    """The commands of a loop's body, and their buffers."""

    delay: int  # executions until every command takes part
    buffers: tuple[int, ...]
    convs: tuple[Command, ...]
    loads: bool
    stored: frozenset[int]  # buffers

    @staticmethod
    def of(rows: list[Command]) -> Body:
        convs = tuple(cmd for cmd in rows if cmd.opcode in COMPUTE)
        moved = {cmd["buffer"] for cmd in rows if cmd.opcode not in COMPUTE}
        for cmd in convs:
            moved |= {cmd["source"], cmd["destination"], *(index for index, _ in more_sources(cmd))}
            if cmd["add_enable"]:
                moved.add(cmd["add_buffer"])
        return Body(
            delay=max((cmd["delay"] for cmd in rows), default=0),
            buffers=tuple(sorted(moved)),
            convs=convs,
            loads=any(cmd.opcode is Opcode.LOAD for cmd in rows),
            stored=frozenset(cmd["buffer"] for cmd in rows if cmd.opcode is Opcode.STORE),
        )


def every_command(
    commands: tuple[Command, ...], leave_out: Callable[[int, int, int, int], int]
) -> Iterator[tuple[int, int, Command, bool]]:
    """Commands as the sequencer meets them, loop commands and delayed ones (True) included.

    Yields a command's index, the oldest index that must stay on chip, the command and whether it is left out.
    ``leave_out`` tells for the body [first, end) of an outermost loop, executed so often and with so many executions
    left, how many of them not to meet.
    """
    stack: list[list[int]] = []  # [body, executions left, executions done]
    pc = 0
    while pc < len(commands):
        cmd = commands[pc]
        late = cmd.opcode in ROWS and bool(stack) and stack[-1][2] < cmd["delay"]
        yield pc, (stack[0][0] if stack else pc), cmd, late
        pc += 1
        if cmd.opcode is Opcode.LOOP:
            stack.append([pc, cmd["count"], 0])
        elif cmd.opcode is Opcode.END:
            loop = stack[-1]
            loop[1] -= 1
            loop[2] += 1
            if loop[1] and len(stack) == 1:
                loop[1] -= leave_out(loop[0], pc - 1, loop[2], loop[1])
            if loop[1]:
                pc = loop[0]
            else:
                stack.pop()
