"""Operands of concatenations brought to one range, so that the scale they share suits them all.

A concatenation is read in place, so its operands share scale and zero point: of a flow of thirty pixels and an image
in -2 to 2, the image gets twenty codes. An operand may be multiplied by a positive factor if the convolutions that read
the concatenation take it back: the network computes the same. A convolution's own weights bear the factor where nobody
else is concerned; elsewhere a scale, a one-by-one layer, stands between operand and concatenation. In a cost volume the
convolution that makes the other tensor takes it back, and both share what their channels' ranges differ by.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compile.affine import CONVOLUTIONS
from codesign.compile.equalize import scalable, takes
from codesign.compile.graph import Array, Editor, Graph, Node
from codesign.compile.units import Kind, Unit, units

Peaks = NDArray[np.float64]

LEAST_FACTOR = 2.0
"""An operand whose range is more than the class's over this stays as it is: a bit is what there is to gain."""

ALIGNED = ".aligned"
"""Ends the names of the scales that are put in."""


@dataclass(frozen=True)
class Group:
    """Concatenations that read each other, and nobody but convolutions reads; ``operands``: those that are no such."""

    concats: tuple[Node, ...]
    operands: tuple[str, ...]
    partner: Unit | None = None  # or one concatenation, that a cost volume reads next to what this convolution makes


def is_aligned(unit: Unit) -> bool:
    """Whether ``unit`` is a scale that :func:`aligned` put in."""
    return unit.kind is Kind.SCALE and ALIGNED in unit.name


def groups(graph: Graph, parts: tuple[Unit, ...]) -> tuple[Group, ...]:
    """The groups of concatenations whose operands may be scaled apart."""
    consumers = graph.consumers()
    heads = {unit.name: unit.head for unit in parts if unit.kind is Kind.CONCAT}
    members: dict[str, set[str]] = {name: {name} for name in heads}
    for name, head in heads.items():
        for operand in set(head.inputs) & heads.keys():
            joined = members[name] | members[operand]
            members.update(dict.fromkeys(joined, joined))
    found: list[Group] = []
    for name in heads:
        group = members[name]
        if name != min(group):
            continue
        inside = [node for node in graph.nodes if node.name in group]
        readers = [(one, reader) for one in group for reader in consumers[one] if reader.name not in group]
        operands = dict.fromkeys(operand for node in inside for operand in node.inputs if operand not in group)
        if graph.output not in group and all(takes(graph, reader, one) for one, reader in readers):
            found.append(Group(tuple(inside), tuple(operands)))
        elif len(inside) == len(readers) == 1 and (partner := _partner(graph, parts, name, readers[0][1])) is not None:
            found.append(Group(tuple(inside), tuple(operands), partner))
    return tuple(found)


def _partner(graph: Graph, parts: tuple[Unit, ...], concat: str, reader: Node) -> Unit | None:
    """The convolution whose result, read by nobody else, ``reader`` correlates with ``concat``; None if it does not."""
    if reader.op != "correlation" or reader.inputs[1] != concat or concat == graph.output:
        return None
    made = next((unit for unit in parts if unit.name == reader.inputs[0]), None)
    alone = made is not None and len(graph.consumers()[made.name]) == 1
    return made if made is not None and alone and scalable(graph, made) else None


def aligned(graph: Graph, peaks: Mapping[str, Peaks], flows: Container[str]) -> Graph:
    """The same float function with operands of concatenations scaled to one range.

    ``peaks``: the largest magnitude of each channel as calibration saw it, of every operand
    of a concatenation and every convolution's result. ``flows`` get a scale
    in any case, of 1 if need be: the steps of a flow are binary fractions of a pixel, which suit nothing beside it.
    """
    for index in range(len(groups(graph, units(graph)))):
        parts = units(graph)  # anew: the weights of convolutions between two groups have other names by then
        group = groups(graph, parts)[index]
        ranges = {name: float(peaks[name].max()) for name in group.operands}
        if group.partner is None:
            factors = _factors(ranges, flows)
        else:
            channels = {name: graph.shape_of(name)[1] for name in group.operands}
            factors = _shared_factors(group, ranges, channels, peaks[group.partner.name])
            graph = _partner_scaled(graph, group, group.partner, factors)
        if factors:
            graph = _scaled(graph, {unit.name: unit for unit in parts}, group, factors, flows)
    return graph


