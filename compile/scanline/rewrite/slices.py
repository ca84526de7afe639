"""Slices of a convolution's channels, computed apart instead of copied out of it.

A gate multiplies one half of a convolution's channels with the other. A layer's channels and its second operand's lie
in the same order, so halves of one tensor must be copied apart first. As two convolutions they are where they are
needed, and the array does the same products.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph, sources


def fold_slices(graph: LayerGraph) -> LayerGraph:
    """``graph`` with convolutions divided of which all readers copy some channels; itself if there are none."""
    readers: dict[str, list[Layer]] = {name: [] for name in graph.tensors}
    for layer in graph.layers:
        for name in sources(layer):
            readers[name].append(layer)
    inner = [layer for layer in graph.layers if isinstance(layer, Conv) and layer.output not in graph.outputs]
    divided = {layer.output: layer for layer in inner if _divides(graph, layer, readers[layer.output])}
    if not divided:
        return graph
    left = {name: layer.macs for name, layer in divided.items()}
    layers: list[Layer] = []
    for layer in graph.layers:
        if layer.output in divided:
            continue
        if isinstance(layer, Conv) and layer.source in divided:
            made, last = divided[layer.source], layer is readers[layer.source][-1]
            macs = left[layer.source] if last else made.macs * layer.channels // made.channels
            left[layer.source] -= macs
            layer = dataclasses.replace(_slice(made, layer), macs=macs)
        layers.append(layer)
    return dataclasses.replace(
        graph, layers=tuple(layers), tensors={name: t for name, t in graph.tensors.items() if name not in divided}
    )


def _divides(graph: LayerGraph, layer: Conv, readers: list[Layer]) -> bool:
    """Whether ``readers`` copy channels of ``layer``, no more than it has."""
    if not readers or layer.add is not None or not layer.plain or layer.planes is not None:
        return False
    if any(isinstance(one, Conv) and one.norm is not None for one in readers):
        return False
    zero_point = graph.tensors[layer.output].zero_point
    copied = 0
    for reader in readers:
        if not isinstance(reader, Conv) or sources(reader).count(layer.output) > 1 or copied_channels(reader) is None:
            return False
        if reader.convolved != (layer.output,) or reader.zero_point != zero_point:
            return False
        if layer.table is not None and reader.table is not None:
            return False
        copied += reader.channels
    return copied <= layer.channels


def copied_channels(layer: Conv) -> NDArray[np.int64] | None:
    """Which channel of its source each channel of ``layer`` is, before table and second operand; None if computed."""
    one = np.int64(1) << layer.shift
    alone = layer.weights.shape[:2] == (1, 1) and layer.stride == 1 and not layer.pad_top and not layer.pad_left
    exact = np.array_equal(layer.multiplier, one) and np.array_equal(layer.negative_multiplier, one)
    if not (
        alone and exact and layer.planes is None and not layer.bias.any() and (layer.qmin, layer.qmax) == (-128, 127)
    ):
        return None
    taps = layer.weights[0, 0]
    single = np.array_equal(np.count_nonzero(taps, axis=0), np.ones(layer.channels)) and taps.min() >= 0
    return taps.argmax(axis=0) if single and taps.max() == 1 else None


def _slice(made: Conv, reader: Conv) -> Conv:
    """What ``reader`` copies of ``made``, computed."""
    picked = copied_channels(reader)
    assert picked is not None
    return dataclasses.replace(
        made,
        output=reader.output,
        weights=made.weights[..., picked],
        bias=made.bias[picked],
        multiplier=made.multiplier[picked],
        negative_multiplier=made.negative_multiplier[picked],
        shift=made.shift[picked],
        table=made.table if reader.table is None else reader.table,
        add=reader.add,
    )
