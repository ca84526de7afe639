"""The planner: rewriting behind pixel shuffles keeps every value; cuts and strips follow the machine."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.layers import LayerGraph, Shuffle
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.compile.scanline.plan.explain import explain
from codesign.compile.scanline.rewrite.subpixel import fold_shuffles
from codesign.hw.model import reference
from codesign.hw.spec import BASE, TINY, AccelSpec
from tests.sim.layer_graphs import GraphDraw, LayerDraw, build, random_inputs
from tests.sim.layer_meaning import evaluate

up_scaling = st.builds(
    GraphDraw,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 6),
    layers=st.lists(
        st.builds(
            LayerDraw,
            kernel=st.sampled_from([1, 3, 3, 5]),
            stride=st.sampled_from([1, 1, 1, 1, 1, 2]),
            channels=st.integers(1, 5),
            activation=st.sampled_from(["linear", "prelu", "table"]),
            add=st.sampled_from(["none", "none", "same", "broadcast"]),
            padded=st.sampled_from([True, True, True, False]),
            loud=st.booleans(),
            back=st.sampled_from([0, 0, 0, 1, 2]),
            shuffle=st.sampled_from([1, 2, 2, 3]),
        ),
        min_size=2,
        max_size=4,
    ).map(tuple),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(up_scaling)
def test_layers_behind_a_shuffle_keep_their_values(draw: GraphDraw) -> None:
    graph = build(draw)
    inputs = random_inputs(graph, draw.seed)
    wanted = evaluate(graph, inputs)
    rewritten = fold_shuffles(graph)
    found = evaluate(rewritten, inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert rewritten.macs == graph.macs


BODY = LayerDraw(3, 1, 4, "prelu", "none", True, False, 0, 1)
UP = dataclasses.replace(BODY, channels=4, shuffle=2)


def test_what_follows_a_shuffle_stays_on_chip() -> None:
    """Up-scaling inside the network: one cascade, and on the golden model the same values."""
    graph = build(GraphDraw(12, 20, 3, (BODY, UP, BODY, dataclasses.replace(BODY, channels=1)), 3))
    plan = make_plan(BASE, graph)
    assert len(plan.cascades) == 1
    program = emit(plan)
    inputs = random_inputs(graph, 1)
    (name,) = graph.outputs
    np.testing.assert_array_equal(reference.run(program, inputs)[name], evaluate(graph, inputs)[name])


def test_two_shuffles_become_one() -> None:
    folded = fold_shuffles(build(GraphDraw(5, 6, 3, (UP, UP, dataclasses.replace(BODY, channels=1)), 3)))
    assert [layer.factor for layer in folded.layers if isinstance(layer, Shuffle)] == [4]
    assert all(layer.kernel.footprint.columns == 3 for layer in folded.computed)


def chain(width: int, height: int = 60, layers: int = 6, channels: int = 32) -> LayerGraph:
    wide = dataclasses.replace(BODY, channels=channels)
    return build(GraphDraw(height, width, 3, (wide,) * layers, 5))


def shape(
    graph: LayerGraph, spec: AccelSpec = BASE, bytes_per_cycle: float | None = None
) -> tuple[int, int, int, float]:
    """Cascades, most strips, DRAM bytes, predicted cycles."""
    plan = make_plan(spec, graph, bytes_per_cycle)
    strips = max(len(cascade.strips) for cascade in plan.cascades)
    return len(plan.cascades), strips, sum(c.dram_bytes for c in plan.costs), sum(c.cycles for c in plan.costs)


def test_a_smaller_scratchpad_means_more_pieces() -> None:
    graph = chain(640)
    roomy, tight = shape(graph), shape(graph, dataclasses.replace(BASE, scratchpad_bytes=128 * 1024))
    assert roomy[:2] == (1, 1)
    assert tight[0] * tight[1] > 1
    assert tight[3] > roomy[3]


def test_a_wider_frame_means_more_pieces() -> None:
    assert shape(chain(640))[:2] == (1, 1)
    assert np.prod(shape(chain(2560))[:2]) > 1


def test_a_slower_memory_means_fewer_bytes() -> None:
    """With a fast DRAM strips keep their halos in it; with a slow one they compute them twice instead."""
    graph = chain(960, layers=14)
    spec = dataclasses.replace(BASE, scratchpad_bytes=320 * 1024)
    fast, slow = make_plan(spec, graph, 16.0), make_plan(spec, graph, 0.5)
    assert all(cascade.kept for cascade in fast.cascades)
    assert not any(cascade.kept for cascade in slow.cascades)
    assert sum(cost.dram_bytes for cost in slow.costs) < sum(cost.dram_bytes for cost in fast.costs)
    assert sum(cost.compute for cost in slow.costs) > sum(cost.compute for cost in fast.costs)


def test_a_slower_memory_means_fewer_cuts() -> None:
    graph = chain(960, layers=20)
    spec = dataclasses.replace(BASE, scratchpad_bytes=160 * 1024)
    fast, slow = shape(graph, spec, 16.0), shape(graph, spec, 0.5)
    assert slow[2] < fast[2]
    assert slow[1] > fast[1]


def test_the_estimate_is_near_the_model() -> None:
    from codesign.hw.timing import model as timing

    for spec, graph in ((BASE, chain(320)), (TINY, chain(64, channels=8))):
        plan = make_plan(spec, graph)
        cycles = timing.predict(emit(plan)).cycles
        assert abs(sum(cost.cycles for cost in plan.costs) / cycles - 1.0) < 0.1


def test_a_cascade_without_layers_is_explained() -> None:
    """As one is that only shuffles pixels from memory to memory."""
    plan = make_plan(BASE, chain(64, layers=1))
    (cascade,) = plan.cascades
    (told,) = explain(dataclasses.replace(plan, cascades=(dataclasses.replace(cascade, layers=()),)))
    assert (told["layers"], told["rows_per_step"]) == ([], 1)
