"""Normalisations in a plan: a source that is summed up as it is stored, and a place for its sums.

A store counts whole channel groups of a convolution's output, so what is normalised must be one: inputs of the region
and shuffled tensors are copied first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph
from codesign.compile.scanline.plan.plan import Cascade
from codesign.compile.scanline.rewrite.ordering import copy_layer
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import encode_norm
from codesign.hw.spec import AccelSpec


def count_sources(graph: LayerGraph) -> LayerGraph:
    """``graph`` with a copy of whatever is normalised and is not a convolution's output."""
    made = {
        layer.output for layer in graph.layers
        if isinstance(layer, Conv) and not graph.tensors[layer.output].as_weights
    }  # fmt: skip
    tensors, layers, copies = dict(graph.tensors), list[Layer](), dict[str, str]()
    for layer in graph.layers:
        if isinstance(layer, Conv) and layer.norm is not None and layer.source not in made:
            source = tensors[layer.source]
            if source.name not in copies:
                copy = dataclasses.replace(source, name=f"{source.name}.counted.{layer.name}")
                tensors[copy.name] = copy
                copies[source.name] = copy.name
                layers.append(copy_layer(f"{layer.name}.copy", source, copy))
            layer = dataclasses.replace(layer, source=copies[source.name])
        layers.append(layer)
    return dataclasses.replace(graph, tensors=tensors, layers=tuple(layers)) if copies else graph


def place_statistics(spec: AccelSpec, graph: LayerGraph, cascades: Sequence[Cascade]) -> dict[str, int]:
    """The first statistics word of every tensor that is normalised.

    A cascade reads the statistics it needs before it adds to any, so those of its sources and of its results may share
    their place. Raises :class:`UnsupportedError` when more are needed at once than the machine has.
    """
    reading: dict[str, int] = {}  # by tensor, the last cascade that normalises it
    for number, cascade in enumerate(cascades):
        for plan in cascade.convs:
            if plan.layer.norm is not None:
                reading[plan.layer.source] = number
    found: dict[str, int] = {}
    taken: list[tuple[int, int, int]] = []  # words [first, end), until a cascade has read them
    for number, cascade in enumerate(cascades):
        for name in sorted({store.target for store in cascade.stores} & reading.keys() - found.keys()):
            live = sorted((first, end) for first, end, until in taken if until > number)
            words = -(-graph.tensors[name].channels // spec.ci_lanes)
            at = 0
            for first, end in live:
                if at + words <= first:
                    break
                at = max(at, end)
            if at + words > spec.statistic_words:
                raise UnsupportedError(
                    f"needs the sums of {(at + words) * spec.ci_lanes} channels at once, the machine keeps "
                    f"{spec.statistic_channels}",
                    where=name, hint="Choose a machine with more statistic_channels.",
                )  # fmt: skip
            found[name] = at
            taken.append((at, at + words, reading[name]))
    return found


def records(spec: AccelSpec, layer: Conv, base: int) -> bytes:
    """What a LOADW of kind NORM reads for ``layer``, whose source's statistics begin at word ``base``."""
    assert layer.norm is not None
    first = base + layer.first_channel // spec.ci_lanes
    return b"".join(encode_norm(layer.norm, first + k // spec.ci_lanes) for k in range(layer.channels))
