"""Strips: which columns of every tensor a cascade holds, computes, loads and stores, one strip after another.

To store its columns a strip needs more of the tensors before: its halo. *Recomputed*, a strip computes it on both
sides. *Kept*, a strip computes what it needs on the right, and what the next strip needs again on its left goes to
memory and comes back: LOAD fills the first columns of a row, CONV the others. The first takes cycles, the second
bandwidth.
"""

from __future__ import annotations

import itertools

from codesign.compile.scanline.layers import Conv, LayerGraph
from codesign.compile.scanline.plan.plan import Conversion, Strip
from codesign.hw.spec import AccelSpec

Leaving = list[tuple[str, str, int]]
"""Tensors that leave the chip: the buffer's, the one in memory, the factor of a pixel shuffle on the way."""


def kept_tensors(graph: LayerGraph, convs: list[int]) -> list[str]:
    """Computed tensors of which two strips side by side need the same columns, in the order of ``convs``."""
    # By tensor, how far it is computed beyond a cut, and from where on the next strip reads it.
    ahead: dict[str, int] = {}
    again: dict[str, int] = {}
    for index in reversed(convs):
        layer = graph.layers[index]
        assert isinstance(layer, Conv)
        here = ahead.setdefault(layer.output, 0)
        low = here * layer.stride - layer.pad_left
        for name in layer.convolved:
            ahead[name] = max(ahead.get(name, 0), low + layer.weights.shape[1] - layer.stride)
            again[name] = min(again.get(name, low), low)
        if layer.add is not None:
            ahead[layer.add.other] = max(ahead.get(layer.add.other, 0), here)
            again[layer.add.other] = min(again.get(layer.add.other, here), here)
    outputs = [graph.layers[index].output for index in convs]
    return [name for name in outputs if name in again and again[name] < ahead[name]]


def divide_columns(
    spec: AccelSpec, graph: LayerGraph, convs: list[int], leaving: Leaving, conversions: dict[str, Conversion],
    strips: int, *, keep: bool,
) -> tuple[Strip, ...] | None:  # fmt: skip
    """Divide the stored columns evenly and trace back which columns every tensor needs.

    ``keep``: halos are kept instead of recomputed, which those of what is enlarged cannot be. None when that is so, or
    when the frame is too narrow for so many strips.
    """
    layers = [layer for index in convs if isinstance(layer := graph.layers[index], Conv)]
    if keep and any(layer.enlarges > 1 for layer in layers):
        return None
    lanes = spec.pixel_lanes
    widths = {source: graph.tensors[source].width for source, _, _ in leaving}
    if strips > max(1, min(widths.values()) // lanes):
        return None
    cuts = {
        source: [*(min(width, -(-width * k // strips // lanes) * lanes) for k in range(strips)), width]
        for source, width in widths.items()
    }
    if any(a >= b for cut in cuts.values() for a, b in itertools.pairwise(cut)):
        return None
    made = [graph.layers[index].output for index in convs]
    shuffled = {source for source, _, factor in leaving if factor > 1}
    found: list[Strip] = []
    done: dict[str, int] = dict.fromkeys(made, 0)  # columns that strips before have computed
    for number in range(strips):
        stored = {source: (cut[number], cut[number + 1]) for source, cut in cuts.items()}
        if keep:
            stored = {source: (max(done.get(source, 0), first), end) for source, (first, end) in stored.items()}
        strip = _trace(spec, graph, convs, conversions, stored, done if keep and number else None)
        if strip is None or not shuffled.isdisjoint(strip.halos):
            return None
        if keep:
            # What is read again as well is stored as far as it is computed.
            stored |= {name: (strip.computed[name], strip.columns[name][1]) for name in made if name in stored}
            done = {name: strip.columns[name][1] for name in made}
        found.append(Strip(strip.columns, strip.computed, stored, strip.halos, {}))
    for number, following in enumerate(found[1:]):
        tails: dict[str, tuple[int, int]] = {}
        for name, count in following.halos.items():
            first, end = found[number].columns[name]
            if end - count < first:
                return None
            if name not in widths:
                tails[name] = (end - count, end)
        this = found[number]
        found[number] = Strip(this.columns, this.computed, this.stored, this.halos, tails)
    return tuple(found)


def _trace(
    spec: AccelSpec, graph: LayerGraph, convs: list[int], conversions: dict[str, Conversion],
    stored: dict[str, tuple[int, int]], done: dict[str, int] | None,
) -> Strip | None:  # fmt: skip
    """The columns that one strip needs of every tensor to store ``stored``.

    ``done``: columns below these have been computed and are to be loaded; None: everything needed is computed.
    """
    columns = dict(stored)
    computed: dict[str, int] = {}
    halos: dict[str, int] = {}

    def need(name: str, first: int, end: int) -> None:
        limit = graph.tensors[name].width + conversions.get(name, Conversion()).pad_left
        first, end = max(first, 0), min(end, limit)
        if first >= end:  # beyond the frame, where all is zero point: a column stands for none
            first = min(first, graph.tensors[name].width - 1)
            end = first + 1
        a, b = columns.get(name, (first, end))
        columns[name] = (min(a, first), max(b, end))

    for index in reversed(convs):
        layer = graph.layers[index]
        assert isinstance(layer, Conv)
        first, end = columns[layer.output]
        begin = first
        if done is not None and (begin := max(first, done[layer.output])) > first:
            halos[layer.output] = begin - first
            # The halo's end is a bank's last word, so that computed pixels begin in the first bank.
            columns[layer.output] = (begin - -(-(begin - first) // spec.banks) * spec.banks, end)
        if begin >= end:
            return None
        computed[layer.output] = begin
        if unfold := conversions.get(layer.source, Conversion()).unfold:
            # Column p of the buffer holds pixels p - pad_left to p - pad_left + unfold - 1.
            need(layer.source, begin, end + (layer.weights.shape[1] - 1) // unfold * unfold)
        else:
            low = layer.needs_from(begin) - layer.pad_left
            if done is not None and low < 0:
                return None
            for name in layer.convolved:
                need(name, low, layer.needs_from(end - 1) - layer.pad_left + layer.weights.shape[1])
        if layer.add is not None:
            need(layer.add.other, begin, end)
    return Strip(columns, computed, {}, halos, {})
