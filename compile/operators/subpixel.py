"""Transposed convolutions in sub-pixel form: a convolution at the input's size, its channels moved to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def subpixel_weights(
    weights: NDArray[Any], factor: int, padding: tuple[int, int]
) -> tuple[NDArray[Any], tuple[int, int]]:
    """Weights ``[Cin, Cout, KY, KX]`` of stride ``factor`` as ``[rows, columns, Cin, Cout factor^2]``, and its padding.

    Output phase (i, j) of every input pixel is a small convolution of its own: output row ``s y + i`` sums
    ``x[y + (i + p - k) / s] w[k]`` over the kernel rows k for which the division is exact. Its output channel is
    ``(c, i, j)``, as ``pixel_shuffle`` wants it. The padding is (top, left).
    """
    inputs, outputs, rows, columns = weights.shape
    reach = [
        [(i + p - k) // factor for i in range(factor) for k in range(extent) if (i + p - k) % factor == 0]
        for p, extent in zip(padding, (rows, columns), strict=True)
    ]
    (low_y, high_y), (low_x, high_x) = ((min(0, *d), max(0, *d)) for d in reach)
    shape = (high_y - low_y + 1, high_x - low_x + 1, inputs, outputs, factor, factor)
    dense = np.zeros(shape, weights.dtype)
    for i in range(factor):
        for ky in range((i + padding[0]) % factor, rows, factor):
            for j in range(factor):
                for kx in range((j + padding[1]) % factor, columns, factor):
                    dy, dx = (i + padding[0] - ky) // factor, (j + padding[1] - kx) // factor
                    dense[dy - low_y, dx - low_x, :, :, i, j] = weights[:, :, ky, kx]
    return dense.reshape(*shape[:3], outputs * factor * factor), (-low_y, -low_x)
