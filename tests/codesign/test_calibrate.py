"""The calibration on a standard-cell library: shipped constants equal the records, and the library reproduces them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.energy.records import constant, find_record
from codesign.hw.isa import Opcode
from codesign.hw.rtl_package import render_package
from codesign.hw.spec import TINY
from codesign.sim.run import Waves, run
from codesign.sim.silicon.liberty import read_liberty
from codesign.workflows.silicon import cell_calibration as calibrate
from codesign.workflows.silicon.cell_calibration import UNITS
from codesign.workflows.watch import silent
from tests.sim.layer_graphs import GraphDraw, LayerDraw, build, random_inputs

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "calibration.json"
OSU = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RESULTS.read_text())


def test_the_records_are_the_measurement(recorded):
    for unit in recorded["units"]:
        name = f"{unit['record']}_180nm"
        assert find_record(name).confidence == "measured"
        assert constant(name, "pJ").value == pytest.approx(unit["netlist_pj"], rel=1e-3)
    ratio = constant("selection_over_multiply", "dimensionless")
    assert ratio.value == pytest.approx(recorded["selection_over_multiply"], rel=1e-3)


def test_every_part_is_within_a_quarter_or_explained(recorded):
    rows = recorded["blocks"]
    assert {row["block"] for row in rows} == {"scanline_conv_array", "scanline_requantiser"}
    close = [row for row in rows if row["error"] is not None and abs(row["error"]) <= 0.25]
    assert len(close) >= 4
    for row in rows:
        assert row in close or row["note"], row["part"]
        if row["error"] is not None:
            assert row["error"] == pytest.approx(row["model_pj"]["value"] / row["netlist_pj"] - 1)


def test_the_model_still_says_what_was_recorded(recorded):
    """A constant that changes must be followed by ``make bench-calibration``."""
    array = next(row for row in recorded["blocks"] if row["part"].startswith("multipliers"))
    spec = calibrate.TINY
    cycles = recorded["cycles"]
    busy = round(cycles * 0.99)
    model = calibrate._model(spec, calibrate.Operation("180nm", recorded["voltage"]), cycles, busy_cycles=busy)
    found = sum(model[name].value for name in ("MAC data path", "array registers", "operand wires"))
    assert found == pytest.approx(array["model_pj"]["value"], rel=0.03)  # the recorded window was busy for 99 %


@pytest.mark.skipif(not OSU.exists(), reason="needs the Debian package qflow-tech-osu018")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.record)
def test_units_on_the_library_are_the_records(tmp_path, unit):
    row = calibrate._measure_unit(tmp_path, unit, OSU, read_liberty(OSU), "180nm")
    assert row.netlist_pj == pytest.approx(constant(f"{unit.record}_180nm", "pJ").value, rel=0.02)


@pytest.mark.skipif(not OSU.exists(), reason="needs the Debian package qflow-tech-osu018")
def test_the_array_of_gates_correlates_as_the_simulated_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates with a multiplexer at each multiplier give the same psums as the RTL, whose simulation decides once per
    loop; one layer of the frame is a correlation."""
    monkeypatch.setattr(calibrate, "SETTLED", 20)
    layers = (
        LayerDraw(3, 1, 6, "prelu", "none", True, False, 0, 1),
        LayerDraw(1, 1, 6, "linear", "none", True, False, 0, 1, correlate=4),
    )
    graph = build(GraphDraw(height=9, width=21, channels=6, layers=layers, seed=6))
    spec = dataclasses.replace(TINY, name="correlating", correlator=1)
    program = emit(make_plan(spec, graph))
    waves = tmp_path / "waves.vcd"
    counters = run(program, random_inputs(graph, 6), waves=Waves(waves, 0, 100_000)).counters
    (tmp_path / "scanline_pkg.sv").write_text(render_package(spec))
    bench = calibrate._Bench(tmp_path, OSU, read_liberty(OSU), waves, silent)
    mapped = calibrate._run_block(bench, "scanline_conv_array", ("scanline_conv_array.sv",))
    assert any(command.opcode == Opcode.CORR for command in program.commands)
    assert mapped.seen["issue_o"].sum() > counters.busy_cycles / 2
