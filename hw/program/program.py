"""A compiled network for one machine: commands, weights, and a map of the memory they work on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.hw.errors import InputError, ProgramError, SpecError
from codesign.hw.files import write_bytes
from codesign.hw.isa import (
    MAX_LOOP_DEPTH,
    ROWS,
    Command,
    Opcode,
    decode,
    encode,
)
from codesign.hw.program.verify import verify, verify_map
from codesign.hw.spec import COMMAND_BYTES, AccelSpec

_MAGIC = b"SCANLINE\x02"

MAX_MEMORY = 2**32
"""Bytes that a program can address."""


@dataclass(frozen=True)
class TensorSlot:
    """A dense ``int8[H, W, C]`` tensor at a byte offset of the program's memory; real = scale x (q - zero_point)."""

    name: str
    offset: int
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int

    @property
    def size_bytes(self) -> int:
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Program:
    """Immutable; ``verify`` says whether the machine may run it, ``to_bytes`` and ``from_bytes`` are inverse."""

    name: str
    spec: AccelSpec
    commands: tuple[Command, ...]
    blob: bytes = field(repr=False)
    commands_offset: int
    blob_offset: int
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    write_first: int
    write_end: int
    memory_bytes: int
    macs: int
    """Multiply-accumulates of the user's operators that this program computes, one frame."""
    labels: tuple[str, ...] = ()
    """Per command the layer or tensor it works on, for people to read; empty where there is none."""

    def encoded_commands(self) -> bytes:
        """The command stream as it lies in memory."""
        return b"".join(encode(cmd) for cmd in self.commands)

    def walk(self) -> Iterator[tuple[int, Command]]:
        """Commands in the order the machine executes them, loops unrolled, delayed ones left out, with their index."""
        return walk(self.commands)

    def verify(self) -> None:
        """Raise :class:`ProgramError` unless every rule of the machine holds.

        Checks encodings, memory windows, on-chip ranges, loop nesting, buffer overlap, and by a dry run of the tokens
        that the commands one after another never wait: then the decoupled engines cannot deadlock.
        """
        verify(self)

    def to_bytes(self) -> bytes:
        """Serialise: magic, header length, JSON header, commands, blob, SHA-256 of all before it."""
        header = json.dumps(
            {
                "name": self.name,
                "spec": self.spec.to_dict(),
                "commands": len(self.commands),
                "blob": len(self.blob),
                "commands_offset": self.commands_offset,
                "blob_offset": self.blob_offset,
                "inputs": [vars(slot) for slot in self.inputs],
                "outputs": [vars(slot) for slot in self.outputs],
                "write_first": self.write_first,
                "write_end": self.write_end,
                "memory_bytes": self.memory_bytes,
                "macs": self.macs,
                "labels": self.labels,
            }
        ).encode()
        body = _MAGIC + len(header).to_bytes(4, "little") + header + self.encoded_commands() + self.blob
        return body + hashlib.sha256(body).digest()

    @staticmethod
    def from_bytes(data: bytes, *, where: str = "program") -> Program:
        """Read what :meth:`to_bytes` wrote. Raises :class:`InputError` for anything else, truncation included."""
        broken = InputError(
            "is not a complete Scanline program", where=where, hint="Compile the network again; the file is damaged."
        )
        start = len(_MAGIC) + 4
        if len(data) < start + 32 or not data.startswith(_MAGIC) or hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise broken
        header_bytes = int.from_bytes(data[len(_MAGIC) : start], "little")
        try:
            header: dict[str, Any] = json.loads(data[start : start + header_bytes])
            _check_types(header)
            at = start + header_bytes
            commands = tuple(
                decode(data[at + i * COMMAND_BYTES : at + (i + 1) * COMMAND_BYTES]) for i in range(header["commands"])
            )
            at += header["commands"] * COMMAND_BYTES
            if at + header["blob"] != len(data) - 32:
                raise ValueError("the weights are longer or shorter than the header says")
            program = Program(
                name=header["name"],
                spec=AccelSpec(**header["spec"]),
                commands=commands,
                blob=data[at : at + header["blob"]],
                commands_offset=header["commands_offset"],
                blob_offset=header["blob_offset"],
                inputs=tuple(TensorSlot(**slot) for slot in header["inputs"]),
                outputs=tuple(TensorSlot(**slot) for slot in header["outputs"]),
                write_first=header["write_first"],
                write_end=header["write_end"],
                memory_bytes=header["memory_bytes"],
                macs=header["macs"],
                labels=tuple(header["labels"]),
            )
            verify_map(program)
            return program
        except (
            LookupError,
            TypeError,
            ValueError,
            ProgramError,
            SpecError,
            RecursionError,
            AttributeError,
            ArithmeticError,
        ) as error:
            raise broken from error

    def save(self, path: str | Path) -> None:
        """Write to ``path``, whole or not at all."""
        write_bytes(path, self.to_bytes())

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a program file. Raises :class:`InputError` when it is missing or damaged."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the program ({error.strerror})", where=str(path)) from error
        return Program.from_bytes(data, where=str(path))


