"""Shared by the kinds that sample bilinearly beside the array: warp, resize and window."""

from __future__ import annotations

import numpy as np

from codesign.compile.scanline.kernels.beside import Beside
from codesign.compile.scanline.kernels.kernel import Int64
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.numerics import SAMPLE_UNITS, ceil_div


class Sampled(Beside):
    """A kernel whose psums are bilinear samples in units of 2^-16."""

    def group_cycles(self, mappings: Mappings, made: Mapping, output: Tensor, operand: bool) -> int:
        """Two reads a sample, and the overhead of a set of words and its places."""
        spec = mappings.spec
        sets = ceil_div(made.output_words * spec.ci_lanes, spec.co_lanes)
        return 2 * spec.pixel_lanes * made.output_words + 4 * sets + 2

    def folded_bias(self, bias: Int64, zero_point: int) -> Int64:
        return bias - zero_point * SAMPLE_UNITS

    def psum_reach(self, source_channels: int) -> Int64:
        """For 8-bit sources. Samples of a 16-bit flow, which has no bias, span the 32 bits exactly."""
        return np.full(self.channels, 128 * SAMPLE_UNITS, np.int64)
