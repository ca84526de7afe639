"""Measured schedules of operators left to TVM.

A record is keyed by the function's name and the hash of its structure, and holds the trace of the function's
schedule: TVM's own JSON, which is replayed at compile time. This module does not need TVM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.kernels.tuning import records as files


@dataclass(frozen=True)
class KernelCall:
    """A kernel of a candidate: its tensors by name, blocks and threads."""

    kernel: str
    arguments: tuple[str, ...]
    grid: tuple[int, int, int]
    threads: tuple[int, int, int]


@dataclass(frozen=True)
class TraceRecord:
    """The fastest schedule measured; ``trace`` is None if TVM's default was fastest. ``seconds``: median of one call;
    ``default_seconds``: that of the default in the same run."""

    signature: str
    trace: Any = field(repr=False)
    seconds: float
    default_seconds: float | None
    tried: int
    device: str
    date: str

    @property
    def key(self) -> files.Key:
        return (self.signature,)


@dataclass(frozen=True)
class Traces:
    """The records of one architecture."""

    arch: str
    records: Mapping[files.Key, TraceRecord]

    def lookup(self, signature: str) -> TraceRecord | None:
        return self.records.get((signature,))

    def with_records(self, records: list[TraceRecord]) -> Traces:
        """See :func:`codesign.kernels.tuning.records.merged`."""
        return Traces(self.arch, files.merged(self.records, records))

    def save(self, folder: Path = files.FOLDER) -> Path:
        return files.save(folder / f"{self.arch}-operators.json", self.records)


def traces(arch: str, folder: Path = files.FOLDER) -> Traces:
    """The records of ``arch``. Raises :class:`InputError` for a broken file."""
    return Traces(arch, files.load(folder / f"{arch}-operators.json", lambda item: TraceRecord(**item)))
