"""The calibration on a standard-cell library: what was recorded is what ships, and a library at hand gives it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codesign import calibrate
from codesign.calibrate import UNITS
from codesign.energy.records import constant, find_record
from codesign.sim.liberty import read_liberty

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
    assert {row["block"] for row in rows} == {"conv_array", "requantiser"}
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
