"""Plans for many machines at once: machines alike but for scratchpad and DRAM share their candidates.

The planner (``cascade.py``) weighs one machine. The demand of a cascade on the engines does not depend on the size of
the scratchpad nor on the DRAM, so it is worked out once per shape of machine; which cascades fit, their cost and the
cheapest sequence of them are then decided for arrays of machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.kernel import LATENCY_CYCLES
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.cascade import Plan
from codesign.compile.scanline.plan.cost import Demand, byte_cycles, demand, estimate
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.compile.scanline.plan.plan import Cascade
from codesign.compile.scanline.plan.planner import Geometry, Planner
from codesign.compile.scanline.rewrite.split_layers import each_rewriting
from codesign.hw.errors import UnsupportedError
from codesign.hw.spec import AccelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EVENTS = ("busy", "dram_bytes", "read_words", "write_words", "values", "commands")
"""Fields of a :class:`Demand` that add up over cascades."""

_CHUNK = 4096  # machines priced together: their table of prices stays in the cache's reach


@dataclass(frozen=True)
class Choice:
    """The cheapest plan of each machine. ``cycles`` is infinite where none fits."""

    cycles: Floats
    price: Floats
    events: dict[str, Floats]  # by name in EVENTS
    cascades: Ints  # [machines, most cascades]: indices of candidates in the order of layers, -1 where there are fewer


class Candidates:
    """Cascades of one network for machines of one shape.

    ``cascades`` may overlap: a plan is a sequence of them that covers every layer once.
    """

    def __init__(self, spec: AccelSpec, graph: LayerGraph, cascades: Sequence[Cascade]) -> None:
        self.spec, self.graph, self.cascades = spec, graph, tuple(cascades)
        asked = [demand(spec, graph, cascade) for cascade in cascades]
        self._words = np.array([cascade.scratchpad_words for cascade in cascades], np.int64)
        self._first = np.array([cascade.first for cascade in cascades], np.int64)
        self._fixed = np.array([max(one.compute, one.load, one.store) for one in asked])
        self._events = np.array([[float(getattr(one, name)) for name in EVENTS] for one in asked])
        self._weights = np.array([float(one.weight_bytes) for one in asked])
        self._latency = np.array([3.0 * LATENCY_CYCLES * len(cascade.strips) for cascade in cascades])
        self._waits = _padded(asked)
        self._ending: dict[int, Ints] = {}
        for index, cascade in enumerate(cascades):
            self._ending[cascade.end] = np.append(self._ending.get(cascade.end, np.empty(0, np.int64)), index)

    def choose(self, scratchpad_bytes: Ints, bytes_per_cycle: Floats) -> Choice:
        """The cheapest plan of each machine, by the planner's own price."""
        parts = [
            self._choose(scratchpad_bytes[at : at + _CHUNK], bytes_per_cycle[at : at + _CHUNK])
            for at in range(0, len(scratchpad_bytes), _CHUNK)
        ]
        most = max(part.cascades.shape[1] for part in parts)
        return Choice(
            cycles=np.concatenate([part.cycles for part in parts]),
            price=np.concatenate([part.price for part in parts]),
            events={name: np.concatenate([part.events[name] for part in parts]) for name in EVENTS},
            cascades=np.concatenate(
                [
                    np.pad(part.cascades, ((0, 0), (0, most - part.cascades.shape[1])), constant_values=-1)
                    for part in parts
                ]
            ),
        )

    def _choose(self, scratchpad_bytes: Ints, bytes_per_cycle: Floats) -> Choice:
        """By dynamic programming over the layers, all machines in step."""
        layers, machines = len(self.graph.layers), len(scratchpad_bytes)
        cycles = self._cycles(bytes_per_cycle)
        bank_words = scratchpad_bytes // (self.spec.banks * self.spec.ci_lanes)
        price = cycles + self._events[:, EVENTS.index("dram_bytes"), None] * byte_cycles(self.spec)
        price[self._words[:, None] > bank_words] = np.inf
        reached = np.full((layers + 1, machines), np.inf)
        reached[0] = 0.0
        taken = np.full((layers + 1, machines), -1, np.int64)
        every = np.arange(machines)
        for end in range(1, layers + 1):
            if end not in self._ending:
                continue
            which = self._ending[end]
            total = reached[self._first[which]] + price[which]
            best = np.argmin(total, axis=0)
            reached[end], taken[end] = total[best, every], which[best]
        possible = np.isfinite(reached[layers])
        spent = np.where(possible, 0.0, np.inf)
        events = np.zeros((machines, len(EVENTS)))
        sequence: list[Ints] = []
        at = np.where(possible, layers, 0)
        while np.any(at):
            one = np.where(at > 0, taken[at, every], -1)
            spent += np.where(one >= 0, cycles[one, every], 0.0)
            events += np.where((one >= 0)[:, None], self._events[one], 0.0)
            sequence.append(one)
            at = np.where(one >= 0, self._first[one], 0)
        rows = np.stack(sequence[::-1], axis=1) if sequence else np.empty((machines, 0), np.int64)
        return Choice(spent, reached[layers], {name: events[:, k] for k, name in enumerate(EVENTS)}, _to_the_left(rows))

    def _cycles(self, bytes_per_cycle: Floats) -> Floats:
        """``[candidates, machines]``, as :func:`codesign.compile.scanline.plan.cost.estimate`."""
        rates, of = np.unique(bytes_per_cycle, return_inverse=True)
        moved, words = self._waits
        start = np.maximum(moved[:, :, None] / rates, words[:, :, None]).sum(axis=1)
        start += self._weights[:, None] / np.minimum(rates, self.spec.bus_bytes) + self._latency[:, None]
        dram = self._events[:, EVENTS.index("dram_bytes"), None] / rates
        cycles: Floats = np.maximum(self._fixed[:, None], dram) + start
        return cycles[:, of]


