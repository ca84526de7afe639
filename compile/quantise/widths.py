"""What has 16 bits instead of 8: which stored tensors may, which must, who reads all of them, and at what scale.

A tensor of 16 bits has zero point 0; flows and what is added have powers of two as scales, so that sums are of whole
numbers. Convolutions, sums, scales, resamplings and movement read and make 16 bits; look-ups, products, activations
alone and warped images are of 8, and read a tensor of 16 rounded. A concatenation of 16 bits may have operands of 8:
they are its high bytes, at 256 times its scale.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import numpy as np

from codesign.compile.ir.graph import Graph
from codesign.compile.quantise.alignment import groups, is_aligned
from codesign.compile.quantise.calibration import EMPTY, Observation, QuantParams
from codesign.compile.quantise.units import AT_A_FLOW, SLOPES, Kind, Unit, keeps_corners
from codesign.hw.numerics import FLOW_FRACTION_BITS, INT16_MAX

FLOW_ROOM = 2.0
"""How many times longer than the longest flow seen a flow may be."""

MOST_APART = 64
"""How many times the finer scale of two tensors that are added the other may be: it becomes an 8-bit weight."""


@dataclass(frozen=True)
class Widths:
    """What has 16 bits: stored tensors, and the weights of convolutions, by the names of their units."""

    tensors: frozenset[str] = field(default_factory=frozenset)
    weights: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: Widths) -> Widths:
        return Widths(self.tensors | other.tensors, self.weights | other.weights)

    def __sub__(self, other: Widths) -> Widths:
        return Widths(self.tensors - other.tensors, self.weights - other.weights)


def flows(parts: tuple[Unit, ...]) -> frozenset[str]:
    """The tensors that warps and look-ups read as their flow."""
    return frozenset(unit.head.inputs[1] for unit in parts if unit.kind in AT_A_FLOW)


def widenable(unit: Unit, graph: Graph | None = None) -> bool:
    """Whether a unit can store 16 bits, its operands permitting; a sum, whose ``graph`` is given, if they are alike."""
    rest = {node.op for node in unit.nodes[1:]}
    match unit.kind:
        case Kind.CONVOLUTION:
            return rest <= {"add", "nn.relu", *SLOPES}
        case Kind.SCALE:
            return rest <= {"nn.relu", *SLOPES}
        case Kind.SUM:
            return not rest and (graph is None or len({graph.shape_of(name) for name in unit.head.inputs}) == 1)
        case Kind.RESAMPLING if keeps_corners(unit.head):  # the sampler's: of flows
            return graph is None or unit.head.shape[1] == 2
        case Kind.RESAMPLING | Kind.MOVEMENT | Kind.CONCAT | Kind.HOST:
            return True
        case _:
            return False


def reads_all(unit: Unit, which: int, *, result_wide: bool) -> bool:
    """Whether ``unit`` reads all bits of its operand ``which``; a convolution does if its sums fit."""
    match unit.kind:
        case Kind.RESAMPLING if keeps_corners(unit.head):
            return result_wide
        case Kind.HOST | Kind.CONVOLUTION | Kind.SCALE | Kind.RESAMPLING:
            return True
        case Kind.WARP | Kind.WINDOWS:
            return which == 1
        case Kind.SUM | Kind.MOVEMENT | Kind.CONCAT:
            return result_wide
        case _:
            return False


def closed(graph: Graph, parts: tuple[Unit, ...], wanted: Container[str], stored: Container[str]) -> frozenset[str]:
    """``wanted`` with what follows from it, empty if it cannot be.

    Tensors that are moved keep their bits, a sum of 16 bits has operands of such, and so has a concatenation that not
    only convolutions read.
    """
    by_name = {unit.name: unit for unit in parts}
    mixable = {node.name for group in groups(graph, parts) if group.partner is None for node in group.concats}
    wide = {unit.name for unit in parts if unit.name in wanted}
    while True:
        before = len(wide)
        for unit in parts:
            operands = [name for name in unit.head.inputs if graph.is_activation(name)]
            if unit.kind is Kind.MOVEMENT and wide & {unit.name, operands[0]}:
                wide |= {unit.name, operands[0]}
                continue
            whole = unit.kind is Kind.CONCAT and unit.name not in mixable
            if unit.name in wide and (unit.kind is Kind.SUM or keeps_corners(unit.head) or whole):
                wide |= set(operands)
        if len(wide) == before:
            break
    possible = all(name in by_name and name in stored and widenable(by_name[name], graph) for name in wide)
    return frozenset(wide) if possible else frozenset()


def flow_tensors(graph: Graph, parts: tuple[Unit, ...], stored: Container[str]) -> frozenset[str]:
    """Results that 8 bits are too few for: flows, and what is added, scaled, resized, moved into one or made of one."""
    by_name = {unit.name: unit for unit in parts}
    wide: set[str] = set()
    found = {name for name in flows(parts) if name in by_name and widenable(by_name[name])}
    while found - wide:
        wide |= found
        for unit in parts:
            operands = [name for name in unit.head.inputs if graph.is_activation(name)]
            passing = unit.kind in (Kind.SUM, Kind.SCALE, Kind.RESAMPLING, Kind.MOVEMENT) and widenable(unit, graph)
            passing = passing and not is_aligned(unit)
            resized = unit.kind is Kind.HOST and unit.head.op == "image.resize2d" and operands[0] in wide
            joined = unit.kind is Kind.CONCAT and wide >= set(operands)
            if resized or joined:
                found = found | {unit.name}
                continue
            possible = passing and all(name in by_name and widenable(by_name[name]) for name in operands)
            if possible and (len(unit.nodes) == 1 or unit.kind is Kind.RESAMPLING) and wide & {unit.name, *operands}:
                found = found | {unit.name, *operands}
    return frozenset(name for name in wide if name in stored or name in flows(parts))


def wide_scales(
    graph: Graph, parts: tuple[Unit, ...], wide: frozenset[str], seen: Mapping[str, Observation]
) -> dict[str, QuantParams]:
    """The scale of every tensor of 16 bits; operands of a concatenation share theirs, whatever their bits.

    Flows and what is added have powers of two; everything else just what covers it.
    """
    sampled, roomy = flows(parts), flow_tensors(graph, parts, wide)
    ties: dict[str, str] = {}

    def find(name: str) -> str:
        while ties.get(name, name) != name:
            name = ties[name]
        return name

    members, binary = set(wide), set(sampled | roomy)
    for unit in parts:
        if unit.name not in wide:
            continue
        if unit.kind in (Kind.MOVEMENT, Kind.CONCAT):
            members |= set(unit.head.inputs)
            for name in unit.head.inputs:
                ties[find(name)] = find(unit.name)
        elif unit.kind is Kind.SUM:
            binary |= {unit.name, *unit.head.inputs}
    rounded = {find(name) for name in binary}
    scales: dict[str, float] = {}
    for name in sorted(members & seen.keys()):
        peak = max(abs(seen[name].low), abs(seen[name].high), EMPTY)
        least = (FLOW_ROOM * max(peak, 1.0) if name in roomy else peak) / INT16_MAX
        if name in sampled:
            least = max(least, 2.0**-FLOW_FRACTION_BITS)
        scales[find(name)] = max(scales.get(find(name), 0.0), least)
    for name in scales.keys() & rounded:
        scales[name] = 2.0 ** math.ceil(math.log2(scales[name]))
    while True:
        before = dict(scales)
        for unit in parts:
            if unit.kind is Kind.SUM and unit.name in wide:
                roots = [find(name) for name in unit.head.inputs]
                coarser = max(scales[root] for root in roots)
                for root in roots:
                    scales[root] = max(scales[root], coarser / MOST_APART)
        if scales == before:
            return {
                name: QuantParams(float(np.float32(scales[find(name)])), 0) for name in sorted(members & seen.keys())
            }
