"""Concatenations are not computed: a layer that reads one reads its parts.

A layer takes at most ``1 + isa.MORE_SOURCES`` parts. A longer concatenation first has neighbouring parts joined by a
one-by-one copy; other concatenations with the same neighbours read the joined tensor, too. The whole tensor is copied
together where it must lie in one place: for a pixel shuffle, an addition, or as the network's output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from codesign.compile.scanline.kernels.convolution import Convolution, identity
from codesign.compile.scanline.layers import Concat, Layer, Shuffle
from codesign.compile.scanline.rewrite.copies import exact
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import MORE_SOURCES

MOST_PARTS = 1 + MORE_SOURCES

Parts = tuple[str, ...]


def fold_concats(
    layers: Sequence[Layer | Shuffle | Concat], tensors: dict[str, Tensor], results: Sequence[str]
) -> tuple[tuple[Layer | Shuffle, ...], dict[str, Tensor]]:
    """``layers`` without concatenations, and the tensors with those of the copies. ``results`` must be whole."""
    parts: dict[str, Parts] = {}
    for layer in layers:
        if isinstance(layer, Concat):
            parts[layer.output] = tuple(part for name in layer.parts for part in parts.get(name, (name,)))
    whole, read = {name for name in results if name in parts}, list[str]()
    for layer in layers:
        match layer:
            case Layer(sources=(name,)) if layer.kernel.orders_channels:  # it can read the parts instead
                read += [name] if name in parts else []
                whole |= {name for name in (layer.operand,) if name in parts and name is not None}
            case Layer() | Shuffle():
                whole |= set(layer.streamed) & parts.keys()
            case Concat():
                pass
    tensors = dict(tensors)
    joins = _joins({name: parts[name] for name in read if name not in whole}, tensors)
    made: list[Layer | Shuffle] = []
    for layer in layers:
        match layer:
            case Concat():
                if layer.output in whole:
                    made += _copies(layer, parts[layer.output], tensors)
            case Layer(kernel=Convolution() as kernel) if layer.sources[0] in parts.keys() - whole:
                target, taken = tensors[layer.sources[0]], parts[layer.sources[0]]
                if len(taken) > MOST_PARTS:
                    taken = joins.read_as(taken, target.bits)
                    made += joins.missing(taken)
                kernel = kernel.pick_inputs(_channels(target, [tensors[name] for name in taken]))
                made.append(dataclasses.replace(layer, sources=taken, kernel=kernel))
            case _:
                made.append(layer)
    return tuple(made), tensors


class _Joins:
    """Neighbouring parts that are copied into one tensor, by their names and its bits."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.names: dict[tuple[Parts, int], str] = {}
        self.made: set[str] = set()

    def read_as(self, parts: Parts, bits: int) -> Parts:
        """``parts`` with neighbours that are joined as one."""
        for (joined, its_bits), name in self.names.items():
            for at in range(len(parts) - len(joined) + 1):
                if its_bits == bits and parts[at : at + len(joined)] == joined:
                    parts = (*parts[:at], name, *parts[at + len(joined) :])
                    break
        return parts

    def shorten(self, parts: Parts, target: Tensor, others: Sequence[Parts]) -> None:
        """Join neighbours of ``parts`` until a layer can read them: first those that most of ``others`` share, then
        those with the fewest channels."""
        while len(parts := self.read_as(parts, target.bits)) > MOST_PARTS:
            count = min(len(parts) - MOST_PARTS + 1, MOST_PARTS)
            runs = [parts[at : at + count] for at in range(len(parts) - count + 1)]
            shorter = [self.read_as(one, target.bits) for one in others]
            run = min(runs, key=lambda run: (-sum(map(partial(_within, run), shorter)), _values(self.tensors, run)))
            name = f"{target.name}.joined{len(self.names) + 1}"
            self.names[run, target.bits] = name
            channels = _values(self.tensors, run) * target.planes
            self.tensors[name] = dataclasses.replace(target, name=name, channels=channels)

    def missing(self, parts: Parts) -> Iterator[Layer]:
        """Layers that make those joins among ``parts`` that are not made yet."""
        for (joined, _), name in self.names.items():
            if name in parts and name not in self.made:
                yield from self.missing(joined)
                self.made.add(name)
                yield _copy(name, joined, self.tensors[name], self.tensors)


def _joins(read: Mapping[str, Parts], tensors: dict[str, Tensor]) -> _Joins:
    """The joins that layers need to read the concatenations ``read``: made for the longest first, shared by others."""
    joins = _Joins(tensors)
    long = sorted((name for name in read if len(read[name]) > MOST_PARTS), key=lambda name: -len(read[name]))
    for name in long:
        joins.shorten(read[name], tensors[name], [read[other] for other in long])
    return joins


def _values(tensors: Mapping[str, Tensor], parts: Parts) -> int:
    return sum(tensors[name].values for name in parts)


def _within(run: Parts, parts: Parts) -> bool:
    return any(parts[at : at + len(run)] == run for at in range(len(parts) - len(run) + 1))


def _channels(whole: Tensor, parts: Sequence[Tensor]) -> list[int]:
    """The channel (byte) of a concatenation that each channel of its parts is, in their order.

    An 8-bit part of a 16-bit concatenation is its high bytes.
    """
    if whole.bits == 8:
        return list(range(whole.channels))
    found: list[int] = []
    first, low = 0, whole.values
    for part in parts:
        channels = range(first, first + part.values)
        found += channels
        found += [low + channel for channel in channels] if part.bits == 16 else []
        first = channels.stop
    return found


def _copies(layer: Concat, parts: Parts, tensors: dict[str, Tensor]) -> list[Layer]:
    """Layers that put ``parts`` into one tensor, in rounds of as many as a layer reads."""
    made: list[Layer] = []
    target = tensors[layer.output]
    while len(parts) > MOST_PARTS:
        taken, parts = parts[:MOST_PARTS], parts[MOST_PARTS:]
        name = f"{target.name}.first{len(made) + 1}"
        tensors[name] = dataclasses.replace(target, name=name, channels=_values(tensors, taken) * target.planes)
        made.append(_copy(f"{layer.name}.{len(made) + 1}", taken, tensors[name], tensors))
        parts = (name, *parts)
    made.append(_copy(layer.name, parts, target, tensors))
    return made


def _copy(name: str, parts: Parts, target: Tensor, tensors: dict[str, Tensor]) -> Layer:
    kernel = identity(target.channels).pick_inputs(_channels(target, [tensors[part] for part in parts]))
    return Layer(name, parts, target.name, kernel, exact(target.channels, target))