def _factors(ranges: Mapping[str, float], flows: Container[str]) -> dict[str, float]:
    """By operand, what brings it to the group's range, where that is worth it."""
    largest = max(ranges.values())
    return {
        name: float(np.float32(largest / own))
        for name, own in ranges.items()
        if own > 0 and (largest / own >= LEAST_FACTOR or name in flows)
    }


def _shared_factors(
    group: Group, ranges: Mapping[str, float], channels: Mapping[str, int], partner: Peaks
) -> dict[str, float]:
    """By operand, what gives its channels and the partner's one range: the root of how much theirs differ."""
    factors: dict[str, float] = {}
    shares: dict[str, float] = {}
    first = 0
    for name in group.concats[0].inputs:
        shares[name] = float(partner[first : first + channels[name]].max())
        first += channels[name]
    middle = max(np.sqrt(ranges[name] * share) for name, share in shares.items())
    if middle == 0.0:
        return factors
    for name, share in shares.items():
        apart = max(share, 1e-3 * middle) / max(ranges[name], 1e-3 * middle)
        if max(apart, 1.0 / apart) >= LEAST_FACTOR**2:
            factors[name] = float(np.float32(np.sqrt(apart)))
    return factors


def _partner_scaled(graph: Graph, group: Group, partner: Unit, factors: Mapping[str, float]) -> Graph:
    """The partner's channels divided by what their counterparts are multiplied by."""
    (concat,) = group.concats
    by_channel = np.concatenate([np.full(graph.shape_of(name)[1], factors.get(name, 1.0)) for name in concat.inputs])
    constants: dict[str, Array] = dict(graph.constants)
    for node in partner.nodes:
        if node.op in CONVOLUTIONS:
            shape = (-1, 1, 1, 1) if node.op == "nn.conv2d" else (1, -1, 1, 1)
        elif node.op == "add":
            shape = (1, -1, 1, 1)
        else:
            continue
        constants[node.inputs[1]] = (constants[node.inputs[1]] / by_channel.reshape(shape)).astype(np.float32)
    return replace(graph, constants=constants)


def _scaled(
    graph: Graph, parts: Mapping[str, Unit], group: Group, factors: Mapping[str, float], flows: Container[str]
) -> Graph:
    consumers = graph.consumers()
    names = {node.name for node in group.concats}
    constants: dict[str, Array] = dict(graph.constants)
    folded: set[str] = set()
    for name, factor in factors.items():
        unit = parts.get(name)
        others = [reader for reader in consumers[name] if reader.name not in names]
        alone = unit is not None and name != graph.output and all(takes(graph, reader, name) for reader in others)
        if unit is None or name in flows or not alone or not scalable(graph, unit):
            continue
        folded.add(name)
        for constant in (node.inputs[1] for node in unit.nodes if node.op in (*CONVOLUTIONS, "add")):
            constants[constant] = (constants[constant] * factor).astype(np.float32)
        for reader in others:
            constants[reader.inputs[1]] = (constants[reader.inputs[1]] / factor).astype(np.float32)
    graph = replace(graph, constants=constants)
    editor = Editor(graph)
    copies: dict[str, str] = {}
    by_channel: dict[str, Array] = {}
    for node in graph.nodes:
        if node.name in names:
            inputs = list(node.inputs)
            for at, name in enumerate(inputs):
                if name in factors and name not in folded:
                    if name not in copies:
                        constant = editor.constant(f"{name}.factor", np.array(factors[name], np.float32))
                        copies[name] = editor.add(
                            f"{name}{ALIGNED}", "multiply", (name, constant), shape=graph.shape_of(name)
                        )
                    inputs[at] = copies[name]
            by_channel[node.name] = np.concatenate([
                by_channel[name] if name in by_channel else np.full(graph.shape_of(name)[1], factors.get(name, 1.0))
                for name in node.inputs
            ])  # fmt: skip
            editor.keep(node, inputs=tuple(inputs))
            continue
        if group.partner is None and node.inputs and node.inputs[0] in by_channel:
            axis = 1 if node.op == "nn.conv2d" else 0
            shape = [1] * 4
            shape[axis] = -1
            weight = graph.constants[node.inputs[1]] / by_channel[node.inputs[0]].reshape(shape)
            named = editor.constant(f"{node.name}.unaligned", weight.astype(np.float32))
            editor.keep(node, inputs=(node.inputs[0], named))
            continue
        editor.keep(node)
    return editor.graph()
