"""Units of a quantised network that run on Scanline: read back, accepted by their operators, merged into regions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from codesign.compile.canonical.affine import is_bias
from codesign.compile.graph.graph import STATE, STEP, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.registry import macs_of, why_unsupported
from codesign.compile.quantise.rounded import rounded_units
from codesign.hw.spec import AccelSpec

SYMBOL = "scanline_region_"
"""Begins the symbol that a region's code is called by."""


@dataclass(frozen=True)
class Placement:
    """Where one operator of the network runs."""

    name: str  # in the user's model, as far as it is known
    operator: str
    on_accelerator: bool
    reason: str  # why not on the accelerator; empty when it is
    macs: int


@dataclass(frozen=True)
class Region:
    """Units that run as one program: codes in, codes out.

    ``graph``: the whole network. ``units``: by the quantise nodes that end them, in order. ``inputs`` and ``outputs``:
    names of tensors of codes.
    """

    symbol: str
    graph: Graph = field(repr=False)
    units: dict[str, RoundedUnit] = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All that the region computes, in order: dequantise nodes, operators, quantise nodes."""
        within = {name for end in self.units for name in _cone(self.graph, end)}
        return tuple(node for node in self.graph.nodes if node.name in within)


@dataclass(frozen=True)
class Partitioned:
    """A quantised network in the order in which its parts run: operators of the host, and regions."""

    graph: Graph = field(repr=False)
    steps: tuple[Region | Node, ...] = field(repr=False)
    placements: tuple[Placement, ...]

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(step for step in self.steps if isinstance(step, Region))

    @property
    def macs(self) -> int:
        return sum(placement.macs for placement in self.placements)

    @property
    def host_macs(self) -> int:
        return sum(placement.macs for placement in self.placements if not placement.on_accelerator)


def partition(graph: Graph, spec: AccelSpec) -> Partitioned:
    """Cut a quantised network (see :mod:`codesign.compile.quantise.quantise`) into host and accelerator parts.

    What needs a unit that ``spec`` lacks, or more channels of statistics than it keeps, stays on the host.
    """
    units = rounded_units(graph)
    taken: dict[str, RoundedUnit] = {}
    reasons: dict[str, str] = {}
    for end, unit in units.items():
        reason = unit.operator.unsupported(graph, unit.head, spec) if unit.nodes else None
        reason = reason or unit.operator.refuses(unit)
        if reason is None:
            taken[end] = unit
        else:
            reasons |= dict.fromkeys((node.name for node in unit.nodes), reason)
    steps = tuple(_steps(graph, taken))
    regions = [step for step in steps if isinstance(step, Region)]
    offloaded = {node.name for unit in taken.values() for node in unit.nodes}
    placements = [
        Placement(node.name, node.op, True, "", macs_of(graph, node))
        for region in regions
        for unit in region.units.values()
        for node in unit.nodes
        if not is_bias(graph, node)
    ]
    for node in graph.nodes:
        plain = node.op not in (STATE, STEP, "quantize", "dequantize") and not is_bias(graph, node)
        if plain and node.name not in offloaded:
            reason = reasons.get(node.name) or why_unsupported(graph, node, spec)
            reason = reason or "It does not stand between roundings to int8."
            placements.append(Placement(node.name, node.op, False, reason, macs_of(graph, node)))
    return Partitioned(graph, steps, tuple(placements))


def _cone(graph: Graph, end: str) -> list[str]:
    """The nodes from the dequantised operands to the quantise node ``end``."""
    found, waiting = [], [end]
    while waiting:
        name = waiting.pop()
        found.append(name)
        node = graph.by_name[name]
        if node.op != "dequantize":
            waiting += [one for one in node.inputs if one in graph.by_name]
    return found


def _steps(graph: Graph, units: dict[str, RoundedUnit]) -> Iterator[Region | Node]:
    """Host operators and regions in an order in which they can run.

    Regions are as large as can be without one waiting for a result of the host that waits for it.
    """
    cones = {end: set(_cone(graph, end)) for end in units}
    inside = set[str]().union(*cones.values()) - units.keys()
    groups = _Groups()
    for node in graph.nodes:
        if node.name in units:
            groups.join(node.name, [operand.name for operand in units[node.name].operands], offloaded=True)
        elif node.name not in inside:
            groups.join(node.name, node.inputs, offloaded=False)
    members = groups.members()
    consumers = graph.consumers()
    count = 0
    for group in groups.in_order():
        ends = members[group]
        if ends[0] not in units:
            yield from (graph.by_name[name] for name in ends)
            continue
        within = set[str]().union(*(cones[end] for end in ends))
        inputs = [operand.name for end in ends for operand in units[end].operands if operand.name not in within]
        read = (end for end in ends if any(reader.name not in within for reader in consumers[end]))
        outputs = tuple(read) or (graph.output,)
        yield Region(
            f"{SYMBOL}{count}", graph, {end: units[end] for end in ends}, tuple(dict.fromkeys(inputs)), outputs
        )
        count += 1


class _Groups:
    """Nodes in groups, and what every group waits for.

    The rule is that of TVM's MergeCompositeFunctions: a unit joins the groups of its operands, but for those that
    another operand waits for.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._offloaded: list[bool] = []
        self._needs: list[set[int]] = []
        self._group: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self._root(self._group[name])

    def join(self, name: str, operands: Iterable[str], *, offloaded: bool) -> None:
        sources = list(dict.fromkeys(self.of(operand) for operand in operands if operand in self._group))
        behind = {self._root(group) for source in sources for group in self._needs[source]}
        mergeable = [one for one in sources if offloaded and self._offloaded[one] and one not in behind]
        if mergeable:
            group, *others = mergeable
            for other in others:
                self._parent[other] = group
                self._needs[group] |= self._needs[other]
        else:
            group = len(self._parent)
            self._parent.append(group)
            self._offloaded.append(offloaded)
            self._needs.append(set())
        self._group[name] = group
        for source in map(self._root, sources):
            if source != group:
                self._needs[group] |= {source, *self._needs[source]}

    def members(self) -> dict[int, list[str]]:
        """The names in every group, in the order in which they joined."""
        found: dict[int, list[str]] = {}
        for name in self._group:
            found.setdefault(self.of(name), []).append(name)
        return found

    def in_order(self) -> list[int]:
        """Every group after those that it waits for."""
        needs = {group: {self._root(need) for need in self._needs[group]} - {group} for group in self.members()}
        return list(TopologicalSorter(needs).static_order())

    def _root(self, group: int) -> int:
        while self._parent[group] != group:
            group = self._parent[group]
        return group
