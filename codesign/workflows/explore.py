"""Design space exploration: one network on many machines, each with its own best plan, time, energy and size.

Machines are columns of numbers. Those that differ only in scratchpad, clock and DRAM are a *family*: the
properties a family shares (mapping of layers to the array, possible cascades, load of the engines) are computed once,
and the rest is arithmetic on arrays. The cycles are the planner's estimate, within ``ESTIMATE_BOUND`` of the cycle
model (``tests/codesign/test_explore.py``).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.candidates import Candidates, Choice, all_candidates, candidates_of, plan_of
from codesign.compile.scanline.plan.cascade import Plan
from codesign.compile.scanline.plan.planner import Geometry
from codesign.energy.account import Evidence, event_rates
from codesign.hw.errors import InputError, SpecError, UnsupportedError
from codesign.hw.spec import AccelSpec
from codesign.workflows.csv_text import csv_text

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ESTIMATE_BOUND = 0.03
"""Largest relative difference of a machine's cycles here from the cycle model's."""

FREE = ("scratchpad_bytes", "clock_hz", "dram_bytes_per_cycle")
"""Fields in which machines of a family may differ."""

_FIELDS = {field.name: field.type for field in dataclasses.fields(AccelSpec) if field.name != "name"}


@dataclass(frozen=True)
class Machines:
    """Variants of ``like`` given by columns: fields of the specification, and ``dram_bytes_per_cycle``."""

    like: AccelSpec
    columns: Mapping[str, NDArray[np.generic]]

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in _FIELDS and name != "dram_bytes_per_cycle":
                raise InputError(
                    f"unknown field {name!r}", where="--vary", hint=f"Choose one of {', '.join((*_FIELDS, FREE[-1]))}."
                )
        if len({len(column) for column in self.columns.values()}) > 1:
            raise InputError(
                "columns of different lengths", where="machines", hint="Give each column one value per machine."
            )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 1

    def column(self, name: str) -> NDArray[np.generic]:
        """One value per machine. Without a column of its own, the DRAM is as fast as the bus."""
        if name in self.columns:
            return self.columns[name]
        if name == "dram_bytes_per_cycle":
            return self.column("bus_bytes").astype(np.float64)
        return np.full(len(self), getattr(self.like, name))

    def spec(self, index: int) -> AccelSpec:
        """One machine's specification. Raises :class:`SpecError` for an inconsistent one."""
        values = {name: column[index].item() for name, column in self.columns.items() if name in _FIELDS}
        values = {name: int(value) if _FIELDS[name] == "int" else float(value) for name, value in values.items()}
        return dataclasses.replace(self.like, name=f"{self.like.name}-{index}", **values)


def product(like: AccelSpec, choices: Mapping[str, Sequence[float]]) -> Machines:
    """Every combination of the values."""
    rows = np.array(list(itertools.product(*choices.values())), np.float64).reshape(-1, len(choices))
    return Machines(like, {name: _typed(name, rows[:, k]) for k, name in enumerate(choices)})


def _typed(name: str, values: Floats) -> NDArray[np.generic]:
    return np.rint(values).astype(np.int64) if _FIELDS.get(name) == "int" else values


@dataclass(frozen=True)
class Exploration:
    """Figures of all machines, one value each. Where no plan fits, ``cycles`` is infinite."""

    network: str
    macs: int
    machines: Machines
    cycles: Floats
    seconds: Floats
    dram_bytes: Floats
    utilization: Floats
    system_j: Floats
    system_j_low: Floats
    system_j_high: Floats
    on_chip_bytes: Ints
    families: tuple[Family, ...] = field(repr=False)

    def plan(self, index: int) -> Plan:
        """The plan that machine ``index`` was priced with. Raises :class:`InputError` where there is none."""
        for family in self.families:
            if index in family.where:
                return family.plan(index, self.machines)
        raise InputError(
            f"no plan fits machine {index}", where=self.network, hint="Choose a machine with finite cycles."
        )

    def pareto(self) -> Ints:
        """Indices of the machines that no other beats in time, energy and on-chip memory at once, fastest first."""
        feasible = np.flatnonzero(np.isfinite(self.cycles))
        goals = np.stack([self.seconds, self.system_j, self.on_chip_bytes.astype(np.float64)], axis=1)[feasible]
        return feasible[pareto_front(goals)]


