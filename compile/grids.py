"""The grid of ``grid_sample`` that a flow makes: every pixel's own place plus the flow, -1 to 1 across the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
