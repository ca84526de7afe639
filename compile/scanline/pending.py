"""What is between a tensor that was opened and the rounding that closes it: operators that collect, in real numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.kernel import Int64, Kernel

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class PendingConv:
    """A layer before its rounding: its psum is worth ``input scale x scales[c]``."""

    name: str
    sources: tuple[str, ...]
    kernel: Kernel  # over whole values, where sources or result have 16 bits
    scales: Reals  # [Cout]
    height: int
    width: int
    macs: int = 0
    shuffle: int = 1  # output pixels per side of each psum pixel: a transposed convolution in sub-pixel form
    bias: Int64 | None = None
    slope: Reals | float = 1.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class PendingPair:
    """Two tensors to be added, subtracted or multiplied."""

    name: str
    operands: tuple[str, str]
    how: Literal["add", "subtract", "multiply"]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class PendingNorm:
    """A tensor whose channels are to be normalised."""

    name: str
    source: str
    epsilon: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class PendingTable:
    name: str
    source: str
    function: str


@dataclass(frozen=True)
class PendingShuffle:
    name: str
    source: str
    factor: int


@dataclass(frozen=True)
class PendingUnshuffle:
    """Blocks of ``factor`` x ``factor`` pixels to channels; the operators on the way name no factor yet."""

    name: str
    source: str
    factor: int


@dataclass(frozen=True)
class PendingConcat:
    """The channels of several tensors, in order."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class PendingGather:
    """Channels of the source in a new order, with repetition."""

    name: str
    source: str
    channels: tuple[int, ...]
