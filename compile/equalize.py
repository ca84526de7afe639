"""Cross-layer equalisation: channels of a tensor are rescaled so that one scale suits them all.

ReLU, LeakyReLU and PReLU commute with positive factors, so the output channels of a convolution may be divided by any
positive numbers if the next convolution's input channels are multiplied by them: the network computes the same, and its
int8 tensors waste fewer codes. Every channel is brought to the same peak: weights have a scale per output channel and
bear what that costs them. (Nagel et al. 2019, arXiv:1906.04721.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.evaluate import trace
from codesign.compile.graph import Array, Graph, Node
from codesign.compile.units import Kind, Unit, units

MAX_FACTOR = 256.0
"""No channel is scaled by more: channels that are almost empty say little about their range."""


def equalised(graph: Graph, images: Sequence[NDArray[np.float32]]) -> Graph:
    """The same float function with the channels between neighbouring convolutions balanced.

    ``images``: float32[1, C, H, W] calibration images, already checked.
    """
    parts = {unit.name: unit for unit in units(graph)}
    consumers = graph.consumers()
    pairs: list[tuple[Unit, Node]] = []
    for unit in parts.values():
        readers = consumers[unit.name]
        if (
            len(readers) == 1
            and unit.name != graph.output
            and _scalable(graph, unit)
            and _takes(graph, readers[0], unit)
        ):
            pairs.append((unit, readers[0]))
    peaks = _peaks(graph, images, {unit.name for unit, _ in pairs})
    constants: dict[str, Array] = dict(graph.constants)
    for unit, reader in pairs:
        _balance(constants, unit, reader, peaks[unit.name])
    return replace(graph, constants=constants)


def _scalable(graph: Graph, unit: Unit) -> bool:
    """A plain convolution whose activation commutes with positive factors."""
    head = unit.head
    homogeneous = all(node.op != "clip" for node in unit.nodes)
    plain = unit.kind is Kind.CONVOLUTION and head.attributes["groups"] == 1 and graph.is_constant(head.inputs[1])
    return plain and homogeneous


def _takes(graph: Graph, reader: Node, unit: Unit) -> bool:
    """Whether ``reader`` is a plain convolution of the unit's result."""
    return (
        reader.op in ("nn.conv2d", "nn.conv2d_transpose")
        and reader.inputs[0] == unit.name
        and reader.attributes["groups"] == 1
        and graph.is_constant(reader.inputs[1])
    )


def _peaks(graph: Graph, images: Sequence[NDArray[np.float32]], names: set[str]) -> Mapping[str, NDArray[np.float64]]:
    """Largest magnitude of each channel over all images, ``float64[C]`` by tensor."""
    found: dict[str, NDArray[np.float64]] = {}
    with torch.no_grad():
        for image in images:
            for name, value in trace(graph, torch.from_numpy(np.ascontiguousarray(image))):
                if name in names:
                    peak = value.abs().amax(dim=(0, 2, 3)).numpy().astype(np.float64)
                    found[name] = np.maximum(found[name], peak) if name in found else peak
    return found


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
