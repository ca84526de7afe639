"""The one fixed-point rule: requantisation, saturation, look-up and the second operand.

Compiler, golden model and RTL compute exactly this; nothing restates it. Every function takes and returns numpy
integers and is exact: ``int64`` holds every intermediate, because an int32 psum times a 32-bit multiplier needs at
most 63 bits and a sign.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT8_MIN, INT8_MAX = -128, 127
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

MULTIPLIER_BITS = 31
"""Magnitude bits of a multiplier; it is signed, because a PReLU slope may be negative."""

MAX_SHIFT = 62
"""Largest right shift: beyond it the product of any int32 and any multiplier rounds to zero."""

IntArray = NDArray[np.int64]
AnyInts = NDArray[Any]


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


def requantise(
    psum: AnyInts,
    *,
    multiplier: AnyInts,
    negative_multiplier: AnyInts,
    shift: AnyInts,
    zero_point: int,
    qmin: int = INT8_MIN,
    qmax: int = INT8_MAX,
) -> NDArray[np.int8]:
    """Psums (bias included) to int8: one multiplication, one rounding, zero point, clamp.

    ``psum: int32[..., C]``; ``multiplier``, ``negative_multiplier``, ``shift``: ``[C]`` or scalar. A negative psum takes
    ``negative_multiplier``: the same value for a linear layer, 0 for ReLU, slope x multiplier for LeakyReLU and
    PReLU; a clip is ``qmin``/``qmax``. So every piece-wise linear activation rounds exactly once.
    """
    psum = np.asarray(psum, dtype=np.int64)
    factor = np.where(psum < 0, negative_multiplier, multiplier).astype(np.int64)
    return np.clip(round_shift(psum * factor, shift) + zero_point, qmin, qmax).astype(np.int8)


def look_up(q: NDArray[np.int8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """``table[q + 128]``; ``table: int8[256]``."""
    return np.asarray(table[q.astype(np.int64) + 128], dtype=np.int8)


def add_requantised(
    q: NDArray[np.int8],
    other: NDArray[np.int8],
    *,
    zero_point: int,
    other_zero_point: int,
    multiplier: int,
    other_multiplier: int,
    shift: int,
    output_zero_point: int,
    qmin: int = INT8_MIN,
    qmax: int = INT8_MAX,
) -> NDArray[np.int8]:
    """The second operand: two int8 tensors of unlike scales, summed and rounded once.

    ``clip(round((q - z) m + (other - z') m') / 2**shift) + z_out)``, multipliers from :func:`quantise_pair`.
    """
    left = (q.astype(np.int64) - zero_point) * multiplier
    right = (other.astype(np.int64) - other_zero_point) * other_multiplier
    return np.clip(round_shift(left + right, shift) + output_zero_point, qmin, qmax).astype(np.int8)


def quantise_pair(first: float, second: float) -> tuple[int, int, int]:
    """Two real factors as ``(m1, m2, shift)`` with ``factor ~ m / 2**shift`` on a common shift.

    The larger magnitude gets the full 31 bits. Raises ``ValueError`` for a factor that is not finite or too large
    for the machine (2**31 and above).
    """
    largest = max(abs(first), abs(second))
    if not math.isfinite(largest) or largest >= 2.0**MULTIPLIER_BITS:
        raise ValueError(f"scale factor {largest!r} is outside the machine's range (0 .. 2**{MULTIPLIER_BITS})")
    if largest == 0.0:
        return 0, 0, 0
    _, exponent = math.frexp(largest)
    shift = min(MULTIPLIER_BITS - exponent, MAX_SHIFT)
    limit = 2**MULTIPLIER_BITS - 1

    def scaled(value: float) -> int:
        return max(-limit, min(limit, round(math.ldexp(value, shift))))

    return scaled(first), scaled(second), shift


def quantise_multiplier(real: float) -> tuple[int, int]:
    """A real factor as ``(multiplier, shift)`` with ``real ~ multiplier / 2**shift``."""
    multiplier, _, shift = quantise_pair(real, 0.0)
    return multiplier, shift
