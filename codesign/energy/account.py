"""Joules of one frame: event counts times energy per event, plus leakage x time, DRAM, its interface, the regulator.

Each component names the records and the counters it was computed from. Refresh and background power of the DRAM are in
its energy per bit, so a nearly idle DRAM is charged too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TypeVar

from codesign.energy.area import cell_area_mm2, gate_records
from codesign.energy.costs import Cost, Engine, Level, Operation, dynamic_costs, ratio, share_costs
from codesign.energy.interval import Interval, total
from codesign.energy.records import constant, find_record
from codesign.hw.counters import Counters, LayerCounters
from codesign.hw.errors import InputError
from codesign.hw.spec import AccelSpec

DRAM_NAMES = {
    "dram_lpddr4": "LPDDR4",
    "dram_lpddr4x": "LPDDR4X",
    "dram_lpddr5": "LPDDR5",
    "dram_ddr4": "DDR4",
    "dram_gddr6": "GDDR6",
    "dram_hbm2": "HBM2",
    "dram_hbm2e": "HBM2E",
    "dram_hbm3": "HBM3",
}
"""Records of memories that the accelerator can have, with their common names. Each has a ``phy_`` record too."""

DRAMS = tuple(DRAM_NAMES)
"""The records of :data:`DRAM_NAMES`; the first is the default."""

DRAM_COUNTERS = (
    "dram_command_read_bytes",
    "dram_weight_read_bytes",
    "dram_load_read_bytes",
    "dram_gather_read_bytes",
    "dram_write_bytes",
)

_Key = TypeVar("_Key")


class Evidence(StrEnum):
    """Origin of a figure, the strongest last.

    ``modelled``: the cycle model, or published constants. ``rtl-measured``: counted by the RTL in simulation.
    ``netlist-measured``: from a synthesised netlist. ``recorded-on-hardware``: measured on the device itself.
    """

    MODEL = "modelled"
    RTL = "rtl-measured"
    NETLIST = "netlist-measured"
    HARDWARE = "recorded-on-hardware"


@dataclass(frozen=True)
class Component:
    """A part of the account.

    ``records`` are the constants and ``counters`` the events that it was computed from; a share includes those of its
    components. ``on_chip`` leaves out DRAM, its interface and the regulator.
    """

    name: str
    joules: Interval
    records: tuple[str, ...]
    on_chip: bool
    counters: tuple[str, ...] = ()
    engine: Engine = Engine.SHARED
    level: Level = Level.ALL


@dataclass(frozen=True)
class EnergyAccount:
    """One frame's energy. ``system_j`` adds DRAM, its interface and regulator losses to the chip.

    The joules are ``modelled`` whatever counted the events, because the constants are.
    """

    components: tuple[Component, ...]
    seconds: float
    node: str
    dram: str
    counters: Counters
    spec: AccelSpec
    volts: float | None = None
    """Supply of the chip; None: every record at its own supply."""

    @property
    def dram_bits(self) -> int:
        return 8 * (self.counters.dram_read_bytes + self.counters.dram_write_bytes)

    @property
    def chip_j(self) -> Interval:
        return total(part.joules for part in self.components if part.on_chip)

    @property
    def system_j(self) -> Interval:
        return total(part.joules for part in self.components)

    @property
    def watts(self) -> Interval:
        """Mean power of the system while it computes frames back to back."""
        return self.system_j / self.seconds

    @property
    def by_engine(self) -> dict[Engine, Interval]:
        """Joules on the chip per engine; leakage and the scratchpad's ports are shared."""
        return _grouped((part.engine, part.joules) for part in self.components if part.on_chip)

    @property
    def by_level(self) -> dict[Level, Interval]:
        """Joules per level of the memory hierarchy, DRAM with its interface; regulator losses apart."""
        return _grouped((part.level, part.joules) for part in self.components if part.name != "regulator loss")

    @property
    def costly_dram_j(self) -> float:
        """The system's central value if DRAM took 20 pJ per bit (the record ``dram_sensitivity``)."""
        dram_j = constant("dram_sensitivity", "J").value * self.dram_bits
        return (self.chip_j.value + dram_j) / ratio("regulator_efficiency").value

    def at(self, node: str) -> EnergyAccount:
        """The same events in the same time at another node, DRAM unchanged, every record at its own supply."""
        return account(self.counters, self.spec, node=node, dram=self.dram, seconds=self.seconds)

    @property
    def at_7nm_j(self) -> Interval:
        """The system with its chip at 7 nm and its DRAM unchanged."""
        return self.at("7nm").system_j

    @property
    def records(self) -> tuple[str, ...]:
        """Names of all constants used."""
        return tuple(sorted({name for part in self.components for name in part.records}))


