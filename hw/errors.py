"""The exceptions that every room raises.

::

    CodesignError             what was wrong, where, and what to do about it
    ├── InputError            the user's file, option or frame cannot be used
    │   └── UnsupportedError  a well-formed model asks for what no target here can run
    ├── SpecError             an accelerator specification contradicts itself
    ├── ProgramError          a program is malformed, or would break the machine's rules
    └── SimulationError       a simulation could not be built, or the machine stopped with an error
"""

from __future__ import annotations


class CodesignError(Exception):
    """Base of every error that this project raises on purpose.

    The message is one sentence; ``where`` names the place in the user's terms (a file, an operator and its name
    in the model, an option), ``hint`` says what to do.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text


class InputError(CodesignError):
    """The user's file, option or frame cannot be used."""


class UnsupportedError(InputError):
    """A well-formed model asks for something that no target here can run."""


class SpecError(CodesignError):
    """An accelerator specification contradicts itself."""


class ProgramError(CodesignError):
    """A program is malformed, or would break the machine's rules."""


class SimulationError(CodesignError):
    """A simulation could not be built, or the machine stopped with an error."""
