"""Psums and codes: requantisation, saturation and the second operand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import INT8_MAX, INT8_MIN, INT16_MAX, INT16_MIN, AnyInts, round_shift

MULTIPLIER_BITS = 31
"""Magnitude bits of a multiplier; it is signed, because a PReLU slope may be negative."""

MAX_SHIFT = 62
"""Largest right shift: beyond it the product of any int32 and any multiplier rounds to zero."""


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

    ``psum: int32[..., C]``; ``multiplier``, ``negative_multiplier``, ``shift``: ``[C]`` or scalar. A negative psum
    takes ``negative_multiplier``: the same value for a linear layer, 0 for ReLU, slope x multiplier for LeakyReLU and
    PReLU; a clip is ``qmin``/``qmax``. So every piece-wise linear activation rounds exactly once.
    """
    psum = np.asarray(psum, dtype=np.int64)
    factor = np.where(psum < 0, negative_multiplier, multiplier).astype(np.int64)
    return np.clip(round_shift(psum * factor, shift) + zero_point, qmin, qmax).astype(np.int8)


def requantise_wide(
    psum: AnyInts, *, multiplier: AnyInts, negative_multiplier: AnyInts, shift: AnyInts
) -> NDArray[np.int16]:
    """As :func:`requantise`, to int16: clamped to the range of byte planes, with zero point 0."""
    psum = np.asarray(psum, dtype=np.int64)
    factor = np.where(psum < 0, negative_multiplier, multiplier).astype(np.int64)
    return np.clip(round_shift(psum * factor, shift), INT16_MIN, INT16_MAX).astype(np.int16)


@dataclass(frozen=True)
class AddRule:
    """Numbers for adding a second operand: ``clip(round(((q - z) m + (other - z') m') / 2**shift) + z_out)``.

    Both multipliers are on one shift, as :func:`quantise_pair` makes them.
    """

    value_zero_point: int  # z, of the requantised value (table included)
    other_zero_point: int  # z', of the second operand
    multiplier: int
    other_multiplier: int
    shift: int
    zero_point: int  # z_out, of the result
    qmin: int = INT8_MIN
    qmax: int = INT8_MAX


@dataclass(frozen=True)
class MultiplyRule:
    """Numbers for multiplying by a second operand: ``clip(round((q - z) (other - z') m / 2**shift) + z_out)``.

    Multiplier and shift are those of :func:`product_parameters`.
    """

    value_zero_point: int
    other_zero_point: int
    multiplier: int
    shift: int
    zero_point: int
    qmin: int = INT8_MIN
    qmax: int = INT8_MAX


def add_requantised(q: NDArray[np.int8], other: NDArray[np.int8], rule: AddRule) -> NDArray[np.int8]:
    """Two int8 tensors of different scales, added and rounded once."""
    left = (q.astype(np.int64) - rule.value_zero_point) * rule.multiplier
    right = (other.astype(np.int64) - rule.other_zero_point) * rule.other_multiplier
    total = round_shift(left + right, rule.shift) + rule.zero_point
    return np.clip(total, rule.qmin, rule.qmax).astype(np.int8)


def multiply_requantised(q: NDArray[np.int8], other: NDArray[np.int8], rule: MultiplyRule) -> NDArray[np.int8]:
    """Two int8 tensors, multiplied and rounded once."""
    product = (q.astype(np.int64) - rule.value_zero_point) * (other.astype(np.int64) - rule.other_zero_point)
    scaled = round_shift(product * rule.multiplier, rule.shift) + rule.zero_point
    return np.clip(scaled, rule.qmin, rule.qmax).astype(np.int8)
