"""Rows finished, freed and stored: the rules by which engines wait for each other, executed one command at a time.

Verification and the golden model run commands strictly in order through this; a command that would have to wait
raises, because then nothing could ever end the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from codesign.hw.errors import ProgramError
from codesign.hw.isa import MORE_SOURCES, Command
from codesign.hw.spec import AccelSpec


@dataclass
class Buffer:
    """A rolling buffer's configuration and counters. With a halo its rows have two producers: LOAD and CONV."""

    command: Command
    rows: int
    width: int
    height: int
    groups: int
    zero_point: int
    loaded: bool  # all of a row by LOAD
    halo: int  # pixels of a computed row that LOAD fills
    operand: bool  # some CONV adds its rows
    freed_by_conv: bool
    freed_by_store: bool
    next_loaded: int = 0
    next_computed: int = 0
    freed_conv: int = 0
    freed_store: int = 0
    stored: int = 0

    @property
    def by_load(self) -> bool:
        """Whether LOAD fills its rows, or a part of them."""
        return self.loaded or self.halo > 0

    @property
    def freed_late(self) -> bool:
        """Whether rows are freed with a CONV's last value, not with its last read.

        Computed rows are written in order, so a row is overwritten after the rows that still add it. A LOAD may come
        earlier.
        """
        return self.by_load and self.operand

    @property
    def computed_width(self) -> int:
        """Pixels of a row that CONV fills."""
        return 0 if self.loaded else self.width - self.halo

    @property
    def next_row(self) -> int:
        """Rows below this are complete."""
        if self.loaded:
            return self.next_loaded
        return min(self.next_loaded, self.next_computed) if self.halo else self.next_computed

    @property
    def begun(self) -> int:
        """Rows below this are complete or in part."""
        return max(self.next_loaded, self.next_computed)

    @property
    def freed(self) -> int:
        """Rows below this may be overwritten."""
        if self.freed_by_conv and self.freed_by_store:
            return min(self.freed_conv, self.freed_store)
        return self.freed_conv if self.freed_by_conv else self.freed_store if self.freed_by_store else 0


class ConvRow(NamedTuple):
    """A computed row ``y`` and the first row ``top`` of its sources (may lie above the frame)."""

    y: int
    top: int


FirstRow = Callable[[Command, int], int]
"""The first row of the sources that a command needs for a row of the destination."""


def more_sources(cmd: Command) -> list[tuple[int, bool]]:
    """The further sources of a CONV: buffer, and whether it frees their rows."""
    count = min(cmd["more_sources"], MORE_SOURCES)
    if not count:
        return []
    return [(cmd[f"source_{k}"], bool(cmd[f"free_{k}"])) for k in range(1, count + 1)]


class Tokens:
    """All buffers of the machine."""

    def __init__(self, spec: AccelSpec) -> None:
        self._banks = spec.banks
        self._buffers: list[Buffer | None] = [None] * spec.buffers
        self.weights_loaded = 0

    def configure(self, cmd: Command) -> None:
        if cmd["id"] >= len(self._buffers):
            raise ProgramError(f"buffer {cmd['id']} of {len(self._buffers)}")
        if not (cmd["rows"] and cmd["width"] and cmd["height"] and cmd["groups"]):
            raise ProgramError(f"buffer {cmd['id']} is empty")
        halo = cmd["halo"] * self._banks
        if halo and (cmd["loaded"] or halo >= cmd["width"]):
            raise ProgramError(f"buffer {cmd['id']} has a halo, but no pixels beside it to compute")
        self._buffers[cmd["id"]] = Buffer(
            command=cmd,
            rows=cmd["rows"],
            width=cmd["width"],
            height=cmd["height"],
            groups=cmd["groups"],
            zero_point=cmd["zero_point"],
            loaded=bool(cmd["loaded"]),
            halo=halo,
            operand=bool(cmd["operand"]),
            freed_by_conv=bool(cmd["freed_by_conv"]),
            freed_by_store=bool(cmd["freed_by_store"]),
        )

    def sync(self) -> None:
        self.weights_loaded = 0

    def buffer(self, index: int) -> Buffer:
        buffer = self._buffers[index] if index < len(self._buffers) else None
        if buffer is None:
            raise ProgramError(f"buffer {index} is not configured")
        return buffer

    def load(self, cmd: Command) -> int | None:
        """The row a LOAD fills now, or None when the frame has been loaded."""
        buffer = self.buffer(cmd["buffer"])
        if not buffer.by_load:
            raise ProgramError(f"buffer {cmd['buffer']} is not for LOAD")
        row = self._free_row(buffer, cmd["buffer"], buffer.next_loaded)
        if row is not None:
            buffer.next_loaded = row + 1
        return row

    def conv(self, cmd: Command, first_row: FirstRow) -> ConvRow | None:
        """The row that is computed now, or None when its frame is complete. Frees the rows that ``cmd`` says it frees.

        ``first_row``: the first row of the sources that a row may need; it may lie above the frame.
        """
        source, destination = self.buffer(cmd["source"]), self.buffer(cmd["destination"])
        if destination.loaded:
            raise ProgramError(f"buffer {cmd['destination']} is not for CONV")
        y = destination.next_computed
        if y >= destination.height:
            return None
        if self.weights_loaded < cmd["weights_needed"]:
            raise ProgramError(f"needs {cmd['weights_needed']} LOADWs, {self.weights_loaded} came before it")
        top = first_row(cmd, y)
        first, end = max(top, 0), min(top + cmd["kernel_rows"], source.height)
        self._need(source, cmd["source"], first, end)
        for index, _ in more_sources(cmd):
            if self.buffer(index).height != source.height:
                raise ProgramError(f"sources {cmd['source']} and {index} differ in height")
            self._need(self.buffer(index), index, first, end)
        other = self.buffer(cmd["add_buffer"]) if cmd["add_enable"] else None
        if other is not None:
            self._need(other, cmd["add_buffer"], y, y + 1)
        self._free_row(destination, cmd["destination"], y)
        destination.next_computed = y + 1
        last = y + 1 == destination.height
        freed = source.height if last else min(max(first_row(cmd, y + 1), 0), source.height)
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
    def _free_row(buffer: Buffer, index: int, row: int) -> int | None:
        """``row`` if the buffer's frame has it; its slot must be free."""
        if row >= buffer.height:
            return None
        if row - buffer.freed >= buffer.rows:
            raise ProgramError(
                f"would wait for ever for a free row of buffer {index} (row {row}, {buffer.freed} freed)"
            )
        return row

    @staticmethod
    def _need(buffer: Buffer, index: int, first: int, end: int) -> None:
        if end > buffer.next_row:
            raise ProgramError(f"would wait for ever for row {end - 1} of buffer {index}")
        if first < end and (first < buffer.freed or first < buffer.begun - buffer.rows):
            raise ProgramError(f"reads row {first} of buffer {index}, which was freed")
