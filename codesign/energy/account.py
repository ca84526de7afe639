"""Joules of one frame: events counted, times energy per event, plus leakage x time, DRAM and regulator.

Each component names the records it used. SRAM energy per byte is interpolated between records, linearly in the
logarithms of size and energy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from codesign.energy.interval import Interval, total
from codesign.energy.records import constant, records
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.spec import AccelSpec


class Evidence(StrEnum):
    """Where a figure comes from."""

    RTL = "rtl-measured"
    NETLIST = "netlist-measured"
    MODEL = "modelled"
    HARDWARE = "recorded-on-hardware"


@dataclass(frozen=True)
class Component:
    """A part of the account."""

    name: str
    joules: Interval
    records: tuple[str, ...]
    on_chip: bool


@dataclass(frozen=True)
class EnergyAccount:
    """One frame's energy. ``system`` adds DRAM and regulator losses to the chip."""

    components: tuple[Component, ...]
    seconds: float
    node: str

    @property
    def chip_j(self) -> Interval:
        return total([part.joules for part in self.components if part.on_chip])

    @property
    def system_j(self) -> Interval:
        return total([part.joules for part in self.components])

    @property
    def watts(self) -> Interval:
        return self.system_j / self.seconds


NODES = ("28nm",)


def sram_read_j_per_byte(size_bytes: int, node: str) -> tuple[Interval, tuple[str, ...]]:
    """Energy per byte read from a RAM of ``size_bytes``, and the records it lies between."""
    points = sorted(
        (int(name.removeprefix("sram_read_").split("KiB")[0]) * 1024, name)
        for name in records()
        if name.startswith("sram_read_") and name.endswith(node)
    )
    if not points:
        raise InputError(f"no SRAM records at {node}", where="energy", hint=f"Nodes: {', '.join(NODES)}.")
    size = min(max(size_bytes, points[0][0]), points[-1][0])
    upper = next(index for index, (extent, _) in enumerate(points) if extent >= size)
    lower = max(0, upper - 1)
    (a, first), (b, second) = points[lower], points[upper]
    share = 0.0 if a == b else (math.log(size) - math.log(a)) / (math.log(b) - math.log(a))
    one, two = constant(first, "J"), constant(second, "J")

    def between(x: float, y: float) -> float:
        return math.exp(math.log(x) * (1.0 - share) + math.log(y) * share)

    return Interval(between(one.value, two.value), between(one.low, two.low), between(one.high, two.high)), (
        first,
        second,
    )


def account(
    counters: Counters, spec: AccelSpec, *, node: str = "28nm", dram: str = "dram_lpddr4", seconds: float | None = None
) -> EnergyAccount:
    """The energy of the counted frame. ``seconds`` defaults to cycles over the clock.

    Raises :class:`InputError` for a node without records: nothing is scaled silently.
    """
    if node not in NODES:
        raise InputError(f"no energy records at {node}", where="energy", hint=f"Nodes: {', '.join(NODES)}.")
    time = counters.cycles / spec.clock_hz if seconds is None else seconds
    parts: list[Component] = []

    def add(name: str, joules: Interval, used: tuple[str, ...], on_chip: bool = True) -> None:
        parts.append(Component(name, joules, used, on_chip))

    mac, bit = f"mac_int8_{node}", f"register_bit_{node}"
    add("MAC data path", constant(mac, "J") * counters.macs_issued, (mac,))
    # Per busy cycle: operand and weight registers and the accumulators, about a quarter of whose bits toggle.
    operands = spec.pixel_lanes * spec.ci_lanes * spec.lane_groups + spec.weight_word_bytes
    toggling = 0.25 * 8 * (operands + 4 * spec.pixel_lanes * spec.co_lanes)
    fills = counters.scratchpad_read_words * spec.ci_lanes * 8 * 0.25
    add("array registers", constant(bit, "J") * (toggling * counters.busy_cycles + fills), (bit,))
    bank, used = sram_read_j_per_byte(spec.scratchpad_bytes // spec.banks, node)
    write = constant("sram_write_factor", "dimensionless")
    add("scratchpad reads", bank * (counters.scratchpad_read_words * spec.ci_lanes), used)
    written = counters.scratchpad_write_words * spec.ci_lanes
    add("scratchpad writes", bank * write * written, (*used, "sram_write_factor"))
    weights, used = sram_read_j_per_byte(spec.weight_words * spec.weight_word_bytes // 16, node)
    add("weight memory", weights * (counters.weight_read_words * (spec.weight_word_bytes + 8)), used)
    requantise = f"requantise_{node}"
    add("requantisation", constant(requantise, "J") * counters.requantised_values, (requantise,))
    share = constant("control_and_clock_share", "dimensionless")
    add("control and clock", total([part.joules for part in parts]) * share, ("control_and_clock_share",))
    bits = 8 * sum(spec.on_chip_bytes().values())
    area, logic, sram = f"mac_area_{node}", f"leakage_logic_{node}", f"leakage_sram_{node}"
    leak = constant(sram, "W") * bits + constant(area, "mm**2") * constant(logic, "W/mm**2") * (
        1.5 * spec.macs_per_cycle
    )
    add("leakage", leak * time, (sram, logic, area))
    traffic = 8 * (counters.dram_read_bytes + counters.dram_write_bytes)
    add("DRAM and interface", constant(dram, "J") * traffic, (dram,), on_chip=False)
    efficiency = constant("regulator_efficiency", "dimensionless")
    before = total([part.joules for part in parts])
    loss = Interval(
        before.value * (1 / efficiency.value - 1),
        before.low * (1 / efficiency.high - 1),
        before.high * (1 / efficiency.low - 1),
    )
    add("regulator loss", loss, ("regulator_efficiency",), on_chip=False)
    return EnergyAccount(tuple(parts), time, node)
