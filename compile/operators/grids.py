"""Grids of ``grid_sample`` that a flow makes: every pixel's place plus the flow, -1 to 1 across the frame or map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES
from codesign.hw.windows import MAX_RADIUS

CLOSE_PIXELS = 0.01
"""How far from a warp's the places of a grid may lie: an exporter's arithmetic is float32."""


def grid_of_flow(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``(scale [1, 2, 1, 1], places [1, 2, H, W])``: a flow times the scale plus the places is a grid (corners +-1)."""
    scale = np.array([2.0 / (width - 1), 2.0 / (height - 1)], np.float64).reshape(1, 2, 1, 1)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)))[None] * scale - 1.0
    return scale.astype(np.float32), places.astype(np.float32)


def is_grid_of_flow(scale: NDArray[Any], places: NDArray[Any]) -> bool:
    """Whether a grid with these constants has a flow's places."""
    height, width = places.shape[2:]
    if places.shape[:2] != (1, 2) or min(height, width) < 2 or scale.shape != (1, 2, 1, 1):
        return False
    pairs = zip(grid_of_flow(height, width), (scale, places), strict=True)
    return all(np.allclose(mine, other, rtol=1e-4, atol=CLOSE_PIXELS / max(height, width)) for mine, other in pairs)


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


def windows_of_grid(
    scale: NDArray[Any], places: NDArray[Any], around: NDArray[Any], maps: tuple[int, int]
) -> tuple[int, int] | None:
    """``(radius, level)`` of the windows that these constants make in maps of that size; None if they make none."""
    side = around.shape[-1]
    if (scale.shape, around.shape) != ((1, 2, 1, 1), (1, 2, side, side)) or side % 2 == 0 or not np.all(scale > 0):
        return None
    radius, level = side // 2, round(math.log2(2.0 / (maps[1] * float(scale[0, 0, 0, 0]))))
    if not 1 <= radius <= MAX_RADIUS or not 0 <= level <= MAX_LEVEL or maps[0] * maps[1] > MAX_MAP_BYTES:
        return None
    if places.ndim != 4 or places.shape[:2] != (1, 2):
        return None
    factor, *fixed = grid_of_windows((places.shape[2], places.shape[3]), maps, radius, level)
    pairs = zip(fixed, (places, around), strict=True)
    same = all(np.allclose(mine, other, rtol=1e-4, atol=CLOSE_PIXELS / max(maps)) for mine, other in pairs)
    return (radius, level) if same and np.allclose(factor, scale, rtol=1e-4, atol=0.0) else None
