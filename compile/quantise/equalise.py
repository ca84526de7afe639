"""Cross-layer equalisation: channels of a tensor are rescaled so that one scale suits them all.

ReLU, LeakyReLU and PReLU commute with positive factors, so the output channels of a convolution may be divided by any
positive numbers if the next convolution's input channels are multiplied by them: the network computes the same, and its
int8 tensors waste fewer codes. Every channel is brought to the same peak; this costs the weights little, because they
have a scale per output channel. (Nagel et al. 2019, arXiv:1906.04721.)

If a normalisation follows a convolution, the convolution's channels may be shifted and scaled as well: the
normalisation subtracts the mean and divides by the deviation, so both cancel as far as epsilon does not matter. Every
channel then fills the codes of the tensor between the two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codesign.compile.graph.graph import Array, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.ir.together import traced_images
from codesign.compile.operators.activation import PIECEWISE_LINEAR
from codesign.compile.operators.registry import operator_of
from codesign.compile.quantise.units import units

MAX_FACTOR = 256.0
"""No channel is scaled by a larger factor: the values of an almost empty channel say little about its range."""

LEAST_VARIANCE = 1000.0
"""A normalised channel with less variance, in epsilons, before or after is not scaled: its result would change by
1 in 1000."""


def equalised(graph: Graph, seen: Mapping[str, ChannelRange]) -> Graph:
    """The same float function with the channels between neighbouring convolutions balanced.

    ``seen``: the ranges of the channels of every convolution's result (:func:`channel_ranges`).
    """
    parts = {unit.name: unit for unit in units(graph)}
    consumers = graph.consumers()
    pairs: list[tuple[Unit, Node]] = []
    normalised: list[tuple[Unit, Node]] = []
    for unit in parts.values():
        readers = consumers[unit.name]
        if len(readers) != 1 or unit.name == graph.output or not scalable(graph, unit):
            continue
        if takes(graph, readers[0], unit.name):
            pairs.append((unit, readers[0]))
        elif readers[0].op == "instance_norm" and all(node.op not in PIECEWISE_LINEAR for node in unit.nodes):
            normalised.append((unit, readers[0]))
    constants: dict[str, Array] = dict(graph.constants)
    for unit, reader in pairs:
        _balance(constants, unit, reader, seen[unit.name].peak)
    for unit, reader in normalised:
        _centre(constants, unit, seen[unit.name], LEAST_VARIANCE * float(reader.attributes["epsilon"]))
    return replace(graph, constants=constants)


def scalable(graph: Graph, unit: Unit) -> bool:
    """A plain convolution whose activation commutes with positive factors."""
    head = unit.head
    homogeneous = all(node.op != "clip" for node in unit.nodes)
    plain = unit.operator.weighs and head.attributes["groups"] == 1 and graph.is_constant(head.inputs[1])
    return plain and homogeneous


def takes(graph: Graph, reader: Node, name: str) -> bool:
    """Whether ``reader`` is a plain convolution of ``name``."""
    return (
        reader.op in ("nn.conv2d", "nn.conv2d_transpose")
        and reader.inputs[0] == name
        and reader.attributes["groups"] == 1
        and graph.is_constant(reader.inputs[1])
    )


@dataclass(frozen=True)
class ChannelRange:
    """Figures of each channel over all images, ``float64[C]``: its extremes, its least variance in any frame, and its
    largest mean square in any frame."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    variance: NDArray[np.float64]
    square: NDArray[np.float64]

    @property
    def peak(self) -> NDArray[np.float64]:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def joined(self, other: ChannelRange) -> ChannelRange:
        return ChannelRange(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            np.minimum(self.variance, other.variance),
            np.maximum(self.square, other.square),
        )


def channel_ranges(
    graph: Graph, images: Sequence[NDArray[np.float32]], names: Collection[str]
) -> dict[str, ChannelRange]:
    """The ranges of the channels of the tensors ``names`` (NCHW).

    Only what is normalised gets its variances, and what is concatenated its mean squares: the others' are not a number.
    ``images``: float32[1, C, H, W] calibration images, already checked.
    """
    found: dict[str, ChannelRange] = {}
    readers = graph.consumers()
    centred = {name for name in names if any(one.op == "instance_norm" for one in readers[name])}
    joined = {name for name in names if any(operator_of(graph, one).joins_scales for one in readers[name])}
    with torch.inference_mode():
        for name, values in traced_images(graph, images):
            for value in values if name in names else ():
                one = _range_of(value[0].flatten(1), variance=name in centred, square=name in joined)
                found[name] = found[name].joined(one) if name in found else one
    return found


def _range_of(value: Tensor, *, variance: bool, square: bool) -> ChannelRange:
    """The figures of ``value: float32[C, N]``."""
    unknown = torch.full(value.shape[:1], torch.nan, dtype=torch.float64)
    wide = value.double() if variance or square else value
    parts = (
        value.amin(1).double(),
        value.amax(1).double(),
        wide.var(1, correction=0) if variance else unknown,
        wide.square().mean(1) if square else unknown,
    )
    return ChannelRange(*(part.numpy() for part in parts))


def _balance(constants: dict[str, Array], unit: Unit, reader: Node, peaks: NDArray[np.float64]) -> None:
    head = unit.head
    own, following = constants[head.inputs[1]], constants[reader.inputs[1]]
    own_axis = 0 if head.op == "nn.conv2d" else 1
    next_axis = 1 if reader.op == "nn.conv2d" else 0
    used = peaks > 0
    if not used.any():
        return
    factors = np.where(used, peaks, 1.0)
    middle = np.exp(np.log(factors[used]).mean())
    factors = np.where(used, np.clip(factors / middle, 1 / MAX_FACTOR, MAX_FACTOR), 1.0)

    def along(axis: int) -> NDArray[np.float64]:
        return factors.reshape([-1 if position == axis else 1 for position in range(4)])

    constants[head.inputs[1]] = (own / along(own_axis)).astype(np.float32)
    constants[reader.inputs[1]] = (following * along(next_axis)).astype(np.float32)
    if len(unit.nodes) > 1 and unit.nodes[1].op == "add":
        bias = unit.nodes[1].inputs[1]
        constants[bias] = (constants[bias] / along(1)).astype(np.float32)


def _centre(constants: dict[str, Array], unit: Unit, seen: ChannelRange, least_variance: float) -> None:
    """Bring every channel of a convolution that is normalised to the same range, around zero if it has a bias."""
    head = unit.head
    reach, middle = (seen.high - seen.low) / 2, (seen.high + seen.low) / 2
    biased = len(unit.nodes) > 1
    if not biased:
        reach = seen.peak
    used = seen.variance > least_variance
    if not used.any():
        return
    factors = np.where(used, reach, 1.0)
    factors = np.clip(factors / np.exp(np.log(factors[used]).mean()), 1 / MAX_FACTOR, MAX_FACTOR)
    factors = np.where(used & (seen.variance > least_variance * factors**2), factors, 1.0)
    axis = 0 if head.op == "nn.conv2d" else 1
    along = factors.reshape([-1 if position == axis else 1 for position in range(4)])
    constants[head.inputs[1]] = (constants[head.inputs[1]] / along).astype(np.float32)
    if biased:
        bias = unit.nodes[1].inputs[1]
        constants[bias] = ((constants[bias] - middle.reshape(1, -1, 1, 1)) / factors.reshape(1, -1, 1, 1)).astype(
            np.float32
        )
