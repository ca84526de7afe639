"""Standard cells from a Liberty file: functions, capacitances, internal energies, leakage, area.

Only the parts needed for power are read: groups, attributes and tables of the non-linear delay model. Timing, bundles,
scan cells and voltage maps are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.sim.silicon.functions import function_of

_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|\\\r?\n|\s+|"((?:[^"\\]|\\.)*)"|([{}();:,])|([^\s{}();:,"]+)', re.DOTALL)


@dataclass(frozen=True)
class Group:
    """One group of the file: ``kind (arguments) { attributes, groups }``."""

    kind: str
    arguments: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    """Values by name: one for ``name : value;``, several for ``name (a, b);``."""
    groups: tuple[Group, ...]

    def of(self, kind: str) -> Iterator[Group]:
        return (group for group in self.groups if group.kind == kind)

    def text(self, name: str, default: str = "") -> str:
        return self.attributes.get(name, (default,))[0]

    def number(self, name: str, default: float = 0.0) -> float:
        """A number. Raises :class:`InputError` for text."""
        text = self.text(name)
        try:
            return float(text) if text else default
        except ValueError:
            raise InputError(f"{name} is not a number: {text!r}", where=f"Liberty, {self.kind}") from None


@dataclass(frozen=True)
class Table:
    """Energy of a transition by input slew and load; either may be missing. Linear between points, constant beyond
    them."""

    slews_ns: NDArray[np.float64]
    loads_pf: NDArray[np.float64]
    joules: NDArray[np.float64]  # [slews, loads]

    def at(self, slew_ns: float, load_pf: float) -> float:
        by_load = [float(np.interp(load_pf, self.loads_pf, row)) for row in self.joules]
        return float(np.interp(slew_ns, self.slews_ns, by_load))


@dataclass(frozen=True)
class Pin:
    name: str
    is_output: bool
    capacitance_pf: float
    function: str  # function of an output over input pins and the state
    is_clock: bool
    rise: tuple[Table, ...]
    """Internal energy of a rising transition, one table per related pin or condition; ``fall`` alike."""
    fall: tuple[Table, ...]

    def internal_j(self, slew_ns: float, load_pf: float) -> float:
        """Mean internal energy of one transition, over directions, related pins and conditions."""
        found = [
            np.mean([table.at(slew_ns, load_pf) for table in tables]) for tables in (self.rise, self.fall) if tables
        ]
        return float(np.mean(found)) if found else 0.0


@dataclass(frozen=True)
class FlipFlop:
    """The state of an edge-triggered cell, expressions over its pins."""

    state: str
    inverse: str
    next_state: str
    clocked_on: str
    clear: str
    preset: str


@dataclass(frozen=True)
class Cell:
    name: str
    area: float  # in the library's unit, usually um2
    leakage_w: float
    pins: Mapping[str, Pin]
    flip_flop: FlipFlop | None


@dataclass(frozen=True)
class Library:
    name: str
    voltage: float
    cells: Mapping[str, Cell] = field(repr=False)

    @property
    def nand2(self) -> Cell:
        """The smallest NAND of two inputs: the gate equivalent. Raises :class:`InputError` when there is none."""
        found = [cell for cell in self.cells.values() if cell.area > 0 and _is_nand2(cell)]
        if not found:
            raise InputError(
                "has no NAND of two inputs",
                where=f"Liberty library {self.name}",
                hint="Give a library with a two-input NAND, the gate equivalent.",
            )
        return min(found, key=lambda cell: cell.area)


def read_liberty(path: Path) -> Library:
    """Read a library. Raises :class:`InputError`, naming the file, for any other file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(path), hint="Check the path.") from error
    try:
        top = parse(text)
        if top.kind != "library":
            raise InputError(f"begins with {top.kind!r}")
        return _library(top)
    except InputError as error:
        raise InputError(
            f"is not a Liberty library ({error})",
            where=str(path),
            hint="Give a standard-cell library in Liberty's format.",
        ) from error


def parse(text: str) -> Group:
    """The outermost group. Raises :class:`InputError` if the text does not follow the format."""
    tokens: list[tuple[str, bool]] = []  # text, and whether it was quoted
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise InputError(f"unexpected {text[at : at + 20]!r}")
        at = match.end()
        quoted, mark, word = match.groups()
        if quoted is not None:
            tokens.append((re.sub(r"\\\s*\n\s*", " ", quoted), True))
        elif mark or word:
            tokens.append((mark or word, False))
    group, end = _group(tokens, 0)
    if end != len(tokens):
        raise InputError(f"{tokens[end][0]!r} follows the library")
    return group


_Tokens = list[tuple[str, bool]]


def _token(tokens: _Tokens, at: int) -> str:
    if at >= len(tokens):
        raise InputError("ends in the middle")
    return "" if tokens[at][1] else tokens[at][0]


def _group(tokens: _Tokens, at: int) -> tuple[Group, int]:
    kind = _token(tokens, at)
    arguments, at = _arguments(tokens, at + 1)
    if _token(tokens, at) != "{":
        raise InputError(f"{kind} has no body")
    at += 1
    attributes: dict[str, tuple[str, ...]] = {}
    groups: list[Group] = []
    while (token := _token(tokens, at)) != "}":
        if token == ";":
            at += 1
        elif _token(tokens, at + 1) == ":":
            value: list[str] = []
            at += 2
            # An expression may run over several words; a line without its semicolon ends at the brace.
            while _token(tokens, at) not in (";", "}") and not (value and _token(tokens, at + 1) in (":", "(")):
                value.append(tokens[at][0])
                at += 1
            attributes[token] = (" ".join(value),)
        else:
            found, after = _arguments(tokens, at + 1)
            if _token(tokens, after) == "{":
                group, at = _group(tokens, at)
                groups.append(group)
            else:
                attributes[token], at = found, after
    return Group(kind, arguments, attributes, tuple(groups)), at + 1


