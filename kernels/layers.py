"""Layers as kernels see them: weights, the operators after the sums, and the format of tensors in global memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics import AddRule

Precision = Literal["fp16", "int8"]
Activation = Literal["linear", "relu", "prelu", "tanh", "sigmoid"]
Format = Literal["planar", "chunked"]
"""``planar``: NCHW. ``chunked``: [planes][H][W][16 bytes], a chunk being 8 halves or 16 int8 channels of one pixel."""

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def activation_header() -> str:
    """``cuda/activation.cuh``: the activations of :data:`Activation`, numbered for templates."""
    names = ", ".join(name.upper() for name in ACTIVATIONS)
    return f"// Rendered from codesign/kernels/layers.py.\n#pragma once\n\nenum Activation {{ {names} }};\n"


CHUNK_CHANNELS = {"fp16": 8, "int8": 16}


@dataclass(frozen=True, eq=False)
class Requantise:
    """Requantisation of psums to int8, by ``numerics.requantise``; every array is ``int64[Cout]``."""

    multiplier: NDArray[np.int64] = field(repr=False)
    negative_multiplier: NDArray[np.int64] = field(repr=False)
    shift: NDArray[np.int64] = field(repr=False)
    zero_point: int
    low: int
    high: int
    table: NDArray[np.int8] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Conv:
    """A 'same' convolution of stride 1 with activation, second operand and clip.

    ``weights [KY, KX, Cin, Cout]``, odd kernels; ``bias [Cout]``, with the source's zero point folded in for int8.
    ``add_channels``: the channel of ``add`` for each output channel, None for the same.
    """

    name: str
    source: str
    output: str
    weights: NDArray[Any] = field(repr=False)
    bias: NDArray[Any] = field(repr=False)
    activation: Activation = "linear"
    slope: NDArray[np.float32] | None = field(default=None, repr=False)
    low: float = -math.inf
    high: float = math.inf
    add: str | None = None
    add_channels: tuple[int, ...] | None = None
    requantise: Requantise | None = None
    add_rule: AddRule | None = None
    padding: int = 0
    """Value outside the frame for the next layers: the output's zero point."""

    @property
    def channels(self) -> int:
        return int(self.weights.shape[3])

    @property
    def macs_per_pixel(self) -> int:
        return int(np.prod(self.weights.shape))


def lane_channels(precision: Precision, tiles: int) -> NDArray[np.int64]:
    """The output channel of each column of ``tiles`` tiles, from the first tile's first on: ``int64[tiles, 8]``.

    A lane's four int8 values of two tiles become four adjacent bytes, so pairs of tiles interleave; ``channel_of`` in
    ``cuda/stack.cuh`` is the same function.
    """
    tile, column = np.meshgrid(np.arange(tiles), np.arange(8), indexing="ij")
    if precision == "fp16":
        return tile * 8 + column
    if tiles % 2 == 0:
        return tile // 2 * 16 + column // 2 * 4 + tile % 2 * 2 + column % 2
    return tile // 2 * 16 + tile % 2 * 8 + column
