"""An opcode: the rules that its commands must keep, their meaning and their time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from codesign.hw.isa import Command, Opcode
from codesign.hw.program.statistics import Statistics
from codesign.hw.program.tokens import Tokens

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.program.program import Program
    from codesign.hw.timing.engines.engines import Engines

Engine = Literal["load", "conv", "store"]


@dataclass
class Verification:
    """A program as far as it has been checked."""

    program: Program
    tokens: Tokens
    statistics: Statistics
    index: int = 0  # of the command that is being checked
    words: dict[int, tuple[int, int]] = field(default_factory=dict)  # words [first, end) of every bank, by buffer
    sound: set[int] = field(default_factory=set)  # computed rows' commands checked since a buffer was configured


class Kind:
    """The commands of one opcode. By default they are the sequencer's and work on nothing."""

    opcode: ClassVar[Opcode]
    engine: ClassVar[Engine | None] = None
    buffer: ClassVar[str | None] = None
    """The field that names the buffer they fill or empty."""

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        """Moves the tokens on; returns the row that the command works on, None when its frame is complete."""
        return None

    def check(self, state: Verification, cmd: Command) -> None:
        """Moves ``state`` on; raises :class:`ProgramError` for a command that breaks a rule of the machine."""

    def execute(self, machine: Machine, cmd: Command) -> None:
        """The command's effect, by the golden model."""

    def time(self, engines: Engines, cmd: Command) -> None:
        """The command handed over to its engine, in the cycle model."""
