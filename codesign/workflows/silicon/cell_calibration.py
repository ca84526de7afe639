"""The energy model compared with a standard-cell library: units and blocks are mapped and run on a photograph.

Units (a multiplier, adders, a register) are run on random operands, as in the account's records. Blocks of the
machine are run on their inputs recorded in the RTL simulation of a photograph, and must give the RTL's outputs in every
cycle. Zero-delay, wires by their number of pins, no clock tree and no clock gating: see
``docs/energy.md``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from codesign.energy.account import Evidence
from codesign.energy.costs import Operation, dynamic_costs
from codesign.energy.derive import Derivation, Point, derive
from codesign.energy.interval import Interval, total
from codesign.energy.records import constant, find_record
from codesign.hw.counters import Counters
from codesign.hw.errors import SimulationError
from codesign.hw.rtl_package import render_package
from codesign.hw.spec import TINY, AccelSpec
from codesign.sim.build import rtl_folder
from codesign.sim.run import Waves
from codesign.sim.silicon.liberty import Library, read_liberty
from codesign.sim.silicon.netlist import Activity, Netlist, Words, map_block, simulate
from codesign.sim.silicon.power import BlockEnergy, block_energy
from codesign.sim.silicon.stimuli import read_ports
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate as run_frame
from codesign.workflows.sources import find
from codesign.workflows.watch import Say, Watch, silent

SCHEMA = "codesign.calibration/1"
NETWORK, SIZE = "sesr_m5_x2", (48, 32)
WINDOW, SETTLED = 6000, 3500
"""Cycles of the run for which blocks are simulated, and the first of them, which only settle their state."""

RESET_CYCLES = 4
UNIT_CYCLES = 4000


@dataclass(frozen=True)
class _Unit:
    record: str
    """Name of the account's record, without its node."""
    ports: str
    body: str
    bits: int  # bits of an operand
    clock: str | None = None


UNITS = (
    _Unit(
        "int8_multiply", "input signed [7:0] a, input signed [7:0] b, output signed [15:0] y", "assign y = a * b;", 8
    ),
    _Unit("int16_add", "input [15:0] a, input [15:0] b, output [15:0] y", "assign y = a + b;", 16),
    _Unit("int32_add", "input [31:0] a, input [31:0] b, output [31:0] y", "assign y = a + b;", 32),
    _Unit(
        "int32_multiply",
        "input signed [31:0] a, input signed [31:0] b, output signed [63:0] y",
        "assign y = a * b;",
        32,
    ),
    _Unit(
        "register_bit",
        "input clk, input [31:0] a, input [31:0] b, output logic [63:0] y",
        "always_ff @(posedge clk) y <= {a, b};",
        32,
        "clk",
    ),
)


@dataclass(frozen=True)
class UnitRow:
    """A unit's energy per operation (a register's: per bit that changes) on random operands."""

    record: str
    netlist_pj: float
    scaled_pj: float
    """Published figures scaled to the node by capacitance and supply."""
    gate_equivalents: float
    clock_pj: float
    """Energy of all its clock pins, per cycle."""


@dataclass(frozen=True)
class BlockRow:
    """A part of a block: joules per cycle of the netlist and of the model. No model: the part has no component."""

    block: str
    part: str
    netlist_pj: float
    model_pj: Interval | None
    note: str
    evidence: Evidence = Evidence.NETLIST

    @property
    def error(self) -> float | None:
        return None if self.model_pj is None else self.model_pj.value / self.netlist_pj - 1.0


@dataclass(frozen=True)
class Calibration:
    library: str
    voltage: float
    node: str
    units: tuple[UnitRow, ...]
    blocks: tuple[BlockRow, ...]
    gates: Mapping[str, float]
    """Gate equivalents of every mapped block."""
    selection_over_multiply: float
    """Energy of selecting one operand byte on a photograph over that of an int8 multiplication on random operands."""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "library": self.library,
            "voltage": self.voltage,
            "node": self.node,
            "network": NETWORK,
            "size": SIZE,
            "cycles": WINDOW - SETTLED,
            "units": [vars(row) for row in self.units],
            "blocks": [
                vars(row) | {"model_pj": None if row.model_pj is None else row.model_pj.to_json(), "error": row.error}
                for row in self.blocks
            ],
            "gate_equivalents": dict(self.gates),
            "selection_over_multiply": self.selection_over_multiply,
        }


