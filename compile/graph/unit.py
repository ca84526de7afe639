"""Units: an operator and what fuses into it, which the machine computes between two roundings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Array, Node

if TYPE_CHECKING:
    from codesign.compile.operators.operator import Operator

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """``nodes`` in order: the head, then bias and activation where they fuse; the last one's result is stored."""

    operator: Operator
    nodes: tuple[Node, ...]

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def name(self) -> str:
        return self.nodes[-1].name


@dataclass(frozen=True)
class Codes:
    """A stored tensor: real = ``scale`` x (code - ``zero_point``); ``shape``: ``[1, C, H, W]``."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    bits: int


@dataclass(frozen=True)
class Weights:
    """A convolution's codes, ``int8`` or ``int16``, with a scale for each channel of ``axis``."""

    codes: Array
    scales: Reals
    axis: int


@dataclass(frozen=True)
class Activation:
    """Piecewise linear: below 0 times ``slope`` (a number, or one a channel), then limited to [``low``, ``high``]."""

    slope: float | Reals = 1.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class RoundedUnit:
    """A unit of a quantised graph, with the scales of its operands and of its result.

    ``nodes`` is empty for a tensor that is only rounded anew.
    """

    operator: Operator
    nodes: tuple[Node, ...]
    operands: tuple[Codes, ...]
    result: Codes
    weights: Weights | None = field(default=None, repr=False)
    bias: Array | None = field(default=None, repr=False)
    """``float32[C]``, real."""
    constants: tuple[Array, ...] = field(default=(), repr=False)
    """The head's operands that are constant and have no codes."""
    factor: float = 1.0
    """Multiplies a scale's or a resampling's result."""
    activation: Activation = field(default_factory=Activation)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def name(self) -> str:
        """The head's name, as the user's model has it."""
        return self.head.name if self.nodes else self.result.name

    @property
    def narrow(self) -> bool:
        """Whether operands and result have 8 bits."""
        return all(codes.bits == 8 for codes in (*self.operands, self.result))
