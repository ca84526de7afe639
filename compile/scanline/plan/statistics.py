"""Places for the sums of tensors that are normalised: they are added up as a tensor is stored."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.plan import Cascade
from codesign.hw.errors import UnsupportedError
from codesign.hw.spec import AccelSpec


def place_statistics(spec: AccelSpec, graph: LayerGraph, cascades: Sequence[Cascade]) -> dict[str, int]:
    """The first statistics word of every tensor that is normalised.

    A cascade reads the statistics it needs before it adds to any, so those of its sources and of its results may share
    their place. Raises :class:`UnsupportedError` when more are needed at once than the machine has.
    """
    reading: dict[str, int] = {}  # by tensor, the last cascade that normalises it
    for number, cascade in enumerate(cascades):
        for plan in cascade.layers:
            if plan.layer.kernel.needs_statistics:
                reading[plan.layer.sources[0]] = number
    found: dict[str, int] = {}
    taken: list[tuple[int, int, int]] = []  # words [first, end), until a cascade has read them
    for number, cascade in enumerate(cascades):
        for name in sorted({store.target for store in cascade.stores} & reading.keys() - found.keys()):
            live = sorted((first, end) for first, end, until in taken if until > number)
            words = graph.tensors[name].groups(spec)
            at = 0
            for first, end in live:
                if at + words <= first:
                    break
                at = max(at, end)
            if at + words > spec.statistic_words:
                raise UnsupportedError(
                    f"needs the sums of {(at + words) * spec.ci_lanes} channels at once, the machine keeps "
                    f"{spec.statistic_channels}",
                    where=name,
                    hint="Choose a machine with more statistic_channels.",
                )
            found[name] = at
            taken.append((at, at + words, reading[name]))
    return found
