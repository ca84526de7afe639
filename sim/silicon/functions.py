"""Boolean functions of cells in Liberty's syntax.

``!`` or ``'`` negates, ``^`` is exclusive or, ``*``, ``&`` or a space is and, ``+`` or ``|`` is or, in this
order of precedence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.hw.errors import InputError

_WORDS = re.compile(r"\s*(\(|\)|!|'|\^|\*|&|\+|\||[A-Za-z_][\w\[\]]*|[01])")


@dataclass(frozen=True)
class Function:
    """A parsed function: an operator (``~``, ``&``, ``|``, ``^``) over operands, a pin's name, or a constant."""

    word: str
    operands: tuple[Function, ...] = ()

    @property
    def pins(self) -> frozenset[str]:
        if not self.operands:
            return frozenset() if self.word in ("0", "1") else frozenset({self.word})
        return frozenset[str]().union(*(operand.pins for operand in self.operands))

    def render(self, nets: Mapping[str, str]) -> str:
        """The function in SystemVerilog, with pins replaced by ``nets``. Raises :class:`InputError` for an unknown
        pin."""
        if not self.operands:
            if self.word in ("0", "1"):
                return f"1'b{self.word}"
            if self.word not in nets:
                raise InputError(f"a function refers to {self.word!r}, which is not a pin")
            return nets[self.word]
        parts = [operand.render(nets) for operand in self.operands]
        return f"~{parts[0]}" if self.word == "~" else f"({parts[0]} {self.word} {parts[1]})"

    def value(self, pins: Mapping[str, bool]) -> bool:
        if not self.operands:
            return self.word == "1" or (self.word != "0" and pins[self.word])
        first, *rest = (operand.value(pins) for operand in self.operands)
        return {
            "~": lambda: not first,
            "&": lambda: first and rest[0],
            "|": lambda: first or rest[0],
            "^": lambda: first != rest[0],
        }[self.word]()


def function_of(text: str) -> Function:
    """Parse ``text``. Raises :class:`InputError` if it is not a function."""
    words, at, stripped = [], 0, text.strip()
    while at < len(stripped):
        match = _WORDS.match(stripped, at)
        if match is None:
            raise InputError(f"{text!r} is not a function")
        words.append(match[1])
        at = match.end()
    try:
        found, end = _or(words, 0)
    except IndexError:
        raise InputError(f"{text!r} ends in the middle") from None
    if end != len(words):
        raise InputError(f"{text!r} is not a function")
    return found


_Parsed = tuple[Function, int]


def _or(words: list[str], at: int) -> _Parsed:
    left, at = _and(words, at)
    while at < len(words) and words[at] in ("+", "|"):
        right, at = _and(words, at + 1)
        left = Function("|", (left, right))
    return left, at


def _and(words: list[str], at: int) -> _Parsed:
    left, at = _xor(words, at)
    while at < len(words) and words[at] not in ("+", "|", ")"):
        right, at = _xor(words, at + (words[at] in ("*", "&")))
        left = Function("&", (left, right))
    return left, at


def _xor(words: list[str], at: int) -> _Parsed:
    left, at = _unary(words, at)
    while at < len(words) and words[at] == "^":
        right, at = _unary(words, at + 1)
        left = Function("^", (left, right))
    return left, at


def _unary(words: list[str], at: int) -> _Parsed:
    word = words[at]
    if word == "!":
        operand, at = _unary(words, at + 1)
        return Function("~", (operand,)), at
    if word == "(":
        found, at = _or(words, at + 1)
        if words[at] != ")":
            raise InputError("a parenthesis is not closed")
    elif word in ("0", "1") or word[0].isalpha() or word[0] == "_":
        found = Function(word)
    else:
        raise InputError(f"{word!r} cannot begin a function")
    at += 1
    while at < len(words) and words[at] == "'":
        found, at = Function("~", (found,)), at + 1
    return found, at
