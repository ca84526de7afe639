"""Decide which tensors have 16 bits instead of 8: which may, which must, which units read all bits, and the scales.

A tensor of 16 bits has zero point 0. Flows and the operands of sums have powers of two as scales, so that sums add
whole numbers. Convolutions, sums, scales, resamplings and movement read and write 16 bits; look-ups, products,
activations alone and warped images have 8 bits, and read a tensor of 16 rounded. A concatenation of 16 bits may have
operands of 8 bits: they are its high bytes, at 256 times its scale.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import numpy as np

from codesign.compile.graph.graph import Graph
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.host import HOST
from codesign.compile.quantise.alignment import groups, is_aligned
from codesign.compile.quantise.calibration import EMPTY, Observation, QuantParams
from codesign.hw.numerics import FLOW_FRACTION_BITS, INT16_MAX

FLOW_ROOM = 2.0
"""A flow may be this many times longer than the longest one seen in calibration."""

MOST_APART = 64
"""Largest ratio between the scales of two tensors that are added: the ratio becomes an 8-bit weight."""


@dataclass(frozen=True)
class Widths:
    """The stored tensors with 16 bits, and the convolutions whose weights have 16, by the names of their units."""

    tensors: frozenset[str] = field(default_factory=frozenset)
    weights: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: Widths) -> Widths:
        return Widths(self.tensors | other.tensors, self.weights | other.weights)

    def __sub__(self, other: Widths) -> Widths:
        return Widths(self.tensors - other.tensors, self.weights - other.weights)


def flows(parts: tuple[Unit, ...]) -> frozenset[str]:
    """The tensors that warps and look-ups read as their flow."""
    return frozenset(unit.head.inputs[1] for unit in parts if unit.operator.at_a_flow)


def with_consequences(
    graph: Graph, parts: tuple[Unit, ...], wanted: Container[str], stored: Container[str]
) -> frozenset[str]:
    """``wanted`` with everything that follows from it; empty if it is impossible.

    Tensors that are moved keep their bits. A sum of 16 bits has operands of 16, and so has a concatenation that other
    units than convolutions read.
    """
    by_name = {unit.name: unit for unit in parts}
    mixable = {node.name for group in groups(graph, parts) if group.partner is None for node in group.concats}
    wide = {unit.name for unit in parts if unit.name in wanted}
    while True:
        before = len(wide)
        for unit in parts:
            operands = [name for name in unit.head.inputs if graph.is_activation(name)]
            if unit.operator.keeps_scale and wide & {unit.name, operands[0]}:
                wide |= {unit.name, operands[0]}
                continue
            whole = unit.operator.joins_scales and unit.name not in mixable
            if unit.name in wide and (unit.operator.widens_operands(unit) or whole):
                wide |= set(operands)
        if len(wide) == before:
            break
    possible = all(
        name in by_name and name in stored and by_name[name].operator.stores_16_bits(by_name[name], graph)
        for name in wide
    )
    return frozenset(wide) if possible else frozenset()


def flow_tensors(graph: Graph, parts: tuple[Unit, ...], stored: Container[str]) -> frozenset[str]:
    """Results that need 16 bits: flows, tensors that are added, scaled, resized or moved into one, or made from one."""
    by_name = {unit.name: unit for unit in parts}
    wide: set[str] = set()
    found = {name for name in flows(parts) if name in by_name and by_name[name].operator.stores_16_bits(by_name[name])}
    while found - wide:
        wide |= found
        for unit in parts:
            operands = [name for name in unit.head.inputs if graph.is_activation(name)]
            passing = unit.operator.carries_flows and unit.operator.stores_16_bits(unit, graph)
            passing = passing and not is_aligned(unit)
            resized = unit.operator is HOST and unit.head.op == "image.resize2d" and operands[0] in wide
            joined = unit.operator.joins_scales and wide >= set(operands)
            if resized or joined:
                found = found | {unit.name}
                continue
            possible = passing and all(
                name in by_name and by_name[name].operator.stores_16_bits(by_name[name]) for name in operands
            )
            alone = all(node.op == "multiply" for node in unit.nodes[1:])
            if possible and alone and wide & {unit.name, *operands}:
                found = found | {unit.name, *operands}
    return frozenset(name for name in wide if name in stored or name in flows(parts))


def wide_scales(
    graph: Graph, parts: tuple[Unit, ...], wide: frozenset[str], seen: Mapping[str, Observation]
) -> dict[str, QuantParams]:
    """The scale of every tensor of 16 bits; operands of a concatenation share theirs, whatever their bits.

    Flows and the operands of sums have powers of two; every other tensor has the least scale that covers it.
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
        if unit.operator.keeps_scale or unit.operator.joins_scales:
            members |= set(unit.head.inputs)
            for name in unit.head.inputs:
                ties[find(name)] = find(unit.name)
        elif unit.operator.adds:
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
            if unit.operator.adds and unit.name in wide:
                roots = [find(name) for name in unit.head.inputs]
                coarser = max(scales[root] for root in roots)
                for root in roots:
                    scales[root] = max(scales[root], coarser / MOST_APART)
        if scales == before:
            return {
                name: QuantParams(float(np.float32(scales[find(name)])), 0) for name in sorted(members & seen.keys())
            }
