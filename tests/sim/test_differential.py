"""Random networks three ways: summed straight from the definition, by the golden model, by the RTL."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st
from layer_graphs import DENSE, SMALL, GraphDraw, LayerDraw, build, graph_draws, random_inputs
from layer_meaning import evaluate
from whole_networks import POOL

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.compile.scanline.plan.strips import HaloMode
from codesign.hw.counters import Counters
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import ErrorCause
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE, LARGE, TINY, AccelSpec
from codesign.sim import run as simulation
from codesign.sim.model import Dram, Model

quick = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

drams = st.builds(
    Dram,
    bytes_per_cycle=st.sampled_from([None, 0.5, 2.0, 7.0, 64.0]),
    latency_cycles=st.sampled_from([1, 2, 17, 100, 700]),
    stall_probability=st.sampled_from([0.0, 0.1, 0.6]),
    seed=st.integers(1, 1000),
)

NARROW = POOL["narrow"]
STRIPPED = dataclasses.replace(TINY, name="narrow", scratchpad_bytes=2048)
"""So small that frames are computed in vertical strips."""


@pytest.fixture(autouse=True)
def fail_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still is reported after a fraction of the time a user would grant it."""
    monkeypatch.setattr(simulation, "_HANG_CYCLES", 100_000)


@contextmanager
def rejecting_what_is_too_narrow(spec: AccelSpec) -> Iterator[None]:
    """A draw whose rows, windows or sums the narrowest machine has no room for proves nothing; ``base`` has it."""
    try:
        yield
    except UnsupportedError:
        if spec is BASE:
            raise
        reject()


@cache
def compiled(spec: AccelSpec, draw: GraphDraw, halos: HaloMode | None = None) -> tuple[LayerGraph, Program, int]:
    graph = build(draw)
    plan = make_plan(spec, graph, halos=halos)
    return graph, emit(plan), max(len(cascade.strips) for cascade in plan.cascades)


def check_reference(spec: AccelSpec, draw: GraphDraw, halos: HaloMode | None = None) -> dict[str, np.ndarray]:
    graph, program, _ = compiled(spec, draw, halos)
    inputs = random_inputs(graph, draw.seed)
    wanted = evaluate(graph, inputs)
    found = reference.run(program, inputs)
    assert set(found) == set(graph.outputs)
    for name, values in found.items():
        np.testing.assert_array_equal(values, wanted[name], err_msg=name)
    return found


def check_rtl(spec: AccelSpec, draw: GraphDraw, dram: Dram, halos: HaloMode | None = None) -> Counters:
    golden = check_reference(spec, draw, halos)
    graph, program, _ = compiled(spec, draw, halos)
    result = simulation.run(program, random_inputs(graph, draw.seed), dram=dram)
    for name, values in golden.items():
        np.testing.assert_array_equal(result.outputs[name], values, err_msg=name)
    counters = result.counters
    assert counters.busy_cycles + sum(counters.stalls.values()) == counters.cycles
    assert counters.busy_cycles * spec.macs_per_cycle >= graph.macs
    stored = sum(slot.size_bytes for slot in program.outputs)
    assert counters.dram_write_bytes >= stored
    return counters


