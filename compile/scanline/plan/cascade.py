"""The plan: which layers run depth first together, in how many strips, chosen by cost among all that fits on chip."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.cost import Cost
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.compile.scanline.plan.plan import Cascade
from codesign.compile.scanline.plan.planner import Planner, Prices
from codesign.compile.scanline.plan.strips import HaloMode
from codesign.compile.scanline.rewrite.split_layers import each_rewriting
from codesign.hw.errors import UnsupportedError
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Plan:
    """A network's layers (rewritten for the machine) cut into cascades, each with its estimated cost."""

    spec: AccelSpec
    graph: LayerGraph
    cascades: tuple[Cascade, ...]
    costs: tuple[Cost, ...]
    reasons: tuple[str, ...]
    """Per cascade why it ends where it does."""

    @property
    def price(self) -> float:
        return sum(cost.price for cost in self.costs)


def make_plan(
    spec: AccelSpec, graph: LayerGraph, bytes_per_cycle: float | None = None, *, halos: HaloMode | None = None
) -> Plan:
    """The cheapest plan of ``graph`` on ``spec``, for a DRAM of ``bytes_per_cycle`` (by default the bus width).

    ``halos``: the mode of every cascade with strips; by default each has the one that costs it less. All ways to write
    the graph (:func:`codesign.compile.scanline.rewrite.split_layers.each_rewriting`) are planned.

    Raises :class:`UnsupportedError` when a layer does not fit even in the narrowest strips.
    """
    mappings, rate = Mappings(spec), bytes_per_cycle or spec.bus_bytes
    known = Prices()

    def plan(rewritten: LayerGraph) -> Plan:
        return _plan_cascades(Planner(spec, rewritten, rate, halos, mappings, known=known))

    plans = each_rewriting(spec, graph, mappings, plan)
    return min(plans, key=lambda plan: plan.price)


def _plan_cascades(planner: Planner) -> Plan:
    """Cut the planner's graph (after :func:`split_layers`) where that costs least.

    Every run of layers that fits in some number of strips is a candidate; the cheapest sequence of runs is found by
    dynamic programming over the layers.
    """
    spec, graph = planner.spec, planner.graph
    count = len(graph.layers)
    # reached[i]: price of the cheapest way to have computed the first i layers, and where its last cascade begins.
    reached: list[tuple[float, int]] = [(0.0, 0)] + [(math.inf, 0)] * count
    for first in range(count):
        so_far = reached[first][0]
        if math.isinf(so_far):
            continue
        for end in range(first + 1, count + 1):
            price = planner.price(first, end)
            if isinstance(price, str):
                if planner.no_longer_fits(first, end):
                    break
                continue
            if so_far + price < reached[end][0]:
                reached[end] = (so_far + price, first)
        if all(math.isinf(price) for price, _ in reached[first + 1 :]):
            layer = graph.layers[first]
            raise UnsupportedError(
                f"a row of {layer.sources[0]} does not fit the {spec.scratchpad_bytes // 1024} KiB scratchpad",
                where=layer.name,
                hint="Choose a larger accelerator or a smaller frame.",
            )
    chosen: list[tuple[Cascade, Cost]] = []
    at = count
    while at:
        found = planner.best(reached[at][1], at)
        assert not isinstance(found, str)
        chosen.insert(0, found)
        at = reached[at][1]
    cascades, costs = zip(*chosen, strict=True) if chosen else ((), ())
    return Plan(spec, graph, cascades, costs, tuple(map(planner.reason, cascades)))
