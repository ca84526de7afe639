"""Channel order, which is free inside a network: it permutes the weights of the layers around a tensor.

A tensor that is stored shuffled keeps its channels sub-row by sub-row. Depth to space by f reads channel
``c f^2 + i f + j`` for pixel ``(f y + i, f x + j)``. Kept in the order ``(i, j, c)``, the channels of one output row
are consecutive for every pixel, and the store engine shuffles by choosing a range of channels.

Any other tensor keeps channels together that their readers need at the same taps: zero weights then fill whole blocks,
which the mapping leaves out. Layers folded behind a pixel shuffle have such zeros.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph, Shuffle, Tensor, reads, sources

Order = NDArray[np.int64]


def order_channels(graph: LayerGraph) -> LayerGraph:
    """Rewrite ``graph`` so that every shuffled tensor has its channels in ``(i, j, c)`` order.

    A tensor whose order others depend on (a network input or output, an operand of several additions) is copied by
    a one-by-one convolution first.
    """
    graph = _isolate_shuffles(graph)
    orders: dict[str, Order] = {}
    for layer in graph.layers:
        if isinstance(layer, Shuffle):
            factor, channels = layer.factor, graph.tensors[layer.output].channels
            natural = np.arange(channels * factor * factor).reshape(channels, factor, factor)
            orders[layer.source] = natural.transpose(1, 2, 0).reshape(-1)
    for layer in graph.layers:
        if isinstance(layer, Conv) and layer.output in orders and layer.add is not None and not layer.add.broadcast:
            orders[layer.add.other] = orders[layer.output]
    orders |= _by_taps(graph, set(orders))
    return dataclasses.replace(graph, layers=tuple(_reorder(graph, layer, orders) for layer in graph.layers))


def _by_taps(graph: LayerGraph, taken: set[str]) -> dict[str, Order]:
    """Orders that bring channels with the same non-zero taps together, for tensors whose order is free."""
    fixed = {*taken, *graph.inputs, *graph.outputs}
    fixed |= {layer.source for layer in graph.layers if isinstance(layer, Shuffle)}
    patterns: dict[str, list[NDArray[np.bool_]]] = {}
    for layer in graph.layers:
        if not isinstance(layer, Conv):
            continue
        if layer.add is not None and not layer.add.broadcast:
            fixed |= {layer.output, layer.add.other}
        if layer.channels != graph.tensors[layer.output].channels:
            fixed.add(layer.output)
        if not layer.plain:
            fixed |= {*reads(layer), layer.output}
        if layer.weights.dtype != np.int8 or layer.planes is not None:
            fixed |= {*layer.convolved, layer.output}
        at = 0
        for name in layer.convolved:
            count = graph.tensors[name].channels
            used = np.any(layer.weights[:, :, at : at + count], axis=3)
            patterns.setdefault(name, []).append(used.reshape(-1, count))
            at += count
    found: dict[str, Order] = {}
    for name in {layer.output for layer in graph.layers if isinstance(layer, Conv)} - fixed:
        taps = np.concatenate(patterns[name]) if name in patterns else np.zeros((0, 0), np.bool_)
        _, group = np.unique(taps, axis=1, return_inverse=True)
        if len(set(group.reshape(-1).tolist())) > 1:
            found[name] = np.argsort(group.reshape(-1), kind="stable")
    return found


def _reorder(graph: LayerGraph, layer: Layer, orders: dict[str, Order]) -> Layer:
    if isinstance(layer, Shuffle):
        return layer
    at = 0
    for name in layer.convolved:
        count = graph.tensors[name].channels
        if (inner := orders.get(name)) is not None:
            weights = layer.weights.copy()
            weights[:, :, at : at + count] = layer.weights[:, :, at + inner]
            layer = dataclasses.replace(layer, weights=weights)
        at += count
    if (outer := orders.get(layer.output)) is not None:
        layer = dataclasses.replace(
            layer,
            weights=layer.weights[..., outer],
            bias=layer.bias[outer],
            multiplier=layer.multiplier[outer],
            negative_multiplier=layer.negative_multiplier[outer],
            shift=layer.shift[outer],
            planes=None if layer.planes is None else layer.planes[outer],
        )
    return layer


def _isolate_shuffles(graph: LayerGraph) -> LayerGraph:
    producer = {layer.output: layer for layer in graph.layers}
    readers: dict[str, list[Layer]] = {name: [] for name in graph.tensors}
    for layer in graph.layers:
        for name in sources(layer):
            readers[name].append(layer)
    fixed = {*graph.inputs, *graph.outputs}

    def free(name: str) -> bool:
        """Whether the tensor's order may change: only convolutions read it, and one convolution makes it."""
        made = producer.get(name)
        return (
            name not in fixed
            and isinstance(made, Conv)
            and made.plain
            and not any(isinstance(reader, Conv) and not reader.plain for reader in readers[name])
            and sum(isinstance(reader, Shuffle) for reader in readers[name]) <= 1
            and not any(isinstance(reader, Conv) and reader.add is not None and reader.add.other == name
                        for reader in readers[name])
        )  # fmt: skip

    tensors, layers = dict(graph.tensors), list[Layer]()
    for layer in graph.layers:
        if isinstance(layer, Shuffle):
            made = producer.get(layer.source)
            ready = free(layer.source)
            if ready and isinstance(made, Conv) and made.add is not None and not made.add.broadcast:
                other = made.add.other
                partner = producer.get(other)
                ready = (
                    other not in fixed
                    and len(readers[other]) == 1
                    and isinstance(partner, Conv)
                    and (partner.add is None or partner.add.broadcast)
                )
            if not ready:
                source = tensors[layer.source]
                copy = dataclasses.replace(source, name=f"{source.name}.reordered.{layer.name}")
                tensors[copy.name] = copy
                layers.append(copy_layer(f"{layer.name}.copy", source, copy))
                layer = dataclasses.replace(layer, source=copy.name)
        layers.append(layer)
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))


def copy_layer(name: str, source: Tensor, target: Tensor) -> Conv:
    """A one-by-one convolution that copies every value exactly."""
    channels = source.channels
    return Conv(
        name=name,
        source=source.name,
        output=target.name,
        weights=np.eye(channels, dtype=np.int8)[None, None],
        bias=np.zeros(channels, np.int64),
        stride=1,
        pad_top=0,
        pad_left=0,
        multiplier=np.full(channels, 1 << 30, np.int64),
        negative_multiplier=np.full(channels, 1 << 30, np.int64),
        shift=np.full(channels, 30, np.int64),
        zero_point=target.zero_point,
        qmin=-128,
        qmax=127,
        table=None,
        add=None,
        macs=0,
    )
