"""Strips: the columns of every tensor that a cascade holds, computes, loads and stores, one strip after another.

To store its columns a strip needs more of the tensors before: its halo. *Recomputed*, a strip computes it on both
sides. *Kept*, a strip computes its halo on the right, and the columns that the next strip needs again on its left go to
memory and come back: LOAD fills the first columns of a row, CONV the others. Recomputing takes cycles, keeping takes
bandwidth.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from codesign.compile.scanline.layers import Layer, LayerGraph
from codesign.compile.scanline.plan.plan import Conversion, Strip
from codesign.hw.numerics import ceil_div, round_up
from codesign.hw.spec import AccelSpec

HaloMode = Literal["recompute", "keep"]
"""Columns that two strips need are computed twice, or kept in memory by the first for the second."""

Leaving = list[tuple[str, str, int]]
"""Tensors that leave the chip: the buffer's, the one in memory, the factor of a pixel shuffle on the way."""


def kept_tensors(layers: Sequence[Layer]) -> list[str]:
    """Computed tensors of which two strips side by side need the same columns, in the order of ``layers``."""
    # By tensor, how far it is computed beyond a cut, and from where on the next strip reads it.
    ahead: dict[str, int] = {}
    again: dict[str, int] = {}
    for layer in reversed(layers):
        footprint = layer.kernel.footprint
        here = ahead.setdefault(layer.output, 0)
        low = here * footprint.stride - footprint.pad_left
        for name in layer.sources:
            ahead[name] = max(ahead.get(name, 0), low + footprint.columns - footprint.stride)
            again[name] = min(again.get(name, low), low)
        if (operand := layer.operand) is not None:
            ahead[operand] = max(ahead.get(operand, 0), here)
            again[operand] = min(again.get(operand, here), here)
    outputs = [layer.output for layer in layers]
    return [name for name in outputs if name in again and again[name] < ahead[name]]


class Divider:
    """Divides the columns that ``layers`` store evenly, and traces back the columns needed of every tensor."""

    def __init__(
        self,
        spec: AccelSpec,
        graph: LayerGraph,
        layers: Sequence[Layer],
        leaving: Leaving,
        conversions: Mapping[str, Conversion],
        halos: HaloMode,
    ) -> None:
        self.spec, self.graph, self.layers, self.leaving = spec, graph, layers, leaving
        self.conversions, self.keep = conversions, halos == "keep"

    def strips(self, count: int) -> tuple[Strip, ...] | None:
        """The columns of ``count`` strips. None when the frame is too narrow for so many, or a halo cannot be kept."""
        if self.keep and any(layer.kernel.footprint.enlarges > 1 for layer in self.layers):
            return None
        cuts = self._cuts(count)
        if cuts is None:
            return None
        made = [layer.output for layer in self.layers]
        shuffled = {source for source, _, factor in self.leaving if factor > 1}
        found: list[Strip] = []
        done: dict[str, int] = dict.fromkeys(made, 0)  # columns that strips before have computed
        for number in range(count):
            stored = {source: (cut[number], cut[number + 1]) for source, cut in cuts.items()}
            if self.keep:
                stored = {source: (max(done.get(source, 0), first), end) for source, (first, end) in stored.items()}
            strip = self._trace(stored, done if self.keep and number else None)
            if strip is None or not shuffled.isdisjoint(strip.halos):
                return None
            if self.keep:
                # A tensor that is read again as well is stored as far as it is computed.
                stored |= {name: (strip.computed[name], strip.columns[name][1]) for name in made if name in stored}
                done = {name: strip.columns[name][1] for name in made}
            found.append(dataclasses.replace(strip, stored=stored))
        return _with_tails(found, cuts)

    def _cuts(self, count: int) -> dict[str, list[int]] | None:
        """The columns at which each stored tensor is cut, multiples of the pixel lanes; None if it is too narrow."""
        lanes = self.spec.pixel_lanes
        widths = {source: self.graph.tensors[source].width for source, _, _ in self.leaving}
        if count > max(1, min(widths.values()) // lanes):
            return None
        cuts = {
            source: [*(min(width, round_up(ceil_div(width * k, count), lanes)) for k in range(count)), width]
            for source, width in widths.items()
        }
        return None if any(a >= b for cut in cuts.values() for a, b in itertools.pairwise(cut)) else cuts

    def _trace(self, stored: dict[str, tuple[int, int]], done: dict[str, int] | None) -> Strip | None:
        """The columns that one strip needs of every tensor to store ``stored``.

        ``done``: columns below these have been computed and are to be loaded; None: everything needed is computed.
        """
        columns, computed, halos = dict(stored), dict[str, int](), dict[str, int]()
        for layer in reversed(self.layers):
            footprint = layer.kernel.footprint
            first, end = columns[layer.output]
            begin = first
            if done is not None and (begin := max(first, done[layer.output])) > first:
                halos[layer.output] = begin - first
                # The halo's end is a bank's last word, so that computed pixels begin in the first bank.
                columns[layer.output] = (begin - round_up(begin - first, self.spec.banks), end)
            if begin >= end:
                return None
            computed[layer.output] = begin
            if unfold := self._conversion(layer.sources[0]).unfold:
                # Column p of the buffer holds pixels p - pad_left to p - pad_left + unfold - 1.
                self._need(columns, layer.sources[0], begin, end + (footprint.columns - 1) // unfold * unfold)
            else:
                low = footprint.columns_for(begin).start
                if done is not None and low < 0:
                    return None
                for name in layer.sources:
                    self._need(columns, name, low, footprint.columns_for(end - 1).stop)
            if layer.operand is not None:
                self._need(columns, layer.operand, begin, end)
        return Strip(columns, computed, {}, halos, {})

    def _need(self, columns: dict[str, tuple[int, int]], name: str, first: int, end: int) -> None:
        """Add columns [first, end) of ``name``, as far as there are such."""
        width = self.graph.tensors[name].width
        first, end = max(first, 0), min(end, width + self._conversion(name).pad_left)
        if first >= end:  # beyond the frame, where all is zero point: a column stands for none
            first = min(first, width - 1)
            end = first + 1
        a, b = columns.get(name, (first, end))
        columns[name] = (min(a, first), max(b, end))

    def _conversion(self, name: str) -> Conversion:
        return self.conversions.get(name, Conversion())


def _with_tails(strips: list[Strip], stored: Mapping[str, object]) -> tuple[Strip, ...] | None:
    """``strips`` with the columns that each leaves in memory for the next; None if one needs more than the last had.

    A tensor that is stored anyway leaves none.
    """
    found = list(strips)
    for number, following in enumerate(strips[1:]):
        tails: dict[str, tuple[int, int]] = {}
        for name, count in following.halos.items():
            first, end = strips[number].columns[name]
            if end - count < first:
                return None
            if name not in stored:
                tails[name] = (end - count, end)
        found[number] = dataclasses.replace(strips[number], tails=tails)
    return tuple(found)
