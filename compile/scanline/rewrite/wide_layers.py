"""A layer graph as a machine can hold it: windows as wide as it grants, layers in parts that fit its weight memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph, Shuffle
from codesign.compile.scanline.norms import count_sources
from codesign.compile.scanline.plan.mapping import Mapping, Mappings, map_pixels
from codesign.compile.scanline.rewrite.ordering import copy_layer
from codesign.compile.scanline.rewrite.slices import fold_slices
from codesign.compile.scanline.rewrite.subpixel import fold_shuffles
from codesign.compile.scanline.rewrite.window_layout import lay_out_windows
from codesign.hw.errors import UnsupportedError
from codesign.hw.spec import AccelSpec


def rewritings(spec: AccelSpec, graph: LayerGraph) -> list[LayerGraph]:
    """``graph`` and what else computes the same, with the windows of ``spec``."""
    graph = lay_out_windows(spec, widen_windows(spec, count_sources(graph)))
    sliced = fold_slices(graph)
    found = [graph] if sliced is graph else [graph, sliced]
    for one in tuple(found):
        folded = fold_shuffles(one)
        found += [] if folded is one else [folded]
    return found


def widen_windows(spec: AccelSpec, graph: LayerGraph) -> LayerGraph:
    """Every warp with as much of its source around a pixel on chip as ``spec`` grants."""
    reach, side = spec.warp_reach, 2 * spec.warp_reach + 2

    def widened(layer: Layer) -> Layer:
        if isinstance(layer, Shuffle) or layer.warp is None:
            return layer
        weights = np.broadcast_to(np.int8(0), (side, side, *layer.weights.shape[2:]))
        return dataclasses.replace(layer, weights=weights, pad_top=reach, pad_left=reach)

    return dataclasses.replace(graph, layers=tuple(map(widened, graph.layers)))


def split_wide_layers(spec: AccelSpec, graph: LayerGraph, mappings: Mappings) -> LayerGraph:
    """Replace layers whose weights exceed the weight memory by layers that compute a slice of the output channels.

    A slice reads its second operand's channels from the first on, so an operand that is convolved as well, and lies
    whole in its buffer, is copied. Raises :class:`UnsupportedError` when not even one set of output channels fits.
    """
    layers: list[Conv | Shuffle] = []
    tensors = dict(graph.tensors)
    waiting = list(reversed(graph.layers))
    while waiting:
        layer = waiting.pop()
        if isinstance(layer, Shuffle) or not (layer.weighs or layer.weights_from):
            layers.append(layer)
            continue
        share = _share(spec, graph, layer, mappings)
        add = layer.add
        if share < layer.channels and add is not None and not add.broadcast and add.other in layer.convolved:
            operand = graph.tensors[add.other]
            copy = dataclasses.replace(operand, name=f"{operand.name}.operand.{layer.name}")
            tensors[copy.name] = copy
            waiting.append(dataclasses.replace(layer, add=dataclasses.replace(add, other=copy.name)))
            waiting.append(copy_layer(copy.name, operand, copy))
            continue
        layers += [_slice_of(layer, first, share) for first in range(0, layer.channels, share)]
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))


def _share(spec: AccelSpec, graph: LayerGraph, layer: Conv, mappings: Mappings) -> int:
    """The most output channels of ``layer`` at a time, so that every slice fits: all, or a multiple of the lanes."""
    channels = source_channels(graph, layer)
    parts = 1
    while True:
        share = -(-layer.channels // parts)
        share = -(-share // spec.co_lanes) * spec.co_lanes if parts > 1 else layer.channels
        needed = 0
        for first in range(0, layer.channels, share):
            taken = layer.weights[..., first : first + share]
            if layer.weights_from is None:
                mapping = mappings.of(taken, layer.stride, channels, carries=layer.carries)
            else:
                mapping = map_pixels(spec, channels[0], taken.shape[3])
            if not fits_memories(spec, [mapping]):
                needed = len(mapping.steps)
                break
        if not needed:
            return share
        if share <= spec.co_lanes:
            raise UnsupportedError(
                f"needs {needed} weight words at once, the machine has {spec.weight_words}",
                where=layer.name,
                hint="Choose a larger accelerator.",
            )
        parts = -(-layer.channels // (share - spec.co_lanes))


def _slice_of(layer: Conv, first: int, share: int) -> Conv:
    if share >= layer.channels:
        return layer
    take = slice(first, first + share)
    return dataclasses.replace(
        layer,
        weights=layer.weights[..., take],
        bias=layer.bias[take],
        multiplier=layer.multiplier[take],
        negative_multiplier=layer.negative_multiplier[take],
        shift=layer.shift[take],
        planes=None if layer.planes is None else layer.planes[take],
        macs=layer.macs * len(layer.bias[take]) // layer.channels,
        first_channel=first,
    )


def fits_memories(spec: AccelSpec, mappings: list[Mapping]) -> bool:
    """Whether the weights, fills and parameters of these layers are resident together."""
    return (
        sum(len(mapping.steps) for mapping in mappings) <= spec.weight_words
        and sum(len(mapping.fills) for mapping in mappings) <= spec.fill_words
        and sum(mapping.output_words for mapping in mappings) <= spec.parameter_words
    )


def source_channels(graph: LayerGraph, layer: Conv) -> tuple[int, ...]:
    """Input channels by source."""
    return tuple(graph.tensors[name].channels for name in layer.convolved)