def account(
    counters: Counters,
    spec: AccelSpec,
    *,
    node: str = "28nm",
    dram: str = DRAMS[0],
    seconds: float | None = None,
    volts: float | None = None,
    operand_bits: int = 8,
    celsius: int = 85,
) -> EnergyAccount:
    """The energy of the counted frame. ``seconds`` defaults to cycles over the specification's clock.

    ``volts``: the chip's supply; dynamic energy and leakage scale with its square from each record's own. ``celsius``:
    85, or 25. Raises :class:`InputError` for a node without records (nothing is scaled silently), an unknown DRAM, a
    memory outside the table's sizes, and a frame of zero cycles.
    """
    at = Operation(node, volts, operand_bits, celsius)
    _known_dram(dram)
    time = counters.cycles / spec.clock_hz if seconds is None else seconds
    if not time > 0.0:
        raise InputError(f"a frame cannot take {time} s", where="energy", hint="Run a frame first.")
    parts = _switching(counters, dynamic_costs(spec, at))
    leakage_w, used = leakage(spec, at)
    parts.append(Component("leakage", leakage_w * time, used, True, ("cycles",)))
    bits = 8 * (counters.dram_read_bytes + counters.dram_write_bytes)
    for name, record in (("DRAM", dram), ("PHY and controller", _phy(dram))):
        joules = constant(record, "J") * bits
        parts.append(Component(name, joules, (record,), False, DRAM_COUNTERS, Engine.SHARED, Level.DRAM))
    delivered = total(part.joules for part in parts)
    loss = delivered * _regulator_loss()
    used = _merged(("regulator_efficiency",), tuple(name for part in parts for name in part.records))
    parts.append(Component("regulator loss", loss, used, False, _counters(parts)))
    return EnergyAccount(tuple(parts), time, node, dram, counters, spec, volts)


def layer_components(
    layer: LayerCounters, spec: AccelSpec, *, node: str = "28nm", volts: float | None = None
) -> tuple[Component, ...]:
    """Dynamic energy on the chip for one layer, with its control and clock; no leakage, no DRAM.

    Accesses of the engines that load and store tensors belong to no layer. Raises as :func:`account`.
    """
    nothing = dict.fromkeys((field.name for field in fields(Counters)), 0)
    counters = Counters(
        **nothing
        | {
            "busy_cycles": layer.busy_cycles,
            "macs_issued": layer.busy_cycles * spec.macs_per_cycle,
            "weight_read_words": layer.busy_cycles,
            "scratchpad_read_words": layer.scratchpad_read_words,
            "scratchpad_write_words": layer.scratchpad_write_words,
            "requantised_values": layer.requantised_values,
        }
    )
    return tuple(_switching(counters, dynamic_costs(spec, Operation(node, volts))))


def layer_energy(layer: LayerCounters, spec: AccelSpec, *, node: str = "28nm") -> Interval:
    """The sum of :func:`layer_components`."""
    return total(part.joules for part in layer_components(layer, spec, node=node))


def by_layer(bill: EnergyAccount, layers: Sequence[LayerCounters]) -> dict[str, Interval]:
    """The whole system's joules by layer's name, in order; they add up to ``bill.system_j``.

    Leakage is divided by busy cycles. The last entry, ``load and store``, has the memory, its interface, the engines
    that move tensors, and the leakage of cycles in which the array was idle; every entry includes its regulator loss.
    """
    leakage_j = next(part.joules for part in bill.components if part.name == "leakage")
    loss = Interval.exact(1.0) + _regulator_loss()
    found: dict[str, Interval] = {}
    for layer in layers:
        share = layer.busy_cycles / bill.counters.cycles
        parts = layer_components(layer, bill.spec, node=bill.node, volts=bill.volts)
        joules = (total(part.joules for part in parts) + leakage_j * share) * loss
        found[layer.name] = found.get(layer.name, Interval.exact(0.0)) + joules
    given = total(found.values())
    rest = (max(0.0, whole - part) for whole, part in zip(_bounds(bill.system_j), _bounds(given), strict=True))
    value, low, high = rest
    found["load and store"] = Interval(value, min(low, value), max(high, value))
    return found


