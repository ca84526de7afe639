"""Constants with provenance: a number without unit, bounds and source is not a constant."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import pint
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from codesign.energy.interval import Interval
from codesign.hw.errors import InputError

_UNITS: pint.UnitRegistry = pint.UnitRegistry()


class Record(BaseModel):
    """One constant as it stands in the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    value: float
    low: float
    high: float
    unit: str
    node: str
    voltage: float
    source: str
    confidence: Literal["measured", "published", "interpolated", "prior"]

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if not (math.isfinite(self.value) and 0.0 <= self.low <= self.value <= self.high):
            raise ValueError(f"value {self.value} is not between {self.low} and {self.high}")
        if not self.source.strip():
            raise ValueError("has no source")
        try:
            _UNITS.Unit(self.unit)
        except Exception as error:
            raise ValueError(f"unknown unit {self.unit!r}") from error
        return self

    def to(self, unit: str) -> Interval:
        """The constant in ``unit``. Raises :class:`InputError` when the dimensions differ."""
        try:
            factor = float((1.0 * _UNITS.Unit(self.unit)).to(unit).magnitude)
        except pint.DimensionalityError as error:
            raise InputError(f"{self.unit} is not convertible to {unit}", where=self.what) from error
        return Interval(self.value * factor, self.low * factor, self.high * factor)


class Device(BaseModel):
    """A GPU from its data sheet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_fp16_tflops: float
    bandwidth_gb_s: float
    idle_w: float
    board_w: float
    memory: str
    source: str


def load_records(path: Path) -> dict[str, Record]:
    """Read a table of constants. Raises :class:`InputError`, naming the entry, for anything incomplete."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"is not a readable table ({error})", where=str(path)) from error
    records: dict[str, Record] = {}
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise InputError(f"{name} is a bare number", where=str(path), hint="Give value, bounds, unit and source.")
        try:
            records[name] = Record.model_validate(entry)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise InputError(f"{name} {place}: {problem['msg']}".strip(), where=str(path)) from error
    return records


@cache
def records() -> dict[str, Record]:
    """The constants that ship."""
    return load_records(Path(__file__).parent / "constants.toml")


@cache
def devices() -> dict[str, Device]:
    """The GPUs that ship."""
    table = tomllib.loads((Path(__file__).parent / "devices.toml").read_text(encoding="utf-8"))
    return {name: Device.model_validate(entry) for name, entry in table.items()}


def constant(name: str, unit: str) -> Interval:
    """A shipped constant in ``unit``. Raises :class:`InputError` for an unknown name."""
    table = records()
    if name not in table:
        raise InputError(f"no energy record {name!r}", where="constants", hint="Add it with its source.")
    return table[name].to(unit)
