"""Windows of every pixel's own map, around where a flow points.

Places by ``window_places`` of the int16 flow, as a warp's; ``psum`` is ``interpolate`` across, then down, of ``q -
z_in`` in every pixel's own map, beyond which it is 0; ``s_w = 1 / SAMPLE_UNITS``; requantised as any psum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Node
from codesign.compile.referee.sampling import SAMPLE_SHARE, fraction_bits
from codesign.compile.referee.values import Operand, Psum, Rule, tensor
from codesign.hw import numerics


def windowed(node: Node, operands: Sequence[Operand]) -> Psum:
    """Windows of maps that are the channels of the first operand."""
    volume, flow = (tensor(operand) for operand in operands)
    (rows, columns), radius = node.attributes["map"], int(node.attributes["radius"])
    maps = volume.centred()[0].reshape(rows * columns, -1).T.reshape(-1, rows, columns)
    bits, level = fraction_bits(flow), int(node.attributes["level"])
    samples = _looked_up(maps, flow.codes[0], bits, radius, level)  # [H W, k, k]
    by_window = samples.reshape(len(maps), -1).T.reshape(1, -1, *flow.codes.shape[2:])
    return Psum(by_window, volume.scale, np.full(by_window.shape[1], SAMPLE_SHARE))


def _looked_up(
    maps: NDArray[np.int64], flow: NDArray[np.int16], bits: int, radius: int, level: int
) -> NDArray[np.int64]:
    """Samples, in 2^-16, of windows in ``maps`` around a ``flow: [2, H, W]``: ``[H W, k, k]``, columns first.

    ``maps: [H W, h, w]``; beyond one is 0.
    """
    rows, columns = maps.shape[1:]
    own_y, own_x = np.mgrid[: flow.shape[1], : flow.shape[2]]
    (x, right), (y, below) = (
        numerics.window_places(own, moved, bits, level) for own, moved in zip((own_x, own_y), flow, strict=True)
    )
    span = np.arange(-radius, radius + 1)
    across = x.reshape(-1, 1, 1) + span[:, None]
    down = y.reshape(-1, 1, 1) + span
    pixel = np.arange(len(maps))[:, None, None]

    def pixels(at_y: NDArray[np.int64], at_x: NDArray[np.int64]) -> NDArray[np.int64]:
        held = maps[pixel, np.clip(at_y, 0, rows - 1), np.clip(at_x, 0, columns - 1)]
        return np.where((at_y >= 0) & (at_y < rows) & (at_x >= 0) & (at_x < columns), held, 0)

    upper, lower = (
        numerics.interpolate(pixels(line, across), pixels(line, across + 1), right.reshape(-1, 1, 1))
        for line in (down, down + 1)
    )
    return numerics.interpolate(upper, lower, below.reshape(-1, 1, 1))


RULES: Mapping[str, Rule] = {"window": windowed}