@dataclass(frozen=True)
class Family:
    """Machines that differ only in the fields of FREE."""

    spec: AccelSpec
    where: Ints  # their indices
    candidates: tuple[Candidates, ...]
    choices: tuple[Choice, ...]
    best: Ints  # index of the best candidate for each machine

    def plan(self, index: int, machines: Machines) -> Plan:
        at = int(np.flatnonzero(self.where == index)[0])
        chosen = int(self.best[at])
        rate = float(machines.column("dram_bytes_per_cycle")[index])
        return plan_of(self.candidates[chosen], machines.spec(index), self.choices[chosen].cascades[at], rate)


def explore(graph: LayerGraph, machines: Machines, *, keep: Plan | None = None) -> Exploration:
    """Evaluate ``graph`` on every machine, each with the cheapest plan, or with the cascades and strips of ``keep``.

    Machines whose specification is inconsistent, or on which no plan fits, have infinite cycles.
    """
    count = len(machines)
    columns = {name: np.full(count, np.inf) for name in ("cycles", "dram_bytes", "value", "low", "high")}
    families = []
    geometry = Geometry()
    for spec, where in _families(machines):
        scratchpad = machines.column("scratchpad_bytes").astype(np.int64)[where]
        rates = machines.column("dram_bytes_per_cycle").astype(np.float64)[where]
        try:
            found = (
                all_candidates(spec, graph, int(scratchpad.min()), int(scratchpad.max()), geometry)
                if keep is None
                else [candidates_of(keep, spec)]
            )
        except UnsupportedError:
            continue
        choices = tuple(one.choose(scratchpad, np.minimum(rates, spec.bus_bytes)) for one in found)
        prices = np.stack([choice.price for choice in choices])
        best = np.argmin(prices, axis=0)
        every = np.arange(len(where))
        fits = np.isfinite(prices[best, every])
        if not np.any(fits):
            continue
        family = Family(spec, where[fits], tuple(found), _only(choices, fits), best[fits])
        families.append(family)
        at, every = family.where, np.arange(len(family.where))
        columns["cycles"][at] = np.stack([choice.cycles for choice in family.choices])[family.best, every]
        events = {
            name: np.stack([choice.events[name] for choice in family.choices])[family.best, every]
            for name in family.choices[0].events
        }
        columns["dram_bytes"][at] = events["dram_bytes"]
        clock = machines.column("clock_hz").astype(np.float64)[at]
        joules = _joules(spec, machines.column("scratchpad_bytes")[at], events, columns["cycles"][at] / clock)
        for bound in ("value", "low", "high"):
            columns[bound][at] = joules[bound]
    clock = machines.column("clock_hz").astype(np.float64)
    array = np.prod([machines.column(name).astype(np.float64) for name in ("pixel_lanes", "ci_lanes", "co_lanes")], 0)
    return Exploration(
        network=graph.name,
        macs=graph.macs,
        machines=machines,
        cycles=columns["cycles"],
        seconds=columns["cycles"] / clock,
        dram_bytes=columns["dram_bytes"],
        utilization=graph.macs / (columns["cycles"] * array),
        system_j=columns["value"],
        system_j_low=columns["low"],
        system_j_high=columns["high"],
        on_chip_bytes=_on_chip_bytes(machines, families),
        families=tuple(families),
    )


def _families(machines: Machines) -> Iterator[tuple[AccelSpec, Ints]]:
    """Each family's common specification, with the largest of its scratchpads, and its machines' indices."""
    shared = [name for name in machines.columns if name not in FREE]
    scratchpad = machines.column("scratchpad_bytes").astype(np.int64)
    if shared:
        table = np.stack([machines.columns[name].astype(np.float64) for name in shared], axis=1)
        _, first, of = np.unique(table, axis=0, return_index=True, return_inverse=True)
        groups = [np.flatnonzero(of == number) for number in range(len(first))]
    else:
        groups = [np.arange(len(machines))]
    for where in groups:
        try:
            spec = machines.spec(int(where[np.argmax(scratchpad[where])]))
        except SpecError:
            continue
        word = spec.banks * spec.ci_lanes
        where = where[(scratchpad[where] % word == 0) & (scratchpad[where] >= 2 * word)]
        if len(where):
            yield dataclasses.replace(spec, name=machines.like.name), where


def _only(choices: tuple[Choice, ...], fits: NDArray[np.bool_]) -> tuple[Choice, ...]:
    return tuple(
        Choice(
            choice.cycles[fits],
            choice.price[fits],
            {name: values[fits] for name, values in choice.events.items()},
            choice.cascades[fits],
        )
        for choice in choices
    )


_COUNTED = {
    "busy": ("busy_cycles", "weight_read_words"),
    "dram_bytes": ("dram_load_read_bytes",),
    "read_words": ("scratchpad_read_words",),
    "write_words": ("scratchpad_write_words",),
    "values": ("requantised_values",),
}
"""Counters of the energy account represented by each estimated event, beside MACs. Weights and writes are charged as
loads: apart from DRAM they cost little."""


