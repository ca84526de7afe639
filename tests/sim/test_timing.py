"""The cycle model against the RTL: every count exact, cycles within a bound, each stall with its cause."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from layer_graphs import GraphDraw, LayerDraw, build, graph_draws, random_inputs
from whole_networks import POOL

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.compile.scanline.plan.strips import HaloMode
from codesign.hw import normalise
from codesign.hw.counters import Counters
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import COMPUTE, Opcode
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE, PRESETS, TINY, AccelSpec
from codesign.hw.timing import model as timing
from codesign.sim.model import Dram
from codesign.sim.run import run

NARROW = POOL["narrow"]

EXACT = [field.name for field in dataclasses.fields(Counters) if not field.name.endswith(("cycles", "stall_cycles"))]


@cache
def compiled(spec: AccelSpec, draw: GraphDraw, halos: HaloMode | None = None) -> tuple[LayerGraph, Program]:
    graph = build(draw)
    return graph, emit(make_plan(spec, graph, halos=halos))


def measured_and_predicted(
    spec: AccelSpec, draw: GraphDraw, dram: Dram, halos: HaloMode | None = None
) -> tuple[Counters, Counters]:
    graph, program = compiled(spec, draw, halos)
    rtl = run(program, random_inputs(graph, draw.seed), dram=dram).counters
    memory = timing.Memory.of(spec, dram.bytes_per_cycle, dram.latency_cycles)
    model = timing.predict(program, memory)
    for name in EXACT:
        assert getattr(model, name) == getattr(rtl, name), name
    assert model.busy_cycles == rtl.busy_cycles
    assert model.busy_cycles + sum(model.stalls.values()) == model.cycles
    return rtl, model


def close(rtl: Counters, model: Counters, relative: float, cycles: int) -> None:
    assert abs(model.cycles - rtl.cycles) <= relative * rtl.cycles + cycles, (rtl, model)
    for causes in ({"load", "store"}, {"weights"}, {"requantise"}, {"control"}, {"fill"}, {"drain"}):
        # Where rows come and go at the same pace, a cycle decides which of the two the array waits for.
        measured, predicted = (sum(one.stalls[cause] for cause in causes) for one in (rtl, model))
        bound = max(relative * rtl.cycles, 0.1 * measured) + cycles
        assert abs(predicted - measured) <= bound, (causes, rtl.stalls, model.stalls)


CONV = LayerDraw(3, 1, 16, "prelu", "none", True, False, 0, 1)
SINGLE = {
    "3x3": GraphDraw(16, 160, 16, (CONV,), 1),
    "1x1": GraphDraw(16, 160, 56, (dataclasses.replace(CONV, kernel=1, channels=12),), 2),
    "5x5 odd": GraphDraw(17, 161, 3, (dataclasses.replace(CONV, kernel=5, channels=13),), 3),
    "strided": GraphDraw(16, 160, 8, (dataclasses.replace(CONV, stride=2),), 4),
    "shuffled": GraphDraw(16, 96, 8, (dataclasses.replace(CONV, channels=3, shuffle=2),), 5),
    "chain": GraphDraw(24, 96, 8, (CONV, CONV, dataclasses.replace(CONV, add="same"), CONV), 6),
}


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
def test_long_rows(spec: AccelSpec, name: str) -> None:
    """A part in five hundred, on every preset; more where a narrow bus and its latency are the limit."""
    close(*measured_and_predicted(spec, SINGLE[name], Dram()), relative=0.002 if spec is not TINY else 0.025, cycles=12)


@pytest.mark.parametrize("dram", [Dram(latency_cycles=1), Dram(latency_cycles=400), Dram(bytes_per_cycle=2.0)], ids=str)
@pytest.mark.parametrize("spec", [TINY, BASE], ids=["tiny", "base"])
def test_other_memories(spec: AccelSpec, dram: Dram) -> None:
    rtl, model = measured_and_predicted(spec, SINGLE["chain"], dram)
    assert abs(model.cycles / rtl.cycles - 1.0) <= 0.01


POINT = dataclasses.replace(CONV, kernel=1)
PORT = {
    "copies": GraphDraw(24, 80, 48, (dataclasses.replace(POINT, channels=128),), 1),
    "parts of pixels": GraphDraw(8, 40, 16, (dataclasses.replace(POINT, channels=560),), 2),
    "odd parts of pixels": GraphDraw(8, 41, 16, (dataclasses.replace(POINT, channels=529),), 3),
    "concatenated": GraphDraw(
        20,
        70,
        40,
        (
            dataclasses.replace(CONV, channels=40),
            dataclasses.replace(POINT, channels=40),
            dataclasses.replace(POINT, channels=120, more=2),
        ),
        4,
    ),
    "added": GraphDraw(
        24,
        96,
        32,
        (
            POINT,
            dataclasses.replace(POINT, channels=16),
            dataclasses.replace(POINT, channels=32, add="same", back=1),
        ),
        5,
    ),
    "strided": GraphDraw(
        40,
        96,
        24,
        (
            dataclasses.replace(CONV, channels=24, stride=2),
            dataclasses.replace(CONV, channels=64),
            dataclasses.replace(POINT, channels=128),
        ),
        6,
    ),
    "pairs": GraphDraw(
        14,
        20,
        64,
        (
            dataclasses.replace(CONV, channels=64),
            dataclasses.replace(CONV, pairs=True),
        ),
        9,
    ),
    "normalised": GraphDraw(
        20,
        64,
        24,
        (
            dataclasses.replace(CONV, channels=48),
            dataclasses.replace(CONV, norm=True),
            dataclasses.replace(POINT, channels=96),
        ),
        10,
    ),
    "correlated": GraphDraw(
        40,
        96,
        20,
        (
            dataclasses.replace(CONV, channels=20),
            dataclasses.replace(CONV, correlate=4),
            dataclasses.replace(CONV, channels=64),
        ),
        9,
    ),
}
"""Layers that read as fast as they compute, beside what stores and second operands read: who has the port decides."""


@pytest.mark.parametrize("name", PORT)
def test_who_has_the_port(name: str) -> None:
    rtl, model = measured_and_predicted(BASE, PORT[name], Dram())
    close(rtl, model, relative=0.001, cycles=12)
    gaps = [
        cmd["pixel_pitch"] > cmd["pixel_bytes"]
        for cmd in compiled(BASE, PORT[name])[1].commands
        if cmd.opcode is Opcode.STORE
    ]
    assert any(gaps) == ("parts" in name)


@pytest.mark.parametrize("name", ["parts of pixels", "odd parts of pixels", "added"])
def test_who_has_the_port_of_a_narrow_machine(name: str) -> None:
    close(*measured_and_predicted(NARROW, PORT[name], Dram()), relative=0.002, cycles=12)


STRIPS = GraphDraw(20, 500, 8, (CONV, CONV, dataclasses.replace(CONV, add="same"), CONV), 7)


@pytest.mark.parametrize("dram", [Dram(), Dram(bytes_per_cycle=2.0), Dram(latency_cycles=600)], ids=str)
@pytest.mark.parametrize("halos", ["keep", "recompute"])
def test_strips(halos: HaloMode, dram: Dram) -> None:
    _, program = compiled(TINY, STRIPS, halos)
    assert any(cmd.opcode is Opcode.BUFFER and cmd["halo"] for cmd in program.commands) == (halos == "keep")
    rtl, model = measured_and_predicted(TINY, STRIPS, dram, halos)
    assert abs(model.cycles / rtl.cycles - 1.0) <= 0.005


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    graph_draws(side=40, channels=24, layers=4),
    st.sampled_from([TINY, BASE]),
    st.builds(Dram, bytes_per_cycle=st.sampled_from([None, 4.0]), latency_cycles=st.sampled_from([20, 100])),
)
def test_random_graphs(draw: GraphDraw, spec: AccelSpec, dram: Dram) -> None:
    """Frames of a few pixels are all start and end, and a slow memory decides itself whom it serves first."""
    try:
        compiled(spec, draw)
    except UnsupportedError:
        if spec is BASE:
            raise
        reject()
    rtl, model = measured_and_predicted(spec, draw, dram)
    assert abs(model.cycles - rtl.cycles) <= 0.05 * rtl.cycles + 30, (rtl, model)


@settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(graph_draws(side=48, channels=70, layers=5, correlations=True, norms=True))
def test_random_correlations_and_normalisations(draw: GraphDraw) -> None:
    assume(not any(layer.correlate and layer.edge for layer in draw.layers))
    rtl, model = measured_and_predicted(BASE, draw, Dram())
    assert abs(model.cycles - rtl.cycles) <= 0.01 * rtl.cycles + 30, (rtl, model)


SAMPLED = GraphDraw(20, 96, 11, (CONV, dataclasses.replace(CONV, warp=True, edge=True), CONV), 9)


@pytest.mark.parametrize("spec", [NARROW, BASE], ids=["narrow", "base"])
def test_a_warp(spec: AccelSpec) -> None:
    """As long as nothing is gathered its cycles do not depend on the flow; which words it reads does, a little."""
    graph, program = compiled(spec, SAMPLED)
    model = timing.predict(program)
    for pixels in (0.0, 1.5):
        rtl = run(program, random_inputs(graph, SAMPLED.seed, pixels=pixels)).counters
        assert rtl.gathered_reads == 0
        for name in set(EXACT) - {"scratchpad_read_words"}:
            assert getattr(model, name) == getattr(rtl, name), name
        assert abs(model.scratchpad_read_words / rtl.scratchpad_read_words - 1.0) < 0.02
        close(rtl, model, relative=0.01, cycles=12)


@pytest.mark.parametrize(("spec", "channels", "reach"), [(NARROW, 6, 2), (BASE, 20, 4)], ids=["narrow", "base"])
def test_a_correlation(spec: AccelSpec, channels: int, reach: int) -> None:
    """Its window is short of segments: each that a STORE fetches meanwhile costs a cycle."""
    layers = (dataclasses.replace(CONV, channels=channels), dataclasses.replace(CONV, correlate=reach))
    graph, program = compiled(spec, GraphDraw(40, 96, channels, layers, 9))
    assert any(cmd.opcode is Opcode.CORR for cmd in program.commands)
    rtl, model = run(program, random_inputs(graph, 9)).counters, timing.predict(program)
    for name in EXACT:
        assert getattr(model, name) == getattr(rtl, name), name
    assert model.busy_cycles == rtl.busy_cycles
    close(rtl, model, relative=0.001 if spec is BASE else 0.0025, cycles=12)


NORMALISED = GraphDraw(16, 160, 9, (CONV, dataclasses.replace(CONV, norm=True), CONV), 10)


@pytest.mark.parametrize("dram", [Dram(), Dram(latency_cycles=17)], ids=str)
@pytest.mark.parametrize("spec", [NARROW, BASE], ids=["narrow", "base"])
def test_a_normalisation(spec: AccelSpec, dram: Dram) -> None:
    """The array waits for weights while parameters are computed."""
    rtl, model = measured_and_predicted(spec, NORMALISED, dram)
    close(rtl, model, relative=0.01, cycles=12)
    assert min(rtl.weights_stall_cycles, model.weights_stall_cycles) >= 16 * normalise.CYCLES_PER_CHANNEL


ENLARGED = GraphDraw(20, 96, 11, (CONV, dataclasses.replace(CONV, enlarge=2), CONV), 9)


@pytest.mark.parametrize("draw", [ENLARGED, GraphDraw(20, 96, 11, ENLARGED.layers[1:2], 9)], ids=["between", "alone"])
@pytest.mark.parametrize(
    "spec",
    [dataclasses.replace(TINY, name="narrow", scratchpad_bytes=4096, warp_reach=2), BASE],
    ids=["narrow", "base"],
)
def test_a_resize(spec: AccelSpec, draw: GraphDraw) -> None:
    """Where nothing but the sampler works, a narrow machine's stores keep step with it, which is no average."""
    rtl, model = measured_and_predicted(spec, draw, Dram())
    assert rtl.sample_stall_cycles > 0.2 * rtl.cycles
    close(rtl, model, relative=0.01 if spec is BASE else 0.015, cycles=12)


