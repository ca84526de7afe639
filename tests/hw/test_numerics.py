"""The fixed-point rule against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codesign.hw import numerics
from codesign.hw.numerics import INT8_MAX, INT8_MIN, INT32_MAX, INT32_MIN, MAX_SHIFT

int32 = st.integers(INT32_MIN, INT32_MAX)
int8 = st.integers(INT8_MIN, INT8_MAX)
multipliers = st.integers(-INT32_MAX, INT32_MAX)
shifts = st.integers(0, MAX_SHIFT)
factors = st.floats(-1e6, 1e6, allow_nan=False)


def clipped(value: Fraction, zero_point: int, low: int = INT8_MIN, high: int = INT8_MAX) -> int:
    """Python rounds a fraction half to even, as the rule demands."""
    return min(max(round(value) + zero_point, low), high)


@given(int32, multipliers, multipliers, shifts, int8, st.tuples(int8, int8).map(sorted))
@example(INT32_MIN, INT32_MAX, INT32_MAX, 0, 0, [-128, 127])
@example(INT32_MIN, -INT32_MAX, -INT32_MAX, MAX_SHIFT, 127, [-128, 127])
@example(3, 1, 1, 1, 0, [-128, 127])
@example(5, 1, 1, 1, 0, [-128, 127])
@example(-3, 1, 1, 1, 0, [-128, 127])
def test_requantise(psum: int, positive: int, negative: int, shift: int, zero_point: int, clip: list[int]) -> None:
    found = numerics.requantise(
        np.array([psum]),
        multiplier=np.array([positive]),
        negative_multiplier=np.array([negative]),
        shift=np.array([shift]),
        zero_point=zero_point,
        qmin=clip[0],
        qmax=clip[1],
    )
    factor = negative if psum < 0 else positive
    assert found.dtype == np.int8
    assert int(found[0]) == clipped(Fraction(psum * factor, 1 << shift), zero_point, *clip)


@given(int8, int8, int8, int8, multipliers, multipliers, shifts, int8)
def test_add(q: int, other: int, z: int, other_z: int, m: int, other_m: int, shift: int, out_z: int) -> None:
    rule = numerics.AddRule(z, other_z, m, other_m, shift, out_z)
    found = numerics.add_requantised(np.array([q], np.int8), np.array([other], np.int8), rule)
    exact = Fraction((q - z) * m + (other - other_z) * other_m, 1 << shift)
    assert int(found[0]) == clipped(exact, out_z)


@given(int32, multipliers, multipliers, shifts)
@example(INT32_MAX, INT32_MAX, 0, 0)
@example(INT32_MIN, 0, INT32_MAX, 0)
def test_sixteen_bits(psum: int, positive: int, negative: int, shift: int) -> None:
    found = numerics.requantise_wide(
        np.array([psum]),
        multiplier=np.array([positive]),
        negative_multiplier=np.array([negative]),
        shift=np.array([shift]),
    )
    exact = Fraction(psum * (negative if psum < 0 else positive), 1 << shift)
    assert int(found[0]) == clipped(exact, 0, numerics.INT16_MIN, numerics.INT16_MAX)
    planes = numerics.byte_planes(found)
    assert 256 * int(planes[0]) + int(planes[1]) == int(found[0])
    np.testing.assert_array_equal(numerics.from_byte_planes(planes), found)


@given(int8, int8, int8, int8, multipliers, shifts, int8)
@example(-128, -128, 127, 127, INT32_MAX, 0, 127)
def test_multiply(q: int, other: int, z: int, other_z: int, m: int, shift: int, out_z: int) -> None:
    rule = numerics.MultiplyRule(z, other_z, m, shift, out_z)
    found = numerics.multiply_requantised(np.array([q], np.int8), np.array([other], np.int8), rule)
    assert int(found[0]) == clipped(Fraction((q - z) * (other - other_z) * m, 1 << shift), out_z)


@given(factors, factors)
@example(0.0, 0.0)
@example(1.0, -1.0)
@example(2.0**-40, 2.0**-70)
def test_pairs_are_close(first: float, second: float) -> None:
    m, other, shift = numerics.quantise_pair(first, second)
    assert 0 <= shift <= MAX_SHIFT
    assert max(abs(m), abs(other)) <= INT32_MAX
    unit = Fraction(1, 1 << shift)
    for real, integer in ((first, m), (second, other)):
        assert abs(Fraction(real) - integer * unit) <= unit
    largest = max(abs(first), abs(second))
    if largest >= 2.0**-31:  # the full 31 bits are used
        assert max(abs(m), abs(other)) >= 1 << 30


@pytest.mark.parametrize("real", [2.0**31, math.inf, -math.inf, math.nan])
def test_factors_beyond_the_machine(real: float) -> None:
    with pytest.raises(ValueError, match="outside the machine's range"):
        numerics.quantise_multiplier(real)


@given(st.floats(-300, 300), st.floats(0, 300), st.floats(0.001, 4), int8)
def test_clip_bounds(low: float, extent: float, scale: float, zero_point: int) -> None:
    qmin, qmax = numerics.clip_bounds(low, low + extent, scale, zero_point)
    assert INT8_MIN <= qmin <= qmax <= INT8_MAX
    if INT8_MIN < qmin < INT8_MAX:
        assert abs((qmin - zero_point) * scale - low) <= scale / 2 * (1 + 1e-9)
    assert numerics.clip_bounds(-math.inf, math.inf, scale, zero_point) == (INT8_MIN, INT8_MAX)


@given(st.integers(1, 1400), st.sampled_from([2, 4, 8]))
def test_places_of_a_resize(before: int, factor: int) -> None:
    """The nearest 1/256 to the exact place up to 2896 pixels, corners on corners, and never further than a pixel."""
    after = factor * before
    pixels = np.arange(after)
    whole, share = numerics.corner_places(pixels, numerics.corner_step(before, after))
    if after <= 2896:
        exact = (512 * pixels * (before - 1) + after - 1) // (2 * (after - 1))
        np.testing.assert_array_equal(256 * whole + share, exact)
    assert (whole[0], share[0]) == (0, 0)
    assert (whole[-1], share[-1]) == (before - 1, 0)
    assert np.all((whole >= pixels // factor - 1) & (whole <= pixels // factor))


@pytest.mark.parametrize("before", [8191, 32767])
def test_places_in_the_widest_frames(before: int) -> None:
    after = 2 * before
    pixels = np.arange(after)
    step = numerics.corner_step(before, after)
    whole, share = numerics.corner_places(pixels, step)
    assert 0 < step < 2**31
    assert np.abs(whole + share / 256 - pixels * ((before - 1) / (after - 1))).max() <= 0.5 / 256 + 2.0**-15
    assert (whole[-1], share[-1]) == (before - 1, 0)


def test_biases_round_half_to_even_and_must_fit() -> None:
    assert numerics.bias_integers(np.array([0.5, 1.5, -2.5]), 1.0, np.ones(3)).tolist() == [0, 2, -2]
    with pytest.raises(OverflowError, match="32 bits"):
        numerics.bias_integers(np.array([1.0]), 1e-6, np.array([1e-6]))


OPERANDS = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "leakyrelu"), "x 0.3"),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), "x 0.05"),
    "where": "x x 0.5",
    "clip": "x -0.4 inf",
}
"""Of the functions of more than one operand."""


@pytest.mark.parametrize("name", numerics.TABLE_FUNCTIONS)
def test_tables(name: str) -> None:
    step = f"{name} {OPERANDS.get(name, 'x')}"
    table = numerics.function_table([step], 0.05, 3, 0.02, -7)
    assert (table.shape, table.dtype) == ((256,), np.int8)
    for q in (-128, -1, 3, 4, 127):
        y = np.nan_to_num(numerics.evaluate_steps([step], (q - 3) * 0.05), nan=0.0)
        wanted = np.clip(np.rint(y / 0.02) - 7, -128, 127)
        assert numerics.apply_table(np.array([q], np.int8), table)[0] == wanted


def test_steps_read_earlier_ones() -> None:
    """Hardswish, whose last steps read the value and two results."""
    steps = ("add x 3.0", "clip 0 0.0 6.0", "multiply x 1", "divide 2 6.0")
    for x in (-4.0, -1.5, 0.0, 0.7, 5.0):
        assert numerics.evaluate_steps(steps, x) == pytest.approx(x * min(max(x + 3, 0), 6) / 6)


@pytest.mark.parametrize(
    ("steps", "x", "wanted"),
    [
        (("divide 1.0 x",), 0.0, np.inf),
        (("divide -1.0 x",), 0.0, -np.inf),
        (("divide x x",), 0.0, np.nan),
        (("power x 0.5",), -2.0, np.nan),
        (("power x 3.0",), 1e200, np.inf),
        (("exp x",), 1e4, math.exp(700.0)),
    ],
)
def test_steps_beyond_the_reals(steps: tuple[str, ...], x: float, wanted: float) -> None:
    np.testing.assert_equal(numerics.evaluate_steps(steps, x), wanted)


@pytest.mark.parametrize("x", [-1e4, -3.0, 0.0, 2.5, 1e4])
def test_sigmoid_never_overflows(x: float) -> None:
    assert numerics.TABLE_FUNCTIONS["sigmoid"](x) == pytest.approx(0.5 * (1 + math.tanh(x / 2)))
