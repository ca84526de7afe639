"""The figures of many machines at once equal those of planner, cycle model and energy account, one at a time."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from codesign.cli import app as cli
from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.energy.account import account
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.spec import BASE, EDGE, AccelSpec
from codesign.hw.timing import model as timing
from codesign.workflows.compile import compile_source
from codesign.workflows.explore import ESTIMATE_BOUND, Machines, explore, pareto_front, parse_choices, product
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find

CHOICES = {
    "fsrcnn_x2": {
        "pixel_lanes": [4, 16],
        "co_lanes": [8, 16],
        "requantise_lanes": [32, 64],
        "scratchpad_bytes": [1024 * k for k in range(48, 640, 16)],
        "dram_bytes_per_cycle": [0.5, 2.0, 16.0],
    },
    "edsr_f32b5_x2": {
        "channel_parts": [1, 2],
        "scratchpad_bytes": [1024 * k for k in (160, 320, 640)],
        "dram_bytes_per_cycle": [1.0, 16.0],
    },
}


@pytest.fixture(scope="module", params=sorted(CHOICES))
def explored(request):
    network = compile_source(find(request.param), BASE, FrameChoice((240, 136))).network
    graph = network.regions[0].graph
    return graph, explore(graph, product(BASE, CHOICES[request.param]))


def test_cycles_are_the_cycle_model_s(explored) -> None:
    """Cycles of a machine's own plan, emitted as a program."""
    _, found = explored
    feasible = np.flatnonzero(np.isfinite(found.cycles))
    assert len(feasible) >= 0.7 * len(found.machines)  # 64 requantise lanes are too many for 4 pixel lanes
    for index in np.random.default_rng(1).choice(feasible, 6, replace=False).tolist():
        plan = found.plan(index)
        memory = timing.Memory(float(found.machines.column("dram_bytes_per_cycle")[index]))
        counters = timing.predict(emit(plan), memory)
        assert found.cycles[index] == pytest.approx(counters.cycles, rel=ESTIMATE_BOUND)
        moved = counters.dram_read_bytes + counters.dram_write_bytes
        assert found.dram_bytes[index] == pytest.approx(moved, rel=ESTIMATE_BOUND)
        bill = account(counters, plan.spec)
        assert found.system_j[index] == pytest.approx(bill.system_j.value, rel=ESTIMATE_BOUND)
        assert found.system_j_low[index] < found.system_j[index] < found.system_j_high[index]
        assert found.on_chip_bytes[index] == sum(plan.spec.on_chip_bytes().values())


def test_plans_are_never_worse_than_the_planner_s(explored) -> None:
    graph, found = explored
    for index in np.random.default_rng(2).choice(np.flatnonzero(np.isfinite(found.cycles)), 4).tolist():
        rate = float(found.machines.column("dram_bytes_per_cycle")[index])
        planned = make_plan(found.machines.spec(index), graph, rate)
        assert found.plan(index).price <= planned.price * (1 + 1e-9)
        assert found.plan(index).price == pytest.approx(planned.price, rel=0.01)


def test_a_kept_plan_stays(explored) -> None:
    graph, _ = explored
    plan = make_plan(BASE, graph)
    machines = product(BASE, {"scratchpad_bytes": [16 * 1024, BASE.scratchpad_bytes], "clock_hz": [5e8, 1e9]})
    found = explore(graph, machines, keep=plan)
    kept = found.plan(3).cascades
    assert [(one.first, one.end, one.order, one.strips) for one in kept] == [
        (one.first, one.end, one.order, one.strips) for one in plan.cascades
    ]
    assert found.cycles[3] == pytest.approx(sum(cost.cycles for cost in plan.costs), rel=1e-12)
    assert found.seconds[2] == pytest.approx(2 * found.seconds[3])
    assert np.all(np.isinf(found.cycles[:2]))  # its buffers do not fit in 16 KiB


