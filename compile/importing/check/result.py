"""What an import check found, and how two tensors' agreement is told in decibels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.compile.graph.graph import Array

BOUND_DB, HALF_BOUND_DB = 60.0, 50.0
"""Least agreement of an import, and of one whose model computes in half precision somewhere."""

CODES_BOUND_DB = 30.0
"""Least agreement of a quantised model's codes: what roundings that fall the other way, one behind another, leave of a
deep network. Wrong imports are below."""

_FLAT = 1e-6
"""Variance over mean square below which a tensor counts as constant: its own rounding would drown the variance."""


@dataclass(frozen=True)
class ImportCheck:
    """The agreement of an imported graph with its model.

    ``outputs_db``: per output ten times the logarithm of the engine's variance over the mean squared error, infinite
    where all values are equal; empty for a model that was not checked, and then ``reason`` says why. ``frame``: width
    and height of the one frame, the network's inputs made from ``seed``.
    """

    engine: str
    outputs_db: tuple[float, ...] = ()
    bound_db: float = BOUND_DB
    frame: tuple[int, int] | None = None
    seed: int = 0
    seconds: float = 0.0
    reason: str = ""
    wanted: bool = True
    differing: int | None = None
    """Values of a quantised model that are not equal; None for a float model. Where they are many, ``outputs_db`` is
    the agreement of both sides without rounding."""

    @property
    def decibels(self) -> float | None:
        """The least of all outputs; None for a model that was not checked."""
        return min(self.outputs_db) if self.outputs_db else None

    def __str__(self) -> str:
        if not self.wanted:
            return "NOT CHECKED"
        decibels = self.decibels
        if decibels is None:
            return f"not checked, because {self.reason}"
        if self.differing:
            if self.bound_db == CODES_BOUND_DB:
                return f"{self.differing} values off by one code, all others equal"
            return f"{self.differing} values off by rounding, {decibels:.0f} dB without"
        return "every value equal" if decibels == math.inf else f"{decibels:.0f} dB"

    def to_json(self) -> dict[str, Any]:
        """The check for machines; ``decibels`` is null for a model that was not checked and where all is equal."""
        decibels = self.decibels
        return {
            "checked": decibels is not None,
            "equal": decibels == math.inf,
            "decibels": _finite(decibels),
            "outputs_db": [_finite(one) for one in self.outputs_db],
            "bound_db": self.bound_db,
            "differing_values": self.differing,
            "engine": self.engine,
            "frame": None if self.frame is None else f"{self.frame[0]}x{self.frame[1]}",
            "seed": self.seed,
            "seconds": self.seconds,
            "reason": self.reason,
            "text": str(self),
        }


NOT_WANTED = ImportCheck("", reason="the check was switched off", wanted=False)
"""Result of an import that was not to be checked."""


def decibels(wanted: Array, found: Array) -> float:
    """Agreement of ``found`` with ``wanted``: infinite where all values are equal, minus infinite for other shapes and
    for numbers in place of what is none."""
    if wanted.shape != found.shape:
        return -math.inf
    right, ours = wanted.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (right == ours) | (np.isnan(right) & np.isnan(ours))
        noise = float(np.square(np.where(same, 0.0, right - ours)).mean()) if right.size else 0.0
    return (
        10.0 * math.log10(signal(right) / noise) if 0.0 < noise < math.inf and signal(right) > 0.0 else _extreme(noise)
    )


def _extreme(noise: float) -> float:
    return math.inf if noise == 0.0 else -math.inf


def signal(values: Array) -> float:
    """What an error is measured against: the variance, and for a constant the mean square."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 0.0
    square, variance = float(np.square(finite).mean()), float(finite.var())
    return square if is_flat(finite) else variance


def is_flat(values: Array) -> bool:
    """Whether all values are the same, but for rounding."""
    return float(values.astype(np.float64).var()) <= _FLAT * float(np.square(values.astype(np.float64)).mean())


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
