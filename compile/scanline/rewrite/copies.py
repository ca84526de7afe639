"""Layers that copy, for rewritings that need a tensor in another form as well."""

from __future__ import annotations

import dataclasses

import numpy as np

from codesign.compile.scanline.kernels.convolution import identity
from codesign.compile.scanline.layers import Epilogue, Layer, LayerGraph, Shuffle
from codesign.compile.scanline.tensors import Tensor


def copy_layer(name: str, source: Tensor, target: Tensor) -> Layer:
    """A one-by-one convolution that copies every value exactly."""
    return Layer(name, (source.name,), target.name, identity(source.channels), exact(source.channels, target))


def exact(channels: int, target: Tensor) -> Epilogue:
    """An epilogue that leaves psums as they are, as codes of ``target``."""
    one = np.full(channels, 1 << 30, np.int64)
    return Epilogue(np.zeros(channels, np.int64), one, one, np.full(channels, 30, np.int64), target.zero_point)


def count_sources(graph: LayerGraph) -> LayerGraph:
    """``graph`` with a copy of every tensor that is normalised and is not computed by a layer.

    A store sums up whole channel groups of a layer's output: not inputs of the region, nor shuffled tensors.
    """
    made = {layer.output for layer in graph.computed if not graph.tensors[layer.output].as_weights}
    tensors, layers, copies = dict(graph.tensors), list[Layer | Shuffle](), dict[str, str]()
    for layer in graph.layers:
        if isinstance(layer, Layer) and layer.kernel.needs_statistics and layer.sources[0] not in made:
            source = tensors[layer.sources[0]]
            if source.name not in copies:
                copy = dataclasses.replace(source, name=f"{source.name}.counted.{layer.name}")
                tensors[copy.name] = copy
                copies[source.name] = copy.name
                layers.append(copy_layer(f"{layer.name}.copy", source, copy))
            layer = dataclasses.replace(layer, sources=(copies[source.name],))
        layers.append(layer)
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers)) if copies else graph
