"""What a GPU measured of operators that TVM schedules: one JSON file per architecture, one record a line.

A record is keyed by the function's name and the hash of its structure, and holds the trace that makes the schedule of
the function: TVM's own JSON, which compiling replays. Needs no TVM itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codesign.hw.errors import InputError
from codesign.hw.files import write_text
from codesign.kernels.tuned import FOLDER


@dataclass(frozen=True)
class KernelCall:
    """A kernel of a candidate: its tensors by name, blocks and threads."""

    kernel: str
    arguments: tuple[str, ...]
    grid: tuple[int, int, int]
    threads: tuple[int, int, int]


@dataclass(frozen=True)
class TraceRecord:
    """The fastest schedule measured; ``trace`` is None where TVM's default was. ``seconds``: median of one call;
    ``default_seconds``: of the default in the same run."""

    signature: str
    trace: Any = field(repr=False)
    seconds: float
    default_seconds: float | None
    tried: int
    device: str
    date: str


@dataclass(frozen=True)
class Traces:
    """The records of one architecture."""

    arch: str
    records: Mapping[str, TraceRecord]

    def lookup(self, signature: str) -> TraceRecord | None:
        return self.records.get(signature)

    def with_records(self, records: list[TraceRecord]) -> Traces:
        """With ``records`` where they are faster than what was known, or measured on the same device again."""
        merged = dict(self.records)
        for record in records:
            known = merged.get(record.signature)
            if known is None or record.device == known.device or record.seconds < known.seconds:
                merged[record.signature] = record
        return Traces(self.arch, merged)

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the file, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(self.records[key])) for key in sorted(self.records)]
        path = folder / f"{self.arch}-operators.json"
        write_text(path, '{"records": [\n' + ",\n".join(lines) + "\n]}\n")
        return path


def traces(arch: str, folder: Path = FOLDER) -> Traces:
    """The records of ``arch``; none where nothing was measured. Raises :class:`InputError` for a broken file."""
    path = folder / f"{arch}-operators.json"
    if not path.is_file():
        return Traces(arch, {})
    try:
        records = [TraceRecord(**item) for item in json.loads(path.read_text())["records"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not a tuning database ({error})", where=str(path), hint="Tune again.") from error
    return Traces(arch, {record.signature: record for record in records})
