"""Measurements on GPUs as JSON: sorted, one a line, so that measurements of two people merge as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from codesign.hw.errors import InputError
from codesign.hw.files import write_text

FOLDER = Path(__file__).parents[1] / "measured"

Key = tuple[str | int, ...]


class Record(Protocol):
    """A dataclass with the median seconds of one call, the device it was measured on, and a key."""

    @property
    def key(self) -> Key: ...
    @property
    def seconds(self) -> float: ...
    @property
    def device(self) -> str: ...


R = TypeVar("R", bound=Record)


def merged(known: Mapping[Key, R], found: Iterable[R]) -> dict[Key, R]:
    """``known`` with those of ``found`` that are faster or were measured on the same device again."""
    records = dict(known)
    for record in found:
        before = records.get(record.key)
        if before is None or record.device == before.device or record.seconds < before.seconds:
            records[record.key] = record
    return records


def save(path: Path, records: Mapping[Key, Any]) -> Path:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(records[key])) for key in sorted(records)]
    write_text(path, '{"records": [\n' + ",\n".join(lines) + "\n]}\n")
    return path


def load(path: Path, parse: Callable[[dict[str, Any]], R]) -> dict[Key, R]:
    """The records of a file; none if the file is missing. Raises :class:`InputError` for a broken file."""
    if not path.is_file():
        return {}
    try:
        records = [parse(item) for item in json.loads(path.read_text())["records"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not a tuning database ({error})", where=str(path), hint="Tune again.") from error
    return {record.key: record for record in records}
