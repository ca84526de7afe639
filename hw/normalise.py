"""Instance normalisation in integers: a channel's sums over its frame become its requantisation.

``y = (x - mean) / sqrt(variance + epsilon)`` over the ``N`` pixels of a channel. Of its codes ``q`` (scale ``s``) the
machine sums ``S1 = sum q`` and ``S2 = sum q^2``; zero points cancel. An identity layer makes ``psum = UNIT q``, and

    bias = -UNIT S1 / N        multiplier / 2^shift = N / (UNIT s_y sqrt(N S2 - S1^2 + epsilon N^2 / s^2))

turn that into the codes of ``y`` by :func:`codesign.hw.numerics.requantise`. Everything here is exact in integers; the
compiler's constants, the golden model, the referee and ``rtl/scanline_normaliser.sv`` compute it alike. A frame may
have 2^24 - 1 pixels: then ``|S1| <= 2^31``, ``S2 < 2^38``, and with ``places`` as chosen below the root's operand is
below 2^63. The bias is off by less than 1/UNIT of a code, the multiplier by 2^-24 of itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT_WEIGHT, UNIT_CARRIES = 64, 2
UNIT_BITS = 22
"""The identity's weight, and how often its sum then counts 256-fold: a psum of ``2**UNIT_BITS`` codes, below 2^29."""

COUNT_BITS, TOTAL_BITS, SQUARES_BITS = 24, 32, 38
"""Bits of a frame's pixels, of ``S1`` (signed) and of ``S2``."""

CYCLES_PER_CHANNEL = 140
"""Cycles that the normaliser takes per channel."""

ROOT_BITS, EPSILON_BITS, MULTIPLIER_BITS, MAX_SHIFT, MAX_PLACES = 32, 55, 31, 31, 8


@dataclass(frozen=True)
class Normalisation:
    """Constants of a normalisation that the compiler knows before the frame is there."""

    count: int  # pixels
    multiplier: int  # with ``shift``: count 2^places / (UNIT s_y)
    shift: int
    epsilon: int  # epsilon (count 2^places / s)^2, at least 1
    places: int  # binary places to which the deviation is known


def normalisation(count: int, epsilon: float, input_scale: float, output_scale: float) -> Normalisation:
    """The constants of a normalisation of ``count`` pixels.

    Raises ``ValueError`` for frames of 2^24 pixels and above, and for scales whose factors the machine cannot hold.
    """
    if not 1 <= count < 1 << COUNT_BITS:
        raise ValueError(f"a frame of {count} pixels, a normalisation's sums hold {(1 << COUNT_BITS) - 1}")
    whole = epsilon / float(input_scale) ** 2 * float(count) ** 2
    for places in reversed(range(MAX_PLACES + 1)):
        fits = count**2 << 2 * places + 14 <= 1 << 62 and math.ldexp(whole, 2 * places) < 2.0**EPSILON_BITS - 1
        if fits:
            break
    else:
        raise ValueError(f"epsilon {epsilon!r} is too large beside the input's scale {input_scale!r}")
    real = math.ldexp(count, places - UNIT_BITS) / float(output_scale)
    _, exponent = math.frexp(real)
    shift = min(MULTIPLIER_BITS - exponent, MAX_SHIFT)
    if shift < 0:
        raise ValueError(f"the output's scale {output_scale!r} is too small")
    multiplier = min(round(math.ldexp(real, shift)), (1 << MULTIPLIER_BITS) - 1)
    return Normalisation(count, multiplier, shift, max(1, round(math.ldexp(whole, 2 * places))), places)


def sums(codes: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(S1, S2)``, each ``int64[C]``, of ``codes: int8[..., C]``."""
    wide = codes.reshape(-1, codes.shape[-1]).astype(np.int64)
    return wide.sum(axis=0), (wide * wide).sum(axis=0)


def channel_factors(total: int, squares: int, constants: Normalisation) -> tuple[int, int, int]:
    """``(bias, multiplier, shift)`` of a channel with the sums ``total`` and ``squares`` over ``constants.count``."""
    spread = (constants.count * squares - total * total << 2 * constants.places) + constants.epsilon
    pairs = (2 * ROOT_BITS - spread.bit_length()) // 2  # of leading zeros
    root = math.isqrt(spread << 2 * pairs)
    bias = (abs(total) << UNIT_BITS) // constants.count
    multiplier = (constants.multiplier << MULTIPLIER_BITS) // root
    return -bias if total > 0 else bias, multiplier, MULTIPLIER_BITS + constants.shift - pairs


def frame_factors(
    totals: Iterable[int], squares: Iterable[int], constants: Normalisation
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """:func:`channel_factors` of every channel: ``(bias, multiplier, shift)``, each ``int64[C]``."""
    found = [channel_factors(int(s1), int(s2), constants) for s1, s2 in zip(totals, squares, strict=True)]
    bias, multiplier, shift = np.array(found, np.int64).reshape(-1, 3).T
    return bias, multiplier, shift
