"""Constants with provenance: a number without unit, bounds and source is not a constant."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pint
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from codesign.energy.interval import Interval
from codesign.hw.errors import InputError

_UNITS: pint.UnitRegistry = pint.UnitRegistry()
_HERE = Path(__file__).parent


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r}")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class Band(BaseModel):
    """A value with its bounds, as tables write it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if not 0.0 <= self.low <= self.value <= self.high:
            raise ValueError(f"value {self.value} is not between {self.low} and {self.high}")
        return self

    @property
    def interval(self) -> Interval:
        return Interval(self.value, self.low, self.high)


class Record(Band):
    """One constant as it stands in the table."""

    what: Text
    unit: Text
    node: Text
    """Process node (``28nm``), or ``any``."""
    voltage: Positive
    """Supply in volts."""
    source: Text
    confidence: Literal["measured", "published", "interpolated", "prior"]
    capacity_bytes: int | None = Field(default=None, gt=0, strict=True)
    """Of a memory: the size the figure holds for."""

    @model_validator(mode="after")
    def _known_unit(self) -> Record:
        try:
            _UNITS.Unit(self.unit)
        except Exception as error:  # pint raises several unrelated types for text that is no unit
            raise ValueError(f"unknown unit {self.unit!r}") from error
        return self

    def to(self, unit: str) -> Interval:
        """The constant in ``unit``. Raises :class:`InputError` when the dimensions differ."""
        try:
            factor = float((1.0 * _UNITS.Unit(self.unit)).to(unit).magnitude)
        except pint.DimensionalityError as error:
            raise InputError(f"{self.unit} is not convertible to {unit}", where=self.what) from error
        return self.interval * factor


class Device(BaseModel):
    """A GPU: its data sheet, and the records that give its energy per event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    peak_fp16_tflops: Positive
    """Dense (no sparsity), products summed in FP32."""
    bandwidth_gb_s: Positive
    l2_bytes: int = Field(gt=0, strict=True)
    idle_w: Band
    board_w: Positive
    node: Text
    flop: Text
    """Name of the record of energy per FLOP."""
    memory: Text
    """Name of the record of energy per bit moved to or from the board's memory."""
    source: Text


Entry = TypeVar("Entry", bound=BaseModel)


def _load(path: Path, kind: type[Entry]) -> dict[str, Entry]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"is not a readable table ({error})", where=str(path)) from error
    entries: dict[str, Entry] = {}
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise InputError(f"{name} is a bare number", where=str(path), hint="Give value, bounds, unit and source.")
        try:
            entries[name] = kind.model_validate(entry)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise InputError(
                f"{' '.join(filter(None, (name, place)))}: {problem['msg']}",
                where=str(path),
                hint="A constant has what, value, low, high, unit, node, voltage, source and confidence."
                if kind is Record
                else "",
            ) from error
    return entries


def load_records(path: Path) -> dict[str, Record]:
    """Read a table of constants. Raises :class:`InputError`, naming the entry, for anything incomplete."""
    return _load(path, Record)


@cache
def records() -> Mapping[str, Record]:
    """The constants that ship."""
    return load_records(_HERE / "constants.toml")


@cache
def devices() -> Mapping[str, Device]:
    """The GPUs that ship. Raises :class:`InputError` for one that names no record."""
    table = _load(_HERE / "devices.toml", Device)
    for name, device in table.items():
        for record in (device.flop, device.memory):
            if record not in records():
                raise InputError(f"{name} names no energy record: {record!r}", where="devices.toml")
    return table


@cache
def constant(name: str, unit: str) -> Interval:
    """A shipped constant in ``unit``. Raises :class:`InputError` for an unknown name."""
    table = records()
    if name not in table:
        raise InputError(f"no energy record {name!r}", where="constants.toml", hint="Add it with its source.")
    return table[name].to(unit)


def nodes() -> tuple[str, ...]:
    """Process nodes that the accelerator can be accounted at: those with a MAC record, smallest first."""
    found = {record.node for name, record in records().items() if name == f"mac_int8_{record.node}"}
    return tuple(sorted(found, key=lambda node: float(node.removesuffix("nm"))))


@cache
def memory_read_j_per_byte(capacity_bytes: int, node: str) -> tuple[Interval, tuple[str, ...]]:
    """Energy per byte read from one SRAM macro, and the names of the records used.

    Between two records the energy is interpolated linearly in the logarithms of capacity and energy, bound by bound.
    A macro smaller than the smallest record is charged like that record: too much rather than too little. Raises
    :class:`InputError` for a node without records and for a macro larger than the largest record.
    """
    points = sorted(
        (record.capacity_bytes, name)
        for name, record in records().items()
        if record.capacity_bytes is not None and record.node == node
    )
    if not points:
        raise InputError(f"no SRAM records at {node}", where="energy", hint=f"Nodes: {', '.join(nodes())}.")
    largest = points[-1][0]
    if capacity_bytes > largest:
        raise InputError(
            f"an SRAM macro of {capacity_bytes} bytes exceeds the largest record ({largest} bytes at {node})",
            where="energy",
            hint="Use more banks, or add a record with its source.",
        )
    if capacity_bytes <= points[0][0]:
        name = points[0][1]
        return constant(name, "J"), (name,)
    after = next(index for index, (extent, _) in enumerate(points) if extent >= capacity_bytes)
    (a, first), (b, second) = points[after - 1], points[after]
    share = (math.log(capacity_bytes) - math.log(a)) / (math.log(b) - math.log(a))
    one, two = constant(first, "J"), constant(second, "J")

    def between(x: float, y: float) -> float:
        return math.exp(math.log(x) * (1.0 - share) + math.log(y) * share)

    bounds = Interval(between(one.value, two.value), between(one.low, two.low), between(one.high, two.high))
    return bounds, (first, second)
