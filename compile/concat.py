"""Concatenations are never made: a layer that reads one reads its parts.

A layer takes at most ``1 + isa.MORE_SOURCES`` parts. Whoever needs the whole tensor in one place (a pixel shuffle, an
addition, the network's output, a layer with too many parts) gets it from a one-by-one convolution that copies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from codesign.compile.layers import Concat, Conv, Layer, Shuffle, Tensor
from codesign.compile.ordering import copy_layer
from codesign.hw.isa import MORE_SOURCES

MOST_PARTS = 1 + MORE_SOURCES


def fold_concats(
    layers: Sequence[Layer | Concat], tensors: dict[str, Tensor], results: Sequence[str]
) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
    """``layers`` without concatenations, and the tensors with those of the copies. ``results``: what must be whole."""
    parts: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        if isinstance(layer, Concat):
            flat = tuple(part for name in layer.parts for part in parts.get(name, (name,)))
            parts[layer.output] = flat
    whole = {name for name in results if name in parts}
    for layer in layers:
        if isinstance(layer, Shuffle) and layer.source in parts:
            whole.add(layer.source)
        elif isinstance(layer, Conv):
            for name in layer.convolved:
                if name in parts and (len(parts[name]) > MOST_PARTS or not layer.plain or layer.more):
                    whole.add(name)
            if layer.add is not None and layer.add.other in parts:
                whole.add(layer.add.other)
    made: list[Layer] = []
    tensors = dict(tensors)
    for layer in layers:
        if isinstance(layer, Concat):
            if layer.output in whole:
                made += _copies(layer, parts[layer.output], tensors)
        elif isinstance(layer, Conv) and layer.source in parts and layer.source not in whole:
            first, *more = parts[layer.source]
            weights = layer.weights[:, :, _channels(tensors[layer.source], [tensors[name] for name in (first, *more)])]
            made.append(dataclasses.replace(layer, source=first, more=tuple(more), weights=weights))
        else:
            made.append(layer)
    return tuple(made), tensors


def _channels(whole: Tensor, parts: Sequence[Tensor]) -> list[int]:
    """Which channel of a concatenation each channel of its parts is, in their order: bytes, if it is wide."""
    if not whole.wide:
        return list(range(whole.channels))
    found: list[int] = []
    first, low = 0, whole.channels // 2
    for part in parts:
        channels = range(first, first + part.channels // (1 + part.wide))
        found += [*channels, *(low + channel for channel in channels if part.wide)]
        first = channels.stop
    return found


def _copies(layer: Concat, parts: tuple[str, ...], tensors: dict[str, Tensor]) -> list[Layer]:
    """Layers that put ``parts`` into one tensor, in rounds of as many as a layer reads."""
    made: list[Layer] = []
    target = tensors[layer.output]
    while len(parts) > MOST_PARTS:
        taken, parts = parts[:MOST_PARTS], parts[MOST_PARTS:]
        name = f"{target.name}.first{len(made) + 1}"
        values = sum(tensors[p].channels // (1 + tensors[p].wide) for p in taken)
        tensors[name] = dataclasses.replace(target, name=name, channels=values * (1 + target.wide))
        made.append(_copy(f"{layer.name}.{len(made) + 1}", taken, tensors[name], tensors))
        parts = (name, *parts)
    made.append(_copy(layer.name, parts, target, tensors))
    return made


def _copy(name: str, parts: tuple[str, ...], target: Tensor, tensors: dict[str, Tensor]) -> Conv:
    copy = copy_layer(name, dataclasses.replace(target, name=parts[0]), target)
    weights = copy.weights[:, :, _channels(target, [tensors[part] for part in parts])]
    assert weights.shape[2] == sum(tensors[part].channels for part in parts)
    return dataclasses.replace(copy, source=parts[0], more=tuple(parts[1:]), weights=weights)
