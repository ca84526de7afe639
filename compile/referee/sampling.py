"""Samples between pixels: what operators that take them share."""

from __future__ import annotations

import math

from codesign.compile.referee.values import NoMeaningError, Tensor
from codesign.hw import numerics

SAMPLE_SHARE = 1.0 / numerics.SAMPLE_UNITS
"""What a sample's psum counts in: ``s_w``."""


def fraction_bits(flow: Tensor) -> int:
    """Bits of a flow's fraction of a pixel."""
    if not flow.wide or flow.zero_point:
        raise NoMeaningError("a flow that has not 16 bits")
    bits = round(-math.log2(flow.scale))
    if flow.scale != 2.0**-bits or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
        raise NoMeaningError("a flow that is not in binary fractions of a pixel")
    return bits
