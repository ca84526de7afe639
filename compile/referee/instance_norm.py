"""Instance normalisation: every channel of a frame to mean 0 and variance 1.

``psum = q 2^UNIT_BITS + bias`` of the codes as they are, requantised by ``normalise.frame_factors`` of their ``sums``
and the ``normalisation(pixels, epsilon, s_in, s_out)``; ReLU is ``clip_bounds(0, inf)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import AnyInts
from codesign.compile.referee.values import Format, Limited, NoMeaningError, Operand, Rule, Tensor, tensor
from codesign.hw import normalise


@dataclass(frozen=True)
class Normal(Limited):
    """A tensor's channels, each to mean 0 and variance 1."""

    source: Tensor
    epsilon: float

    def rounded(self, to: Format) -> Tensor:
        to.demand_8_bits()
        codes = self.source.codes
        constants = normalise.normalisation(codes[0, 0].size, self.epsilon, self.source.scale, to.scale)
        bias, multiplier, shift = normalise.frame_factors(*normalise.sums(codes.transpose(0, 2, 3, 1)), constants)
        summand = bias.reshape(1, -1, 1, 1)

        def psums(part: AnyInts) -> AnyInts:
            return (part.astype(np.int64) << normalise.UNIT_BITS) + summand

        return self.narrowed(to, (multiplier, multiplier, shift), codes, psums)


def normalised(node: Node, operands: Sequence[Operand]) -> Normal:
    source = tensor(operands[0])
    if source.wide:
        raise NoMeaningError("a normalisation of 16 bits")
    return Normal(source, float(node.attributes["epsilon"]))


RULES: Mapping[str, Rule] = {"instance_norm": normalised}
