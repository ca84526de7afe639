"""Figures with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value between two bounds, all finite and not negative.

    Arithmetic combines bound with bound, as if all errors had the same sign: the result is wider than statistics would
    give, and never too narrow. Raises :class:`ValueError` where ``0 <= low <= value <= high`` does not hold.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.value <= self.high < math.inf:
            raise ValueError(f"not an interval: {self.low} <= {self.value} <= {self.high}")

    @staticmethod
    def exact(value: float) -> Interval:
        return Interval(value, value, value)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, other: Interval | float) -> Interval:
        if isinstance(other, Interval):
            return Interval(self.value * other.value, self.low * other.low, self.high * other.high)
        return Interval(self.value * other, self.low * other, self.high * other)

    def __truediv__(self, other: Interval | float) -> Interval:
        if isinstance(other, Interval):
            return Interval(self.value / other.value, self.low / other.high, self.high / other.low)
        return Interval(self.value / other, self.low / other, self.high / other)

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def engineering(value: float) -> str:
    """A number to three digits with an SI prefix and a space: ``112 µ``, ``6.36 k``; the unit follows."""
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
        (1e-12, "p"),
    ):
        # 999.9 would be printed as 1000: the next prefix begins where rounding reaches it.
        if abs(value) >= 0.9995 * factor:
            scaled = value / factor
            digits = 0 if abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2
            return f"{scaled:.{digits}f} {prefix}"
    return f"{value:.3g} "


def total(parts: Iterable[Interval]) -> Interval:
    """The sum."""
    result = Interval.exact(0.0)
    for part in parts:
        result = result + part
    return result


def span(interval: Interval, unit: str) -> str:
    """The bounds as text, with a common prefix written once: ``50.4 to 170 µJ``, ``425 mW to 1.4 W``."""
    low, high = engineering(interval.low), engineering(interval.high)
    if unit and low.split(" ")[1] == high.split(" ")[1]:
        return f"{low.split(' ')[0]} to {high}{unit}"
    return f"{(low + unit).rstrip()} to {(high + unit).rstrip()}"
