"""What the integer evaluation of a quantised graph knows of a value: codes, or something exact that is not rounded yet.

Operators make exact values, and a ``quantize`` behind them rounds, once. Every kind of value says itself how it becomes
codes; the kinds that only one operator makes are in that operator's file. Here is what they share, psums above all:

8 bits
    ``requantise(psum, *requantise_parameters(s_in, s_w, s_out, slope), z_out, qmin, qmax)`` per channel; the slope is 1
    without activation, and limits are ``clip_bounds(min, max, s_out, z_out)``.
16 bits
    instead of ``requantise``, ``requantise_wide``. Zero points are 0, and there are no limits.
change of scale
    the same with ``psum = q - z_in`` and ``s_w = 1``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import AnyInts, Codes, Reals, Wide, by_rows
from codesign.hw import numerics


class NoMeaningError(Exception):
    """An operator on operands that the machine has no integer rule for."""


@dataclass(frozen=True)
class Format:
    """What codes stand for, ``scale * (code - zero_point)``, and whether they have 16 bits."""

    scale: float
    zero_point: int
    wide: bool = False

    def tensor(self, codes: AnyInts) -> Tensor:
        return Tensor(codes, self.scale, self.zero_point)

    def demand_8_bits(self) -> None:
        if self.wide:
            raise NoMeaningError("what has no 16-bit form")


class Value(ABC):
    """What a node makes: it becomes codes when a ``quantize`` reads it, and until then operators may join it."""

    @abstractmethod
    def rounded(self, to: Format) -> Tensor:
        """The value in codes of a format: its only rounding."""

    def psum(self) -> Psum:
        """The value as a psum, which factors and slopes may join."""
        raise NoMeaningError("its operand has not been rounded to int8")

    def sloped(self, slope: Reals | float) -> Value:
        """The value with ``slope``, one for all or one a channel, below 0."""
        return self.psum().sloped(slope)

    def clipped(self, low: float, high: float) -> Value:
        """The value within limits."""
        return self.psum().clipped(low, high)

    def rectified(self) -> Value:
        """The value where it is positive, 0 elsewhere."""
        return self.sloped(0.0)


Operand = Value | AnyInts
"""What a node reads: another's value, or a constant."""

Rule = Callable[[Node, Sequence[Operand]], Value]
"""An operator in integers."""


@dataclass(frozen=True)
class Limited(Value):
    """A value that takes limits along and applies them as it is rounded."""

    low: float = field(default=-math.inf, kw_only=True)
    high: float = field(default=math.inf, kw_only=True)

    @property
    def limited(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)

    def clipped(self, low: float, high: float) -> Self:
        if self.limited:
            raise NoMeaningError("two activations without rounding between them")
        return replace(self, low=low, high=high)

    def rectified(self) -> Value:
        return self.clipped(0.0, math.inf)

    def bounds(self, to: Format) -> tuple[int, int]:
        """The limits in codes of ``to``."""
        return numerics.clip_bounds(self.low, self.high, to.scale, to.zero_point)

    def narrowed(
        self, to: Format, factors: tuple[Wide, Wide, Wide], source: AnyInts, psums: Callable[[AnyInts], AnyInts]
    ) -> Tensor:
        """``psums`` of a few rows of ``source: [1, C, H, W]`` at a time, requantised to 8 bits within the limits.

        ``factors``: multiplier, negative multiplier and shift, each by channel.
        """
        to.demand_8_bits()
        multiplier, negative, shift = (by_channel.reshape(1, -1, 1, 1) for by_channel in factors)
        qmin, qmax = self.bounds(to)
        rule = {"multiplier": multiplier, "negative_multiplier": negative, "shift": shift}

        def narrow(part: AnyInts) -> Codes:
            return numerics.requantise(psums(part), **rule, zero_point=to.zero_point, qmin=qmin, qmax=qmax)

        return to.tensor(by_rows(narrow, source))


@dataclass(frozen=True)
class Incoming(Value):
    """What comes in from outside: ``int8[1, C, H, W]`` (a flow: int16), whose scale its first reader tells."""

    codes: AnyInts

    def rounded(self, to: Format) -> Tensor:
        to.demand_8_bits()
        return to.tensor(self.codes)


@dataclass(frozen=True)
class Tensor(Value):
    """Codes that stand for ``scale * (codes - zero_point)``; ``codes: int8[1, C, H, W]``, or int16."""

    codes: AnyInts
    scale: float
    zero_point: int

    @property
    def wide(self) -> bool:
        return self.codes.dtype == np.int16

    def centred(self) -> Wide:
        return self.codes.astype(np.int64) - self.zero_point

    def psum(self) -> Psum:
        return Psum(self.centred(), self.scale, np.ones(self.codes.shape[1]))

    def rounded(self, to: Format) -> Tensor:
        return self if to == Format(self.scale, self.zero_point, self.wide) else self.psum().rounded(to)


@dataclass(frozen=True)
class Weight(Value):
    """``int8`` or ``int16`` kernel with one scale per output channel along ``axis``."""

    codes: AnyInts
    scales: Reals
    axis: int

    def rounded(self, to: Format) -> Tensor:
        raise NoMeaningError("weights as a tensor of the frame")


@dataclass(frozen=True)
class Psum(Limited):
    """An exact sum before its only rounding: worth ``input_scale * scales[c]`` a unit, ``slope[c]`` of it below 0."""

    values: Wide
    input_scale: float
    scales: Reals
    slope: Reals | float = 1.0

    def psum(self) -> Psum:
        return self

    def sloped(self, slope: Reals | float) -> Psum:
        if np.any(self.scales < 0):
            raise NoMeaningError("an activation after a negative factor")
        if np.any(np.asarray(self.slope) != 1.0) or self.limited:
            raise NoMeaningError("two activations without rounding between them")
        return replace(self, slope=slope)

    def rectified(self) -> Psum:
        return self.sloped(0.0)

    def rounded(self, to: Format) -> Tensor:
        if to.wide and (to.zero_point or self.limited):
            raise NoMeaningError("what has no 16-bit form")
        factors = numerics.requantise_parameters(self.input_scale, self.scales, to.scale, self.slope)
        if not to.wide:
            return self.narrowed(to, factors, self.values, lambda psums: psums)
        multiplier, negative, shift = (by_channel.reshape(1, -1, 1, 1) for by_channel in factors)
        rule = {"multiplier": multiplier, "negative_multiplier": negative, "shift": shift}
        return to.tensor(numerics.requantise_wide(self.values, **rule))


def value(operand: Operand) -> Value:
    """An operand that is computed, not constant."""
    if not isinstance(operand, Value):
        raise NoMeaningError("its operand has not been rounded to int8")
    return operand


def tensor(operand: Operand) -> Tensor:
    """An operand in codes."""
    if not isinstance(operand, Tensor):
        raise NoMeaningError("its operand has not been rounded to int8")
    return operand


def constant(operand: Operand) -> AnyInts:
    """An operand that is constant, and not a quantised one."""
    if isinstance(operand, Value):
        raise NoMeaningError("an operand that should be constant")
    return operand
