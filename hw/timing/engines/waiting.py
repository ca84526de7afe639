"""Commands that were handed over to an engine and are not yet followed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from codesign.hw.isa import Command, Opcode
from codesign.hw.program.tokens import Tokens

Work = tuple[Opcode, str]
"""The owner of an event: the kind of command, and the layer or tensor that it is for."""

Times = Callable[..., tuple[float, ...]]
"""Makes times relative to the present one; those long past become alike."""


@dataclass(frozen=True)
class Waiting(ABC):
    """A command with everything that was known when it was handed over."""

    cmd: Command
    work: Work
    dispatched: float
    row: int | None  # of its buffer; None: it has no more, or has no rows

    @abstractmethod
    def follow(self, checked: float) -> None:
        """Its time in the engine, which first looks at it at ``checked``."""

    @abstractmethod
    def behind(self, tokens: Tokens) -> int:
        """Rows from its own to the next one to be made."""


def free_to(times: list[float], row: int, time: float) -> None:
    """Rows below ``row`` that are not free yet become so at ``time``."""
    times.extend([time] * (row - len(times)))
