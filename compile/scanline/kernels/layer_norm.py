"""A layer normalisation: every pixel's channels less their mean, over their deviation."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from codesign.compile.scanline.kernels.beside import Beside
from codesign.compile.scanline.kernels.kernel import Int64, RowPlace
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import Opcode
from codesign.hw.numerics.layer_norm import LayerNorm


@dataclass(frozen=True)
class NormalisedPixels(Beside):
    """Psums in units of ``constants.unit``, which the epilogue scales and shifts by channel."""

    constants: LayerNorm
    opcode: ClassVar[Opcode] = Opcode.LAYER_NORM

    @property
    def channels(self) -> int:
        return self.constants.channels

    @property
    def label(self) -> str:
        return "layer norm"

    @property
    def cost_key(self) -> Hashable:
        return type(self), self.channels

    def group_cycles(self, mappings: Mappings, made: Mapping, output: Tensor, operand: bool) -> int:
        """A word is read twice, and requantised in so many chunks."""
        spec = mappings.spec
        return made.output_words * max(2, spec.pixel_lanes // spec.requantise_pixels)

    def psum_reach(self, source_channels: int) -> Int64:
        return np.full(self.channels, self.constants.reach, np.int64)

    def fields(self, at: RowPlace) -> dict[str, int]:
        constants = self.constants
        return {
            "x_offset": at.first - at.held,
            "norm_channels": constants.channels,
            "norm_doublings": constants.doublings,
            "norm_reciprocal": constants.reciprocal,
            "norm_epsilon": constants.epsilon,
        }
