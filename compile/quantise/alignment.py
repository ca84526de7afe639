"""Scale the operands of concatenations towards one range, so that the scale they share suits them all.

A concatenation is read in place, so its operands share scale and zero point. If a flow of thirty pixels and an image in
-2 to 2 are concatenated, the image gets only twenty codes. An operand may be multiplied by a positive factor if the
convolutions that read the concatenation divide by it: the network computes the same. But the weights of an output
channel share a scale too, and weights divided by a large factor round to zero. So the factors are chosen that make the
sum of both errors least (docs/decisions/concatenation.md). Where two operands have similar weights, the factor is about
the square root of the ratio of their ranges; where the weights differ in the opposite direction, it is the whole ratio.
Factors are powers of two, so that the float function keeps every bit.

A convolution's own weights absorb the factor if nothing else reads its result; otherwise a scale, a one-by-one layer,
is put between operand and concatenation. In a cost volume, the convolution that makes the other tensor takes the factor
back, and the two tensors share the difference between their channels' ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Array, Editor, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.operators.scale import Scale
from codesign.compile.quantise.equalise import ChannelRange, scalable, takes
from codesign.compile.quantise.units import units
from codesign.hw.numerics import INT8_MAX, INT8_MIN

Peaks = NDArray[np.float64]

LEAST_FACTOR = 2.0
"""Next to a cost volume, a smaller factor is not worth its layer: it would gain less than a bit."""

SETTLED_POWER = 4
"""Ranges at most this many bits apart are made equal. The weights keep enough of their bits, and noise on an operand
harms a trained network more than an equal error of its weights, which moves with the picture (measured on SpyNet)."""

ALIGNED = ".aligned"
"""The names of inserted scales end with this."""


@dataclass(frozen=True)
class Group:
    """Concatenations that read each other and are otherwise read only by convolutions.

    ``operands`` lists the operands that are not concatenations of the group themselves.
    """

    concats: tuple[Node, ...]
    operands: tuple[str, ...]
    partner: Unit | None = None  # or one concatenation, that a cost volume reads next to what this convolution makes

    def of(self, graph: Graph) -> Group:
        """The same group in ``graph``, in which other groups have been scaled: weights have other names by then."""
        concats = tuple(graph.by_name[node.name] for node in self.concats)
        return Group(concats, self.operands, None if self.partner is None else _of(self.partner, graph))


def _of(unit: Unit, graph: Graph) -> Unit:
    """The same ``unit`` in ``graph``, in which groups have been scaled."""
    return Unit(unit.operator, tuple(graph.by_name[node.name] for node in unit.nodes))


def is_aligned(unit: Unit) -> bool:
    """Whether ``unit`` is a scale that :func:`aligned` put in."""
    return isinstance(unit.operator, Scale) and ALIGNED in unit.name


def is_copy(graph: Graph, unit: Unit) -> bool:
    """Whether ``unit`` is an inserted scale of a tensor that nothing else reads: both have the same codes.

    If other units read the tensor, it keeps the scale that suits it, and the operand is rounded once more.
    """
    return is_aligned(unit) and len(graph.consumers()[unit.head.inputs[0]]) == 1


def groups(graph: Graph, parts: tuple[Unit, ...]) -> tuple[Group, ...]:
    """The groups of concatenations whose operands may be scaled separately."""
    consumers, order = graph.consumers(), {node.name: at for at, node in enumerate(graph.nodes)}
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
        inside = [graph.by_name[one] for one in sorted(group, key=order.__getitem__)]
        readers = [(one, reader) for one in group for reader in consumers[one] if reader.name not in group]
        operands = dict.fromkeys(operand for node in inside for operand in node.inputs if operand not in group)
        if graph.output not in group and all(takes(graph, reader, one) for one, reader in readers):
            found.append(Group(tuple(inside), tuple(operands)))
        elif len(inside) == len(readers) == 1 and (partner := _partner(graph, parts, name, readers[0][1])) is not None:
            found.append(Group(tuple(inside), tuple(operands), partner))
    return tuple(found)


def _partner(graph: Graph, parts: tuple[Unit, ...], concat: str, reader: Node) -> Unit | None:
    """The convolution whose result ``reader`` alone reads and correlates with ``concat``; None if there is none."""
    if reader.op != "correlation" or reader.inputs[1] != concat or concat == graph.output:
        return None
    made = next((unit for unit in parts if unit.name == reader.inputs[0]), None)
    alone = made is not None and len(graph.consumers()[made.name]) == 1
    return made if made is not None and alone and scalable(graph, made) else None


def aligned(graph: Graph, seen: Mapping[str, ChannelRange], flows: Container[str]) -> Graph:
    """The same float function, with operands of concatenations scaled towards one range.

    ``seen`` holds the values of every operand of a concatenation and of every convolution's result on the calibration
    images. ``flows`` always get a scale, even if its factor is 1: the steps of a flow are binary fractions of a pixel,
    which suit no other operand.
    """
    parts = units(graph)
    for first in groups(graph, parts):
        group = first.of(graph)
        by_name = {unit.name: _of(unit, graph) for unit in parts if unit.name in group.operands}
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
    """Whether the weights of the operand ``unit`` can absorb a factor: apart from the group, only convolutions read
    it."""
    if unit is None or unit.name == graph.output or not scalable(graph, unit):
        return False
    inside = {node.name for node in group.concats}
    others = [reader for reader in graph.consumers()[unit.name] if reader.name not in inside]
    return all(takes(graph, reader, unit.name) for reader in others)


@dataclass(frozen=True)
class _Reading:
    """A convolution that reads the shared scale: the figures its rounding errors depend on, by operand ``[K]``."""

    squares: Peaks  # [K]: its weights', summed
    peaks: Peaks  # [outputs, K]: the largest weight's magnitude
    energies: Peaks  # [K]: squares of what one output reads, summed
    signal: float  # mean squares of its outputs, summed, as if what it reads were independent

    def error(self, factors: Peaks, step: float) -> float:
        """Twelve times the noise-to-signal ratio of its outputs, with operands times ``factors`` in codes of ``step``.

        The errors of activations are multiplied by weights divided by the factor, the errors of weights by activations
        times the factor.
        """
        weight_steps = (self.peaks / factors).max(axis=1) / INT8_MAX
        activations = step**2 * float((self.squares / factors**2).sum())
        weights = float(np.square(weight_steps).sum()) * float((self.energies * factors**2).sum())
        return (activations + weights) / self.signal


def _readings(graph: Graph, group: Group, bearers: Collection[str], seen: Mapping[str, ChannelRange]) -> list[_Reading]:
    """The readers of the group's concatenations, and of operands whose own weights absorb the factor (``bearers``)."""
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
    """The power of two for each operand that gives the readers the least error.

    No factor takes an operand beyond the largest range; an operand at most :data:`SETTLED_POWER` bits below it is
    brought to it. The error is convex in the factors' logarithms (a geometric programme), so the factors are settled
    one after another until none changes.
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
    """Factors by operand that give its channels and the partner's the same range: square roots of the ranges'
    ratios."""
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
    """Divide the partner's channels by the factors that multiply their counterparts."""
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
    """Multiply the operands by their ``factors``, through their own weights (``bearers``) or an inserted scale."""
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
