"""The places that a machine gives to the channels of windows: whole words, row by row. Readers' weights follow.

Lowering has the channels in the order of RAFT, columns slower than rows and no gaps. A machine's order has gaps:
convolutions that read a window get zero weights for them; for other readers a one-by-one layer restores the order.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.spec import AccelSpec


def lay_out_windows(spec: AccelSpec, graph: LayerGraph) -> LayerGraph:
    """``graph`` with windows as ``spec`` makes them."""
    tensors, layers, places = dict(graph.tensors), list[Layer | Shuffle](), dict[str, NDArray[np.int64]]()
    for layer in graph.layers:
        if isinstance(layer, Shuffle):
            layers.append(layer)
            continue
        if isinstance(layer.kernel, Convolution) and places.keys() & set(layer.sources):
            layer = dataclasses.replace(layer, kernel=_spread(graph, layer, layer.kernel, tensors, places))
        if (laid_out := layer.kernel.laid_out(spec)) is None:
            layers.append(layer)
            continue
        kernel, place = laid_out
        made = tensors[layer.output]
        name = made.name if _only_convolved(graph, made.name) else f"{made.name}.windows"
        placed = dataclasses.replace(made, name=name, channels=kernel.channels)
        tensors[name] = placed
        epilogue = layer.epilogue.place(place, kernel.channels)
        layers.append(dataclasses.replace(layer, output=name, kernel=kernel, epilogue=epilogue))
        if name == made.name:
            places[name] = place
        else:
            layers.append(copy_layer(f"{layer.name}.ordered", placed, made).pick(place))
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))


def _only_convolved(graph: LayerGraph, name: str) -> bool:
    """Whether convolutions alone read a tensor, as a source."""
    if name in graph.outputs or any(shuffle.source == name for shuffle in graph.shuffles):
        return False
    readers = [layer for layer in graph.computed if name in layer.reads]
    return all(one.kernel.orders_channels and name in one.sources and one.operand != name for one in readers)


def _spread(
    graph: LayerGraph,
    layer: Layer,
    kernel: Convolution,
    tensors: dict[str, Tensor],
    places: dict[str, NDArray[np.int64]],
) -> Convolution:
    """The kernel of a reader of such channels, with zero weights for those between."""
    at, found = 0, list[NDArray[np.int64]]()
    for name in layer.sources:
        own = places[name] if name in places else np.arange(graph.tensors[name].channels)
        found.append(at + own)
        at += tensors[name].channels
    return kernel.place_inputs(np.concatenate(found), at)
