"""Integers: limits, types, and division that rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1 - 128
"""Range of values in byte planes: both bytes are signed."""

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

IntArray = NDArray[np.int64]
AnyInts = NDArray[Any]


def ceil_div(value: int, divisor: int) -> int:
    """``value / divisor`` rounded up, of integers."""
    return -(-value // divisor)


def round_up(value: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is not below ``value``."""
    return ceil_div(value, multiple) * multiple


def round_shift(product: IntArray, shift: AnyInts | int) -> IntArray:
    """``product / 2**shift`` rounded half to even, once. ``product: int64[...]``, ``shift`` in 0..62, broadcast.

    Half to even agrees with ``QuantizeLinear`` of the ONNX standard, whose rounding is IEEE's default.
    """
    shift = np.asarray(shift, dtype=np.int64)
    quotient = product >> shift
    remainder = product - (quotient << shift)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), np.int64(0))
    up = (remainder > half) | ((remainder == half) & ((quotient & 1) == 1))
    return np.asarray(quotient + ((shift > 0) & up), dtype=np.int64)
