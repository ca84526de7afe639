"""Performance, power and area of one specification, in one row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from codesign.energy.account import EnergyAccount, Evidence, account
from codesign.energy.area import SiliconArea, counted_gates, silicon_area
from codesign.energy.interval import Interval
from codesign.hw.counters import Counters
from codesign.hw.spec import AccelSpec
from codesign.sim.silicon.synthesis import FpgaFit, fitted, synthesise
from codesign.workflows.watch import Say, silent


@dataclass(frozen=True)
class Ppa:
    """A specification at a node, its array busy in every cycle. Power leaves out DRAM, interface and regulator."""

    spec: AccelSpec
    area: SiliconArea
    bill: EnergyAccount
    evidence: Evidence
    """Evidence of the gates: counted in the netlist, or estimated from the specification's numbers."""
    fits: tuple[FpgaFit, ...]

    @property
    def tops(self) -> float:
        """Peak tera-operations per second; a MAC is two operations."""
        return 2e-12 * self.spec.macs_per_cycle * self.spec.clock_hz

    @property
    def watts(self) -> Interval:
        return self.bill.chip_j / self.bill.seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "accel": self.spec.name,
            "node": self.area.node,
            "macs_per_cycle": self.spec.macs_per_cycle,
            "clock_hz": self.spec.clock_hz,
            "tops": self.tops,
            "gate_equivalents": self.area.gates.to_json(),
            "gates_evidence": self.evidence,
            "logic_mm2": self.area.logic_mm2.to_json(),
            "memory_mm2": self.area.memory_mm2.to_json(),
            "mm2": self.area.mm2.to_json(),
            "on_chip_bytes": sum(self.spec.on_chip_bytes().values()),
            "watts": self.watts.to_json(),
            "tops_per_watt": (Interval.exact(self.tops) / self.watts).to_json(),
            "records": sorted({*self.area.records, *self.bill.records}),
            "fpga": [
                {
                    "device": fit.device,
                    "fmax_hz": fit.fmax_hz,
                    "resources": {name: vars(one) for name, one in fit.resources.items()},
                }
                for fit in self.fits
            ],
        }


def ppa(spec: AccelSpec, node: str, fpga: Path, *, count: bool = False, say: Say = silent) -> Ppa:
    """Area, clock and power. ``fpga``: folder of placed and routed designs; ``count``: gates by Yosys, not by formula.

    Raises :class:`codesign.hw.errors.InputError` for a node without records.
    """
    gates = None
    if count:
        made = synthesise(spec, "generic", report=say)
        gates = counted_gates([(module.gates, module.flip_flops) for module in made.modules])
    return Ppa(
        spec,
        silicon_area(spec, node, gates),
        account(_busy_second(spec), spec, node=node),
        Evidence.NETLIST if count else Evidence.MODEL,
        tuple(fitted(spec, fpga)),
    )


def _busy_second(spec: AccelSpec) -> Counters:
    """Event counts of one second in which the array computes a 3x3 layer of 64 channels without a pause."""
    cycles = round(spec.clock_hz)
    macs = cycles * spec.macs_per_cycle
    values = round(macs / (9 * 64))
    steps = 9 * 64 // spec.ci_lanes  # per pixel group and set of output channels
    segments = cycles * 3 * 64 // spec.ci_lanes // steps
    nothing = dict.fromkeys((field.name for field in fields(Counters)), 0)
    return Counters(
        **nothing
        | {
            "cycles": cycles,
            "busy_cycles": cycles,
            "macs_issued": macs,
            "weight_read_words": cycles,
            "scratchpad_read_words": segments * spec.segment_pixels,
            "scratchpad_write_words": values // spec.ci_lanes,
            "requantised_values": values,
        }
    )