@pytest.mark.parametrize("latency", [20, 100])
@pytest.mark.parametrize(
    ("spec", "radius"),
    [(NARROW, 1), (NARROW, 2), (BASE, 1), (BASE, 3), (BASE, 4)],
    ids=["narrow 1", "narrow 2", "base 1", "base 3", "base 4"],
)
def test_a_window(spec: AccelSpec, radius: int, latency: int) -> None:
    """Windows at rest, which the model takes on average over the frame."""
    layers = (dataclasses.replace(CONV, window=radius), dataclasses.replace(CONV, kernel=1))
    graph, program = compiled(spec, GraphDraw(20, 96, 3, layers, 9))
    rtl = run(program, random_inputs(graph, 9, pixels=0.0), dram=Dram(latency_cycles=latency)).counters
    model = timing.predict(program, timing.Memory.of(spec, latency_cycles=latency))
    by_flow = {"dram_gather_read_bytes", "gathered_reads"}
    for name in set(EXACT) - by_flow:
        assert getattr(model, name) == getattr(rtl, name), name
    for name in by_flow:
        assert abs(getattr(model, name) / getattr(rtl, name) - 1.0) < 0.04, name
    assert rtl.sample_stall_cycles > 0.4 * rtl.cycles
    close(rtl, model, relative=0.02 if latency == 100 else 0.04, cycles=20)