def _arguments(tokens: _Tokens, at: int) -> tuple[tuple[str, ...], int]:
    if _token(tokens, at) != "(":
        raise InputError(f"{_token(tokens, at - 1) or 'text'!r} is neither attribute nor group")
    found, at = [], at + 1
    while tokens[at : at + 1] and _token(tokens, at) != ")":
        if _token(tokens, at) != ",":
            found.append(tokens[at][0])
        at += 1
    _token(tokens, at)
    return tuple(found), at + 1


# From groups to cells. Energies are in the units of load and voltage, leakage in a unit of its own.

_SCALES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}


@dataclass(frozen=True)
class _Units:
    pf: float  # unit of capacitance
    ns: float  # unit of time
    watts: float  # unit of leakage
    joules: float  # unit of internal energy


def _scale(text: str, unit: str) -> float:
    match = re.fullmatch(rf"\s*([\d.]+)?\s*([fpnumk]?){unit}\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{text!r} is not a unit of {unit}")
    return float(match[1] or 1.0) * _SCALES[match[2].lower()]


def _units(top: Group) -> _Units:
    amount, prefix = (*top.attributes.get("capacitive_load_unit", ("1", "pf")), "pf")[:2]
    farads = float(amount) * _scale(prefix, "f")
    volts = _scale(top.text("voltage_unit", "1V"), "V")
    return _Units(
        pf=farads / 1e-12,
        ns=_scale(top.text("time_unit", "1ns"), "s") / 1e-9,
        watts=_scale(top.text("leakage_power_unit", "1nW"), "W"),
        joules=farads * volts**2,
    )


def _library(top: Group) -> Library:
    units = _units(top)
    templates = {
        group.arguments[0]: group for kind in ("power_lut_template", "lu_table_template") for group in top.of(kind)
    }
    cells = {group.arguments[0]: _cell(group, units, templates, top) for group in top.of("cell")}
    if not cells:
        raise InputError("has no cells")
    name = top.arguments[0] if top.arguments else "?"
    return Library(name, top.number("nom_voltage", 1.0), cells)


def _cell(group: Group, units: _Units, templates: Mapping[str, Group], top: Group) -> Cell:
    pins = {name: _pin(name, pin, units, templates) for pin in group.of("pin") for name in pin.arguments}
    leakage = group.text("cell_leakage_power") or top.text("default_cell_leakage_power", "0")
    stored = next(group.of("ff"), None)
    flip_flop = None
    if stored is not None:
        state, inverse = (*stored.arguments, "", "")[:2]
        flip_flop = FlipFlop(
            state, inverse, *(stored.text(name) for name in ("next_state", "clocked_on", "clear", "preset"))
        )
    return Cell(group.arguments[0], group.number("area"), float(leakage) * units.watts, pins, flip_flop)


def _pin(name: str, group: Group, units: _Units, templates: Mapping[str, Group]) -> Pin:
    rise: list[Table] = []
    fall: list[Table] = []
    for power in group.of("internal_power"):
        for kinds, into in ((("rise_power", "power"), rise), (("fall_power", "power"), fall)):
            into += [_table(table, units, templates) for kind in kinds for table in power.of(kind)]
    return Pin(
        name,
        group.text("direction") == "output",
        group.number("capacitance") * units.pf,
        group.text("function"),
        group.text("clock") == "true",
        tuple(rise),
        tuple(fall),
    )


def _numbers(texts: Sequence[str]) -> list[float]:
    return [float(number) for text in texts for number in re.split(r"[,\s]+", text.strip()) if number]


def _table(group: Group, units: _Units, templates: Mapping[str, Group]) -> Table:
    template = templates.get(group.arguments[0]) if group.arguments else None
    axes: dict[str, NDArray[np.float64]] = {}
    order: list[str] = []
    for number in ("1", "2"):
        variable = template.text(f"variable_{number}") if template is not None else ""
        points = group.attributes.get(f"index_{number}") or (
            template.attributes.get(f"index_{number}") if template else None
        )
        if points:
            kind = "load" if "capacitance" in variable else "slew"
            axes[kind] = np.array(_numbers(points)) * (units.pf if kind == "load" else units.ns)
            order.append(kind)
    values = np.array(_numbers(group.attributes.get("values", ("0",)))) * units.joules
    values = values.reshape([len(axes[kind]) for kind in order] or [1])
    if order == ["load", "slew"]:
        values = values.T
    single = np.zeros(1)
    shape = (len(axes.get("slew", single)), len(axes.get("load", single)))
    return Table(axes.get("slew", single), axes.get("load", single), values.reshape(shape))


def _is_nand2(cell: Cell) -> bool:
    inputs = [pin.name for pin in cell.pins.values() if not pin.is_output]
    outputs = [pin for pin in cell.pins.values() if pin.is_output and pin.function]
    if len(inputs) != 2 or len(outputs) != 1 or cell.flip_flop is not None:
        return False
    function = function_of(outputs[0].function)
    return all(
        function.value(dict(zip(inputs, values, strict=True))) is not (values[0] and values[1])
        for values in ((False, False), (False, True), (True, False), (True, True))
    )
