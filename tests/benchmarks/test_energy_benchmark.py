"""The prediction of published chips uses their public parameters alone, and nothing was fitted to them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import energy  # noqa: E402  (a script, not a package)

from codesign.energy.records import records  # noqa: E402
from codesign.hw.counters import Counters  # noqa: E402

CHIPS = {chip.name: chip for chip in energy.chips()}


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(energy.RESULTS.read_text())


def counted(recorded):
    """Counters of the recorded run by machine, so that nothing is compiled here."""
    known = {row["machine"]: Counters(**row["counters"]) for row in [*recorded["rows"], recorded["alternative"]]}
    return lambda spec: known[spec.name]


def test_no_record_knows_the_chips():
    """No names, authors, venues or laboratories, except for a chip that is the source of a process."""
    words = [
        "ecnn",
        "depfin",
        "acnpu",
        "essr",
        "srnpu",
        "vista",
        "unist",
        "tilted",
        "raft-lite",
        "goetschalckx",
        "yoo",
        "tian-sheuan",
        "chao-tsung",
        "jetcas",
        "tcas",
        "jssc",
        "micro 2019",
        "micro'19",
        "srscaler",
    ]
    for name, record in records().items():
        text = f"{name} {record.what} {record.source}".lower()
        found = [word for word in words if re.search(rf"\b{re.escape(word)}\b", text)]
        assert not found, (name, found)


def test_what_was_published_cannot_change_a_prediction(recorded, tmp_path):
    """A prediction is a function of the public parameters; altering every published figure does not change it."""
    assert set(inspect.signature(energy.predict).parameters) == {"public", "count"}
    assert not {"watts", "tops_per_watt"} & {field.name for field in dataclasses.fields(energy.Public)}
    text = energy.CHIPS.read_text()
    altered = re.sub(r"^(watts|tops_per_watt) = .*$", r"\1 = 12345.0", text, flags=re.MULTILINE)
    assert altered != text
    (tmp_path / "chips.toml").write_text(altered)
    count = counted(recorded)
    for before, after in zip(energy.chips(), energy.chips(tmp_path / "chips.toml"), strict=True):
        assert energy.predict(before.public, count).watts == energy.predict(after.public, count).watts


def test_the_recorded_table_is_what_the_records_say_now(recorded):
    """A constant that changes must be followed by ``make bench-energy``."""
    count = counted(recorded)
    assert [row["chip"] for row in recorded["rows"]] == list(CHIPS)
    for row in recorded["rows"]:
        again = energy.row(CHIPS[row["chip"]], energy.predict(CHIPS[row["chip"]].public, count))
        assert again["predicted"]["value"] == pytest.approx(row["predicted"]["value"], rel=1e-6), row["chip"]
        assert again["within"] == row["within"]


def test_six_of_seven_lie_within_two(recorded):
    judged = [row for row in recorded["rows"] if row["ratio"] is not None]
    assert len(judged) == 7
    assert sum(0.5 <= row["ratio"] <= 2.0 for row in judged) >= 6
    assert all(row["within"] == (0.5 <= row["ratio"] <= 2.0) for row in judged)


@pytest.mark.parametrize("macs", [64, 100, 881, 2048, 3000, 81920])
def test_a_machine_of_any_size(macs):
    spec = energy.scanline(macs, None)
    assert 1 / 2**0.51 <= spec.macs_per_cycle / macs <= 2**0.51


def test_macs_follow_from_gates_and_area():
    public = CHIPS["ACNPU"].public
    assert energy.macs_of(dataclasses.replace(public, kilo_gates=2 * public.kilo_gates)) > energy.macs_of(public)
    public = CHIPS["VISTA"].public
    assert energy.macs_of(dataclasses.replace(public, area_mm2=2 * public.area_mm2)) > energy.macs_of(public)
    assert energy.macs_of(CHIPS["eCNN"].public) == 81920
    assert energy.macs_of(CHIPS["ESSR"].public) == round(1.586e12 / 800e6 / 0.77)
