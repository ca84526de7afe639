"""A layer graph as a machine can hold it: layers in slices that fit its weight memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.compile.scanline.rewrite.copies import copy_layer, count_sources
from codesign.compile.scanline.rewrite.ordering import order_channels
from codesign.compile.scanline.rewrite.slices import fold_slices
from codesign.compile.scanline.rewrite.subpixel import fold_shuffles
from codesign.compile.scanline.rewrite.window_layout import lay_out_windows
from codesign.hw.errors import UnsupportedError
from codesign.hw.numerics import ceil_div, round_up
from codesign.hw.spec import AccelSpec

T = TypeVar("T")


def each_rewriting(spec: AccelSpec, graph: LayerGraph, mappings: Mappings, use: Callable[[LayerGraph], T]) -> list[T]:
    """The results of ``use`` for ``graph`` and other graphs that compute the same, each as ``spec`` can hold it.

    Layers behind a pixel shuffle may run before it instead (:mod:`codesign.compile.scanline.rewrite.subpixel`), and
    slices of a layer may be computed apart (:mod:`codesign.compile.scanline.rewrite.slices`). Raises the last
    :class:`UnsupportedError` when the machine can hold or ``use`` can use none of them.
    """
    found: list[T] = []
    failure: UnsupportedError | None = None
    for rewritten in _rewritings(spec, graph):
        try:
            found.append(use(split_layers(spec, order_channels(rewritten), mappings)))
        except UnsupportedError as error:
            failure = error
    if not found and failure is not None:
        raise failure
    return found


def _rewritings(spec: AccelSpec, graph: LayerGraph) -> list[LayerGraph]:
    graph = lay_out_windows(spec, _on_machine(spec, count_sources(graph)))
    sliced = fold_slices(graph)
    found = [graph] if sliced is graph else [graph, sliced]
    for one in tuple(found):
        folded = fold_shuffles(one)
        found += [] if folded is one else [folded]
    return found


def _on_machine(spec: AccelSpec, graph: LayerGraph) -> LayerGraph:
    """Every kernel with as much of its source on chip as ``spec`` grants."""
    return graph.each(lambda layer: dataclasses.replace(layer, kernel=layer.kernel.on(spec)))


def split_layers(spec: AccelSpec, graph: LayerGraph, mappings: Mappings) -> LayerGraph:
    """Replace layers whose weights exceed the weight memory by layers that compute a slice of the output channels.

    A slice reads its second operand's channels from the first on, so an operand that is a source as well, and lies
    whole in its buffer, is copied. Raises :class:`UnsupportedError` when not even one set of output channels fits.
    """
    layers: list[Layer | Shuffle] = []
    tensors = dict(graph.tensors)
    waiting = list(reversed(graph.layers))
    while waiting:
        layer = waiting.pop()
        if isinstance(layer, Shuffle) or not layer.kernel.splits:
            layers.append(layer)
            continue
        share = _share(spec, graph, layer, mappings)
        second = layer.epilogue.second
        if share < layer.channels and second is not None and layer.follows_order in layer.sources:
            operand = graph.tensors[second.tensor]
            copy = dataclasses.replace(operand, name=f"{operand.name}.operand.{layer.name}")
            tensors[copy.name] = copy
            waiting.append(layer.with_second(dataclasses.replace(second, tensor=copy.name)))
            waiting.append(copy_layer(copy.name, operand, copy))
            continue
        layers += [_slice_of(layer, first, share) for first in range(0, layer.channels, share)]
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers))


def _share(spec: AccelSpec, graph: LayerGraph, layer: Layer, mappings: Mappings) -> int:
    """The most output channels of ``layer`` at a time, so that every slice fits: all, or a multiple of the lanes."""
    counts = graph.source_channels(layer)
    parts = 1
    while True:
        share = ceil_div(layer.channels, parts)
        share = round_up(share, spec.co_lanes) if parts > 1 else layer.channels
        needed = 0
        for first in range(0, layer.channels, share):
            taken = layer.kernel.slice(first, min(share, layer.channels - first))
            mapping = taken.map(mappings, counts)
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
        parts = ceil_div(layer.channels, share - spec.co_lanes)


def _slice_of(layer: Layer, first: int, share: int) -> Layer:
    if share >= layer.channels:
        return layer
    count = min(share, layer.channels - first)
    return dataclasses.replace(
        layer,
        kernel=layer.kernel.slice(first, count),
        epilogue=layer.epilogue.pick(slice(first, first + count)),
        macs=layer.macs * count // layer.channels,
        first_channel=first,
    )


def fits_memories(spec: AccelSpec, mappings: list[Mapping]) -> bool:
    """Whether the weights, fills and parameters of these layers are resident together."""
    return (
        sum(len(mapping.steps) for mapping in mappings) <= spec.weight_words
        and sum(len(mapping.fills) for mapping in mappings) <= spec.fill_words
        and sum(mapping.output_words for mapping in mappings) <= spec.parameter_words
    )