def calibrate(liberty: Path, node: str, *, spec: AccelSpec = TINY, say: Say = silent) -> Calibration:
    """Measure units and blocks on the cells of ``liberty``, and compare them with the account at ``node``.

    Raises :class:`codesign.hw.errors.InputError` for a file that is not a library, for a node without records, and
    :class:`SimulationError` when a mapped block does not compute what the RTL does.
    """
    library = read_liberty(liberty)
    at = Operation(node, library.voltage)
    with tempfile.TemporaryDirectory(prefix="codesign-calibrate-") as name:
        work = Path(name)
        units = []
        for unit in UNITS:
            say(f"measure {unit.record}")
            units.append(_measure_unit(work, unit, liberty, library, node))
        say("run a photograph through the RTL")
        waves = work / "waves.vcd"
        compiled = compile_source(find(NETWORK), spec.name, FrameChoice(SIZE))
        run_frame(compiled, watch=Watch(waves=Waves(waves, 0, WINDOW)))
        (work / "scanline_pkg.sv").write_text(render_package(spec))
        bench = _Bench(work, liberty, library, waves, say)
        array = _run_block(bench, "scanline_conv_array", ("scanline_conv_array.sv",))
        requantiser = _run_block(bench, "scanline_requantiser", ("scanline_round_shift.sv", "scanline_requantiser.sv"))
    multiply = next(row.netlist_pj for row in units if row.record == "int8_multiply")
    issued = float(array.seen["issue_o"].sum()) / array.energy.cycles
    selection = array.per_cycle("operand_q logic") / (issued * spec.pixel_lanes * spec.ci_lanes * spec.lane_groups)
    return Calibration(
        liberty.name,
        library.voltage,
        node,
        tuple(units),
        (*_array_rows(array, spec, at), *_requantiser_rows(requantiser, spec, at)),
        {
            "scanline_conv_array": array.energy.gate_equivalents,
            "scanline_requantiser": requantiser.energy.gate_equivalents,
        },
        selection / multiply,
    )


# Units


def _measure_unit(work: Path, unit: _Unit, liberty: Path, library: Library, node: str) -> UnitRow:
    folder = work / unit.record
    folder.mkdir()
    (folder / "unit.sv").write_text(f"module unit({unit.ports}); {unit.body} endmodule\n")
    netlist = map_block(folder, [folder / "unit.sv"], "unit", liberty, clock=unit.clock)
    rng = np.random.default_rng(0)
    stimuli = {
        name: rng.integers(0, 1 << unit.bits, UNIT_CYCLES, dtype=np.uint64).astype(np.uint32)[:, None] for name in "ab"
    }
    activity = simulate(netlist, library, stimuli)
    energy = block_energy(netlist, library, activity, wire_gates_per_pin=_wire())
    events = float(energy.cycles)
    if unit.clock is not None:
        events = float(sum(activity.transitions[net] for net in netlist.ports["y"].nets))
    parent = find_record(f"{unit.record}_40nm" if unit.record == "register_bit" else f"{unit.record}_45nm")
    point = Point(interval=parent.to("pJ"), node=parent.node, voltage=parent.voltage)
    scaled = derive(Derivation(rule="capacitance", of=["parent"]), [point], node, library.voltage)
    return UnitRow(
        unit.record,
        energy.dynamic_j / events * 1e12,
        scaled.value,
        energy.gate_equivalents,
        energy.clock_j / energy.cycles * 1e12,
    )


def _wire() -> float:
    return constant("wire_gates_per_pin", "dimensionless").value


# Blocks


@dataclass(frozen=True)
class _Run:
    netlist: Netlist
    energy: BlockEnergy
    seen: Mapping[str, Words]
    """Values on the RTL's ports in the counted cycles."""

    def per_cycle(self, *owners: str) -> float:
        """Energy of the given registers' logic, in picojoules per cycle."""
        return sum(self.energy.by_owner.get(owner, 0.0) for owner in owners) / self.energy.cycles * 1e12

    def rest(self, *owners: str) -> float:
        return self.energy.dynamic_j / self.energy.cycles * 1e12 - self.per_cycle(*owners)


@dataclass(frozen=True)
class _Bench:
    """A folder to work in, the cells, and the waveform of the RTL's run."""

    work: Path
    liberty: Path
    library: Library
    waves: Path
    say: Say


def _run_block(bench: _Bench, top: str, files: Sequence[str]) -> _Run:
    work, liberty, library, waves, say = bench.work, bench.liberty, bench.library, bench.waves, bench.say
    folder = work / top
    folder.mkdir()
    say(f"map {top} to the cells of {library.name} (about a minute)")
    sources = [work / "scanline_pkg.sv", *(rtl_folder() / name for name in ("scanline_row_pkg.sv", *files))]
    netlist = map_block(folder, sources, top, liberty, clock="clk_i")
    say(f"run {top} on the recorded inputs")
    seen = read_ports(waves, netlist.ports.values())
    # The waveform begins after reset: its first row is held while reset is asserted.
    stimuli = {
        name: np.concatenate([np.repeat(rows[:1] * np.uint32(name != "rst_ni"), RESET_CYCLES, axis=0), rows])
        for name, rows in seen.items()
    }
    activity = simulate(netlist, library, stimuli, first=RESET_CYCLES + SETTLED)
    _demand_equal(top, activity, seen)
    energy = block_energy(netlist, library, activity, wire_gates_per_pin=_wire())
    return _Run(netlist, energy, {name: rows[SETTLED:] for name, rows in seen.items()})


