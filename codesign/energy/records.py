"""Constants with provenance: each has a unit, bounds and a source."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pint
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from codesign.energy.derive import Derivation, Point, derive, feature_nm
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
    """A value with its bounds, as written in the tables."""

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
    """One constant from the tables, given or computed from others."""

    what: Text
    unit: Text
    node: Text
    """Process node (``28nm``), or ``any``."""
    voltage: Positive
    """Supply in volts."""
    source: Text
    confidence: Literal["measured", "published", "interpolated", "derived", "prior"]
    capacity_bytes: int | None = Field(default=None, gt=0, strict=True)
    """Size of the memory that the figure is for."""
    derived: Derivation | None = None
    """Derivation of value and bounds from other records."""

    @model_validator(mode="after")
    def _known_unit(self) -> Record:
        try:
            _UNITS.Unit(self.unit)
        except Exception as error:  # pint raises several unrelated types for text that is not a unit
            raise ValueError(f"unknown unit {self.unit!r}") from error
        return self

    @property
    def provenance(self) -> str:
        """Source, and the rule of a derived constant."""
        return self.source if self.derived is None else f"{self.source} ({self.derived})"

    def to(self, unit: str) -> Interval:
        """The constant in ``unit``. Raises :class:`InputError` when the dimensions differ."""
        try:
            factor = float((1.0 * _UNITS.Unit(self.unit)).to(unit).magnitude)
        except pint.DimensionalityError as error:
            raise InputError(
                f"{self.unit} is not convertible to {unit}",
                where=self.what,
                hint="Ask for a unit of the same dimension.",
            ) from error
        return self.interval * factor


Precision = Literal["FP16", "INT8"]


class Device(BaseModel):
    """A GPU: its data sheet, and the records that give its energy per event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    peak_fp16_tflops: Positive
    """Peak of dense FP16 products summed in FP32."""
    peak_int8_tops: Positive
    """Peak of dense INT8 products summed in INT32."""
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

    def peak_per_s(self, precision: Precision) -> float:
        """Operations a second, two per MAC."""
        return 1e12 * (self.peak_fp16_tflops if precision == "FP16" else self.peak_int8_tops)


Entry = TypeVar("Entry", bound=BaseModel)
Raw = dict[str, Any]

_FIELDS = "A constant has what, value, low, high, unit, node, voltage, source and confidence."


def _table(path: Path) -> dict[str, Raw]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"is not a readable table ({error})", where=str(path), hint="Correct the TOML.") from error
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise InputError(f"{name} is a bare number", where=str(path), hint="Give value, bounds, unit and source.")
    return table


def _validated(kind: type[Entry], name: str, entry: Raw, path: Path) -> Entry:
    try:
        return kind.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InputError(
            f"{' '.join(filter(None, (name, place)))}: {problem['msg']}",
            where=str(path),
            hint=_FIELDS if kind is Record else "",
        ) from error


def load_records(*paths: Path) -> dict[str, Record]:
    """Read tables of constants that may refer to each other.

    An entry with ``nodes`` in place of ``node`` and ``voltage`` stands for one constant per node, at the node's
    ``supply`` record; ``{node}`` in its name, source and parents is replaced. An entry with ``derived`` has no value;
    it is computed. Raises :class:`InputError`, naming the entry, for anything incomplete, double or circular.
    """
    entries: dict[str, tuple[Raw, Path]] = {}
    for path in paths:
        for key, entry in _table(path).items():
            for name, one in _expanded(key, entry, path):
                if name in entries:
                    raise InputError(
                        f"{name} is defined twice", where=str(path), hint="Remove or rename one of the entries."
                    )
                entries[name] = one, path
    found: dict[str, Record] = {}
    for name in entries:
        _resolve(name, entries, found, ())
    return {name: found[name] for name in entries}


def _expanded(key: str, entry: Raw, path: Path) -> Iterator[tuple[str, Raw]]:
    template = entry.get("name", key)
    if "nodes" not in entry:
        yield template, {field: value for field, value in entry.items() if field != "name"}
        return
    if {"node", "voltage"} & set(entry):
        raise InputError(f"{key} has both nodes and a node", where=str(path), hint="Keep one of them.")
    for node in entry["nodes"]:

        def fill(value: Any, node: str = node) -> Any:
            if isinstance(value, str):
                return value.replace("{node}", node)
            if isinstance(value, list):
                return [fill(one) for one in value]
            if isinstance(value, dict):
                return {fill(name): fill(one) for name, one in value.items()}
            return value

        one = {field: fill(value) for field, value in entry.items() if field not in ("name", "nodes")}
        yield fill(template), one | {"node": node}


