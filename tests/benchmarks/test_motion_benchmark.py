"""The benchmark of flow and video networks, on tiny frames: a row measured on the RTL, one modelled with a crop."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import motion  # noqa: E402  (a script, not a package)
import motion_table  # noqa: E402


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("motion")
    before = motion.WORKLOADS
    motion.WORKLOADS = (
        motion.Workload("flow_small", 64, 32),
        motion.Workload("flow_small_again", 64, 64, crop=(64, 32)),
    )
    whole, part = motion.WORKLOADS
    try:
        motion.main(["flow_small"], None, folder / "kept", folder / "motion.json")
        motion.main(["flow_small"], None, folder / "kept", folder / "motion.json")  # goes on: nothing is left to do
        modelled = motion.measure(
            motion.Workload("flow_small", part.width, part.height, part.crop), None, motion.Console(), folder / "kept"
        )
    finally:
        motion.WORKLOADS = before
    written = json.loads((folder / "motion.json").read_text())
    (measured,) = written["rows"]
    assert measured["input_size"] == f"{whole.width}x{whole.height}"
    return {"measured": measured, "modelled": modelled}


def test_a_measured_row(rows: dict) -> None:
    row = rows["measured"]
    assert row["evidence"] == "rtl-measured"
    assert row["simulation"]["bit_exact"] is True
    assert row["simulation"]["distinct_output_values"] > 32
    assert sum(row["stalls"].values()) == row["cycles"] == row["simulation"]["cycles"]
    kinds = row["by_kind"]
    assert {"convolution", "warp"} <= set(kinds)
    assert sum(kind["macs"] for kind in kinds.values()) == pytest.approx(row["macs"], rel=1e-2)
    assert sum(kind["busy_cycles"] for kind in kinds.values()) == row["stalls"]["busy"]
    assert sum(kind["cycles"] for kind in kinds.values()) <= row["cycles"]
    assert kinds["warp"]["busy_cycles"] == 0 < kinds["warp"]["cycles"]
    assert row["host"]["operators"] == 0
    assert 0.0 < row["host"]["time_share"] < 1.0
    assert row["joules"]["chip"]["value"] < row["joules"]["system"]["value"]


def test_a_modelled_row(rows: dict) -> None:
    row = rows["modelled"]
    assert row["evidence"] == "modelled"
    assert row["simulated_crop"]["input_size"] == "64x32"
    assert row["simulated_crop"]["bit_exact"] is True
    assert row["cycles"] > row["simulated_crop"]["cycles"]
    assert all("cycles" not in kind for kind in row["by_kind"].values())


@pytest.mark.parametrize("table", [motion_table.networks, motion_table.mixed])
def test_the_recorded_tables_are_what_the_records_say(table) -> None:
    text = (ROOT / "benchmarks" / "results" / "README.md").read_text()
    assert table().count("\n") >= 3
    assert table() in text, "python benchmarks/motion_table.py says what it should be"
