"""The one frame that an import is checked on: which size, and what is on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.compile.graph.graph import Array

ODD: tuple[int, int] = (53, 37)
"""Width and height where the size is free: odd, different, and prime."""

LARGEST = 192
"""Longest side of a frame that a network is checked on at its own size."""

_PERIOD = 64
SEED = 17


def small(width: int, height: int) -> tuple[int, int]:
    """A size that leaves the same remainders as ``width`` x ``height`` and is soon evaluated.

    Networks demand multiples of 2 to 64, and resizes divide or not: both are the same for a side of 128 and what the
    own one has beyond a multiple of 64.
    """
    return _small(width), _small(height)


def _small(side: int) -> int:
    return side if side <= LARGEST else 2 * _PERIOD + side % _PERIOD


def content(shapes: Sequence[tuple[int, ...]], largest: float = 1.0, seed: int = SEED) -> tuple[Array, ...]:
    """Inputs ``float32`` of ``shapes``: first an image in 0..``largest``, then states around zero.

    Waves, edges and noise, no two channels, rows or columns alike, and nothing symmetrical: an axis that is turned
    round, a channel that is exchanged or a row that is missing shows.
    """
    rng = np.random.default_rng(seed)
    (_, channels, height, width), *states = shapes
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = []
    for channel in range(channels):
        wave = np.sin(x * (0.19 + 0.013 * channel) + y * (0.11 + 0.017 * (channel % 5)) + channel)
        ramp = (x + 2 * y) / (width + 2 * height)
        edge = (x > 0.3 * width + 0.4 * y + channel) * 0.25
        planes.append(0.3 + 0.15 * wave + 0.25 * ramp + edge + rng.normal(0.0, 0.06, (height, width)))
    image = np.clip(np.stack(planes), 0.0, 1.0)[None] * largest
    held = [rng.normal(0.0, 0.3, shape).astype(np.float32) for shape in states]
    return image.astype(np.float32), *held