def _padded(asked: Sequence[Demand]) -> tuple[Floats, Floats]:
    """Waits of every candidate as ``[candidates, most waits]``: bytes, words; zeros wait for nothing."""
    most = max((len(one.waits) for one in asked), default=0)
    table = np.zeros((len(asked), most, 2))
    for index, one in enumerate(asked):
        table[index, : len(one.waits)] = one.waits
    return table[..., 0], table[..., 1]


def _to_the_left(rows: Ints) -> Ints:
    """Every row's entries that are not -1 first, in their order."""
    order = np.argsort(rows < 0, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def all_candidates(
    spec: AccelSpec,
    graph: LayerGraph,
    least_scratchpad_bytes: int,
    most_scratchpad_bytes: int,
    geometry: Geometry | None = None,
) -> list[Candidates]:
    """Candidates for machines like ``spec`` with scratchpads in this range, for each way to write the network.

    ``geometry`` is shared by calls for other machines and the same network.

    Raises :class:`UnsupportedError` when a layer fits no such machine.
    """
    word_bytes = spec.banks * spec.ci_lanes
    least, most = least_scratchpad_bytes // word_bytes, most_scratchpad_bytes // word_bytes
    mappings = Mappings(spec)

    def candidates(rewritten: LayerGraph) -> Candidates:
        planner = Planner(spec, rewritten, float(spec.bus_bytes), None, mappings, geometry)
        layers = len(rewritten.layers)
        runs = ((first, end) for first in range(layers) for end in range(first + 1, layers + 1))
        return Candidates(spec, rewritten, [one for run in runs for one in planner.candidates(*run, least, most)])

    return [found for found in each_rewriting(spec, graph, mappings, candidates) if found.cascades]


def candidates_of(plan: Plan, spec: AccelSpec) -> Candidates:
    """``plan``'s own cascades, remapped onto machines like ``spec``: the cuts, strips and row orders stay.

    Raises :class:`UnsupportedError` when one of them is impossible there.
    """
    mappings = Mappings(spec)
    planner = Planner(spec, plan.graph, float(spec.bus_bytes), None, mappings)
    cascades = []
    for cascade in plan.cascades:
        undivided = planner.as_cascade(
            cascade.first, cascade.end, cascade.order, "keep" if cascade.kept else "recompute"
        )
        impossible = isinstance(undivided, str)
        divided = None if isinstance(undivided, str) else planner.into_strips(undivided, len(cascade.strips))
        if divided is None:
            raise UnsupportedError(
                "the plan's cascade is impossible on this machine" + (f": {undivided}" if impossible else ""),
                where=plan.graph.layers[cascade.first].name,
                hint="Search for cascades instead of keeping them.",
            )
        cascades.append(divided)
    return Candidates(spec, plan.graph, cascades)


def plan_of(candidates: Candidates, spec: AccelSpec, chosen: Ints, bytes_per_cycle: float) -> Plan:
    """The plan that :meth:`Candidates.choose` found for ``spec``: ``chosen`` is its row of ``Choice.cascades``."""
    cascades = tuple(candidates.cascades[index] for index in chosen if index >= 0)
    costs = tuple(estimate(spec, candidates.graph, cascade, bytes_per_cycle) for cascade in cascades)
    return Plan(spec, candidates.graph, cascades, costs, ("chosen among many machines' candidates",) * len(cascades))
