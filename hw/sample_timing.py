"""One row of a WARP on the sampler, sample after sample, as if all that it samples were on chip.

The rules are those of ``sampler.sv``. What must be gathered from memory depends on the flow, which no model knows.
"""

from __future__ import annotations

from typing import NamedTuple

from codesign.hw.spec import AccelSpec

FLOW = 2  # cycles until a pixel group's flow is read and has arrived
HANDOVER = 3  # last read of a set to its psums at the requantiser


class SampledRow(NamedTuple):
    """When the sampler and the requantiser have finished a row."""

    end: float
    drain: float


def sampled_row(spec: AccelSpec, width: int, words: int, start: float, drain: float) -> SampledRow:
    """A row of ``width`` pixels of ``words`` channel groups from cycle ``start`` on.

    ``drain``: when the requantiser has finished what came before.
    """
    per_set, chunks = spec.co_lanes // spec.ci_lanes, spec.pixel_lanes // spec.requantise_pixels
    now = start
    for x in range(0, width, spec.pixel_lanes):
        now += FLOW
        for first in range(0, words, per_set):
            count = min(per_set, words - first)
            samples = count * min(spec.pixel_lanes, width - x)
            now = max(now, drain) + 1 + 2 * samples + HANDOVER
            drain = now + count * chunks - 1
    return SampledRow(now, drain)


def sampled_words(width: int, words: int) -> int:
    """Scratchpad words that a row reads: two pixels of two rows each sample, and a flow.

    At the frame's edges a pixel may stand for two, and is read once.
    """
    return (4 * words + 1) * width
