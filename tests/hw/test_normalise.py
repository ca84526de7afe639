"""The normalisation's integer rule against float64, at its extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.hw import numerics
from codesign.hw.normalise import (
    COUNT_BITS,
    SQUARES_BITS,
    TOTAL_BITS,
    UNIT_BITS,
    UNIT_CARRIES,
    UNIT_WEIGHT,
    channel_factors,
    frame_factors,
    normalisation,
    sums,
)


def largest_error(
    codes: np.ndarray, weights: np.ndarray, input_scale: float, output_scale: float, epsilon: float = 1e-5
) -> float:
    """Largest error of the machine's result before rounding, in codes of the output.

    ``codes`` occur ``weights`` times each; clamped outputs are left out.
    """
    count = int(weights.sum())
    total, squares = (int((codes.astype(object) ** power * weights).sum()) for power in (1, 2))
    bias, multiplier, shift = channel_factors(total, squares, normalisation(count, epsilon, input_scale, output_scale))
    assert 0 <= shift <= numerics.MAX_SHIFT
    assert 0 <= multiplier < 2**31
    psums = codes * 2**UNIT_BITS + bias
    assert np.abs(psums).max() < 2**31
    found = psums * multiplier / 2.0**shift
    mean = total / count
    variance = (count * squares - total * total) / count**2 * input_scale**2
    wanted = (codes - mean) * input_scale / np.sqrt(variance + epsilon) / output_scale
    inside = np.abs(wanted) < 128
    return float(np.abs(found - wanted)[inside].max(initial=0.0))


EXTREMES = {
    "constant": ([5], [4096]),
    "one pixel": ([-128], [1]),
    "two pixels": ([3, 4], [1, 1]),
    "full scale": ([-127, 127], [8, 8]),
    "all at the end": ([-128], [2**24 - 1]),
    "both ends of a large frame": ([-128, 127], [2**23, 2**23 - 1]),
    "one pixel of many": ([0, 1], [2**24 - 2, 1]),
    "one bright pixel": ([-128, 127], [2**20, 1]),
    "4K": (list(range(-128, 128)), [3840 * 2160 // 256] * 256),
}


@pytest.mark.parametrize("input_scale", [2.0**-11, 0.05, 1.0, 300.0])
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str, input_scale: float) -> None:
    codes, weights = (np.array(values, np.int64) for values in EXTREMES[name])
    assert largest_error(codes, weights, input_scale, 4 / 127) < 0.01


@given(
    st.lists(st.tuples(st.integers(-128, 127), st.integers(1, 2**18)), min_size=1, max_size=40),
    st.floats(-11, 4),
    st.floats(0.3, 30.0),
    st.sampled_from([1e-8, 1e-5, 1e-3]),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_frame(pixels: list[tuple[int, int]], scale: float, reach: float, epsilon: float) -> None:
    codes, weights = np.array(pixels, np.int64).T
    assert largest_error(codes, weights, 2.0**scale, reach / 127, epsilon) < 0.05


def test_widths() -> None:
    """Sums of the largest frame with extreme codes fit, and so do the intermediate results."""
    count = 2**COUNT_BITS - 1
    assert 128 * count <= 2 ** (TOTAL_BITS - 1)
    assert 128**2 * count < 2**SQUARES_BITS
    assert UNIT_WEIGHT * 256**UNIT_CARRIES == 2**UNIT_BITS
    assert 2 * 128 * 2**UNIT_BITS < 2**31
    for size in (1, 2, 3, 2**12, 2**16, 2**20, count):
        for scale in (1e-4, 0.05, 10.0):
            try:
                constants = normalisation(size, 1e-5, scale, 1 / 32)
            except ValueError:
                assert size * 1e-5**0.5 / scale > 2**26
                continue
            assert 1 <= constants.epsilon < 2**55
            assert (size * size * 2**14 << 2 * constants.places) + constants.epsilon < 2**63


def test_sums_of_a_frame() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (5, 7, 3)).astype(np.int8)
    totals, squares = sums(codes)
    np.testing.assert_array_equal(totals, codes.astype(int).sum((0, 1)))
    np.testing.assert_array_equal(squares, (codes.astype(int) ** 2).sum((0, 1)))
    constants = normalisation(35, 1e-5, 0.1, 0.03)
    bias, multiplier, shift = frame_factors(totals, squares, constants)
    singly = [channel_factors(int(a), int(b), constants) for a, b in zip(totals, squares, strict=True)]
    assert list(zip(bias, multiplier, shift, strict=True)) == singly


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**24, 1e-5, 0.1, 0.03), "pixels"),
        ((0, 1e-5, 0.1, 0.03), "pixels"),
        ((2**20, 1e-5, 1e-9, 0.03), "epsilon"),
        ((2**20, 1e-5, 0.1, 1e-12), "output's scale"),
    ],
)
def test_what_the_machine_cannot_hold(arguments: tuple[int, float, float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalisation(*arguments)
