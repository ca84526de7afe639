"""The order in which the lanes of a warp hold output channels: ``channel_of`` of ``cuda/stack.cuh`` in Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.layers import Precision


def lane_channels(precision: Precision, tiles: int) -> NDArray[np.int64]:
    """The output channel of each column of ``tiles`` tiles, from the first tile's first on: ``int64[tiles, 8]``.

    A lane's four int8 values of two tiles become four adjacent bytes, so pairs of tiles interleave.
    """
    tile, column = np.meshgrid(np.arange(tiles), np.arange(8), indexing="ij")
    if precision == "fp16":
        return tile * 8 + column
    if tiles % 2 == 0:
        return tile // 2 * 16 + column // 2 * 4 + tile % 2 * 2 + column % 2
    return tile // 2 * 16 + tile % 2 * 8 + column
