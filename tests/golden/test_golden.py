"""Programs, CUDA texts and the report have not changed: a sample here, all of them by ``golden.py``.

For an intended change run ``python tests/golden/golden.py --accept`` and state its effect in cycles and bytes in the
commit.
"""

from __future__ import annotations

import json

import golden
import pytest

SAMPLE = ("espcn_x3", "fsrcnn_x2", "spynet_level", "flow_small")
"""Networks that compile in seconds: tables, strips, a warp's layers, a cost volume and 16 bits."""

KNOWN = json.loads(golden.HASHES.read_text())


@pytest.mark.parametrize("name", SAMPLE)
def test_programs_and_texts_are_what_they_were(name: str) -> None:
    assert not list(golden.differences(KNOWN[name], golden.figures(name)))


@pytest.mark.parametrize("name", golden.PLANNED)
def test_plans_read_as_they_did(name: str) -> None:
    for path, text in golden.plan_texts(name).items():
        assert path.read_text() == text, f"python tests/golden/golden.py --accept {name}"


def test_the_report_is_what_it_was() -> None:
    assert not list(golden.differences(KNOWN["report"], golden.report_figures()))


def test_every_network_is_held() -> None:
    assert set(KNOWN) == {*golden.SIZES, "report"}
    for name in golden.SIZES:
        assert set(golden.MACHINES) <= set(KNOWN[name])
        assert (golden.NETWORKS / f"{name}.json.xz").is_file()


def test_differences_are_told() -> None:
    before = {"net": {"base": {"regions": [{"cycles": 100, "commands": "a"}]}}}
    after = {"net": {"base": {"regions": [{"cycles": 101, "commands": "a"}]}}}
    assert list(golden.differences(before, after)) == ["net / base / regions[0] / cycles: 100 -> 101 (+1.00%)"]
    assert not list(golden.differences(before, before))
