"""Where a machine puts the channels of looked-up windows: in whole words, row by row; their readers' weights follow.

A layer graph has them as RAFT does, columns slower than rows and nothing between. A machine's order has gaps; what
convolves it gets zeros for them, and for anything else a one-by-one layer brings the channels back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph, Tensor, Weights, reads
from codesign.compile.scanline.rewrite.ordering import copy_layer
from codesign.hw.spec import AccelSpec
from codesign.hw.windows import window_channels, window_words


def lay_out_windows(spec: AccelSpec, graph: LayerGraph) -> LayerGraph:
    """``graph`` with windows as ``spec`` makes them."""
    tensors, layers, places = dict(graph.tensors), list[Layer](), dict[str, NDArray[np.int64]]()
    for layer in graph.layers:
        if not isinstance(layer, Conv):
            layers.append(layer)
            continue
        if places.keys() & set(layer.convolved):
            layer = dataclasses.replace(layer, weights=_spread(graph, layer, tensors, places))
        if layer.windows is None:
            layers.append(layer)
            continue
        place = window_channels(spec, layer.windows.radius).T.reshape(-1)
        channels = window_words(spec, layer.windows.radius) * spec.ci_lanes
        made = tensors[layer.output]
        if _only_convolved(graph, made.name):
            places[made.name] = place
            tensors[made.name] = dataclasses.replace(made, channels=channels)
            layers.append(_placed(layer, place, channels))
            continue
        spread = dataclasses.replace(made, name=f"{made.name}.windows", channels=channels)
        tensors[spread.name] = spread
        layers.append(_placed(dataclasses.replace(layer, output=spread.name), place, channels))
        chosen = np.zeros((1, 1, channels, len(place)), np.int8)
        chosen[0, 0, place, np.arange(len(place))] = 1
        copy = copy_layer(f"{layer.name}.ordered", made, made)
        layers.append(dataclasses.replace(copy, source=spread.name, weights=chosen))
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))


def _only_convolved(graph: LayerGraph, name: str) -> bool:
    """Whether nothing reads a tensor but convolutions."""
    readers = [layer for layer in graph.layers if name in reads(layer)]
    plain = all(isinstance(layer, Conv) and layer.plain and name in layer.convolved for layer in readers)
    added = any(isinstance(layer, Conv) and layer.add is not None and layer.add.other == name for layer in readers)
    return plain and not added and name not in graph.outputs


def _placed(layer: Conv, place: NDArray[np.int64], channels: int) -> Conv:
    """``layer`` with its channels at ``place`` among ``channels``; the others are nothing, rounded to zero."""

    def spread(values: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.zeros(channels, np.int64)
        found[place] = values
        return found

    weights = np.broadcast_to(np.int8(0), (*layer.weights.shape[:3], channels))
    return dataclasses.replace(
        layer, weights=weights, bias=spread(layer.bias), multiplier=spread(layer.multiplier),
        negative_multiplier=spread(layer.negative_multiplier), shift=spread(layer.shift),
    )  # fmt: skip


def _spread(
    graph: LayerGraph, layer: Conv, tensors: dict[str, Tensor], places: dict[str, NDArray[np.int64]]
) -> Weights:
    """The weights of a reader of such channels, with zeros for those between."""
    parts: list[Weights] = []
    at = 0
    for name in layer.convolved:
        count = graph.tensors[name].channels
        share: Weights = layer.weights[:, :, at : at + count]
        at += count
        if name in places:
            wide = np.zeros((*share.shape[:2], tensors[name].channels, share.shape[3]), share.dtype)
            wide[:, :, places[name]] = share
            share = wide
        parts.append(share)
    spread: Any = np.concatenate(parts, axis=2)
    made: Weights = spread
    return made
