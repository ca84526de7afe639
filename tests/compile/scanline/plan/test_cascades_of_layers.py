"""Cascades, strips and row orders of drawn graphs keep what the machine relies on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.cost import estimate
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.compile.scanline.plan.plan import Cascade, RowOrder, Strip
from codesign.compile.scanline.plan.planner import ORDERS, Planner
from codesign.compile.scanline.plan.schedule import OPERAND, readings
from codesign.compile.scanline.plan.strips import HaloMode
from codesign.compile.scanline.rewrite.ordering import order_channels
from codesign.hw.spec import BASE, TINY, AccelSpec
from tests.sim.layer_graphs import GraphDraw, build, graph_draws

quick = settings(max_examples=30, deadline=None, derandomize=True, database=None)
machines = st.sampled_from([TINY, BASE])
draws = st.one_of(graph_draws(side=40, channels=6, layers=4), graph_draws(side=24, channels=4, layers=3, norms=True))
MODES: tuple[HaloMode, ...] = ("recompute", "keep")


def planner_of(spec: AccelSpec, draw: GraphDraw) -> Planner:
    return Planner(spec, order_channels(build(draw)), float(spec.bus_bytes), None, Mappings(spec))


def runs(graph: LayerGraph) -> Iterator[tuple[int, int]]:
    return ((first, end) for first in range(len(graph.layers)) for end in range(first + 1, len(graph.layers) + 1))


def cascades(planner: Planner, most_strips: int = 4) -> Iterator[Cascade]:
    """Every run of layers, in every order and halo mode, in up to ``most_strips`` strips."""
    for (first, end), order, halos in product(runs(planner.graph), ORDERS, MODES):
        undivided = planner.as_cascade(first, end, order, halos)
        if isinstance(undivided, str):
            continue
        for count in range(1, most_strips + 1):
            cascade = planner.into_strips(undivided, count)
            if cascade is not None:
                assert len(cascade.strips) == count
                yield cascade


def needed(graph: LayerGraph, strip: Strip, cascade: Cascade) -> Iterator[tuple[str, range]]:
    """The columns inside the frame that a strip's layers read, by tensor."""
    unfolded = {buffer.tensor for buffer in cascade.buffers if buffer.conversion.unfold}
    for plan in cascade.layers:
        layer, footprint = plan.layer, plan.layer.kernel.footprint
        first, end = strip.computed[layer.output], strip.columns[layer.output][1]
        for name in set(layer.sources) - unfolded:
            begin, stop = footprint.columns_for(first).start, footprint.columns_for(end - 1).stop
            yield name, range(max(begin, 0), min(stop, graph.tensors[name].width))
        if layer.operand is not None:
            yield layer.operand, range(first, end)


@quick
@given(machines, draws)
def test_strips_hold_what_their_layers_read(spec: AccelSpec, draw: GraphDraw) -> None:
    planner = planner_of(spec, draw)
    for cascade in cascades(planner):
        for strip in cascade.strips:
            for name, columns in needed(planner.graph, strip, cascade):
                first, end = strip.columns[name]
                assert len(columns) == 0 or (first <= columns.start and columns.stop <= end)


@quick
@given(machines, draws)
def test_strips_store_every_column_once(spec: AccelSpec, draw: GraphDraw) -> None:
    """From the first to the last, without gaps; kept halos come from the strip before."""
    planner = planner_of(spec, draw)
    for cascade in cascades(planner):
        for store in cascade.stores:
            spans = [strip.stored[store.tensor] for strip in cascade.strips]
            assert spans[0][0] == 0
            assert spans[-1][1] == planner.graph.tensors[store.tensor].width
            assert all(before[1] == after[0] for before, after in pairwise(spans))
        for before, after in pairwise(cascade.strips):
            for name, count in after.halos.items():
                first = after.computed[name] - count
                kept = before.stored[name] if name in before.stored else before.tails[name]
                assert cascade.kept
                assert kept[0] <= first
                assert after.computed[name] <= kept[1]


@quick
@given(machines, draws)
def test_buffers_hold_the_rows_of_a_kernel(spec: AccelSpec, draw: GraphDraw) -> None:
    """At least as many as a reader needs at once, and one reader of each tensor frees its rows."""
    planner = planner_of(spec, draw)
    for cascade in cascades(planner, most_strips=1):
        rows = {buffer.tensor: buffer for buffer in cascade.buffers}
        freeing: dict[str, int] = dict.fromkeys(rows, 0)
        for plan in cascade.layers:
            footprint = plan.layer.kernel.footprint
            frees = [*plan.frees, plan.free_operand]
            for reading, name in readings(0, plan.layer).items():
                extent = 1 if reading.which == OPERAND else footprint.rows
                assert rows[name].rows >= min(extent - footprint.pad_top, planner.graph.tensors[name].height)
                freeing[name] += frees[reading.which]
            assert plan.repeat >= 1
        assert all(freeing[name] == rows[name].freed_by_layer for name in rows)


@quick
@given(machines, draws)
def test_layers_that_are_alike_are_priced_alike(spec: AccelSpec, draw: GraphDraw) -> None:
    """A price that the planner remembers is the price of the cheapest division itself."""
    planner = planner_of(spec, draw)
    for first, end in runs(planner.graph):
        price, best = planner.price(first, end), planner.best(first, end)
        assert price == (best if isinstance(best, str) else best[1].price)
        if not isinstance(best, str):
            assert best[1] == estimate(spec, planner.graph, best[0], float(spec.bus_bytes))
            assert best[0].scratchpad_words <= spec.bank_words


@quick
@given(machines, draws)
def test_a_run_that_no_longer_fits_never_fits_again(spec: AccelSpec, draw: GraphDraw) -> None:
    planner = planner_of(spec, draw)
    for first, end in runs(planner.graph):
        if isinstance(planner.price(first, end), str) and planner.no_longer_fits(first, end):
            for longer in range(end + 1, len(planner.graph.layers) + 1):
                assert isinstance(planner.price(first, longer), str)


def test_row_orders_have_names() -> None:
    assert [order.value for order in ORDERS] == [RowOrder.RELAXED.value, RowOrder.EAGER.value] == ["relaxed", "eager"]
