"""The RTL's assertions fail when they should: a sample of the recorded faults, and what a user sees."""

from __future__ import annotations

import json
import re

import pytest
import rtl_faults

from codesign.hw.errors import SimulationError
from codesign.sim import faults
from codesign.sim.build import rtl_sources
from codesign.sim.model import Model

RECORDED = rtl_faults.load()
SAMPLE = sorted(RECORDED)[:: max(1, len(RECORDED) // 12)]

pytestmark = pytest.mark.timeout(900)  # the first builds the model with signals that can be held


def test_names_are_unique_and_recorded() -> None:
    """Every assertion was seen to fail but those that the record names, and the record has no others."""
    every = [f"{one.module}.{one.name}" for one in faults.assertions()]
    assert len(every) == len(set(every)) >= 100
    record = json.loads(rtl_faults.RECORD.read_text())
    assert sorted([*RECORDED, *record["without a fault"]]) == sorted(every)


def test_every_module_with_state_asserts() -> None:
    silent = {path.stem for path in rtl_sources()} - {one.module for one in faults.assertions()}
    assert silent == {"scanline_row_pkg", "scanline_round_shift"}


def test_faults_hold_signals_of_the_design() -> None:
    """An assertion's own registers and conditions are left alone."""
    for _, signal in faults.variant().forced:
        assert not signal.startswith("check_")
    for path in rtl_sources():
        for block in re.findall(r"`ifdef SCANLINE_ASSERTIONS.*?`endif", path.read_text(), re.DOTALL):
            assert all(
                name.startswith("check_") for name in re.findall(r"^  logic (?:\[[^]]*\] )?(\w+)", block, re.MULTILINE)
            )


@pytest.mark.parametrize("name", rtl_faults.DRAWS)
def test_nothing_fails_without_a_fault(name: str) -> None:
    cycles, _ = rtl_faults.shape(name)
    assert not rtl_faults.failures(name, None, after=2 * cycles)


@pytest.mark.parametrize("key", SAMPLE)
def test_a_recorded_fault_is_noticed(key: str) -> None:
    kept = RECORDED[key]
    assert rtl_faults.replay({**kept, "assertion": key.split(".")[1]}) == kept["cycle"]


def test_a_failed_assertion_ends_the_run() -> None:
    """With its name, where it stands and the cycle; the process goes on."""
    program, memory = rtl_faults.ready("convolutions")
    with Model(faults.MACHINE, program.memory_bytes, variant=faults.variant()) as model:
        model.load(program)
        model.memory[:] = memory
        model.start()
        model.force("scanline_top.u_store", "outstanding_q", 0, bits=16)
        with pytest.raises(SimulationError, match=r"ResponseAwaited of scanline_top\.u_store failed in cycle [0-9]+"):
            model.run(10**6)
    with (
        pytest.raises(SimulationError, match="no signal nothing"),
        Model(faults.MACHINE, 4096, variant=faults.variant()) as model,
    ):
        model.force("scanline_top", "nothing", 1)