WARPED = GraphDraw(
    height=11,
    width=21,
    channels=3,
    layers=(
        LayerDraw(3, 1, 6, "prelu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "table", "none", True, False, 0, 1, warp=True, edge=True),
        LayerDraw(3, 1, 6, "linear", "same", True, False, 0, 1, product=True),
        LayerDraw(1, 1, 6, "linear", "none", True, False, 0, 1, warp=True),
        LayerDraw(3, 1, 2, "linear", "none", True, False, 0, 1),
    ),
    seed=5,
)
"""An image warped, filtered, gated with itself, warped again; flows of many pixels."""

ENLARGED = GraphDraw(
    height=5,
    width=15,
    channels=11,
    layers=(
        LayerDraw(3, 1, 6, "linear", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "linear", "none", True, False, 0, 1, enlarge=2),
        LayerDraw(3, 2, 6, "relu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "linear", "none", True, False, 0, 1, enlarge=4, flow=True),
        LayerDraw(3, 1, 2, "linear", "same", True, False, 0, 1),
        LayerDraw(3, 1, 2, "linear", "none", True, False, 3, 1),
    ),
    seed=6,
)
"""Features enlarged between convolutions, one of them strided; a flow of 16 bits enlarged, and read as its bytes."""


@quick
@given(graph_draws(side=20, channels=14, layers=3), drams)
@example(SMALL, Dram())
@example(DENSE, Dram())
def test_tiny_agrees_with_the_definition(draw: GraphDraw, dram: Dram) -> None:
    check_rtl(TINY, draw, dram)


@quick
@given(graph_draws(side=40, channels=40, layers=4), drams)
@example(DENSE, Dram(latency_cycles=17, stall_probability=0.1))
@example(SMALL, Dram(bytes_per_cycle=0.5, latency_cycles=700, stall_probability=0.6))
def test_base_agrees_with_the_definition(draw: GraphDraw, dram: Dram) -> None:
    check_rtl(BASE, draw, dram)


@settings(quick, max_examples=20)
@given(graph_draws(side=30, channels=12, layers=3, warps=True), st.sampled_from([NARROW, BASE]), drams)
@example(WARPED, NARROW, Dram())
@example(WARPED, BASE, Dram(bytes_per_cycle=2.0, stall_probability=0.1))
@example(ENLARGED, NARROW, Dram(latency_cycles=17))
@example(ENLARGED, BASE, Dram(bytes_per_cycle=2.0, stall_probability=0.1))
def test_warps_on_the_rtl(draw: GraphDraw, spec: AccelSpec, dram: Dram) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_rtl(spec, draw, dram)


@settings(quick, max_examples=60)
@given(graph_draws(side=50, channels=20, layers=4, warps=True), st.sampled_from([NARROW, BASE]))
def test_warps_agree_with_the_definition(draw: GraphDraw, spec: AccelSpec) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_reference(spec, draw)


CORRELATED = GraphDraw(
    height=9,
    width=21,
    channels=6,
    layers=(
        LayerDraw(3, 1, 6, "prelu", "none", True, False, 0, 1),
        LayerDraw(1, 1, 6, "linear", "none", True, False, 0, 1, correlate=4),
        LayerDraw(3, 1, 3, "linear", "none", True, False, 0, 1),
    ),
    seed=6,
)
"""Features of an image, correlated with it."""

PAIRED = dataclasses.replace(
    CORRELATED, layers=(CORRELATED.layers[0], dataclasses.replace(CORRELATED.layers[1], correlate=0, pairs=True))
)
"""Every pixel of an image with every one of its features'."""


@settings(quick, max_examples=20)
@given(graph_draws(side=24, channels=12, layers=3, correlations=True), st.sampled_from([NARROW, BASE]), drams)
@example(CORRELATED, NARROW, Dram())
@example(CORRELATED, BASE, Dram(bytes_per_cycle=2.0, stall_probability=0.1))
@example(PAIRED, NARROW, Dram())
@example(PAIRED, BASE, Dram())
def test_correlations_on_the_rtl(draw: GraphDraw, spec: AccelSpec, dram: Dram) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_rtl(spec, draw, dram)


def test_warps_in_strips() -> None:
    """Columns that another strip holds are gathered, as are rows beyond the window."""
    draw = dataclasses.replace(WARPED, width=150, seed=4)
    assert compiled(NARROW, draw)[2] > 1, "the frame was not cut into strips"
    counters = check_rtl(NARROW, draw, Dram())
    assert counters.gathered_reads > 0
    assert counters.dram_gather_read_bytes >= counters.gathered_reads * NARROW.bus_bytes
    assert check_rtl(NARROW, dataclasses.replace(WARPED, seed=3), Dram()).gathered_reads == 0


WINDOWED = GraphDraw(
    height=9,
    width=21,
    channels=3,
    layers=(
        LayerDraw(3, 1, 6, "prelu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "linear", "none", True, False, 0, 1, window=3),
        LayerDraw(3, 1, 6, "table", "none", True, False, 1, 1, window=4),
        LayerDraw(1, 1, 6, "linear", "none", True, False, 0, 1, more=1),
    ),
    seed=5,
)
"""Windows of two sizes, the larger convolved."""


@settings(quick, max_examples=20)
@given(graph_draws(side=24, channels=12, layers=3, windows=True), st.sampled_from([NARROW, BASE]), drams)
@example(WINDOWED, NARROW, Dram())
@example(WINDOWED, BASE, Dram(bytes_per_cycle=2.0, stall_probability=0.1))
def test_windows_on_the_rtl(draw: GraphDraw, spec: AccelSpec, dram: Dram) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_rtl(spec, draw, dram)


@settings(quick, max_examples=60)
@given(graph_draws(side=40, channels=12, layers=4, windows=True), st.sampled_from([NARROW, BASE, LARGE]))
def test_windows_agree_with_the_definition(draw: GraphDraw, spec: AccelSpec) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_reference(spec, draw)


def test_windows_in_strips() -> None:
    """Every strip has its columns' maps."""
    for radius in (1, 4):
        layers = (dataclasses.replace(WINDOWED.layers[1], window=radius), WINDOWED.layers[3])
        draw = GraphDraw(height=5, width=150, channels=3, layers=layers, seed=radius)
        assert compiled(NARROW, draw)[2] > 1, "the frame was not cut into strips"
        check_rtl(NARROW, draw, Dram())


def test_a_window_stops_at_a_bus_error_and_starts_again() -> None:
    """Maps that cannot be read: the machine says so, with reads still on their way, and the next start clears all."""
    graph, program, _ = compiled(NARROW, dataclasses.replace(WINDOWED, layers=WINDOWED.layers[:2]))
    inputs = random_inputs(graph, 3, pixels=1.0)
    (maps,) = (slot for slot in program.inputs if slot.name.startswith("maps"))
    with Model(NARROW, program.memory_bytes) as model:
        model.load(program)
        model.memory[:] = reference.initial_memory(program, inputs)
        for failing in (range(maps.offset, maps.offset + maps.size_bytes), range(0)):
            model.select(program)
            model.fail_bus(reads=failing)
            model.start()
            simulation.until_done(model, model.cycle)
            failure = model.error()
            assert (failure is not None) == bool(failing)
            if failure is not None:
                assert failure[0] is ErrorCause.BUS_READ
        for name, values in reference.run(program, inputs).items():
            (slot,) = (slot for slot in program.outputs if slot.name == name)
            np.testing.assert_array_equal(reference.read_tensor(model.memory, slot), values)


LINEAR = LayerDraw(3, 1, 11, "linear", "none", True, False, 0, 1)
NORM = dataclasses.replace(LINEAR, activation="relu", norm=True)
NORMALISED = GraphDraw(9, 13, 3, (LINEAR, NORM, dataclasses.replace(LINEAR, stride=2, loud=True), NORM, LINEAR), 12)
"""Partial words, and sums of one convolution's output that lie where those of its input lay."""


@settings(quick, max_examples=15)
@given(
    graph_draws(side=20, channels=20, layers=4, norms=True, layer_norms=True), st.sampled_from([NARROW, BASE]), drams
)
@example(NORMALISED, NARROW, Dram())
@example(NORMALISED, BASE, Dram(bytes_per_cycle=2.0, stall_probability=0.6))
def test_norms_on_the_rtl(draw: GraphDraw, spec: AccelSpec, dram: Dram) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_rtl(spec, draw, dram)


@settings(quick, max_examples=60)
@given(graph_draws(side=40, channels=24, layers=5, norms=True, layer_norms=True), st.sampled_from([NARROW, BASE]))
def test_norms_agree_with_the_definition(draw: GraphDraw, spec: AccelSpec) -> None:
    with rejecting_what_is_too_narrow(spec):
        check_reference(spec, draw)


@pytest.mark.parametrize("channels", [1, 4, 6, 11])
def test_norms_in_strips(channels: int) -> None:
    """Sums go on from strip to strip; one word of channels repeats in every cycle, two and three take turns."""
    layers = (replace_channels(WIDE, channels), NORM, dataclasses.replace(WIDE, channels=3))
    draw = GraphDraw(height=5, width=150, channels=4, layers=layers, seed=channels)
    assert compiled(NARROW, draw)[2] > 1, "the frame was not cut into strips"
    check_rtl(NARROW, draw, Dram())


def test_too_many_sums() -> None:
    wide = (replace_channels(LINEAR, 40), NORM)
    with pytest.raises(UnsupportedError, match="needs the sums of 40 channels at once, the machine keeps 32"):
        compiled(NARROW, GraphDraw(4, 4, 3, wide, 1))


@settings(quick, max_examples=60)
@given(graph_draws(side=24, channels=24, layers=5), st.sampled_from([TINY, BASE]))
def test_the_golden_model_agrees_with_the_definition(draw: GraphDraw, spec: AccelSpec) -> None:
    check_reference(spec, draw)


WIDE = LayerDraw(3, 1, 8, "prelu", "none", True, False, 0, 1)


@pytest.mark.parametrize("loud", [False, True], ids=["quiet", "loud"])
@pytest.mark.parametrize(
    "layers",
    [
        (WIDE, dataclasses.replace(WIDE, kernel=5, add="broadcast"), dataclasses.replace(WIDE, channels=4)),
        (dataclasses.replace(WIDE, kernel=7), dataclasses.replace(WIDE, stride=2), dataclasses.replace(WIDE, kernel=1)),
        (WIDE, WIDE, dataclasses.replace(WIDE, add="same"), dataclasses.replace(WIDE, channels=1, shuffle=2)),
    ],
    ids=["mask", "strided", "residual"],
)
def test_strips_agree_with_the_definition(layers: tuple[LayerDraw, ...], loud: bool) -> None:
    """Frames wider than the scratchpad holds: seams between strips leave no trace."""
    made = tuple(dataclasses.replace(layer, loud=loud) for layer in layers)
    for width in (61, 97):
        draw = GraphDraw(height=9, width=width, channels=3, layers=made, seed=width)
        assert compiled(STRIPPED, draw)[2] > 1, "the frame was not cut into strips"
        check_reference(STRIPPED, draw)


@settings(quick, max_examples=100)
@given(graph_draws(side=60, channels=12, layers=5), st.sampled_from(["keep", "recompute"]))
@example(dataclasses.replace(DENSE, width=97), "keep")
def test_halos_leave_no_trace(draw: GraphDraw, halos: HaloMode) -> None:
    try:
        check_reference(STRIPPED, draw, halos)
    except UnsupportedError:
        reject()


@settings(quick, max_examples=15)
@given(graph_draws(side=60, channels=10, layers=5), drams)
def test_kept_halos_on_the_rtl(draw: GraphDraw, dram: Dram) -> None:
    try:
        compiled(NARROW, draw, "keep")
    except UnsupportedError:
        reject()
    check_rtl(NARROW, draw, dram, "keep")


def test_a_dense_block_is_one_cascade() -> None:
    assert len(make_plan(TINY, build(DENSE)).cascades) == 1
    check_reference(TINY, DENSE)


def test_a_dense_block_in_strips() -> None:
    draw = dataclasses.replace(DENSE, width=97)
    assert compiled(STRIPPED, draw)[2] > 1
    check_reference(STRIPPED, draw)


def test_strips_on_the_rtl() -> None:
    """On the machine as built: a frame too wide for tiny's scratchpad."""
    draw = GraphDraw(height=6, width=620, channels=4, layers=(WIDE, replace_channels(WIDE, 12), WIDE), seed=11)
    assert compiled(TINY, draw)[2] > 1, "the frame was not cut into strips"
    check_rtl(TINY, draw, Dram())


def test_split_wide_layers_on_the_rtl() -> None:
    """More output channels than tiny's weight memory holds at once: the layer runs in parts."""
    layers = (replace_channels(WIDE, 90), replace_channels(dataclasses.replace(WIDE, kernel=1), 3))
    check_rtl(TINY, GraphDraw(height=5, width=6, channels=40, layers=layers, seed=7), Dram())


def replace_channels(layer: LayerDraw, channels: int) -> LayerDraw:
    return dataclasses.replace(layer, channels=channels)
