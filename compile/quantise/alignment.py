"""Operands of concatenations scaled towards one range, so that the scale they share suits them all.

A concatenation is read in place, so its operands share scale and zero point: of a flow of thirty pixels and an image
in -2 to 2, the image gets twenty codes. An operand may be multiplied by a positive factor if the convolutions that read
the concatenation take it back: the network computes the same. But weights share a scale too, by output channel, and
those that take a large factor back round to zero. So a factor is what makes the sum of both errors least
(docs/decisions/concatenation.md): about the root of how far two ranges are apart where their weights are alike, all of
it where the weights are apart the other way. Powers of two, so that the float function keeps every bit.

A convolution's own weights bear the factor where nobody else is concerned; elsewhere a scale, a one-by-one layer,
stands between operand and concatenation. In a cost volume the convolution that makes the other tensor takes it back,
and both share what their channels' ranges differ by.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compile.ir.graph import Array, Editor, Graph, Node
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.operators.scale import Scale
from codesign.compile.operators.unit import Unit
from codesign.compile.quantise.equalise import ChannelRange, scalable, takes
from codesign.compile.quantise.units import units
from codesign.hw.numerics import INT8_MAX, INT8_MIN

Peaks = NDArray[np.float64]

LEAST_FACTOR = 2.0
"""Next to a cost volume, a factor of less is not worth its layer: a bit is what there is to gain."""

SETTLED_POWER = 4
"""Ranges so many bits apart, or fewer, are brought to one: weights keep enough of theirs, and a trained network minds
noise on an operand more than as much error of its weights, which moves with the picture (SpyNet: measured)."""

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
    return isinstance(unit.operator, Scale) and ALIGNED in unit.name


def is_copy(graph: Graph, unit: Unit) -> bool:
    """Whether ``unit`` is such a scale of a tensor that nobody else reads: the codes of both are the same.

    Where others read the tensor, it keeps the scale that suits it, and the operand is rounded once more.
    """
    return is_aligned(unit) and len(graph.consumers()[unit.head.inputs[0]]) == 1


def groups(graph: Graph, parts: tuple[Unit, ...]) -> tuple[Group, ...]:
    """The groups of concatenations whose operands may be scaled apart."""
    consumers = graph.consumers()
    heads = {unit.name: unit.head for unit in parts if unit.operator.joins_scales}
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


def aligned(graph: Graph, seen: Mapping[str, ChannelRange], flows: Container[str]) -> Graph:
    """The same float function with operands of concatenations scaled towards one range.

    ``seen``: what calibration saw of every operand of a concatenation and every convolution's result. ``flows`` get a
    scale in any case, of 1 if need be: the steps of a flow are binary fractions of a pixel, which suit nothing beside
    it.
    """
    for index in range(len(groups(graph, units(graph)))):
        parts = units(graph)  # anew: the weights of convolutions between two groups have other names by then
        group = groups(graph, parts)[index]
        by_name = {unit.name: unit for unit in parts}
        bearers = {name for name in group.operands if name not in flows and _bears(graph, by_name.get(name), group)}
        if group.partner is None:
            factors = _least_error(group, _readings(graph, group, bearers, seen), seen)
            factors = {name: factor for name, factor in factors.items() if factor > 1.0 or name in flows}
        else:
            ranges = {name: float(seen[name].peak.max()) for name in group.operands}
            channels = {name: graph.shape_of(name)[1] for name in group.operands}
            factors = _shared_factors(group, ranges, channels, seen[group.partner.name].peak)
            graph = _partner_scaled(graph, group, group.partner, factors)
        if factors:
            graph = _scaled(graph, {name: by_name[name] for name in bearers & factors.keys()}, group, factors)
    return graph


def _bears(graph: Graph, unit: Unit | None, group: Group) -> bool:
    """Whether the weights of the operand ``unit`` can bear a factor: only convolutions read it besides."""
    if unit is None or unit.name == graph.output or not scalable(graph, unit):
        return False
    inside = {node.name for node in group.concats}
    others = [reader for reader in graph.consumers()[unit.name] if reader.name not in inside]
    return all(takes(graph, reader, unit.name) for reader in others)


@dataclass(frozen=True)
class _Reading:
    """A convolution of what shares the scale: what its rounding errors depend on, by operand ``[K]``."""

    squares: Peaks  # [K]: its weights', summed
    peaks: Peaks  # [outputs, K]: the largest weight's magnitude
    energies: Peaks  # [K]: squares of what one output reads, summed
    signal: float  # mean squares of its outputs, summed, as if what it reads were independent

    def error(self, factors: Peaks, step: float) -> float:
        """Twelve times the noise of its outputs over their signal, its operands times ``factors`` in codes of ``step``.

        Activations' errors meet the weights over the factor, weights' errors the activations times it.
        """
        weight_steps = (self.peaks / factors).max(axis=1) / INT8_MAX
        activations = step**2 * float((self.squares / factors**2).sum())
        weights = float(np.square(weight_steps).sum()) * float((self.energies * factors**2).sum())
        return (activations + weights) / self.signal


def _readings(graph: Graph, group: Group, bearers: Collection[str], seen: Mapping[str, ChannelRange]) -> list[_Reading]:
    """Of the group's concatenations, and of operands that themselves are multiplied (``bearers``)."""
    consumers = graph.consumers()
    inside = {node.name for node in group.concats}
    numbers = {name: np.full(graph.shape_of(name)[1], at) for at, name in enumerate(group.operands)}
    energies = {name: seen[name].square for name in group.operands}
    for concat in group.concats:
        numbers[concat.name] = np.concatenate([numbers[name] for name in concat.inputs])
        energies[concat.name] = np.concatenate([energies[name] for name in concat.inputs])
    found: list[_Reading] = []
    for read in (*sorted(bearers), *(concat.name for concat in group.concats)):
        of_operand = numbers[read] == np.arange(len(group.operands))[:, None]  # [K, channels]
        for reader in consumers[read]:
            if reader.name in inside:
                continue
            weight = graph.constants[reader.inputs[1]].astype(np.float64)
            outputs_first = weight if reader.op == "nn.conv2d" else weight.swapaxes(0, 1)
            by_tap = outputs_first.reshape(*outputs_first.shape[:2], -1)  # [outputs, channels, taps]
            squares = np.square(by_tap).sum(axis=(0, 2))
            peaks = np.abs(by_tap).max(axis=2)
            found.append(
                _Reading(
                    of_operand @ squares,
                    np.stack([np.where(own, peaks, 0.0).max(axis=1) for own in of_operand], axis=1),
                    by_tap.shape[2] * (of_operand @ energies[read]),
                    float(squares @ energies[read]),
                )
            )
    return [reading for reading in found if reading.signal > 0]


