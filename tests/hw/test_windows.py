"""Where a window lies in its map, and its samples among a pixel's channels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from codesign.hw import numerics
from codesign.hw.spec import BASE, LARGE, PRESETS, AccelSpec
from codesign.hw.windows import MAX_RADIUS, bands, window_channels, window_words


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("bits", [0, 3, 8])
def test_a_place_is_the_nearest_256th(bits: int, level: int) -> None:
    """Halves up, however far and wherever the flow goes: as fractions have it, which round nothing."""
    rng = np.random.default_rng(level)
    flow = np.array([-(2**15), 2**15 - 1, -1, 0, 1, *rng.integers(-(2**15), 2**15, 200)], np.int16)
    own = rng.integers(0, 2**16, len(flow))
    pixels, shares = numerics.window_places(own, flow, bits, level)
    for place, moved, pixel, share in zip(own.tolist(), flow.tolist(), pixels.tolist(), shares.tolist(), strict=True):
        exact = (place + Fraction(moved, 2**bits)) / 2**level
        assert 256 * pixel + share == (256 * exact + Fraction(1, 2)) // 1
        assert 0 <= share < 256


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("radius", range(1, MAX_RADIUS + 1))
def test_every_sample_has_a_channel(spec: AccelSpec, radius: int) -> None:
    """No two samples share a channel; a row of a band is whole words, and lies in one set of psums."""
    channels = window_channels(spec, radius)
    side = 2 * radius + 1
    assert channels.shape == (side, side)
    assert len(np.unique(channels)) == side**2
    assert channels.min() >= 0
    assert channels.max() < window_words(spec, radius) * spec.ci_lanes
    assert sum(band.columns for band in bands(spec, radius)) == side
    for band in bands(spec, radius):
        rows = channels[:, band.first : band.first + band.columns]
        assert np.all(rows[:, 0] % spec.ci_lanes == 0)
        assert np.all(np.diff(rows, axis=1) == 1)
        assert np.all(rows[:, 0] // spec.co_lanes == rows[:, -1] // spec.co_lanes)
        assert band.columns + 1 <= spec.bus_bytes + 1


def test_radii_that_fill_words() -> None:
    """One lane of eight stays empty beside seven columns, seven lanes of sixteen beside nine."""
    assert [window_words(BASE, radius) for radius in (1, 2, 3, 4)] == [3, 5, 7, 18]
    assert [window_words(LARGE, radius) for radius in (1, 2, 3, 4)] == [3, 5, 7, 9]
