"""The sums of a convolution, of a transposed one and of windows of maps, from their definitions, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Node
from codesign.hw import numerics

Exact = NDArray[Any]

BLOCK = 1 << 16
"""Elements worked on at a time, so that they stay in the processor's cache."""


def correlated(node: Node, x: Exact, w: Exact) -> Exact:
    """``w: [Cout, Cin, K, L]``; the sum over taps of shifted frames, a few rows at a time."""
    top, left, bottom, right = (int(p) for p in node.attributes["padding"])
    stride_y, stride_x = (int(s) for s in node.attributes["strides"])
    step_y, step_x = (int(d) for d in node.attributes["dilation"])
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    taps_y, taps_x = w.shape[2:]
    height = (padded.shape[1] - (taps_y - 1) * step_y - 1) // stride_y + 1
    width = (padded.shape[2] - (taps_x - 1) * step_x - 1) // stride_x + 1
    out = np.zeros((w.shape[0], height, width), x.dtype)
    block = max(1, BLOCK // max(1, width * max(w.shape[:2])))
    for first in range(0, height, block):
        rows = min(block, height - first)
        total = np.zeros((w.shape[0], rows * width), x.dtype)
        for ky in range(taps_y):
            begin = first * stride_y + ky * step_y
            band = padded[:, begin : begin + (rows - 1) * stride_y + 1 : stride_y]
            for kx in range(taps_x):
                begin = kx * step_x
                taps = band[:, :, begin : begin + (width - 1) * stride_x + 1 : stride_x]
                total += w[:, :, ky, kx] @ taps.reshape(len(x), -1)
        out[:, first : first + rows] = total.reshape(-1, rows, width)
    return out


def scattered(node: Node, x: Exact, w: Exact) -> Exact:
    """``w: [Cin, Cout, K, L]``; every pixel adds its kernel to the frame, then the frame is cut."""
    top, left, bottom, right = (int(p) for p in node.attributes["padding"])
    stride_y, stride_x = (int(s) for s in node.attributes["strides"])
    step_y, step_x = (int(d) for d in node.attributes["dilation"])
    extra_y, extra_x = (int(e) for e in node.attributes["output_padding"])
    _, height, width = x.shape
    taps_y, taps_x = w.shape[2:]
    full = np.zeros(
        (
            w.shape[1],
            (height - 1) * stride_y + (taps_y - 1) * step_y + 1 + extra_y,
            (width - 1) * stride_x + (taps_x - 1) * step_x + 1 + extra_x,
        ),
        x.dtype,
    )
    flat = x.reshape(len(x), -1)
    for ky in range(taps_y):
        for kx in range(taps_x):
            rows = slice(ky * step_y, ky * step_y + (height - 1) * stride_y + 1, stride_y)
            columns = slice(kx * step_x, kx * step_x + (width - 1) * stride_x + 1, stride_x)
            full[:, rows, columns] += (w[:, :, ky, kx].T @ flat).reshape(-1, height, width)
    return full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]


def looked_up(
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
