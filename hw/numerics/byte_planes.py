"""Values and weights of 16 bits as bytes, high ones first, both signed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import INT16_MAX, INT16_MIN, AnyInts, IntArray


def byte_planes(q: NDArray[np.int16]) -> NDArray[np.int8]:
    """``int16[..., C]`` as ``int8[..., 2 C]``: high bytes, then low ones, with ``q = 256 high + low``, both signed.

    Signed low bytes make zero (0, 0), and a high byte alone the nearest multiple of 256. Saturates at ``INT16_MAX``.
    """
    wide = np.clip(q.astype(np.int64), INT16_MIN, INT16_MAX)
    high = (wide + 128) >> 8
    return np.concatenate([high, wide - 256 * high], axis=-1).astype(np.int8)


def from_byte_planes(planes: NDArray[np.int8]) -> NDArray[np.int16]:
    """The inverse of :func:`byte_planes`."""
    high, low = np.split(planes.astype(np.int64), 2, axis=-1)
    return np.asarray(256 * high + low, np.int16)


def weight_planes(weights: AnyInts) -> tuple[NDArray[np.int8], ...]:
    """Weights byte by byte, the high bytes first, both signed: one array of int8 weights, two of int16 weights."""
    if weights.dtype == np.int8:
        return (weights.astype(np.int8, copy=False),)
    whole = weights.astype(np.int64)
    high = (whole + 128) >> 8
    return high.astype(np.int8), (whole - 256 * high).astype(np.int8)


def psum_reach(weights: AnyInts) -> IntArray:
    """The largest magnitude, ``int64[Cout]``, of any sum over taps of ``weights [KY, KX, Cin, Cout]``."""
    planes = [np.abs(plane.astype(np.int64)).sum(axis=(0, 1, 2)) for plane in weight_planes(weights)]
    return np.asarray(128 * (planes[0] if len(planes) == 1 else 256 * planes[0] + planes[1]))