def _least_error(group: Group, readings: list[_Reading], seen: Mapping[str, ChannelRange]) -> dict[str, float]:
    """By operand, the power of two that gives the readers least error: none more than brings it to the largest range,
    and that one where it is :data:`SETTLED_POWER` bits at most.

    The error is convex in the factors' logarithms (a geometric programme), so one factor after another is settled until
    none changes.
    """
    low = np.array([min(float(seen[name].low.min()), 0.0) for name in group.operands])
    high = np.array([max(float(seen[name].high.max()), 0.0) for name in group.operands])
    ranges = np.maximum(-low, high)
    if not readings or not ranges.any():
        return dict.fromkeys(group.operands, 1.0)
    most = np.where(ranges > 0, np.floor(np.log2(ranges.max() / np.where(ranges > 0, ranges, 1.0))), 0.0).astype(int)
    first = np.minimum(most, SETTLED_POWER)
    factors = 2.0**first

    def error(at: int, factor: float) -> float:
        tried = factors.copy()
        tried[at] = factor
        step = ((high * tried).max() - (low * tried).min()) / (INT8_MAX - INT8_MIN)
        return sum(reading.error(tried, step) for reading in readings)

    changed = True
    while changed:
        changed = False
        for at, (low_power, high_power) in enumerate(zip(first.tolist(), most.tolist(), strict=True)):
            errors = [error(at, 2.0**power) for power in range(low_power, high_power + 1)]
            least = 2.0 ** (low_power + int(np.argmin(errors)))
            if least != factors[at]:
                factors[at], changed = least, True
    return dict(zip(group.operands, factors.tolist(), strict=True))


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


def _scaled(graph: Graph, bearers: Mapping[str, Unit], group: Group, factors: Mapping[str, float]) -> Graph:
    """The operands times their ``factors``: by their own weights (``bearers``), or by a scale that is put in."""
    consumers = graph.consumers()
    names = {node.name for node in group.concats}
    constants: dict[str, Array] = dict(graph.constants)
    for name, unit in bearers.items():
        factor = factors[name]
        for constant in (node.inputs[1] for node in unit.nodes if node.op in (*CONVOLUTIONS, "add")):
            constants[constant] = (constants[constant] * factor).astype(np.float32)
        for reader in consumers[name]:
            if reader.name not in names:
                constants[reader.inputs[1]] = (constants[reader.inputs[1]] / factor).astype(np.float32)
    graph = replace(graph, constants=constants)
    editor = Editor(graph)
    copies: dict[str, str] = {}
    by_channel: dict[str, Array] = {}
    for node in graph.nodes:
        if node.name in names:
            inputs = list(node.inputs)
            for at, name in enumerate(inputs):
                if name in factors and name not in bearers:
                    if name not in copies:
                        constant = editor.constant(f"{name}.factor", np.array(factors[name], np.float32))
                        copies[name] = editor.add(
                            f"{name}{ALIGNED}", "multiply", (name, constant), shape=graph.shape_of(name)
                        )
                    inputs[at] = copies[name]
            by_channel[node.name] = np.concatenate(
                [
                    by_channel[name] if name in by_channel else np.full(graph.shape_of(name)[1], factors.get(name, 1.0))
                    for name in node.inputs
                ]
            )
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
