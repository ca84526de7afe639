"""Figures with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value with the bounds it lies in; quantities here are never negative."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low <= self.value <= self.high:
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

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}


def engineering(value: float) -> str:
    """A number to three digits with an SI prefix and a space: ``112 µ``, ``6.36 k``."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if abs(value) >= factor:
            scaled = value / factor
            digits = 0 if scaled >= 100 else 1 if scaled >= 10 else 2
            return f"{scaled:.{digits}f} {prefix}"
    return f"{value:.3g} "


def total(parts: list[Interval]) -> Interval:
    """The sum; bounds add up, as if all errors pointed the same way."""
    result = Interval.exact(0.0)
    for part in parts:
        result = result + part
    return result