_COUNTS = (
    "commands",
    "blob",
    "commands_offset",
    "blob_offset",
    "write_first",
    "write_end",
    "memory_bytes",
    "macs",
)
_EXTENTS = ("offset", "height", "width", "channels")


def _check_types(header: dict[str, Any]) -> None:
    """Raise ValueError unless a file's header holds counts, texts and scales where they belong."""
    if not all(isinstance(header[key], list) for key in ("inputs", "outputs", "labels")):
        raise ValueError("slots or labels are no list")
    slots = [*header["inputs"], *header["outputs"]]
    counts = [header[key] for key in _COUNTS] + [slot[key] for slot in slots for key in _EXTENTS]
    if not all(type(value) is int and 0 <= value < 2**63 for value in counts) or header["memory_bytes"] > MAX_MEMORY:
        raise ValueError("a count or an offset is none")
    texts = [header["name"], *header["labels"], *(slot["name"] for slot in slots)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    if not all(type(slot["scale"]) in (int, float) and math.isfinite(slot["scale"]) for slot in slots):
        raise ValueError("a scale is no number")
    if not all(type(slot["zero_point"]) is int and -(2**15) <= slot["zero_point"] < 2**15 for slot in slots):
        raise ValueError("a zero point is outside 16 bits")


def walk(commands: tuple[Command, ...]) -> Iterator[tuple[int, Command]]:
    """See :meth:`Program.walk`. Raises :class:`ProgramError` for wrong nesting or a stream without HALT."""
    stack: list[list[int]] = []  # [body, executions left, executions done]
    pc = 0
    while True:
        if pc >= len(commands):
            raise ProgramError("the command stream ends without HALT", where=f"command {pc}")
        cmd = commands[pc]
        pc += 1
        if cmd.opcode is Opcode.LOOP:
            if len(stack) == MAX_LOOP_DEPTH or cmd["count"] == 0:
                raise ProgramError("loops nest too deeply or repeat zero times", where=f"command {pc - 1}")
            stack.append([pc, cmd["count"], 0])
        elif cmd.opcode is Opcode.END:
            if not stack:
                raise ProgramError("END without LOOP", where=f"command {pc - 1}")
            loop = stack[-1]
            loop[1] -= 1
            loop[2] += 1
            if loop[1] == 0:
                stack.pop()
            else:
                pc = loop[0]
        elif cmd.opcode in ROWS:
            if not stack or stack[-1][2] >= cmd["delay"]:
                yield pc - 1, cmd
        else:
            yield pc - 1, cmd
            if cmd.opcode is Opcode.HALT:
                if stack:
                    raise ProgramError("HALT inside a loop", where=f"command {pc - 1}")
                return
