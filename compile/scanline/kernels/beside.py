"""Shared by the kinds whose rows a unit beside the array makes: warp, resize, window and layer normalisation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from codesign.compile.scanline.kernels.kernel import Kernel
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.hw.numerics import ceil_div


class Beside(Kernel):
    """A kernel that uses nothing of the array, and has no weights."""

    splits: ClassVar[bool] = False
    takes_operand: ClassVar[bool] = False

    def map(self, mappings: Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> Mapping:
        spec = mappings.spec
        words = np.zeros((0, spec.co_lanes, spec.ci_lanes), np.int8)
        return Mapping(words, (), (), 1, 0, ceil_div(self.channels, spec.ci_lanes))
