"""Layer normalisation: every pixel's channels to mean 0 and variance 1, then scaled and shifted by channel.

``psum = layer_norm_psums(q, layer_norm(C, epsilon, s_in)) + bias`` of the codes as they are, requantised by
``layer_norm_parameters(scale, shift, ..., s_out)``; ReLU is ``clip_bounds(0, inf)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import AnyInts, Reals
from codesign.compile.referee.values import (
    Format,
    Limited,
    NoMeaningError,
    Operand,
    Rule,
    Tensor,
    constant,
    tensor,
)
from codesign.hw.numerics.layer_norm import layer_norm, layer_norm_parameters, layer_norm_psums


@dataclass(frozen=True)
class Normal(Limited):
    """A tensor's pixels, the channels of each to mean 0 and variance 1, times ``scale`` plus ``shift``."""

    source: Tensor
    epsilon: float
    scale: Reals
    shift: Reals

    def rounded(self, to: Format) -> Tensor:
        to.demand_8_bits()
        constants = layer_norm(self.source.codes.shape[1], self.epsilon, self.source.scale)
        bias, multiplier, shift = layer_norm_parameters(self.scale, self.shift, constants, to.scale)

        def psums(part: AnyInts) -> AnyInts:
            return (layer_norm_psums(part.transpose(0, 2, 3, 1), constants) + bias).transpose(0, 3, 1, 2)

        return self.narrowed(to, (multiplier, multiplier, shift), self.source.codes, psums)


def normalised(node: Node, operands: Sequence[Operand]) -> Normal:
    source, scale, shift = tensor(operands[0]), constant(operands[1]), constant(operands[2])
    if source.wide:
        raise NoMeaningError("a layer normalisation of 16 bits")
    return Normal(source, float(node.attributes["epsilon"]), scale.astype(np.float64), shift.astype(np.float64))


RULES: Mapping[str, Rule] = {"layer_norm": normalised}
