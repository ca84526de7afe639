"""Bilinear samples: their places in 1/256 of a pixel, and their sums in 2^-16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import AnyInts, IntArray, ceil_div

FLOW_FRACTION_BITS = 8
"""A sample's place is exact to 1/256 of a pixel."""

SAMPLE_UNITS = 1 << 2 * FLOW_FRACTION_BITS
"""What the four weights of a sample add up to."""


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
