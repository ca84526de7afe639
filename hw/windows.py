"""Layout of a WINDOW's windows among a pixel's channels: row by row, in bands of columns.

A band's row comes from one fetch of at most two beats and is interpolated ``ci_lanes`` columns at a time, so that it is
whole words; unless it fills them, channels beside it hold nothing of use.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.hw.spec import MAX_WINDOW_SIDE, AccelSpec

MAX_RADIUS = MAX_WINDOW_SIDE // 2
"""Columns and rows on each side of a window's middle, at most."""


class Band(NamedTuple):
    """Columns [first, first + columns) of a window; each of their rows takes ``words`` words."""

    first: int
    columns: int
    words: int


def bands(spec: AccelSpec, radius: int) -> tuple[Band, ...]:
    """The bands of a window of ``2 radius + 1`` columns, in order."""
    side = 2 * radius + 1
    made = []
    for first in range(0, side, spec.window_lanes):
        columns = min(spec.window_lanes, side - first)
        made.append(Band(first, columns, spec.band_words(columns)))
    return tuple(made)


def window_words(spec: AccelSpec, radius: int) -> int:
    """Channel groups of a pixel's whole window."""
    return (2 * radius + 1) * sum(band.words for band in bands(spec, radius))


def window_channels(spec: AccelSpec, radius: int) -> NDArray[np.int64]:
    """The channel of every displacement, ``int64[side, side]``: rows, then columns."""
    side, first = 2 * radius + 1, 0
    parts = []
    for band in bands(spec, radius):
        pitch = band.words * spec.ci_lanes
        parts.append(first + np.arange(side)[:, None] * pitch + np.arange(band.columns))
        first += side * pitch
    return np.concatenate(parts, axis=1)
