"""Average pooling and bilinear resizing: as convolutions with whole weights, exact sums rounded once like any other,
where all pixels have the same weights; by the sampler where corners lie on corners, and no two pixels have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_ENLARGED = 5
"""A bilinear weight is a whole number of ``4 f^2``-ths, at most ``(2 f - 1)^2`` of them, which must fit int8."""


ENLARGED = (2, 4, 8)
"""By what the sampler enlarges."""


def resize_factor(before: tuple[int, int], after: tuple[int, int], method: str, coordinates: str) -> int:
    """By what a bilinear resize of a frame enlarges it, -2 where it halves it, 0 where it does anything else.

    ``coordinates`` is the ONNX standard's coordinate transformation mode; ``half_pixel`` (pixels are areas, beyond the
    border lies the border's value) is the one whose weights are the same all over the frame.
    """
    (height, width), (rows, columns) = before, after
    if method != "linear" or coordinates not in ("half_pixel", "pytorch_half_pixel"):
        return 0
    if coordinates == "pytorch_half_pixel" and 1 in after:
        return 0
    if (2 * rows, 2 * columns) == (height, width):
        return -2
    factor = rows // height
    exact = (rows, columns) == (factor * height, factor * width)
    return factor if exact and 2 <= factor <= MOST_ENLARGED else 0


def corner_factor(before: tuple[int, int], after: tuple[int, int], method: str, coordinates: str) -> int:
    """By what power of two a bilinear resize with ``align_corners`` enlarges a frame, 0 where it does anything else."""
    factor = after[0] // before[0]
    exact = after == (factor * before[0], factor * before[1])
    return factor if (method, coordinates) == ("linear", "align_corners") and exact and factor in ENLARGED else 0


def average_weights(channels: int, rows: int, columns: int) -> NDArray[np.int8]:
    """``int8[rows, columns, C, C]``: every channel's sum over a window."""
    return np.broadcast_to(np.eye(channels, dtype=np.int8), (rows, columns, channels, channels))


def bilinear_weights(channels: int, factor: int) -> NDArray[np.int8]:
    """``int8[3, 3, C, C factor^2]``: pixel ``(i, j)`` of a block is output channel ``c factor^2 + i factor + j``.

    In units of ``1 / (4 factor^2)``. Pixel ``i`` lies ``(2 i + 1 - factor) / (2 factor)`` off its source's centre.
    """
    taps = np.zeros((3, factor), np.int64)
    for i in range(factor):
        off = 2 * i + 1 - factor
        taps[:, i] = max(-off, 0), 2 * factor - abs(off), max(off, 0)
    weights = np.zeros((3, 3, channels, channels, factor, factor), np.int8)
    both = np.einsum("yi,xj->yxij", taps, taps)
    for channel in range(channels):
        weights[:, :, channel, channel] = both
    return weights.reshape(3, 3, channels, channels * factor**2)
