"""Long simulations are interrupted and resumed, traced and recorded as waveforms without changing a cycle."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from layer_graphs import SMALL, GraphDraw, LayerDraw, build, random_inputs

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.errors import InputError, SimulationError
from codesign.hw.isa import Opcode
from codesign.hw.program.program import Program
from codesign.hw.spec import TINY
from codesign.sim import run as simulation
from codesign.sim.model import Dram, Model
from codesign.sim.run import Waves, run
from codesign.sim.timeline import TRACKS, slices, write_timeline

LAYER = LayerDraw(3, 1, 8, "prelu", "none", True, False, 0, 1)
LONGER = GraphDraw(20, 30, 3, (LAYER, dataclasses.replace(LAYER, add="same"), LAYER, LAYER), 2)


def prepared(draw: GraphDraw = LONGER) -> tuple[Program, dict[str, np.ndarray]]:
    graph = build(draw)
    return emit(make_plan(TINY, graph)), random_inputs(graph, 1)


def interrupt_after(cycles: int):
    def progress(now: int) -> None:
        if now > cycles:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("dram", [Dram(), Dram(3.0, 70, 0.3, 5)], ids=["plain", "stalling"])
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dram: Dram) -> None:
    monkeypatch.setattr(simulation, "_CHUNK_CYCLES", 777)
    program, inputs = prepared()
    whole = run(program, inputs, dram=dram, timeline=True)
    for cycles in (1500, 6000, 9000):
        with pytest.raises(KeyboardInterrupt):
            run(program, inputs, dram=dram, timeline=True, checkpoints=tmp_path, progress=interrupt_after(cycles))
        assert list(tmp_path.glob("*.state"))
    seen: list[int] = []
    resumed = run(program, inputs, dram=dram, timeline=True, checkpoints=tmp_path, progress=seen.append)
    assert seen[0] > 9000, "it began again"
    assert resumed.counters == whole.counters
    assert resumed.activity is not None
    assert whole.activity is not None
    np.testing.assert_array_equal(resumed.activity[:, 0] - resumed.started_at, whole.activity[:, 0] - whole.started_at)
    np.testing.assert_array_equal(resumed.activity[:, 1], whole.activity[:, 1])
    assert resumed.outputs.keys() == whole.outputs.keys()
    for name, values in whole.outputs.items():
        np.testing.assert_array_equal(resumed.outputs[name], values)
    assert not list(tmp_path.glob("*.state"))
    again = run(program, inputs, dram=dram, timeline=True, checkpoints=tmp_path, progress=pytest.fail)
    assert again.counters == resumed.counters
    np.testing.assert_array_equal(again.activity, resumed.activity)


def test_other_frames_do_not_share_a_checkpoint(tmp_path: Path) -> None:
    program, inputs = prepared(SMALL)
    first = run(program, inputs, checkpoints=tmp_path)
    (name,) = inputs
    second = run(program, {name: (~inputs[name]).astype(np.int8)}, checkpoints=tmp_path)
    assert any(not np.array_equal(first.outputs[key], second.outputs[key]) for key in first.outputs)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_a_broken_snapshot_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_CHUNK_CYCLES", 777)
    program, inputs = prepared()
    with pytest.raises(KeyboardInterrupt):
        run(program, inputs, checkpoints=tmp_path, progress=interrupt_after(3000))
    (state,) = tmp_path.glob("*.state")
    state.write_bytes(state.read_bytes()[:1000])
    seen: list[int] = []
    result = run(program, inputs, checkpoints=tmp_path, progress=seen.append)
    assert seen[0] < 1500
    assert result.counters == run(program, inputs).counters


def test_snapshots_of_another_memory_are_refused() -> None:
    with Model(TINY, 4096) as small, Model(TINY, 8192) as large, pytest.raises(SimulationError, match="another memory"):
        large.restore(small.save())


def test_the_timeline_shows_every_row() -> None:
    program, inputs = prepared()
    result = run(program, inputs, timeline=True)
    assert result.activity is not None
    found = slices(program, result.activity, result.started_at)
    rows = {track: sum(one.row is not None for one in found if one.track == track) for track in TRACKS}
    convs = sum(row_count(program, index) for index, _ in enumerate(program.commands))
    assert rows["array"] == rows["requantise"] == convs
    assert rows["store"] == 20
    for track in TRACKS:
        ours = [one for one in found if one.track == track]
        assert all(0 < one.begin < one.end <= result.counters.cycles for one in ours)
        assert all(before.end <= after.begin for before, after in itertools.pairwise(ours))
    names = {one.name for one in found if one.track == "array"}
    assert names == {
        label for cmd, label in zip(program.commands, program.labels, strict=True) if cmd.opcode is Opcode.CONV
    }
    # The array issues within its slices alone, and is seldom idle within one.
    busy = sum(one.end - one.begin for one in found if one.track == "array")
    assert result.counters.busy_cycles <= busy <= 1.3 * result.counters.busy_cycles


def row_count(program: Program, index: int) -> int:
    """Rows of the layer that a CONV computes."""
    cmd = program.commands[index]
    if cmd.opcode is not Opcode.CONV:
        return 0
    return next(c["height"] for c in program.commands if c.opcode is Opcode.BUFFER and c["id"] == cmd["destination"])


def test_the_trace_is_what_perfetto_reads(tmp_path: Path) -> None:
    program, inputs = prepared(SMALL)
    result = run(program, inputs, timeline=True)
    assert result.activity is not None
    write_timeline([(program, result.activity, result.started_at)] * 2, tmp_path / "trace.json", "small on tiny")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert tuple(named[tid] for tid in sorted(named)) == TRACKS
    rows = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] > 0 and event["ts"] >= 0 for event in rows)
    # Two regions follow each other.
    half = len(rows) // 2
    assert max(event["ts"] for event in rows[:half]) <= min(event["ts"] for event in rows[half:]) + 1.0


def test_a_waveform_shows_its_window(tmp_path: Path) -> None:
    program, inputs = prepared(SMALL)
    whole = run(program, inputs)
    path = tmp_path / "window.vcd"
    result = run(program, inputs, waves=Waves(path, 300, 500))
    assert result.counters == whole.counters
    text = path.read_text()
    times = [int(stamp) for stamp in re.findall(r"^#(\d+)$", text, re.MULTILINE)]
    assert 2 * 195 <= times[-1] - times[0] <= 2 * 200
    assert "u_conv" in text
    assert "issue_o" in text
    run(program, inputs, waves=Waves(tmp_path / "begin.vcd", 0, 50))  # the start write has taken cycles by then
    stamps = re.findall(r"^#(\d+)$", (tmp_path / "begin.vcd").read_text(), re.MULTILINE)
    assert 2 * 30 <= int(stamps[-1]) - int(stamps[0]) <= 2 * 50
    with pytest.raises(InputError, match="before the waveform's window"):
        run(program, inputs, waves=Waves(path, 10_000_000, 10_000_010))
    with pytest.raises(InputError, match="empty"):
        Waves(path, 10, 10)
    with pytest.raises(InputError, match="cannot be resumed"):
        run(program, inputs, waves=Waves(path, 0, 10), checkpoints=tmp_path)
