"""Rows of the units beside the array, and what they lose to the store engine; a row of the sampler.

The rules of :func:`sampled_row` are those of ``scanline_sampler.sv``, sample after sample, as if all that
it samples were on chip: the pixels that a WARP must gather from memory depend on the flow, which no model knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from codesign.hw.spec import AccelSpec

FLOW = 2  # cycles until a pixel group's flow is read and has arrived
HANDOVER = 3  # last read of a set to its psums at the requantiser


class UnitRow(NamedTuple):
    """Times at which a unit begins a row and at which it and the requantiser end it, and the reads in between."""

    start: float
    end: float
    drain: float
    reads: int


@dataclass
class Stream:
    """When a unit that keeps its rows will have done what it was given; the front goes on meanwhile."""

    taken: float = 0.0  # it may begin with the words of another row
    read: float = 0.0  # the scratchpad is no longer read
    ends: tuple[float, float] = (0.0, 0.0)  # the last two rows

    def delay(self, cycles: float) -> None:
        before, last = self.ends
        self.taken, self.read, self.ends = self.taken + cycles, self.read + cycles, (before, last + cycles)


class Fetching(NamedTuple):
    """The store engine fetches a row: reads of the scratchpad in the cycles [begin, end)."""

    begin: float
    end: float
    reads: int


def sampled_row(spec: AccelSpec, width: int, words: int, start: float, drain: float, *, flow: bool) -> UnitRow:
    """A row of ``width`` pixels of ``words`` channel groups from cycle ``start`` on.

    ``drain``: when the requantiser has finished the rows before. ``flow``: a flow says where the samples lie.
    """
    per_set, chunks = spec.co_lanes // spec.ci_lanes, spec.pixel_lanes // spec.requantise_pixels
    now, reads = start, 0
    for x in range(0, width, spec.pixel_lanes):
        now += FLOW if flow else 0
        for first in range(0, words, per_set):
            count = min(per_set, words - first)
            samples = count * min(spec.pixel_lanes, width - x)
            reads += 2 * samples
            now = max(now, drain) + 1 + 2 * samples + HANDOVER
            drain = now + count * chunks - 1
    return UnitRow(start, now, drain, reads)


def lost_to_store(row: UnitRow, span: Fetching) -> float:
    """Cycles that a row takes longer because the store engine goes first at the scratchpad's port.

    Its fetches in these cycles, as far as the unit reads then, which it does for longer the more it waits; both are
    taken as evenly spread. A row may outlast the fetches, or be done before them.
    """
    first = max(row.start, span.begin)
    if min(row.end, span.end) <= first:
        return 0.0
    fetches, reading = span.reads / (span.end - span.begin), row.reads / (row.end - row.start)
    contended, free = fetches * reading, 1.0 - fetches
    while_fetching = (span.end - first) * contended / (free + contended)
    return min(while_fetching, (row.end - first) * contended / free) if free > 0.0 else while_fetching