def _joules(
    spec: AccelSpec, scratchpad: NDArray[np.generic], events: dict[str, Floats], seconds: Floats
) -> dict[str, Floats]:
    """The system's energy by bound, from the account's rates per event; of the free fields only the scratchpad's size
    changes the rates."""
    found = {bound: np.empty(len(seconds)) for bound in ("value", "low", "high")}
    sizes, of = np.unique(scratchpad.astype(np.int64), return_inverse=True)
    for number, size in enumerate(sizes.tolist()):
        at = np.flatnonzero(of == number)
        rates = event_rates(dataclasses.replace(spec, scratchpad_bytes=size))
        for bound, joules in found.items():
            per = {name: getattr(rate, bound) for name, rate in rates.items()}
            total = per["cycles"] * spec.clock_hz * seconds[at]
            total = total + per["macs_issued"] * spec.macs_per_cycle * events["busy"][at]
            for event, counters in _COUNTED.items():
                total = total + sum(per[name] for name in counters) * events[event][at]
            joules[at] = total
    return found


def _on_chip_bytes(machines: Machines, families: Sequence[Family]) -> Ints:
    """Bytes of all RAMs and buffers; 0 for machines without a plan."""
    found = np.zeros(len(machines), np.int64)
    for family in families:
        rest = sum(family.spec.on_chip_bytes().values()) - family.spec.scratchpad_bytes
        found[family.where] = machines.column("scratchpad_bytes").astype(np.int64)[family.where] + rest
    return found


def pareto_front(goals: Floats) -> Ints:
    """Indices of the rows of ``goals`` (less is better) that no other row beats in every column, by the first column.

    Of equal rows the first is kept.
    """
    order = np.lexsort(goals.T[::-1])
    kept: list[int] = []
    front = np.empty((0, goals.shape[1]))
    for index in order.tolist():
        row = goals[index]
        if len(front) and bool(np.any(np.all(front <= row, axis=1))):
            continue
        kept.append(index)
        front = np.vstack([front, row])
    return np.array(kept, np.int64)


def parse_choices(texts: Sequence[str]) -> dict[str, list[float]]:
    """``["pixel_lanes=8,16", "scratchpad_bytes=64Ki:1Mi:16"]`` as values by field.

    ``LOW:HIGH:COUNT`` is evenly spaced; ``Ki`` and ``Mi`` are 1024 and 1024^2. Raises :class:`InputError`.
    """
    found: dict[str, list[float]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        try:
            if not equals:
                raise ValueError
            if values.count(":") == 2:
                low, high, count = values.split(":")
                found[name.strip()] = np.linspace(_number(low), _number(high), int(count)).tolist()
            else:
                found[name.strip()] = [_number(value) for value in values.split(",")]
        except ValueError:
            raise InputError(
                f"{text!r} is not a range", where="--vary", hint="Write FIELD=A,B,C or FIELD=LOW:HIGH:COUNT."
            ) from None
    return found


def _number(text: str) -> float:
    factor = {"Ki": 1024, "Mi": 1024**2}.get(text.strip()[-2:], 1)
    value = float(text.strip().removesuffix("Ki").removesuffix("Mi")) * factor
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def to_json(found: Exploration) -> dict[str, Any]:
    """The machines of the Pareto front with their figures."""
    return {
        "network": found.network,
        "macs": found.macs,
        "machines": len(found.machines),
        "feasible": int(np.isfinite(found.cycles).sum()),
        "evidence": Evidence.MODEL.value,
        "cycles_within": ESTIMATE_BOUND,
        "front": [_row(found, index) for index in found.pareto().tolist()],
    }


def to_csv(found: Exploration) -> str:
    """Every machine that has a plan, one a line."""
    return csv_text([_row(found, index) for index in np.flatnonzero(np.isfinite(found.cycles)).tolist()])


def _row(found: Exploration, index: int) -> dict[str, float]:
    return {
        **{name: column[index].item() for name, column in found.machines.columns.items()},
        "cycles": round(float(found.cycles[index])),
        "fps": 1.0 / float(found.seconds[index]),
        "system_j": float(found.system_j[index]),
        "system_j_low": float(found.system_j_low[index]),
        "system_j_high": float(found.system_j_high[index]),
        "dram_bytes": round(float(found.dram_bytes[index])),
        "on_chip_bytes": int(found.on_chip_bytes[index]),
        "utilization": float(found.utilization[index]),
    }
