"""Constants computed from others by a stated rule, so that no figure is typed twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from codesign.energy.interval import Interval

Rule = Literal["between nodes", "capacitance", "sum", "product", "both"]

RULES: dict[Rule, str] = {
    "between nodes": "on the straight line between two nodes in the logarithms of feature size and figure",
    "capacitance": "times feature size and supply squared, as a capacitance's energy",
    "sum": "weighted sum",
    "product": "product of powers",
    "both": "geometric mean of sources that disagree, from the least bound to the greatest",
}
"""Each rule in words; bounds are computed from bounds."""


class Derivation(BaseModel):
    """Derivation of a constant from others. ``of`` gives weights in a sum, exponents in a product; a list means
    ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Rule
    of: dict[str, float] | list[str] = Field(min_length=1)
    spread: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    """Factor by which the bounds are widened on either side: the uncertainty of the rule itself."""

    @property
    def parents(self) -> dict[str, float]:
        return dict(self.of) if isinstance(self.of, dict) else dict.fromkeys(self.of, 1.0)

    def __str__(self) -> str:
        terms = ", ".join(
            name if weight == 1.0 else f"{weight:g} x {name}" if self.rule == "sum" else f"{name} ^ {weight:g}"
            for name, weight in self.parents.items()
        )
        spread = f", bounds {self.spread:g} x wider" if self.spread > 1.0 else ""
        return f"{self.rule} of {terms}{spread}"


class Point(BaseModel):
    """A constant with its node and voltage: an operand of the rules."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    interval: Interval
    node: str
    voltage: float


def feature_nm(node: str) -> float:
    """``28nm`` as 28. Raises :class:`ValueError` for a node that is not a size."""
    try:
        return float(node.removesuffix("nm"))
    except ValueError:
        raise ValueError(f"{node!r} is not a process node") from None


def derive(how: Derivation, parents: Sequence[Point], node: str, voltage: float) -> Interval:
    """The constant at ``node`` and ``voltage``. Raises :class:`ValueError` where the rule does not fit its parents."""
    wanted = {"between nodes": 2, "capacitance": 1}.get(how.rule, len(parents))
    if len(parents) != wanted:
        raise ValueError(f"{how.rule} takes {wanted} records, not {len(parents)}")
    weights = list(how.parents.values())
    found = {
        "between nodes": lambda: _between(parents, node),
        "capacitance": lambda: _capacitance(parents[0], node, voltage),
        "sum": lambda: _sum(parents, weights),
        "product": lambda: _product(parents, weights),
        "both": lambda: _both(parents),
    }[how.rule]()
    return Interval(found.value, found.low / how.spread, found.high * how.spread)


def log_between(one: Interval, other: Interval, share: float) -> Interval:
    """Interpolation by ``share`` between two intervals, bound by bound, in the logarithm."""

    def at(x: float, y: float) -> float:
        return math.exp(math.log(x) * (1.0 - share) + math.log(y) * share)

    return Interval(at(one.value, other.value), at(one.low, other.low), at(one.high, other.high))


def _between(parents: Sequence[Point], node: str) -> Interval:
    first, second = (math.log(feature_nm(point.node)) for point in parents)
    share = (math.log(feature_nm(node)) - first) / (second - first)
    if not 0.0 < share < 1.0:
        raise ValueError(f"{node} is not between {parents[0].node} and {parents[1].node}")
    return log_between(parents[0].interval, parents[1].interval, share)


def _capacitance(parent: Point, node: str, voltage: float) -> Interval:
    return parent.interval * (feature_nm(node) / feature_nm(parent.node) * (voltage / parent.voltage) ** 2)


def _sum(parents: Sequence[Point], weights: Sequence[float]) -> Interval:
    result = Interval.exact(0.0)
    for point, weight in zip(parents, weights, strict=True):
        result = result + point.interval * weight
    return result


def _product(parents: Sequence[Point], exponents: Sequence[float]) -> Interval:
    result = Interval.exact(1.0)
    for point, exponent in zip(parents, exponents, strict=True):
        bounds = [bound**exponent for bound in (point.interval.low, point.interval.high)]
        result = result * Interval(point.interval.value**exponent, min(bounds), max(bounds))
    return result


def _both(parents: Sequence[Point]) -> Interval:
    intervals = [point.interval for point in parents]
    mean = math.exp(sum(math.log(one.value) for one in intervals) / len(intervals))
    return Interval(mean, min(one.low for one in intervals), max(one.high for one in intervals))
