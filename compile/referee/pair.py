"""Sums, differences and products of two tensors.

sum
    ``add_requantised`` with ``add_parameters(s_a, s_b, s_out, subtract=...)``; ReLU is ``clip_bounds(0, inf)``. Where
    16 bits come in or go out, the psum of two int16 tensors is in units of the finer scale, of which the other is a
    whole multiple, and is requantised as any psum.
product
    ``psum = (q_a - z_a)(q_b - z_b)`` requantised by ``requantise_parameters(s_a, [s_b], s_out)``; ReLU is slope 0.

With a constant they are :mod:`codesign.compile.referee.scale`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import AnyInts, Codes, by_rows
from codesign.compile.referee.scale import offset, scaled
from codesign.compile.referee.values import (
    Format,
    Limited,
    NoMeaningError,
    Operand,
    Psum,
    Rule,
    Tensor,
    Value,
    tensor,
    value,
)
from codesign.hw import numerics


@dataclass(frozen=True)
class Sum(Limited):
    """Two tensors to be added (or subtracted) and rounded once."""

    first: Tensor
    second: Tensor
    subtract: bool

    def rounded(self, to: Format) -> Tensor:
        first, second = self.first, self.second
        if first.wide or second.wide or to.wide:
            return self._wide().rounded(to)
        m, other, shift = numerics.add_parameters(first.scale, second.scale, to.scale, subtract=self.subtract)
        limits = self.bounds(to)
        rule = numerics.AddRule(first.zero_point, second.zero_point, m, other, shift, to.zero_point, *limits)

        def narrow(left: AnyInts, right: AnyInts) -> Codes:
            return numerics.add_requantised(left, right, rule)

        return to.tensor(by_rows(narrow, first.codes, second.codes))

    def _wide(self) -> Psum:
        """In units of the finer scale, of which the other is a whole multiple."""
        pair = self.first, self.second
        unit = min(one.scale for one in pair)
        factors = [one.scale / unit for one in pair]
        whole = all(factor == round(factor) and factor <= 127 for factor in factors)
        if not (all(one.wide for one in pair) and whole):
            raise NoMeaningError("a sum of 8 and 16 bits, or of scales far apart")
        left, right = (one.centred() * round(factor) for one, factor in zip(pair, factors, strict=True))
        total = left - right if self.subtract else left + right
        return Psum(total, unit, np.ones(total.shape[1]), low=self.low, high=self.high)


def added(node: Node, operands: Sequence[Operand]) -> Value:
    first, second = operands
    if isinstance(first, Psum) and not isinstance(second, Value):
        return offset(first, second)
    return Sum(tensor(first), tensor(second), subtract=False)


def subtracted(node: Node, operands: Sequence[Operand]) -> Sum:
    first, second = operands
    return Sum(tensor(first), tensor(second), subtract=True)


def multiplied(node: Node, operands: Sequence[Operand]) -> Psum:
    first, second = operands
    if not isinstance(second, Value):
        return scaled(value(first), second)
    left, right = tensor(first), tensor(second)
    values = left.centred() * right.centred()
    return Psum(values, left.scale, np.full(values.shape[1], right.scale))


RULES: Mapping[str, Rule] = {"add": added, "subtract": subtracted, "multiply": multiplied}