def _demand_equal(top: str, activity: Activity, seen: Mapping[str, Words]) -> None:
    for name, rows in activity.outputs.items():
        wrong = np.flatnonzero(np.any(rows[RESET_CYCLES + SETTLED :] != seen[name][SETTLED:], axis=1))
        if wrong.size:
            raise SimulationError(
                f"the mapped {top} differs from the RTL in {name}, first in cycle {SETTLED + int(wrong[0])}",
                where="calibration",
                hint="This is a defect of the toolkit; please report the command.",
            )


ARRAY = ("acc_q logic", "acc_q", "operand_q", "weight_q")
SELECTION = ("operand_q logic",)


def _array_rows(run: _Run, spec: AccelSpec, at: Operation) -> tuple[BlockRow, ...]:
    cycles = run.energy.cycles
    model = _model(
        spec,
        at,
        cycles,
        busy_cycles=int(run.seen["issue_o"].sum()),
        scratchpad_read_words=int(run.seen["segment_valid_i"].sum()) * spec.segment_pixels,
    )
    data = run.energy.dynamic_j / cycles * 1e12
    registers = spec.register_bytes()
    operands = 8 * (spec.pixel_lanes * spec.ci_lanes * spec.lane_groups + spec.weight_word_bytes)
    per_bit = run.energy.clock_j / cycles / run.energy.flip_flops * 1e12
    issued = float(run.seen["issue_o"].mean())
    drained, filled = float(run.seen["psum_valid_o"].mean()), float(run.seen["segment_valid_i"].mean())
    named = (operands + 8 * registers["accumulators"]) * issued + 8 * registers["drain psums"] * drained
    named += 8 * spec.segment_pixels * spec.ci_lanes * filled
    others = run.energy.flip_flops - operands - 8 * sum(registers.values())
    share = constant("clock_tree_share", "dimensionless")
    return (
        BlockRow(
            "scanline_conv_array",
            "multipliers, adders, their registers and wires",
            run.per_cycle(*ARRAY),
            total(model[name] for name in ("MAC data path", "array registers", "operand wires")),
            "",
        ),
        BlockRow(
            "scanline_conv_array",
            "operand selection",
            run.per_cycle(*SELECTION),
            model["operand selection"],
            "the model's constant is this measurement",
        ),
        BlockRow(
            "scanline_conv_array",
            "window, psum hand-over, sequencing",
            run.rest(*ARRAY, *SELECTION),
            model["window registers"] + model["control"],
            "enables are multiplexers here, clock gates in the model; the sums over lane groups never rest",
        ),
        BlockRow(
            "scanline_conv_array",
            "clock pins, gated as the enables would",
            per_bit * (named + others),
            share * data,
            "the model has the tree above the pins, which is not synthesised",
        ),
        BlockRow(
            "scanline_conv_array",
            "clock pins, as mapped",
            per_bit * run.energy.flip_flops,
            None,
            "no cell gates the clock in this library",
        ),
    )


def _requantiser_rows(run: _Run, spec: AccelSpec, at: Operation) -> tuple[BlockRow, ...]:
    cycles = run.energy.cycles
    model = _model(spec, at, cycles, requantised_values=int(run.seen["values_o"].sum()))
    data = run.energy.dynamic_j / cycles * 1e12
    return (
        BlockRow(
            "scanline_requantiser",
            "all logic and registers",
            data,
            model["requantisation"] + model["control"],
            f"values in {np.count_nonzero(run.seen['values_o']) / cycles:.0%} of the cycles",
        ),
    )


def _model(spec: AccelSpec, at: Operation, cycles: int, **events: int) -> dict[str, Interval]:
    """Picojoules per cycle by component, control included, for events of a window."""
    counted = dict.fromkeys((field.name for field in fields(Counters)), 0) | events
    counted["macs_issued"] = counted["busy_cycles"] * spec.macs_per_cycle
    found: dict[str, Interval] = {"control": Interval.exact(0.0)}
    for cost in dynamic_costs(spec, at):
        joules = cost.joules * (counted[cost.counter] / cycles * 1e12)
        found[cost.component] = found.get(cost.component, Interval.exact(0.0)) + joules
    return found | {"control": total(found.values()) * constant("control_share", "dimensionless")}
