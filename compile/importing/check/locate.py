"""Where an import went wrong: the first operator of the model whose value the imported graph does not have.

Operators are matched by their values, not by their names: folding and respelling make several operators one and one
several, and only what a rewriting keeps can be found again. An operator is right if the graph has its value, or that
of an operator that reads it. The others have no value in common with the graph from there to the output; the first of
them is to blame. Values are kept as marks of a few numbers, so that a network's whole inference needs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from codesign.compile.graph.graph import Array
from codesign.compile.importing.check.engines import Step
from codesign.compile.importing.check.result import signal

_PARTS = 16
_SLACK_DB = 6.0
"""How far an agreement that is estimated from marks may lie from the true one."""


@dataclass(frozen=True)
class Mark:
    """A tensor in a few numbers: its size, what an error is measured against, and sums with random signs.

    The mean square of the difference of two tensors' sums is that of the tensors themselves, as expected.
    """

    count: int
    signal: float
    sums: Array = field(repr=False)

    def is_like(self, other: Mark, bound_db: float) -> bool:
        """Whether the tensors agree to about ``bound_db``."""
        if self.count != other.count or not self.count:
            return False
        noise = float(np.square(self.sums - other.sums).mean())
        return noise <= self.signal * math.pow(10.0, -(bound_db - _SLACK_DB) / 10.0)


class Marker:
    """Makes marks; the signs for every size are drawn once."""

    def __init__(self) -> None:
        self._signs: dict[int, Array] = {}

    def mark(self, value: Array) -> Mark:
        flat = value.reshape(-1)
        if flat.dtype.kind not in "fiub" or not flat.size:
            return Mark(0, 0.0, np.zeros(_PARTS))
        flat = np.nan_to_num(flat.astype(np.float64), posinf=0.0, neginf=0.0)
        if flat.size not in self._signs:
            rng = np.random.default_rng(flat.size)
            self._signs[flat.size] = rng.integers(0, 2, (_PARTS, flat.size), np.int8) * np.int8(2) - np.int8(1)
        sums = np.array([(row * flat).sum() for row in self._signs[flat.size]]) / np.sqrt(flat.size)
        return Mark(flat.size, signal(flat), sums)


@dataclass(frozen=True)
class MarkedStep:
    """A step of the engine with its mark in place of its value."""

    where: str
    value_of: str
    reads: tuple[str, ...]
    mark: Mark


def marked(steps: Iterable[Step]) -> list[MarkedStep]:
    """``steps`` without their values."""
    marker = Marker()
    return [MarkedStep(one.where, one.value_of, one.reads, marker.mark(one.value)) for one in steps]


def culprit(steps: Sequence[MarkedStep], graph: Iterable[Mark], bound_db: float) -> str | None:
    """The first of ``steps`` from which on nothing is in the ``graph``; None if there is none."""
    by_count: dict[int, list[Mark]] = {}
    for mark in graph:
        by_count.setdefault(mark.count, []).append(mark)
    found: set[str] = set()
    for step in reversed(steps):
        if step.value_of in found or any(step.mark.is_like(one, bound_db) for one in by_count.get(step.mark.count, ())):
            found.update((step.value_of, *step.reads))
    return next((step.where for step in steps if step.value_of not in found), None)
