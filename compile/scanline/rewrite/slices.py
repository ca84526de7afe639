"""Slices of a convolution's channels, computed apart instead of copied out of it.

A gate multiplies one half of a convolution's channels with the other half. A layer's channels and its second operand's
must lie in the same order, so the halves of one tensor would have to be copied apart. Two convolutions compute each
half where it is needed, with as many products as before.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle


def fold_slices(graph: LayerGraph) -> LayerGraph:
    """``graph`` with convolutions divided of which all readers copy some channels; itself if there are none."""
    readers: dict[str, list[Layer | Shuffle]] = {name: [] for name in graph.tensors}
    for layer in graph.layers:
        for name in layer.streamed:
            readers[name].append(layer)
    inner = [layer for layer in graph.computed if layer.output not in graph.outputs]
    divided = {layer.output: layer for layer in inner if _divides(graph, layer, readers[layer.output])}
    if not divided:
        return graph
    left = {name: layer.macs for name, layer in divided.items()}
    layers: list[Layer | Shuffle] = []
    for layer in graph.layers:
        if layer.output in divided:
            continue
        if isinstance(layer, Layer) and (source := layer.sources[0]) in divided:
            made, last = divided[source], layer is readers[source][-1]
            macs = left[source] if last else made.macs * layer.channels // made.channels
            left[source] -= macs
            layer = dataclasses.replace(_slice(made, layer), macs=macs)
        layers.append(layer)
    return dataclasses.replace(
        graph, layers=tuple(layers), tensors={name: t for name, t in graph.tensors.items() if name not in divided}
    )


def _divides(graph: LayerGraph, layer: Layer, readers: list[Layer | Shuffle]) -> bool:
    """Whether ``readers`` copy channels of ``layer``, no more than it has."""
    made = layer.epilogue
    if not readers or not layer.kernel.orders_channels or layer.operand is not None or made.planes is not None:
        return False
    zero_point = graph.tensors[layer.output].zero_point
    copied = 0
    for reader in readers:
        if not isinstance(reader, Layer) or copied_channels(reader) is None:
            return False
        if reader.streamed.count(layer.output) > 1 or reader.sources != (layer.output,):
            return False
        if reader.epilogue.zero_point != zero_point:
            return False
        if made.table is not None and reader.epilogue.table is not None:
            return False
        copied += reader.channels
    return copied <= layer.channels


def copied_channels(layer: Layer) -> NDArray[np.int64] | None:
    """The source's channel that each channel of ``layer`` is, before table and second operand; None if computed."""
    kernel, epilogue = layer.kernel, layer.epilogue
    if not isinstance(kernel, Convolution):
        return None
    one = np.int64(1) << epilogue.shift
    alone = kernel.weights.shape[:2] == (1, 1) and kernel.stride == 1 and not kernel.pad_top and not kernel.pad_left
    exact = np.array_equal(epilogue.multiplier, one) and np.array_equal(epilogue.negative_multiplier, one)
    whole = epilogue.planes is None and (epilogue.qmin, epilogue.qmax) == (-128, 127)
    if not (alone and exact and whole and not epilogue.bias.any()):
        return None
    taps = kernel.weights[0, 0]
    single = np.array_equal(np.count_nonzero(taps, axis=0), np.ones(layer.channels)) and taps.min() >= 0
    return taps.argmax(axis=0) if single and taps.max() == 1 else None


def _slice(made: Layer, reader: Layer) -> Layer:
    """The channels that ``reader`` copies of ``made``, computed."""
    picked = copied_channels(reader)
    assert picked is not None
    sliced = dataclasses.replace(made.pick(picked), output=reader.output).with_second(reader.epilogue.second)
    return sliced if reader.epilogue.table is None else sliced.with_table(reader.epilogue.table)
