"""Joules of one frame: events counted, times energy per event, plus leakage x time, DRAM and regulator.

Each component names the records it used; no number that is not a record enters, but sizes from the specification.
What is not counted apart (the parameter, look-up and command memories, the FIFOs, the bus) lies within the share of
control and clock. Refresh and background power of the DRAM are in its energy per bit, so a nearly idle DRAM is
charged too little.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from codesign.energy.interval import Interval, total
from codesign.energy.records import constant, memory_read_j_per_byte, nodes, records
from codesign.hw.counters import Counters, LayerCounters
from codesign.hw.errors import InputError
from codesign.hw.spec import STEP_BYTES, AccelSpec

DRAMS = ("dram_lpddr4", "dram_lpddr5")
"""Records that may stand for the accelerator's memory; the first is the default."""

WEIGHT_MACRO_BYTES = 8
"""Width of the macros that the weight memory is built of, side by side: as wide as the SRAM records' small ports."""


class Evidence(StrEnum):
    """Where a figure comes from, strongest last.

    ``modelled``: the cycle model, or published constants. ``rtl-measured``: counted by the RTL in simulation.
    ``netlist-measured``: from a synthesised netlist. ``recorded-on-hardware``: measured on the device itself.
    """

    MODEL = "modelled"
    RTL = "rtl-measured"
    NETLIST = "netlist-measured"
    HARDWARE = "recorded-on-hardware"


@dataclass(frozen=True)
class Component:
    """A part of the account. ``records`` are the constants it was computed from."""

    name: str
    joules: Interval
    records: tuple[str, ...]
    on_chip: bool


@dataclass(frozen=True)
class EnergyAccount:
    """One frame's energy. ``system_j`` adds DRAM and regulator losses to the chip."""

    components: tuple[Component, ...]
    seconds: float
    node: str
    dram: str
    dram_bits: int

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
    def costly_dram_j(self) -> float:
        """The system's central value were DRAM to take 20 pJ per bit (the record ``dram_sensitivity``)."""
        dram_j = constant("dram_sensitivity", "J").value * self.dram_bits
        return (self.chip_j.value + dram_j) / constant("regulator_efficiency", "dimensionless").value

    @property
    def at_7nm_j(self) -> Interval:
        """The system were its chip made at 7 nm: chip energy scaled as an int8 MAC's, DRAM as it is. An estimate.

        Formula: (chip x ``mac_energy_7nm_over_28nm`` + DRAM) / regulator efficiency.
        """
        chip_j = self.chip_j * constant(f"mac_energy_7nm_over_{self.node}", "dimensionless")
        delivered_j = chip_j + constant(self.dram, "J") * self.dram_bits
        return delivered_j + _regulator_loss(delivered_j).joules

    @property
    def records(self) -> tuple[str, ...]:
        """Names of all constants used."""
        return tuple(sorted({name for part in self.components for name in part.records}))


def account(
    counters: Counters, spec: AccelSpec, *, node: str = "28nm", dram: str = DRAMS[0], seconds: float | None = None
) -> EnergyAccount:
    """The energy of the counted frame. ``seconds`` defaults to cycles over the specification's clock.

    Raises :class:`InputError` for a node without records (nothing is scaled silently), an unknown DRAM, a memory
    outside the table's sizes, and a frame that took no time.
    """
    if node not in nodes():
        raise InputError(f"no energy records at {node}", where="energy", hint=f"Nodes: {', '.join(nodes())}.")
    if dram not in DRAMS:
        raise InputError(f"unknown DRAM {dram!r}", where="energy", hint=f"Known: {', '.join(DRAMS)}.")
    time = counters.cycles / spec.clock_hz if seconds is None else seconds
    if not time > 0.0:
        raise InputError(f"a frame cannot take {time} s", where="energy", hint="Run a frame first.")
    parts = _dynamic(counters, spec, node)
    share = "control_and_clock_share"
    dynamic_j = total(part.joules for part in parts)
    parts.append(Component("control and clock", dynamic_j * constant(share, "dimensionless"), (share,), True))
    parts.append(_leakage(spec, node, time))
    dram_bits = 8 * (counters.dram_read_bytes + counters.dram_write_bytes)
    parts.append(Component("DRAM and interface", constant(dram, "J") * dram_bits, (dram,), False))
    parts.append(_regulator_loss(total(part.joules for part in parts)))
    return EnergyAccount(tuple(parts), time, node, dram, dram_bits)