def test_the_energy_is_the_account_s() -> None:
    """The energies are equal for the estimated events."""
    graph = compile_source(find("bicubic_x2"), EDGE, FrameChoice((64, 64))).network.regions[0].graph
    found = explore(graph, product(EDGE, {"clock_hz": [1e8, 5e8]}))
    family = found.families[0]
    events = {name: round(float(values[1])) for name, values in family.choices[int(family.best[1])].events.items()}
    nothing = dict.fromkeys((field.name for field in dataclasses.fields(Counters)), 0)
    counters = Counters(
        **nothing
        | {
            "busy_cycles": events["busy"],
            "macs_issued": events["busy"] * EDGE.macs_per_cycle,
            "weight_read_words": events["busy"],
            "dram_load_read_bytes": events["dram_bytes"],
            "scratchpad_read_words": events["read_words"],
            "scratchpad_write_words": events["write_words"],
            "requantised_values": events["values"],
        }
    )
    bill = account(counters, EDGE, seconds=float(found.seconds[1])).system_j
    assert found.system_j[1] == pytest.approx(bill.value, rel=1e-6)
    assert found.system_j_low[1] == pytest.approx(bill.low, rel=1e-6)
    assert found.system_j_high[1] == pytest.approx(bill.high, rel=1e-6)


def test_impossible_machines_have_no_cycles() -> None:
    graph = compile_source(find("bicubic_x2"), EDGE, FrameChoice((64, 64))).network.regions[0].graph
    machines = Machines(
        EDGE, {"pixel_lanes": np.array([4, 3, 4]), "scratchpad_bytes": np.array([192 * 1024, 192 * 1024, 77])}
    )
    found = explore(graph, machines)
    assert np.isfinite(found.cycles).tolist() == [True, False, False]
    assert found.pareto().tolist() == [0]
    with pytest.raises(InputError, match="no plan fits machine 1"):
        found.plan(1)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=40))
def test_the_front_is_what_nothing_beats(rows: list[tuple[int, ...]]) -> None:
    goals = np.array(rows, np.float64)
    kept = pareto_front(goals).tolist()
    for row in goals:
        beaten = np.any(np.all(goals <= row, axis=1) & np.any(goals < row, axis=1))
        assert beaten == (not any(np.array_equal(goals[k], row) for k in kept))
    assert len({tuple(goals[k]) for k in kept}) == len(kept)


def test_ranges() -> None:
    assert parse_choices(["pixel_lanes=8,16", "scratchpad_bytes=64Ki:128Ki:3"]) == {
        "pixel_lanes": [8.0, 16.0],
        "scratchpad_bytes": [65536.0, 98304.0, 131072.0],
    }
    for text in ("pixel_lanes", "pixel_lanes=", "a=1:2", "a=1,x", "a=nan"):
        with pytest.raises(InputError, match="is not a range"):
            parse_choices([text])
    with pytest.raises(InputError, match="unknown field 'lanes'"):
        product(BASE, {"lanes": [1.0]})


def test_command(tmp_path) -> None:
    table = tmp_path / "points.csv"
    result = CliRunner().invoke(
        cli.app,
        [
            "explore",
            "bicubic_x2",
            "--size",
            "64x48",
            "--accel",
            "edge",
            "--vary",
            "scratchpad_bytes=96Ki,192Ki",
            "--vary",
            "dram_bytes_per_cycle=1,16",
            "--csv",
            str(table),
            "--json",
            str(tmp_path / "front.json"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert len(table.read_text().splitlines()) == 5
    front = json.loads((tmp_path / "front.json").read_text())
    assert front["machines"] == 4
    assert front["evidence"] == "modelled"
    assert {"scratchpad_bytes", "dram_bytes_per_cycle", "fps", "system_j"} <= set(front["front"][0])


def test_specifications_are_the_columns_rows() -> None:
    machines = product(BASE, {"pixel_lanes": [8, 16], "clock_hz": [1e9]})
    assert [machines.spec(k).pixel_lanes for k in range(2)] == [8, 16]
    assert isinstance(machines.spec(0), AccelSpec)
    assert isinstance(machines.spec(0).pixel_lanes, int)
