"""Measured schedules of this project's kernels, so that compiling needs no GPU.

A record is keyed by the kernel (the signature of a stack, or of a wide convolution) and the frame's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.kernels.implicit_gemm import GemmSchedule
from codesign.kernels.stack import Schedule
from codesign.kernels.tuning import records as files


@dataclass(frozen=True)
class Record:
    """The fastest schedule measured. ``seconds``: median of one launch; ``tried``: candidates that were measured."""

    signature: str
    height: int
    width: int
    schedule: Schedule | GemmSchedule
    seconds: float
    tried: int
    device: str
    date: str

    @property
    def key(self) -> files.Key:
        return self.signature, self.height, self.width


@dataclass(frozen=True)
class Database:
    """The records of one architecture."""

    arch: str
    records: Mapping[files.Key, Record]

    def lookup(self, signature: str, height: int, width: int) -> tuple[Schedule | GemmSchedule, float] | None:
        """The schedule and its seconds, if exactly this size was measured."""
        record = self.records.get((signature, height, width))
        return None if record is None else (record.schedule, record.seconds)

    def with_records(self, records: list[Record]) -> Database:
        """See :func:`codesign.kernels.tuning.records.merged`."""
        return Database(self.arch, files.merged(self.records, records))

    def save(self, folder: Path = files.FOLDER) -> Path:
        return files.save(folder / f"{self.arch}.json", self.records)


def database(arch: str, folder: Path = files.FOLDER) -> Database:
    """The records of ``arch``. Raises :class:`InputError` for a broken file."""
    return Database(arch, files.load(folder / f"{arch}.json", _record))


def _record(item: dict[str, Any]) -> Record:
    return Record(**{**item, "schedule": schedule_of(item["schedule"])})


def schedule_of(item: Mapping[str, Any]) -> Schedule | GemmSchedule:
    """A schedule from JSON; only a stack's has splits."""
    rest = dict(item)
    if "splits" in rest:
        splits = tuple((int(a), int(c)) for a, c in rest.pop("splits"))
        return Schedule(splits=splits, **rest)
    across, channels = rest.pop("warps")
    return GemmSchedule(warps=(across, channels), **rest)
