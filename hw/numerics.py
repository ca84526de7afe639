"""The one fixed-point rule: requantisation, saturation, look-up and the second operand.

Compiler, golden model and RTL compute exactly this; nothing restates it. Every function takes and returns numpy
integers and is exact: ``int64`` holds every intermediate, because an int32 psum times a 32-bit multiplier needs at
most 63 bits and a sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1 - 128
"""What :func:`byte_planes` can hold."""

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

MULTIPLIER_BITS = 31
"""Magnitude bits of a multiplier; it is signed, because a PReLU slope may be negative."""

MAX_SHIFT = 62
"""Largest right shift: beyond it the product of any int32 and any multiplier rounds to zero."""

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
    """As :func:`requantise`, to int16: clamped to what :func:`byte_planes` can hold, with zero point 0."""
    psum = np.asarray(psum, dtype=np.int64)
    factor = np.where(psum < 0, negative_multiplier, multiplier).astype(np.int64)
    return np.clip(round_shift(psum * factor, shift), INT16_MIN, INT16_MAX).astype(np.int16)


def look_up(q: NDArray[np.int8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """``table[q + 128]``; ``table: int8[256]``."""
    return np.asarray(table[q.astype(np.int64) + 128], dtype=np.int8)


@dataclass(frozen=True)
class AddRule:
    """How a second operand is added: ``clip(round(((q - z) m + (other - z') m') / 2**shift) + z_out)``.

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
    """How a second operand is multiplied with: ``clip(round((q - z) (other - z') m / 2**shift) + z_out)``.

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


FLOW_FRACTION_BITS = 8
"""A sample's place is exact to 1/256 of a pixel."""

SAMPLE_UNITS = 1 << 2 * FLOW_FRACTION_BITS
"""What the four weights of a sample add up to."""


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


def sample_places(flow: NDArray[np.int16], fraction_bits: int) -> tuple[IntArray, NDArray[np.int64]]:
    """Of flows along one axis, in ``2**-bits`` pixels: whole pixels, and the share of the pixel behind in 1/256."""
    places = flow.astype(np.int64) << (FLOW_FRACTION_BITS - fraction_bits)
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


def window_places(own: AnyInts, flow: NDArray[np.int16], fraction_bits: int, level: int) -> tuple[IntArray, IntArray]:
    """Where the middle of a window lies, a flow away from its ``own`` place, among ``2**level`` times fewer pixels.

    Whole pixels, and the share of the pixel behind in 1/256: the nearest 1/256, halves up.
    """
    places = (np.asarray(own, np.int64) << FLOW_FRACTION_BITS) + (
        flow.astype(np.int64) << (FLOW_FRACTION_BITS - fraction_bits)
    )
    places = places + (1 << level >> 1) >> level
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


STEP_BITS = 32
"""Fraction bits of a resize's step. What the step is rounded by moves no pixel of a frame by 1/512 of a pixel."""


def corner_step(before: int, after: int) -> int:
    """How far neighbours among ``after`` pixels lie apart among ``before``, corners on corners, in ``2**-32`` pixels.

    Rounded up. ``after`` is at least twice ``before``, so that a step has 31 bits.
    """
    return ceil_div(before - 1 << STEP_BITS, after - 1)


def corner_places(pixels: AnyInts, step: int) -> tuple[IntArray, IntArray]:
    """Where ``pixels`` of a resized frame lie in the frame before: whole pixels, and the share of the next in 1/256.

    The nearest 1/256 to ``pixels * step``, halves up.
    """
    unit = STEP_BITS - FLOW_FRACTION_BITS
    places = np.asarray(pixels, np.int64) * step + (1 << unit - 1) >> unit
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


def interpolate(near: AnyInts, far: AnyInts, share: AnyInts) -> IntArray:
    """``near (256 - share) + far share``: one axis of a bilinear sample, in 1/256."""
    return np.asarray(near.astype(np.int64) * (256 - share) + far.astype(np.int64) * share, np.int64)


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


# From a network's real numbers to the machine's integers. Scales are float32 numbers; the rules compute in float64.


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


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


LOOK_UPS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "tanh": math.tanh,
        "sigmoid": _sigmoid,
        "gelu": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
        "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x * _sigmoid(x),
        "hardswish": lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0,
        "hardsigmoid": lambda x: min(max(x + 3.0, 0.0), 6.0) / 6.0,
        "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
        "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
        "exp": lambda x: math.exp(min(x, 700.0)),
        "erf": math.erf,
        "abs": abs,
        "sqrt": lambda x: math.sqrt(x) if x > 0 else 0.0,
        "rsqrt": lambda x: 1.0 / math.sqrt(x) if x > 0 else math.inf,
        "square": lambda x: x * x,
        "sin": math.sin,
        "cos": math.cos,
        "log": lambda x: math.log(x) if x > 0 else -math.inf,
        "sign": lambda x: float((x > 0) - (x < 0)),
    }
)
"""The functions that a 256-entry table can stand for, by name."""


def lut_table(
    name: str, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> NDArray[np.int8]:
    """``int8[256]``: entry ``q + 128`` is the code of ``LOOK_UPS[name]`` at ``s_in (q - z_in)``.

    Computed in float64, rounded half to even. Raises ``KeyError`` for an unknown function.
    """
    function = LOOK_UPS[name]
    x = (np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.float64) - input_zero_point) * float(input_scale)
    y = np.array([function(float(value)) for value in x], np.float64) / float(output_scale)
    return np.asarray(np.clip(np.rint(y) + output_zero_point, INT8_MIN, INT8_MAX), np.int8)