TALL = {
    "warped": dataclasses.replace(SAMPLED, height=200),
    "enlarged": dataclasses.replace(ENLARGED, height=120, width=32),
    "windowed": GraphDraw(200, 24, 3, (dataclasses.replace(CONV, kernel=1, window=2), CONV), 9),
    **{
        name: dataclasses.replace(draw, height=height)
        for name, draw, height in (
            ("3x3", SINGLE["3x3"], 300),
            ("strided", SINGLE["strided"], 301),
            ("shuffled", SINGLE["shuffled"], 211),
            ("chain", SINGLE["chain"], 350),
            ("5x5 odd", SINGLE["5x5 odd"], 900),
        )
    },
    "kept halos": GraphDraw(300, 760, 8, (CONV, CONV, dataclasses.replace(CONV, add="same"), CONV), 8),
    "in strips": GraphDraw(300, 700, 8, (CONV, dataclasses.replace(CONV, add="same"), CONV), 7),
}


@pytest.mark.parametrize("dram", [(None, 100), (2.0, 100), (0.7, 400)], ids=str)
@pytest.mark.parametrize("spec", [TINY, BASE], ids=["tiny", "base"])
@pytest.mark.parametrize("name", TALL)
def test_what_repeats_is_counted_exactly(
    name: str, spec: AccelSpec, dram: tuple[float | None, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiplying the rows in the steady state is no approximation of following them."""
    if name in ("warped", "enlarged", "windowed"):
        spec = dataclasses.replace(spec, warp_reach=2, window_beats=16)
    _, program = compiled(spec, TALL[name], "keep" if name == "kept halos" else None)
    memory = timing.Memory.of(spec, *dram)
    left_out: list[int] = []
    leave_out = timing._Model._leave_out
    monkeypatch.setattr(
        timing._Model, "_leave_out", lambda self, *loop: left_out.append(leave_out(self, *loop)) or left_out[-1]
    )
    assert timing.predict(program, memory) == timing.predict(program, memory, every_iteration=True)
    assert any(left_out)
    counters, layers = timing.profile(program, memory)
    assert counters == timing.predict(program, memory)
    assert sum(layer.busy_cycles for layer in layers) == counters.busy_cycles
    assert sum(layer.requantised_values for layer in layers) == counters.requantised_values
    assert all(0 < layer.begin_cycle < layer.end_cycle <= counters.cycles for layer in layers)
    assert all(layer.busy_cycles <= layer.end_cycle - layer.begin_cycle for layer in layers)
    convs = {label for label, cmd in zip(program.labels, program.commands, strict=True) if cmd.opcode in COMPUTE}
    assert {layer.name for layer in layers} == convs