def _resolve(
    name: str, entries: Mapping[str, tuple[Raw, Path]], found: dict[str, Record], asked: tuple[str, ...]
) -> Record:
    if name in found:
        return found[name]
    if name in asked:
        raise InputError(
            f"{name} is derived from itself",
            where=" from ".join((*asked, name)),
            hint="Give one of these entries a value.",
        )
    if name not in entries:
        raise InputError(
            f"{asked[-1]} names no energy record: {name!r}",
            where=str(entries[asked[-1]][1]),
            hint="Correct the name, or add the record with its source.",
        )
    entry, path = entries[name]
    asked = (*asked, name)
    if "voltage" not in entry and "supply_" + str(entry.get("node")) in entries:
        entry = entry | {"voltage": _resolve(f"supply_{entry['node']}", entries, found, asked).value}
    if "derived" in entry:
        if {"value", "low", "high"} & set(entry):
            raise InputError(
                f"{name} is derived and has a value of its own", where=str(path), hint="Keep the value or the rule."
            )
        # All fields but the figures are checked first, so that a missing field is named as in any entry.
        blank = _validated(Record, name, entry | {"value": 0.0, "low": 0.0, "high": 0.0}, path)
        assert blank.derived is not None
        parents = [_resolve(parent, entries, found, asked) for parent in blank.derived.parents]
        entry = entry | _derived(name, blank, blank.derived, parents, path)
    found[name] = _validated(Record, name, entry, path)
    return found[name]


def _derived(name: str, blank: Record, how: Derivation, parents: list[Record], path: Path) -> dict[str, float]:
    """Value and bounds in the unit of ``blank``."""
    base = [_UNITS.Quantity(1.0, parent.unit).to_base_units() for parent in parents]
    points = [
        Point(interval=parent.interval * float(unit.magnitude), node=parent.node, voltage=parent.voltage)
        for parent, unit in zip(parents, base, strict=True)
    ]
    result = base[0].units
    if how.rule == "product":
        result = _UNITS.Unit("dimensionless")
        for unit, exponent in zip(base, how.parents.values(), strict=True):
            result = result * unit.units**exponent
    try:
        if how.rule != "product" and any(unit.dimensionality != base[0].dimensionality for unit in base):
            raise ValueError(f"{how.rule} of records of different dimensions")
        figure = derive(how, points, blank.node, blank.voltage)
        factor = float(_UNITS.Quantity(1.0, result).to(blank.unit).magnitude)
    except (ValueError, pint.DimensionalityError) as error:
        raise InputError(
            f"{name} derived: {error}", where=str(path), hint="Correct the rule or its parents."
        ) from error
    return (figure * factor).to_json()


@cache
def records() -> Mapping[str, Record]:
    """The shipped constants."""
    return load_records(*sorted((_HERE / "constants").glob("*.toml")))


@cache
def devices() -> Mapping[str, Device]:
    """The shipped GPUs. Raises :class:`InputError` for one that names no record."""
    path = _HERE / "devices.toml"
    table = {name: _validated(Device, name, entry, path) for name, entry in _table(path).items()}
    for name, device in table.items():
        for record in (device.flop, device.memory):
            if record not in records():
                raise InputError(
                    f"{name} names no energy record: {record!r}",
                    where="devices.toml",
                    hint="Correct the name, or add the record with its source.",
                )
    return table


def find_record(name: str) -> Record:
    """A shipped constant. Raises :class:`InputError` for an unknown name."""
    table = records()
    if name not in table:
        raise InputError(f"no energy record {name!r}", where="constants", hint="Add it with its source.")
    return table[name]


@cache
def constant(name: str, unit: str) -> Interval:
    """A shipped constant in ``unit``. Raises :class:`InputError` for an unknown name."""
    return find_record(name).to(unit)


def lineage(name: str) -> tuple[str, ...]:
    """``name`` and every record that it is derived from, parents after children. Raises as :func:`find_record`."""
    seen = [name]
    for one in seen:
        how = find_record(one).derived
        seen += [parent for parent in (how.parents if how else ()) if parent not in seen]
    return tuple(seen)


@cache
def nodes() -> tuple[str, ...]:
    """Process nodes with a MAC record, at which the accelerator can be accounted; smallest first."""
    found = {record.node for name, record in records().items() if name == f"mac_int8_{record.node}"}
    return tuple(sorted(found, key=feature_nm))
