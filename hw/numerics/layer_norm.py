"""Layer normalisation in integers: each pixel's channels less their mean, over the root of their variance plus epsilon.

Of the codes ``q`` of a pixel's ``N`` channels (scale ``s``) the machine sums ``S1 = 2^k sum q`` and ``S2 = 2^k sum
q^2``, where ``n = 2^k N`` lies in (2^11, 2^12]; zero points cancel. With

    spread = n S2 - S1^2 + epsilon n^2 / s^2        psum = 2^28 (q - S1 / n) / sqrt(spread)

a psum is a channel's normalised value in units of ``n / 2^28``, between 2^-17 and 2^-16. It is requantised as any psum:
the channel's own scale and shift are its multiplier and its bias. The mean has 12 binary places. The reciprocal root
has 17 bits and is off by less than 2^-15 of itself: a first guess by the spread's eight leading bits, and one step of
Newton's. Golden model, referee and ``rtl/scanline_layer_norm.sv`` compute every bit alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import IntArray, round_shift
from codesign.hw.numerics.scales import bias_integers, requantise_parameters

MAX_CHANNELS_LOG2 = 12
MAX_CHANNELS = 1 << MAX_CHANNELS_LOG2
"""Channels that a pixel's sums hold."""

MEAN_BITS = 12
"""Binary places of a mean."""

SPREAD_BITS, EPSILON_BITS, RECIPROCAL_BITS = 40, 39, 24
"""Bits of ``spread``, of its epsilon, and of ``1 / n``."""

UNIT_BITS = 28
"""A psum is in units of ``n / 2**UNIT_BITS``."""

MANTISSA_BITS, ROOT_BITS, GUESS_INDEX_BITS, GUESS_BITS = 18, 16, 8, 9
"""Leading bits of a spread that its root is computed from, places of the reciprocal root, leading bits that choose its
first guess, places of the guess."""


@dataclass(frozen=True)
class LayerNorm:
    """Constants of a layer normalisation, as its command holds them."""

    channels: int  # N
    doublings: int  # k
    reciprocal: int  # 2^35 / n
    epsilon: int  # epsilon n^2 / s^2, at least 1

    @property
    def unit(self) -> float:
        """The worth of a unit of the psum."""
        return (self.channels << self.doublings) / 2.0**UNIT_BITS

    @property
    def reach(self) -> int:
        """The largest magnitude of a psum: a channel is at most the root of ``N`` deviations from the mean."""
        return math.ceil(1.001 * math.sqrt(self.channels) / self.unit) + 1


def layer_norm(channels: int, epsilon: float, input_scale: float) -> LayerNorm:
    """The constants for ``channels`` channels of the scale ``input_scale``.

    Raises ``ValueError`` for more channels than the sums hold, and for an epsilon too large beside the scale.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{channels} channels, a layer normalisation's sums hold {MAX_CHANNELS}")
    doublings = MAX_CHANNELS_LOG2 - (channels - 1).bit_length()
    count = channels << doublings
    whole = float(epsilon) * count**2 / float(input_scale) ** 2
    if not whole < 2.0**EPSILON_BITS - 1.0:
        raise ValueError(f"epsilon {epsilon!r} is too large beside the input's scale {input_scale!r}")
    return LayerNorm(channels, doublings, reciprocal_of(count), max(1, round(whole)))


def reciprocal_of(count: int) -> int:
    """``2^35 / n`` of the doubled count ``n``, of which no mean leaves its 20 bits."""
    return min(round((1 << RECIPROCAL_BITS - 1 + MEAN_BITS) / count), (1 << RECIPROCAL_BITS) - 1)


def first_guesses() -> IntArray:
    """First guesses of ``2**GUESS_BITS / sqrt(m)`` by the leading bits of ``m``, below 1: ``int64[256]``."""
    places = 2 * GUESS_BITS + GUESS_INDEX_BITS + 1
    return np.array([math.isqrt(2**places // (2 * index + 1)) for index in range(1 << GUESS_INDEX_BITS)], np.int64)


def layer_norm_psums(codes: NDArray[np.int8], constants: LayerNorm) -> IntArray:
    """The psums of pixels ``codes: int8[..., M]``, without bias: ``int64[..., M]``; the first ``N`` are summed."""
    q, count = codes.astype(np.int64), constants.channels << constants.doublings
    summed = q[..., : constants.channels]
    total = summed.sum(axis=-1, keepdims=True) << constants.doublings
    squares = (summed * summed).sum(axis=-1, keepdims=True) << constants.doublings
    places = RECIPROCAL_BITS - 1
    mean = (total * constants.reciprocal + (1 << places - 1)) >> places
    root, pairs = _reciprocal_root(count * squares - total * total + constants.epsilon)
    places = MEAN_BITS + ROOT_BITS + SPREAD_BITS // 2 - UNIT_BITS
    return round_shift(((q << MEAN_BITS) - mean) * root, places - pairs)


def _reciprocal_root(spread: IntArray) -> tuple[IntArray, IntArray]:
    """``(root, pairs)``: ``1 / sqrt(spread)`` is about ``root / 2^(36 - pairs)``, with ``pairs`` of leading zeros."""
    _, length = np.frexp(spread.astype(np.float64))
    pairs = (SPREAD_BITS - length.astype(np.int64)) // 2
    mantissa = (spread << 2 * pairs) >> SPREAD_BITS - MANTISSA_BITS
    guess = first_guesses()[mantissa >> MANTISSA_BITS - GUESS_INDEX_BITS]
    step = (3 << MANTISSA_BITS) - (mantissa * guess * guess >> 2 * GUESS_BITS)
    return guess * step >> GUESS_BITS + MANTISSA_BITS + 1 - ROOT_BITS, pairs


def layer_norm_parameters(
    scale: NDArray[np.floating], shift: NDArray[np.floating], constants: LayerNorm, output_scale: float
) -> tuple[IntArray, IntArray, IntArray]:
    """``(bias, multiplier, shift)``, each ``int64[N]``, that requantise psums to ``scale y + shift`` by channel.

    ``scale``, ``shift``: ``float[N]``. A bias has 32 bits: a scale that is small beside its shift counts as
    ``|shift| / (unit 2^30)``, which moves the result by less than a hundredth of the shift. Raises ``ValueError`` for
    factors that the machine cannot hold.
    """
    factor, summand = scale.astype(np.float64).reshape(-1), shift.astype(np.float64).reshape(-1)
    least = np.maximum(np.abs(summand) / (constants.unit * 2.0**30), float(output_scale) * 2.0**-24)
    factor = np.where(np.abs(factor) < least, np.copysign(least, factor), factor)
    multiplier, _, shifts = requantise_parameters(constants.unit, factor, output_scale)
    return bias_integers(summand, constants.unit, factor), multiplier, shifts
