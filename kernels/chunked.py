"""Helpers for writing kernels on chunked FP16 tensors: constants, C text, grids.

A chunked tensor is ``[batch][planes][H][W][8 halves]``; every kernel writes zeros to the channels that only fill up the
last chunk. Channels, constants and tiles are in a kernel's text; heights, widths and the batch are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.layers import CHUNK_CHANNELS

CHUNK = CHUNK_CHANNELS["fp16"]
WARP = 32
NAIVE_THREADS = 256

Number = Literal["fp16", "fp32"]
"""Elements of planar arrays; chunks always hold halves."""

Grid = tuple[int, int, int]


def plane_count(channels: int) -> int:
    """Chunks of a pixel."""
    return -(-channels // CHUNK)


def literal(value: float) -> str:
    """A C constant; infinities become the largest floats."""
    if math.isnan(value):
        raise ValueError("a constant of a kernel is NaN")
    return f"{value!r}f" if math.isfinite(value) else ("-" if value < 0 else "") + "3.4e38f"


def flag(value: bool) -> str:
    return "true" if value else "false"


def padded(values: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """``[..., C]`` to FP32 ``[..., planes * 8]``, zeros beyond the channels."""
    if values.shape[-1] != channels:
        raise ValueError(f"{values.shape[-1]} parameters for {channels} channels")
    result = np.zeros((*values.shape[:-1], plane_count(channels) * CHUNK), np.float32)
    result[..., :channels] = values
    return result


def kernel_text(
    header: str,
    name: str,
    bounds: int | str,
    pointers: Sequence[str],
    body: str,
    integers: Sequence[str] = (),
    before: str = "",
) -> str:
    """Text of a kernel whose arguments are ``pointers`` (outputs begin with "output") and then ``integers``.

    ``bounds``: threads of a block, or that and the blocks that should fit on a multiprocessor.
    """
    arguments = [f"{'' if pointer.startswith('output') else 'const '}char* {pointer}" for pointer in pointers]
    arguments += [f"int {integer}" for integer in (integers or ("height", "width"))]
    return (
        f'#include "{header}"\n\n{before}extern "C" __global__ void __launch_bounds__({bounds})\n'
        f"{name}({', '.join(arguments)}) {{\n{body}}}\n"
    )


def naive_grid(channels: int, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks of ``NAIVE_THREADS`` threads for a naive kernel with an output of this size."""
    return -(-plane_count(channels) * CHUNK * height * width // NAIVE_THREADS), 1, batch
