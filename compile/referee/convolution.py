"""Convolution, and transposed convolution.

``psum = sum (q - z_in) w``, out-of-frame taps are ``q = z_in``; a transposed convolution scatters every input pixel by
its kernel. ``|psum| >= 2**31`` raises. A bias is a sum with a constant behind it, an activation the requantisation's.

Activations and weights are int8 or int16, the rules the same; of int16 weights ``256 v + w`` and activations ``256 h +
l`` the psum, in units of 256, is of ``h (256 v + w) + l v``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import BLOCK, within_int32
from codesign.compile.referee.values import NoMeaningError, Operand, Psum, Rule, Tensor, Weight, tensor
from codesign.hw import numerics

Exact = NDArray[Any]
Kernel = Callable[[Node, Exact, Exact], Exact]
"""Sums over ``x: [Cin, H, W]`` and weights of one group, in a floating type wide enough to be exact."""


def convolved(node: Node, operands: Sequence[Operand]) -> Psum:
    return _convolution(node, tensor(operands[0]), _weight(operands[1]), _correlated)


def transposed(node: Node, operands: Sequence[Operand]) -> Psum:
    return _convolution(node, tensor(operands[0]), _weight(operands[1]), _scattered)


def _weight(operand: Operand) -> Weight:
    if not isinstance(operand, Weight):
        raise NoMeaningError("weights that are not int8 constants")
    return operand


def _convolution(node: Node, source: Tensor, weight: Weight, kernel: Kernel) -> Psum:
    if source.wide and weight.codes.dtype == np.int16:
        return _both_wide(node, source, weight, kernel)
    groups = int(node.attributes["groups"])
    exact = _exact_type(source, weight)
    x = _centred(source, exact)
    w = weight.codes.astype(exact)
    parts = [
        kernel(node, part, kernels) for part, kernels in zip(np.split(x, groups), np.split(w, groups), strict=True)
    ]
    psum = np.concatenate(parts)[None]
    scales = np.tile(weight.scales, psum.shape[1] // len(weight.scales))
    return Psum(within_int32(psum), source.scale, scales)


def _exact_type(source: Tensor, weight: Weight) -> type[np.floating[Any]]:
    """Whole numbers below 2**24 are exact in float32, below 2**53 in float64, whatever the order of summation."""
    others = tuple(axis for axis in range(4) if axis != weight.axis)
    bound = (65535 if source.wide else 255) * int(np.abs(weight.codes.astype(np.int64)).sum(axis=others).max(initial=0))
    return np.float32 if bound < 2**24 else np.float64


def _centred(source: Tensor, exact: type[np.floating[Any]]) -> Exact:
    """``q - z`` as ``[C, H, W]``; of int8 by way of int16, which is quicker."""
    codes = source.codes[0]
    centred: Exact = source.centred()[0] if source.wide else codes.astype(np.int16) - np.int16(source.zero_point)
    return centred.astype(exact)


def _both_wide(node: Node, source: Tensor, weight: Weight, kernel: Kernel) -> Psum:
    """In units of 256: high bytes of activations by whole weights, low bytes by high ones, and low by low left out."""
    high, low = np.split(numerics.byte_planes(source.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), 2, 1)
    leading = np.split(numerics.byte_planes(np.moveaxis(weight.codes, weight.axis, 3)), 2, 3)[0].astype(np.int16)
    parts = [
        _convolution(node, Tensor(codes, 256.0 * source.scale, 0), replace(weight, codes=kernels), kernel)
        for codes, kernels in ((high, weight.codes), (low, np.moveaxis(leading, 3, weight.axis)))
    ]
    return replace(parts[0], values=within_int32(parts[0].values + parts[1].values))


def _correlated(node: Node, x: Exact, w: Exact) -> Exact:
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


def _scattered(node: Node, x: Exact, w: Exact) -> Exact:
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


RULES: Mapping[str, Rule] = {"nn.conv2d": convolved, "nn.conv2d_transpose": transposed}
