"""A trace of the engines' work over time, for Perfetto (ui.perfetto.dev) and chrome://tracing.

The signal ``activity_o`` shows the cycles in which each engine begins and ends a row. Engines execute their commands in
order, so the program alone tells which row that was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.hw.commands import COMMANDS
from codesign.hw.errors import SimulationError
from codesign.hw.files import write_text
from codesign.hw.program.program import Program
from codesign.hw.program.tokens import Tokens

TRACKS = ("load", "array", "requantise", "store")

# Bits of activity_o.
LOAD_BEGINS, LOAD_ENDS, ROW_BEGINS, ROW_ENDS, STORE_BEGINS, STORE_ENDS, ARRAY_BUSY = range(7)

Activity = NDArray[np.uint64]
"""The log: ``uint64[n, 2]`` of (cycle, bits), where a bit pulsed or a level changed."""


@dataclass(frozen=True)
class Slice:
    """A row on an engine, from cycle ``begin`` up to ``end``."""

    track: str
    name: str
    begin: int
    end: int
    row: int | None  # None: weights
    command: int


class _Work(NamedTuple):
    name: str
    row: int | None
    command: int


def slices(program: Program, activity: Activity, start: int = 0) -> list[Slice]:
    """The rows of one frame. ``start``: the cycle of the log that counts as 0."""
    work = _work(program)
    cycles = activity[:, 0].astype(np.int64) - start
    bits = activity[:, 1]

    def when(bit: int) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = cycles[(bits >> np.uint64(bit)) & np.uint64(1) == 1]
        return chosen

    found: list[Slice] = []
    for track, key, begins, ends in (
        ("load", "load", when(LOAD_BEGINS), when(LOAD_ENDS)),
        ("array", "conv", when(ROW_BEGINS), _array_ends(cycles, bits)),
        ("requantise", "conv", when(ROW_BEGINS), when(ROW_ENDS)),
        ("store", "store", when(STORE_BEGINS), when(STORE_ENDS)),
    ):
        rows = work[key]
        if not len(rows) == len(begins) == len(ends):
            raise SimulationError(
                f"the {track} engine should begin and end {len(rows)} rows, the log has {len(begins)} and {len(ends)}"
            )
        free = 0  # a row may begin while the one before it still ends
        for one, begin, end in zip(rows, begins.tolist(), ends.tolist(), strict=True):
            found.append(Slice(track, one.name, max(begin, free), end, one.row, one.command))
            free = end
    return found


def _array_ends(cycles: NDArray[np.int64], bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A row's time on the array ends when the next row begins or the array becomes idle."""
    begins = (bits >> np.uint64(ROW_BEGINS)) & np.uint64(1) == 1
    idle = (bits >> np.uint64(ARRAY_BUSY)) & np.uint64(1) == 0
    at = np.flatnonzero(begins)
    stops = np.flatnonzero(begins | idle)
    after = np.searchsorted(stops, at, side="right")
    return cycles[stops[np.minimum(after, len(stops) - 1)]]


def _work(program: Program) -> dict[str, list[_Work]]:
    """Rows per engine in the order of execution."""
    tokens = Tokens(program.spec)
    found: dict[str, list[_Work]] = {"load": [], "conv": [], "store": []}
    for index, cmd in program.walk():
        name = program.labels[index] if program.labels else f"command {index}"
        kind = COMMANDS[cmd.opcode]
        row = kind.row(tokens, cmd)
        if kind.engine is not None and (row is not None or kind.buffer is None):  # weights have no rows
            found[kind.engine].append(_Work(name, row, index))
    return found


def write_timeline(frames: Sequence[tuple[Program, Activity, int]], path: str | Path, title: str) -> None:
    """Write regions, one after another, each with its log and the log's first cycle."""
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}}]
    for number, track in enumerate(TRACKS):
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": track}})
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}})
    offset = 0
    for program, activity, start in frames:
        microseconds = 1e6 / program.spec.clock_hz
        last = 0
        for one in slices(program, activity, start):
            last = max(last, one.end)
            events.append(
                {
                    "ph": "X",
                    "pid": 1,
                    "tid": TRACKS.index(one.track),
                    "name": one.name,
                    "ts": round((offset + one.begin) * microseconds, 6),
                    "dur": round((one.end - one.begin) * microseconds, 6),
                    "args": {
                        "row": one.row,
                        "cycle": offset + one.begin,
                        "cycles": one.end - one.begin,
                        "command": one.command,
                    },
                }
            )
        offset += last
    write_text(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}) + "\n")
