"""Bilinear samples: their places in 1/256 of a pixel, and their sums in 2^-16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import AnyInts, IntArray, ceil_div

FLOW_FRACTION_BITS = 8
"""A sample's place is exact to 1/256 of a pixel."""

SAMPLE_UNITS = 1 << 2 * FLOW_FRACTION_BITS
"""Sum of the four weights of a sample."""


def sample_places(flow: NDArray[np.int16], fraction_bits: int) -> tuple[IntArray, NDArray[np.int64]]:
    """Flows along one axis, in ``2**-bits`` pixels, as whole pixels and the share of the next pixel in 1/256."""
    places = flow.astype(np.int64) << (FLOW_FRACTION_BITS - fraction_bits)
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


def window_places(own: AnyInts, flow: NDArray[np.int16], fraction_bits: int, level: int) -> tuple[IntArray, IntArray]:
    """Middle of a window, a flow away from its ``own`` place, in a map of ``2**level`` times fewer pixels.

    Whole pixels and the share of the next pixel: to the nearest 1/256, halves up.
    """
    places = (np.asarray(own, np.int64) << FLOW_FRACTION_BITS) + (
        flow.astype(np.int64) << (FLOW_FRACTION_BITS - fraction_bits)
    )
    places = places + (1 << level >> 1) >> level
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


STEP_BITS = 32
"""Fraction bits of a resize's step. Rounding the step moves no pixel of a frame by 1/512 of a pixel."""


def corner_step(before: int, after: int) -> int:
    """Step between neighbours when ``before`` pixels become ``after``, corners on corners, in ``2**-32`` pixels.

    Rounded up. ``after`` is at least twice ``before``, so that a step has 31 bits.
    """
    return ceil_div(before - 1 << STEP_BITS, after - 1)


def corner_places(pixels: AnyInts, step: int) -> tuple[IntArray, IntArray]:
    """Places of ``pixels`` of a resized frame in the frame before: whole pixels, and the share of the next in 1/256.

    The nearest 1/256 to ``pixels * step``, halves up.
    """
    unit = STEP_BITS - FLOW_FRACTION_BITS
    places = np.asarray(pixels, np.int64) * step + (1 << unit - 1) >> unit
    return places >> FLOW_FRACTION_BITS, places & ((1 << FLOW_FRACTION_BITS) - 1)


def interpolate(near: AnyInts, far: AnyInts, share: AnyInts) -> IntArray:
    """``near (256 - share) + far share``: one axis of a bilinear sample, in 1/256."""
    return np.asarray(near.astype(np.int64) * (256 - share) + far.astype(np.int64) * share, np.int64)
