"""From a network's real numbers to the machine's integers. Scales are float32 numbers; the rules compute in float64."""

from __future__ import annotations

import math

import numpy as np

from codesign.hw.numerics.fixed_point import MAX_SHIFT, MULTIPLIER_BITS
from codesign.hw.numerics.integers import INT8_MAX, INT8_MIN, INT32_MAX, INT32_MIN, AnyInts, IntArray


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
    limit: int = 2**MULTIPLIER_BITS - 1

    def scaled(value: float) -> int:
        return max(-limit, min(limit, round(math.ldexp(value, shift))))

    return scaled(first), scaled(second), shift


def quantise_multiplier(real: float) -> tuple[int, int]:
    """A real factor as ``(multiplier, shift)`` with ``real ~ multiplier / 2**shift``."""
    multiplier, _, shift = quantise_pair(real, 0.0)
    return multiplier, shift


def requantise_parameters(
    input_scale: float,
    weight_scales: AnyInts,
    output_scale: float,
    slope: AnyInts | float = 1.0,
) -> tuple[IntArray, IntArray, IntArray]:
    """``(multiplier, negative_multiplier, shift)``, each ``int64[C]``, for :func:`requantise`.

    One unit of the psum is worth ``s_in * s_w[c]``; a negative psum is worth ``slope[c]`` times that (1 for a linear
    layer, 0 for ReLU, the slope of LeakyReLU and PReLU). ``weight_scales: float[C]``. Raises ``ValueError`` for factors
    that the machine cannot hold.
    """
    real = np.asarray(weight_scales, np.float64).reshape(-1) * float(input_scale) / float(output_scale)
    slopes = np.broadcast_to(np.asarray(slope, np.float64).reshape(-1), real.shape)
    triples = [quantise_pair(float(r), float(r * a)) for r, a in zip(real, slopes, strict=True)]
    multiplier, negative, shift = np.array(triples, np.int64).reshape(-1, 3).T
    return multiplier, negative, shift


def add_parameters(
    first_scale: float, second_scale: float, output_scale: float, *, subtract: bool = False
) -> tuple[int, int, int]:
    """``(multiplier, other_multiplier, shift)`` for :func:`add_requantised`; ``a - b`` has a negative second one."""
    second = float(second_scale) / float(output_scale)
    return quantise_pair(float(first_scale) / float(output_scale), -second if subtract else second)


def product_parameters(first_scale: float, second_scale: float, output_scale: float) -> tuple[int, int]:
    """``(multiplier, shift)`` for :func:`multiply_requantised`."""
    return quantise_multiplier(float(first_scale) * float(second_scale) / float(output_scale))


def clip_bounds(low: float, high: float, scale: float, zero_point: int) -> tuple[int, int]:
    """``(qmin, qmax)`` of a clip to the real bounds ``low`` and ``high`` (infinite: no bound)."""

    def code(bound: float, unbounded: int) -> int:
        if not math.isfinite(bound):
            return unbounded
        return int(np.clip(np.rint(bound / float(scale)) + zero_point, INT8_MIN, INT8_MAX))

    return code(low, INT8_MIN), code(high, INT8_MAX)


def bias_integers(bias: AnyInts, input_scale: float, weight_scales: AnyInts) -> IntArray:
    """``round(b / (s_in * s_w[c]))``, half to even, ``int64[C]``. Raises ``OverflowError`` beyond int32."""
    unit = np.asarray(weight_scales, np.float64).reshape(-1) * float(input_scale)
    integers = np.rint(np.asarray(bias, np.float64).reshape(-1) / unit)
    if integers.size and (integers.max() > INT32_MAX or integers.min() < INT32_MIN):
        raise OverflowError(f"a bias of {np.abs(integers).max():.0f} does not fit 32 bits")
    return integers.astype(np.int64)
