"""Concatenations are never made: a layer that reads one reads its parts.

A layer takes at most ``1 + isa.MORE_SOURCES`` parts. Of a longer concatenation some neighbours are joined first, by a
one-by-one convolution that copies; who reads them too, in a concatenation of its own, reads them joined. Whoever needs
the whole tensor in one place (a pixel shuffle, an addition, the network's output) gets it so as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from codesign.compile.scanline.layers import Concat, Conv, Layer, Shuffle, Tensor
from codesign.compile.scanline.rewrite.ordering import copy_layer
from codesign.hw.isa import MORE_SOURCES

MOST_PARTS = 1 + MORE_SOURCES

Parts = tuple[str, ...]


def fold_concats(
    layers: Sequence[Layer | Concat], tensors: dict[str, Tensor], results: Sequence[str]
) -> tuple[tuple[Layer, ...], dict[str, Tensor]]:
    """``layers`` without concatenations, and the tensors with those of the copies. ``results``: what must be whole."""
    parts: dict[str, Parts] = {}
    for layer in layers:
        if isinstance(layer, Concat):
            parts[layer.output] = tuple(part for name in layer.parts for part in parts.get(name, (name,)))
    whole = {name for name in results if name in parts}
    for layer in layers:
        if isinstance(layer, Shuffle) and layer.source in parts:
            whole.add(layer.source)
        elif isinstance(layer, Conv):
            if not layer.plain or layer.more:
                whole.update(name for name in layer.convolved if name in parts)
            if layer.add is not None and layer.add.other in parts:
                whole.add(layer.add.other)
    read = [layer.source for layer in layers if isinstance(layer, Conv) and layer.source in parts]
    tensors = dict(tensors)
    joins = _joins({name: parts[name] for name in read if name not in whole}, tensors)
    made: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Concat):
            if layer.output in whole:
                made += _copies(layer, parts[layer.output], tensors)
        elif isinstance(layer, Conv) and layer.source in parts and layer.source not in whole:
            target = tensors[layer.source]
            taken = parts[layer.source]
            if len(taken) > MOST_PARTS:
                taken = joins.read_as(taken, target.wide)
                made += joins.missing(taken)
            first, *more = taken
            weights = layer.weights[:, :, _channels(target, [tensors[name] for name in taken])]
            made.append(dataclasses.replace(layer, source=first, more=tuple(more), weights=weights))
        else:
            made.append(layer)
    return tuple(made), tensors


class _Joins:
    """Neighbouring parts that are copied into one tensor, by their names and whether that is wide."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[tuple[Parts, bool], str] = {}
        self.made: set[str] = set()

    def read_as(self, parts: Parts, wide: bool) -> Parts:
        """``parts``, neighbours that are joined as one."""
        for (joined, is_wide), name in self.names.items():
            for at in range(len(parts) - len(joined) + 1):
                if is_wide == wide and parts[at : at + len(joined)] == joined:
                    parts = (*parts[:at], name, *parts[at + len(joined) :])
                    break
        return parts

    def shorten(self, parts: Parts, target: Tensor, others: Sequence[Parts]) -> None:
        """Join of ``parts`` what most of ``others`` have too, and then what has the fewest channels, until a layer can
        read them."""
        while len(parts := self.read_as(parts, target.wide)) > MOST_PARTS:
            count = min(len(parts) - MOST_PARTS + 1, MOST_PARTS)
            runs = [parts[at : at + count] for at in range(len(parts) - count + 1)]
            shorter = [self.read_as(one, target.wide) for one in others]
            run = min(runs, key=lambda run: (-sum(map(partial(_within, run), shorter)), self._values(run)))
            name = f"{target.name}.joined{len(self.names) + 1}"
            self.names[run, target.wide] = name
            channels = self._values(run) * (1 + target.wide)
            self.tensors[name] = dataclasses.replace(target, name=name, channels=channels)

    def _values(self, parts: Parts) -> int:
        return sum(self.tensors[name].channels // (1 + self.tensors[name].wide) for name in parts)

    def missing(self, parts: Parts) -> Iterator[Layer]:
        """Layers that make the joins among ``parts`` which are not made yet."""
        for (joined, _), name in self.names.items():
            if name in parts and name not in self.made:
                yield from self.missing(joined)
                self.made.add(name)
                yield _copy(name, joined, self.tensors[name], self.tensors)


def _joins(read: Mapping[str, Parts], tensors: dict[str, Tensor]) -> _Joins:
    """What is joined so that layers can read the concatenations ``read``: of the longest first, the others share it."""
    joins = _Joins(tensors)
    long = sorted((name for name in read if len(read[name]) > MOST_PARTS), key=lambda name: -len(read[name]))
    for name in long:
        joins.shorten(read[name], tensors[name], [read[other] for other in long])
    return joins


def _within(run: Parts, parts: Parts) -> bool:
    return any(parts[at : at + len(run)] == run for at in range(len(parts) - len(run) + 1))


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
