"""The sums of a convolution and of a transposed one, from their definitions, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

Exact = NDArray[Any]

BLOCK = 1 << 16
"""Elements worked on at a time, so that they stay in the processor's cache."""


def correlated(call: relax.Call, x: Exact, w: Exact) -> Exact:
    """``w: [Cout, Cin, K, L]``; the sum over taps of shifted frames, a few rows at a time."""
    top, left, bottom, right = (int(p) for p in call.attrs.padding)
    stride_y, stride_x = (int(s) for s in call.attrs.strides)
    step_y, step_x = (int(d) for d in call.attrs.dilation)
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


def scattered(call: relax.Call, x: Exact, w: Exact) -> Exact:
    """``w: [Cin, Cout, K, L]``; every pixel adds its kernel to the frame, then the frame is cut."""
    top, left, bottom, right = (int(p) for p in call.attrs.padding)
    stride_y, stride_x = (int(s) for s in call.attrs.strides)
    step_y, step_x = (int(d) for d in call.attrs.dilation)
    extra_y, extra_x = (int(e) for e in call.attrs.output_padding)
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
