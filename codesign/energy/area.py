"""Area of a specification on silicon: gate equivalents counted in the RTL, mm2 by node from records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from codesign.energy.interval import Interval
from codesign.energy.records import constant, nodes, records
from codesign.hw.errors import InputError
from codesign.hw.spec import AccelSpec

GATES = (
    "gates_fixed",
    "gates_per_mac",
    "gates_per_requantise_lane",
    "flip_flops_fixed",
    "flip_flops_per_requantise_lane",
    "flip_flop_gates",
)
"""Records from which a specification's gate equivalents are computed."""

ARRAY_AREA = ("gates_of_mac", "placement_density")
"""Records for the array's extent, beside the node's gate area."""


@dataclass(frozen=True)
class Gates:
    """Logic of a specification, without memories."""

    combinational: Interval
    """Gate equivalents (NAND2 of least drive)."""
    flip_flops: Interval

    @property
    def equivalents(self) -> Interval:
        """Gates and flip-flops in gate equivalents."""
        return self.combinational + self.flip_flops * _ratio("flip_flop_gates")


@dataclass(frozen=True)
class SiliconArea:
    """Square millimetres at one node, placed and routed; no pads, no memory interface."""

    node: str
    gates: Interval
    """Gate equivalents, flip-flops included."""
    logic_mm2: Interval
    memory_mm2: Interval
    records: tuple[str, ...]

    @property
    def mm2(self) -> Interval:
        return self.logic_mm2 + self.memory_mm2


def gate_records(spec: AccelSpec) -> tuple[str, ...]:
    """The records from which ``spec``'s gates are computed."""
    return (*GATES, *_unit_records(spec))


def estimated_gates(spec: AccelSpec) -> Gates:
    """Gates estimated from the specification's numbers: straight lines fitted to Yosys' counts of the presets' RTL."""
    lanes = spec.requantise_lanes
    combinational = (
        _ratio("gates_fixed")
        + _ratio("gates_per_mac") * spec.macs_per_cycle
        + _ratio("gates_per_requantise_lane") * lanes
    )
    named = Interval.exact(float(named_register_bits(spec)))
    others = _ratio("flip_flops_fixed") + _ratio("flip_flops_per_requantise_lane") * lanes
    for name, count in _unit_records(spec).items():
        if name.startswith("gates_"):
            combinational = combinational + _ratio(name) * count
        else:
            others = others + _ratio(name) * count
    return Gates(combinational, named + others)


def _unit_records(spec: AccelSpec) -> dict[str, int]:
    """Records of the units that ``spec`` has beside those that all machines have, and how often each counts."""
    found: dict[str, int] = {}
    for unit in sorted(spec.units, key=lambda unit: unit.name):
        name = unit.name.lower()
        counts = {
            f"of_{name}": 1,
            f"per_{name}_channel": spec.ci_lanes,
            f"per_{name}_lane": spec.requantise_lanes,
            f"per_{name}_pixel": spec.requantise_pixels,
        }
        wanted = {f"{part}_{end}": count for part in ("gates", "flip_flops") for end, count in counts.items()}
        found |= {record: count for record, count in wanted.items() if record in records()}
    return found


def counted_gates(modules: Sequence[tuple[float, int]]) -> Gates:
    """Gates from counts: ``(gate equivalents, flip-flops)`` of every module. Mapping to cells may save a fifth."""
    gates = sum(gates for gates, _ in modules)
    return Gates(Interval(gates, 0.8 * gates, gates), Interval.exact(float(sum(bits for _, bits in modules))))


def named_register_bits(spec: AccelSpec) -> int:
    """Bits of the registers known from the specification: psums, window, and the operands of one cycle."""
    operands = spec.pixel_lanes * spec.ci_lanes * spec.lane_groups + spec.weight_word_bytes
    return 8 * (sum(spec.register_bytes().values()) + operands)


def silicon_area(spec: AccelSpec, node: str, gates: Gates | None = None) -> SiliconArea:
    """Area at ``node``; ``gates`` as counted, else estimated. Raises :class:`InputError` for a node without records."""
    if node not in nodes():
        raise InputError(f"no area records at {node}", where="area", hint=f"Choose one of {', '.join(nodes())}.")
    found = gates or estimated_gates(spec)
    cell, bit = f"gate_area_{node}", f"sram_area_{node}"
    logic = found.equivalents * constant(cell, "mm**2") / _ratio("placement_density")
    memory = constant(bit, "mm**2") * (8.0 * sum(spec.on_chip_bytes().values()))
    used = (cell, bit, "placement_density", *(gate_records(spec) if gates is None else ("flip_flop_gates",)))
    return SiliconArea(node, found.equivalents, logic, memory, used)


def cell_area_mm2(spec: AccelSpec, node: str) -> Interval:
    """Area of the logic's cells alone, which leaks."""
    return estimated_gates(spec).equivalents * constant(f"gate_area_{node}", "mm**2")


def array_side_mm(spec: AccelSpec, node: str) -> Interval:
    """Side of the square that the array fills: the length of an operand's wire."""
    area = _ratio("gates_of_mac") * spec.macs_per_cycle * constant(f"gate_area_{node}", "mm**2")
    area = area / _ratio("placement_density")
    return Interval(math.sqrt(area.value), math.sqrt(area.low), math.sqrt(area.high))


def _ratio(name: str) -> Interval:
    return constant(name, "dimensionless")
