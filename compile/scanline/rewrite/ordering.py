"""Channel order, which is free inside a network: it permutes the weights of the layers around a tensor.

A tensor that is stored shuffled keeps its channels sub-row by sub-row. Depth to space by f reads channel
``c f^2 + i f + j`` for pixel ``(f y + i, f x + j)``. Kept in the order ``(i, j, c)``, the channels of one output row
are consecutive for every pixel, and the store engine shuffles by choosing a range of channels.

Any other tensor keeps channels together that their readers need at the same taps: zero weights then fill whole blocks,
which the mapping leaves out. Layers folded behind a pixel shuffle have such zeros.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle
from codesign.compile.scanline.rewrite.copies import copy_layer

Order = NDArray[np.int64]


def order_channels(graph: LayerGraph) -> LayerGraph:
    """Rewrite ``graph`` so that every shuffled tensor has its channels in ``(i, j, c)`` order.

    A tensor whose order others depend on (a network input or output, an operand of several additions) is copied by
    a one-by-one convolution first.
    """
    graph = _isolate_shuffles(graph)
    orders: dict[str, Order] = {}
    for shuffle in graph.shuffles:
        factor, channels = shuffle.factor, graph.tensors[shuffle.output].channels
        natural = np.arange(channels * factor * factor).reshape(channels, factor, factor)
        orders[shuffle.source] = natural.transpose(1, 2, 0).reshape(-1)
    for layer in graph.computed:
        if layer.output in orders and (other := layer.follows_order) is not None:
            orders[other] = orders[layer.output]
    orders |= _by_taps(graph, set(orders))
    return graph.each(lambda layer: _reorder(graph, layer, orders))


def _by_taps(graph: LayerGraph, taken: set[str]) -> dict[str, Order]:
    """Orders that bring channels with the same non-zero taps together, for tensors whose order is free."""
    layers = graph.computed
    fixed = {*taken, *graph.inputs, *graph.outputs}
    fixed |= {shuffle.source for shuffle in graph.shuffles}
    patterns: dict[str, list[NDArray[np.bool_]]] = {}
    for layer in layers:
        if (other := layer.follows_order) is not None:
            fixed |= {layer.output, other}
        if graph.is_slice(layer):
            fixed.add(layer.output)
        match layer.kernel:
            case Convolution(weights=weights):
                if weights.dtype != np.int8 or layer.epilogue.planes is not None:
                    fixed |= {*layer.sources, layer.output}
                used = np.any(weights, axis=3)
                for name, part in zip(layer.sources, _parts(graph, layer), strict=True):
                    patterns.setdefault(name, []).append(used[:, :, part].reshape(-1, len(part)))
            case _:
                fixed |= {*layer.reads, layer.output}
    found: dict[str, Order] = {}
    for name in {layer.output for layer in layers} - fixed:
        taps = np.concatenate(patterns[name]) if name in patterns else np.zeros((0, 0), np.bool_)
        _, group = np.unique(taps, axis=1, return_inverse=True)
        if len(set(group.reshape(-1).tolist())) > 1:
            found[name] = np.argsort(group.reshape(-1), kind="stable")
    return found


def _parts(graph: LayerGraph, layer: Layer) -> list[Order]:
    """The channels of a layer's sources among all that its kernel reads, source by source."""
    counts = graph.source_channels(layer)
    return np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])


def _reorder(graph: LayerGraph, layer: Layer, orders: dict[str, Order]) -> Layer:
    if not isinstance(layer.kernel, Convolution):
        return layer
    if orders.keys() & set(layer.sources):
        parts = zip(layer.sources, _parts(graph, layer), strict=True)
        inner = np.concatenate([part[orders[name]] if name in orders else part for name, part in parts])
        layer = dataclasses.replace(layer, kernel=layer.kernel.pick_inputs(inner))
    return layer.pick(orders[layer.output]) if layer.output in orders else layer


def _isolate_shuffles(graph: LayerGraph) -> LayerGraph:
    makers = {layer.output: layer for layer in graph.computed}
    shuffled = Counter(shuffle.source for shuffle in graph.shuffles)
    readers: dict[str, list[Layer]] = {name: [] for name in graph.tensors}
    for layer in graph.computed:
        for name in layer.streamed:
            readers[name].append(layer)
    fixed = {*graph.inputs, *graph.outputs}

    def free(name: str) -> bool:
        """Whether the tensor's order may change: only convolutions read it, and one convolution makes it."""
        if name in fixed or name not in makers or not makers[name].kernel.orders_channels:
            return False
        follow = all(one.kernel.orders_channels and one.operand != name for one in readers[name])
        return follow and shuffled[name] <= 1

    def ready(name: str) -> bool:
        """Whether the tensor's order may change, and with it that of its layer's second operand."""
        if not free(name):
            return False
        if (other := makers[name].follows_order) is None:
            return True
        if other in fixed or other not in makers or len(readers[other]) + shuffled[other] != 1:
            return False
        return makers[other].kernel.orders_channels and makers[other].follows_order is None

    tensors, layers = dict(graph.tensors), list[Layer | Shuffle]()
    for one in graph.layers:
        if isinstance(one, Shuffle) and not ready(one.source):
            source = tensors[one.source]
            copy = dataclasses.replace(source, name=f"{source.name}.reordered.{one.name}")
            tensors[copy.name] = copy
            layers.append(copy_layer(f"{one.name}.copy", source, copy))
            one = dataclasses.replace(one, source=copy.name)
        layers.append(one)
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))
