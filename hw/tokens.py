"""Rows finished, freed and stored: the rules by which engines wait for each other, executed one command at a time.

Verification and the golden model run commands strictly in order through this; a command that would have to wait
raises, because then nothing could ever end the wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from codesign.hw.errors import ProgramError
from codesign.hw.isa import MORE_SOURCES, Command


@dataclass
class Buffer:
    """A rolling buffer's configuration and counters."""

    command: Command
    rows: int
    width: int
    height: int
    groups: int
    zero_point: int
    freed_by_conv: bool
    freed_by_store: bool
    next_row: int = 0
    freed_conv: int = 0
    freed_store: int = 0
    stored: int = 0

    @property
    def freed(self) -> int:
        """Rows below this may be overwritten."""
        if self.freed_by_conv and self.freed_by_store:
            return min(self.freed_conv, self.freed_store)
        return self.freed_conv if self.freed_by_conv else self.freed_store if self.freed_by_store else 0


class ConvRow(NamedTuple):
    """A CONV's output row ``y`` and its first input row ``top`` (may lie above the frame)."""

    y: int
    top: int


def more_sources(cmd: Command) -> list[tuple[int, bool]]:
    """The further sources of a CONV: buffer, and whether it frees their rows."""
    count = min(cmd["more_sources"], MORE_SOURCES)
    if not count:
        return []
    return [(cmd[f"source_{k}"], bool(cmd[f"free_{k}"])) for k in range(1, count + 1)]


class Tokens:
    """All buffers of the machine."""

    def __init__(self, buffers: int) -> None:
        self._buffers: list[Buffer | None] = [None] * buffers
        self.weights_loaded = 0

    def configure(self, cmd: Command) -> None:
        if cmd["id"] >= len(self._buffers):
            raise ProgramError(f"buffer {cmd['id']} of {len(self._buffers)}")
        if cmd["planes"] or not (cmd["rows"] and cmd["width"] and cmd["height"] and cmd["groups"]):
            raise ProgramError(f"buffer {cmd['id']} is empty or of a reserved kind")
        self._buffers[cmd["id"]] = Buffer(
            command=cmd, rows=cmd["rows"], width=cmd["width"], height=cmd["height"], groups=cmd["groups"],
            zero_point=cmd["zero_point"], freed_by_conv=bool(cmd["freed_by_conv"]),
            freed_by_store=bool(cmd["freed_by_store"]),
        )  # fmt: skip

    def sync(self) -> None:
        self.weights_loaded = 0

    def buffer(self, index: int) -> Buffer:
        buffer = self._buffers[index] if index < len(self._buffers) else None
        if buffer is None:
            raise ProgramError(f"buffer {index} is not configured")
        return buffer

    def load(self, cmd: Command) -> int | None:
        """The row a LOAD fills now, or None when the frame has been loaded."""
        return self._produce(self.buffer(cmd["buffer"]), cmd["buffer"])

    def conv(self, cmd: Command) -> ConvRow | None:
        """The row a CONV computes now, or None when its frame is complete. Frees what the command says it frees."""
        source, destination = self.buffer(cmd["source"]), self.buffer(cmd["destination"])
        y = destination.next_row
        if y >= destination.height:
            return None
        if self.weights_loaded < cmd["weights_needed"]:
            raise ProgramError(f"needs {cmd['weights_needed']} LOADWs, {self.weights_loaded} came before it")
        top = y * cmd["stride_rows"] - cmd["pad_rows"]
        first, end = max(top, 0), min(top + cmd["kernel_rows"], source.height)
        self._need(source, cmd["source"], first, end)
        for index, _ in more_sources(cmd):
            if self.buffer(index).height != source.height:
                raise ProgramError(f"sources {cmd['source']} and {index} differ in height")
            self._need(self.buffer(index), index, first, end)
        other = self.buffer(cmd["add_buffer"]) if cmd["add_enable"] else None
        if other is not None:
            self._need(other, cmd["add_buffer"], y, y + 1)
        self._produce(destination, cmd["destination"])
        last = y + 1 == destination.height
        freed = source.height if last else min(max(top + cmd["stride_rows"], 0), source.height)
        if cmd["free_source"]:
            source.freed_conv = freed
        for index, free in more_sources(cmd):
            if free:
                self.buffer(index).freed_conv = freed
        if other is not None and cmd["add_free"]:
            other.freed_conv = y + 1
        return ConvRow(y, top)

    def store(self, cmd: Command) -> int | None:
        """The row a STORE takes now, or None when the frame has been stored."""
        buffer = self.buffer(cmd["buffer"])
        row = buffer.stored
        if row >= buffer.height:
            return None
        self._need(buffer, cmd["buffer"], row, row + 1)
        buffer.stored = row + 1
        buffer.freed_store = row + 1
        return row

    @staticmethod
    def _produce(buffer: Buffer, index: int) -> int | None:
        row = buffer.next_row
        if row >= buffer.height:
            return None
        if row - buffer.freed >= buffer.rows:
            raise ProgramError(
                f"would wait for ever for a free row of buffer {index} (row {row}, {buffer.freed} freed)"
            )
        buffer.next_row = row + 1
        return row

    @staticmethod
    def _need(buffer: Buffer, index: int, first: int, end: int) -> None:
        if end > buffer.next_row:
            raise ProgramError(f"would wait for ever for row {end - 1} of buffer {index}")
        if first < end and (first < buffer.freed or first < buffer.next_row - buffer.rows):
            raise ProgramError(f"reads row {first} of buffer {index}, which was freed")
