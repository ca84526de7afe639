"""What the integer evaluation of a quantised graph knows of a value: codes, or a sum that is not rounded yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Wide = NDArray[np.int64]
Reals = NDArray[np.float64]
AnyInts = NDArray[Any]


class NoMeaningError(Exception):
    """An operator on operands that the machine has no integer rule for."""


@dataclass(frozen=True)
class Incoming:
    """What comes in from outside: ``int8[1, C, H, W]`` (a flow: int16), whose scale its first reader tells."""

    codes: AnyInts


@dataclass(frozen=True)
class Tensor:
    """Codes that stand for ``scale * (codes - zero_point)``; ``codes: int8[1, C, H, W]``, or int16."""

    codes: AnyInts
    scale: float
    zero_point: int

    @property
    def wide(self) -> bool:
        return self.codes.dtype == np.int16

    def centred(self) -> Wide:
        return self.codes.astype(np.int64) - self.zero_point


@dataclass(frozen=True)
class Weight:
    """``int8`` or ``int16`` kernel with one scale per output channel along ``axis``."""

    codes: AnyInts
    scales: Reals
    axis: int


@dataclass(frozen=True)
class Psum:
    """An exact sum before its only rounding: worth ``input_scale * scales[c]`` a unit, ``slope[c]`` of it below 0."""

    values: Wide
    input_scale: float
    scales: Reals
    slope: Reals | float = 1.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Sum:
    """Two tensors to be added (or subtracted) and rounded once."""

    first: Tensor
    second: Tensor
    subtract: bool
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Normal:
    """A tensor's channels, each to mean 0 and variance 1."""

    source: Tensor
    epsilon: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Tabled:
    source: Tensor
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Concat:
    parts: tuple[Tensor, ...]
