"""Arrays of codes and of exact sums, and how they are worked on a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics

Codes = NDArray[np.int8]
Wide = NDArray[np.int64]
Reals = NDArray[np.float64]
AnyInts = NDArray[Any]

BLOCK = 1 << 16
"""Elements worked on at a time, so that they stay in the processor's cache."""


def by_rows(function: Callable[..., Codes], *arrays: AnyInts) -> Codes:
    """``function`` of a few rows of ``[1, C, H, W]`` arrays at a time, which stay in the processor's cache."""
    _, channels, height, width = np.broadcast_shapes(*(array.shape for array in arrays))
    step = max(1, BLOCK // max(1, channels * width))
    blocks = [function(*(array[:, :, row : row + step] for array in arrays)) for row in range(0, height, step)]
    return np.concatenate(blocks, axis=2) if blocks else np.zeros((1, channels, height, width), np.int8)


def within_int32(psum: NDArray[Any]) -> Wide:
    """``psum`` as integers; raises ``OverflowError`` where it does not fit the machine's 32 bits."""
    if psum.size and (psum.max() > numerics.INT32_MAX or psum.min() < numerics.INT32_MIN):
        raise OverflowError(f"a psum of {np.abs(psum).max():.0f} does not fit 32 bits")
    return psum.astype(np.int64)
