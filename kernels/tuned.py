"""What a GPU measured of schedules: one JSON file per architecture, so that compiling needs no GPU.

A record is keyed by what is launched (the signature of a stack, or of a wide convolution) and the frame's size. The
file is written sorted, one record a line: two people's measurements merge as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codesign.hw.errors import InputError
from codesign.hw.files import write_text
from codesign.kernels.implicit_gemm import GemmSchedule
from codesign.kernels.stack import Schedule

FOLDER = Path(__file__).parent / "measured"


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
    def key(self) -> tuple[str, int, int]:
        return self.signature, self.height, self.width


@dataclass(frozen=True)
class Database:
    """The records of one architecture."""

    arch: str
    records: Mapping[tuple[str, int, int], Record]

    def lookup(self, signature: str, height: int, width: int) -> tuple[Schedule | GemmSchedule, float] | None:
        """The schedule and its seconds, if this very size was measured."""
        record = self.records.get((signature, height, width))
        return None if record is None else (record.schedule, record.seconds)

    def with_records(self, records: list[Record]) -> Database:
        """With ``records`` where they are faster than what was known, or measured on the same device again."""
        merged = dict(self.records)
        for record in records:
            known = merged.get(record.key)
            if known is None or record.device == known.device or record.seconds < known.seconds:
                merged[record.key] = record
        return Database(self.arch, merged)

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the file, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(self.records[key])) for key in sorted(self.records)]
        path = folder / f"{self.arch}.json"
        write_text(path, '{"records": [\n' + ",\n".join(lines) + "\n]}\n")
        return path


def database(arch: str, folder: Path = FOLDER) -> Database:
    """The records of ``arch``; none where nothing was measured. Raises :class:`InputError` for a broken file."""
    path = folder / f"{arch}.json"
    if not path.is_file():
        return Database(arch, {})
    try:
        records = [_record(item) for item in json.loads(path.read_text())["records"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not a tuning database ({error})", where=str(path), hint="Tune again.") from error
    return Database(arch, {record.key: record for record in records})


def _record(item: dict[str, Any]) -> Record:
    return Record(**{**item, "schedule": schedule_of(item["schedule"])})


def schedule_of(item: Mapping[str, Any]) -> Schedule | GemmSchedule:
    """A schedule from JSON: a stack's has splits."""
    rest = dict(item)
    if "splits" in rest:
        splits = tuple((int(a), int(c)) for a, c in rest.pop("splits"))
        return Schedule(splits=splits, **rest)
    across, channels = rest.pop("warps")
    return GemmSchedule(warps=(across, channels), **rest)
