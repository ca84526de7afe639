"""Grids of ``grid_sample`` that a flow makes: every pixel's place plus the flow, -1 to 1 across the frame or map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLOSE_PIXELS = 0.01
"""How far from a warp's the places of a grid may lie: an exporter's arithmetic is float32."""


def grid_of_flow(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``(scale [1, 2, 1, 1], places [1, 2, H, W])``: a flow times the scale plus the places is a grid (corners +-1)."""
    scale = np.array([2.0 / (width - 1), 2.0 / (height - 1)], np.float64).reshape(1, 2, 1, 1)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)))[None] * scale - 1.0
    return scale.astype(np.float32), places.astype(np.float32)


def grid_of_windows(
    size: tuple[int, int], maps: tuple[int, int], radius: int, level: int
) -> tuple[NDArray[np.float32], ...]:
    """Constants that turn a flow into a grid: scale ``[1, 2, 1, 1]``, own places ``[1, 2, H, W]``, window ``[1, 2, k,
    k]``.

    ``size`` is the height and width of the frame, ``maps`` those of a map; -1 and 1 are the outer edges of its pixels.
    """
    extent = np.array(maps[::-1], np.float64).reshape(1, 2, 1, 1)
    own = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])))[None] / 2.0**level
    span = np.arange(-radius, radius + 1)
    around = np.stack(np.meshgrid(span, span, indexing="ij"))[None]
    found = 2.0 / (2.0**level * extent), (2.0 * own + 1.0) / extent - 1.0, 2.0 * around / extent
    scale, places, window = (value.astype(np.float32) for value in found)
    return scale, places, window