def layer_energy(layer: LayerCounters, spec: AccelSpec, *, node: str = "28nm") -> Interval:
    """What switches on the chip for one layer, its share of control and clock included; no leakage, no DRAM.

    What the engines that load and store tensors read and write belongs to no layer. Raises as :func:`account`.
    """
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Counters)), 0)
    counters = Counters(**nothing | {
        "busy_cycles": layer.busy_cycles, "macs_issued": layer.busy_cycles * spec.macs_per_cycle,
        "weight_read_words": layer.busy_cycles, "scratchpad_read_words": layer.scratchpad_read_words,
        "scratchpad_write_words": layer.scratchpad_write_words, "requantised_values": layer.requantised_values,
    })  # fmt: skip
    dynamic_j = total(part.joules for part in _dynamic(counters, spec, node))
    return dynamic_j + dynamic_j * constant("control_and_clock_share", "dimensionless")


def _dynamic(counters: Counters, spec: AccelSpec, node: str) -> list[Component]:
    """What switches with events: datapath, registers, memories, requantisation."""
    mac, bit, requantise = f"mac_int8_{node}", f"register_bit_{node}", f"requantise_{node}"
    for name in (mac, bit, requantise):
        if name not in records():
            raise InputError(f"no energy record {name!r}", where="energy", hint="Add it with its source.")
    # Registers of one busy cycle: operands, weights and accumulators; window registers take what is read.
    operand_bytes = spec.pixel_lanes * spec.ci_lanes * spec.lane_groups + spec.weight_word_bytes
    accumulator_bytes = 4 * spec.pixel_lanes * spec.co_lanes
    read_bytes = counters.scratchpad_read_words * spec.ci_lanes
    register_bits = 8 * ((operand_bytes + accumulator_bytes) * counters.busy_cycles + read_bytes)
    toggling = constant("toggle_share", "dimensionless") * constant(bit, "J")

    bank_j, bank_records = memory_read_j_per_byte(spec.scratchpad_bytes // spec.banks, node)
    write_j = bank_j * constant("sram_write_factor", "dimensionless")
    write_bytes = counters.scratchpad_write_words * spec.ci_lanes
    macro_j, macro_records = memory_read_j_per_byte(spec.weight_words * WEIGHT_MACRO_BYTES, node)
    # A step word comes with every weight word.
    weight_bytes = counters.weight_read_words * (spec.weight_word_bytes + STEP_BYTES)
    values = counters.requantised_values
    return [
        Component("MAC data path", constant(mac, "J") * counters.macs_issued, (mac,), True),
        Component("array registers", toggling * register_bits, (bit, "toggle_share"), True),
        Component("scratchpad reads", bank_j * read_bytes, bank_records, True),
        Component("scratchpad writes", write_j * write_bytes, (*bank_records, "sram_write_factor"), True),
        Component("weight memory", macro_j * weight_bytes, macro_records, True),
        Component("requantisation", constant(requantise, "J") * values, (requantise,), True),
    ]


def _leakage(spec: AccelSpec, node: str, seconds: float) -> Component:
    used = (f"leakage_sram_{node}", f"mac_area_{node}", "logic_area_over_macs", f"leakage_logic_{node}")
    sram, area, factor, logic = used
    memory_w = constant(sram, "W") * (8 * sum(spec.on_chip_bytes().values()))
    area_mm2 = constant(area, "mm**2") * constant(factor, "dimensionless") * spec.macs_per_cycle
    return Component("leakage", (memory_w + area_mm2 * constant(logic, "W/mm**2")) * seconds, used, True)


def _regulator_loss(delivered_j: Interval) -> Component:
    """Drawn minus delivered: delivered x (1 / efficiency - 1), so the best efficiency gives the low bound."""
    name = "regulator_efficiency"
    efficiency = constant(name, "dimensionless")
    factor = Interval(1.0 / efficiency.value - 1.0, 1.0 / efficiency.high - 1.0, 1.0 / efficiency.low - 1.0)
    return Component("regulator loss", delivered_j * factor, (name,), False)
