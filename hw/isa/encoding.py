"""A command as a value, and its 64 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from codesign.hw.errors import ProgramError
from codesign.hw.isa.fields import FIELDS, Opcode
from codesign.hw.isa.packing import packed, unpacked
from codesign.hw.spec import COMMAND_BYTES


@dataclass(frozen=True)
class Command:
    """One decoded command: an opcode and the value of each of its fields (0 when not given)."""

    opcode: Opcode
    values: tuple[int, ...]

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {field.name: value for field, value in zip(FIELDS[self.opcode], self.values, strict=True)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its fields."""
        return tuple(field.name for field in FIELDS[self.opcode])

    def __getitem__(self, name: str) -> int:
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"{self.opcode.name} has no field {name!r}") from None

    def __str__(self) -> str:
        pairs = zip(FIELDS[self.opcode], self.values, strict=True)
        shown = " ".join(f"{field.name}={value}" for field, value in pairs if value)
        return f"{self.opcode.name} {shown}".rstrip()


def command(opcode: Opcode, **fields: int) -> Command:
    """Build a command. Raises :class:`ProgramError` when a value does not fit its field or a name is unknown."""
    table = FIELDS[opcode]
    unknown = set(fields) - {field.name for field in table}
    if unknown:
        raise ProgramError(f"{opcode.name} has no field {sorted(unknown)[0]!r}")
    values = tuple(int(fields.get(field.name, 0)) for field in table)
    packed(table, values, f"{opcode.name}.")
    return Command(opcode, values)


def encode(cmd: Command) -> bytes:
    """A command's 64 bytes, little endian."""
    word = packed(FIELDS[cmd.opcode], cmd.values, f"{cmd.opcode.name}.")
    return (word << 8 | cmd.opcode).to_bytes(COMMAND_BYTES, "little")


def decode(data: bytes) -> Command:
    """The inverse of :func:`encode`. Raises :class:`ProgramError` for an unknown opcode or a wrong length."""
    if len(data) != COMMAND_BYTES:
        raise ProgramError(f"a command has {COMMAND_BYTES} bytes, not {len(data)}")
    word = int.from_bytes(data, "little")
    try:
        opcode = Opcode(word & 0xFF)
        table = FIELDS[opcode]
    except (ValueError, KeyError):
        raise ProgramError(f"unknown opcode {word & 0xFF}") from None
    return Command(opcode, tuple(unpacked(table, word >> 8)))
