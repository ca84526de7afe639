"""Fields side by side in a word."""

from __future__ import annotations

from collections.abc import Iterable

from codesign.hw.errors import ProgramError
from codesign.hw.isa.fields import Field


def packed(fields: tuple[Field, ...], values: Iterable[int], what: str) -> int:
    """``values`` side by side from bit 0 on. Raises :class:`ProgramError` with ``what`` where one does not fit."""
    word, position = 0, 0
    for field, value in zip(fields, values, strict=True):
        low, high = (-(1 << field.bits - 1), (1 << field.bits - 1) - 1) if field.signed else (0, (1 << field.bits) - 1)
        if not low <= value <= high:
            raise ProgramError(f"{what}{field.name} = {value} does not fit in {low}..{high}")
        word |= (value & ((1 << field.bits) - 1)) << position
        position += field.bits
    return word


def unpacked(fields: tuple[Field, ...], word: int) -> list[int]:
    """The inverse of :func:`packed`."""
    values, position = [], 0
    for field in fields:
        value = word >> position & ((1 << field.bits) - 1)
        if field.signed and value >> (field.bits - 1):
            value -= 1 << field.bits
        values.append(value)
        position += field.bits
    return values