def event_rates(
    spec: AccelSpec, *, node: str = "28nm", dram: str = DRAMS[0], volts: float | None = None
) -> dict[str, Interval]:
    """The account as a linear form: system joules per count of each counter, leakage per cycle at the clock.

    ``sum(rates[name] * getattr(counters, name))`` is ``account(counters, spec, ...).system_j``; a search over many
    frames or machines evaluates it for all at once. Raises as :func:`account`.
    """
    at = Operation(node, volts)
    _known_dram(dram)
    costs = dynamic_costs(spec, at)
    delivered = _grouped((cost.counter, cost.joules) for cost in (*costs, *share_costs(costs)))
    bit = constant(dram, "J") + constant(_phy(dram), "J")
    for counter in DRAM_COUNTERS:
        delivered[counter] = delivered.get(counter, Interval.exact(0.0)) + bit * 8.0
    delivered["cycles"] = leakage(spec, at)[0] / spec.clock_hz
    loss = Interval.exact(1.0) + _regulator_loss()
    return {counter: joules * loss for counter, joules in delivered.items()}


def leakage(spec: AccelSpec, at: Operation) -> tuple[Interval, tuple[str, ...]]:
    """Leakage in watts, and its records."""
    sram, logic, cell = f"leakage_sram_{at.node}", f"leakage_logic_{at.node}", f"gate_area_{at.node}"
    memory_w = constant(sram, "W") * (8.0 * sum(spec.on_chip_bytes().values())) * at.scale(find_record(sram).voltage)
    logic_w = cell_area_mm2(spec, at.node) * constant(logic, "W/mm**2") * at.scale(find_record(logic).voltage)
    watts, used = memory_w + logic_w, (sram, logic, cell, *gate_records(spec))
    cooler = "leakage_25c_over_85c"
    return (watts, used) if at.celsius == 85 else (watts * ratio(cooler), (*used, cooler))


def _switching(counters: Counters, costs: tuple[Cost, ...]) -> list[Component]:
    """Dynamic components, in the order of their costs."""
    parts: dict[str, Component] = {}
    for cost in (*costs, *share_costs(costs)):
        count = getattr(counters, cost.counter)
        used = cost.records if count else ()  # events that did not happen cite no records
        one = Component(
            cost.component, cost.joules * float(count), used, True, (cost.counter,), cost.engine, cost.level
        )
        if (before := parts.get(cost.component)) is not None:
            one = replace(
                one,
                joules=before.joules + one.joules,
                records=_merged(before.records, one.records),
                counters=_merged(before.counters, one.counters),
            )
        parts[cost.component] = one
    return list(parts.values())


def _merged(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _counters(parts: Iterable[Component]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part.counters))


def _grouped(parts: Iterable[tuple[_Key, Interval]]) -> dict[_Key, Interval]:
    found: dict[_Key, Interval] = {}
    for key, joules in parts:
        found[key] = found.get(key, Interval.exact(0.0)) + joules
    return found


def _bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _phy(dram: str) -> str:
    return dram.replace("dram_", "phy_")


def _known_dram(dram: str) -> None:
    if dram not in DRAMS:
        raise InputError(f"unknown DRAM {dram!r}", where="energy", hint=f"Choose one of {', '.join(DRAMS)}.")


def _regulator_loss() -> Interval:
    """Regulator loss per joule delivered: 1 / efficiency - 1; the best efficiency gives the low bound."""
    efficiency = ratio("regulator_efficiency")
    return Interval(1.0 / efficiency.value - 1.0, 1.0 / efficiency.high - 1.0, 1.0 / efficiency.low - 1.0)
