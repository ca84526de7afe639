"""Averages over windows, and bilinear enlargement.

``psum`` is the sum over the window, or over the four neighbours (beyond the border the border's) with their weights in
``1 / (2 f)`` a direction; ``s_w`` is one over the window's size, or ``1 / (4 f^2)``; requantised as any psum. With
corners on corners, places by ``corner_places``, ``interpolate`` down, then across, and ``s_w = 1 / SAMPLE_UNITS``. A
scalar constant may follow, which multiplies ``s_w``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.sampling import SAMPLE_SHARE
from codesign.compile.referee.values import NoMeaningError, Operand, Psum, Rule, Tensor, tensor
from codesign.hw import numerics


def averaged(node: Node, operands: Sequence[Operand]) -> Psum:
    source = tensor(operands[0])
    rows, columns = (int(extent) for extent in node.attributes["pool_size"])
    stride_y, stride_x = (int(s) for s in node.attributes["strides"])
    top, left, bottom, right = (int(p) for p in node.attributes["padding"])
    counted = bool(node.attributes["count_include_pad"]) or not any((top, left, bottom, right))
    if not counted or node.attributes["ceil_mode"] or any(int(d) != 1 for d in node.attributes["dilation"]):
        raise NoMeaningError("an average over windows of unlike sizes")
    padded = np.pad(source.centred(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))
    values = windows[:, :, ::stride_y, ::stride_x].sum(axis=(4, 5))
    return Psum(values, source.scale, np.full(values.shape[1], 1.0 / (rows * columns)))


def resized(node: Node, operands: Sequence[Operand]) -> Psum:
    source, size = tensor(operands[0]), node.shape[2:]
    how = str(node.attributes["method"]), str(node.attributes["coordinate_transformation_mode"])
    if how == ("linear", "align_corners"):
        return _resized_by_corners(source, size)
    if how in (("linear", "half_pixel"), ("linear", "pytorch_half_pixel")):
        return _resized_by_centres(source, size)
    raise NoMeaningError("a resize that is not bilinear with half-pixel centres")


def _resized_by_centres(source: Tensor, size: tuple[int, ...]) -> Psum:
    """Along each direction, pixel ``x`` lies at ``(x + 1/2) before / after - 1/2``: a whole number of its units."""
    values, unit = source.centred(), 1
    for axis, after in zip((2, 3), size, strict=True):
        before = values.shape[axis]
        common = math.gcd(before, after)
        up, down = after // common, before // common
        place = (2 * np.arange(after) + 1) * down - up  # in units of 1 / (2 up)
        first, share = np.divmod(place, 2 * up)
        near, far = (np.take(values, np.clip(first + step, 0, before - 1), axis) for step in (0, 1))
        shape = [1, 1, 1, 1]
        shape[axis] = after
        values = near * (2 * up - share).reshape(shape) + far * share.reshape(shape)
        unit *= 2 * up
    return Psum(values, source.scale, np.full(values.shape[1], 1.0 / unit))


def _resized_by_corners(source: Tensor, size: tuple[int, ...]) -> Psum:
    values = source.centred()
    for axis, after in zip((2, 3), size, strict=True):
        before = values.shape[axis]
        if after < 2 * before:
            raise NoMeaningError("a resize with aligned corners to less than twice the size")
        first, share = numerics.corner_places(np.arange(after), numerics.corner_step(before, after))
        near, far = (np.take(values, np.minimum(first + step, before - 1), axis) for step in (0, 1))
        values = numerics.interpolate(near, far, share[:, None] if axis == 2 else share)
    return Psum(values, source.scale, np.full(values.shape[1], SAMPLE_SHARE))


RULES: Mapping[str, Rule] = {"nn.avg_pool2d": averaged, "image.resize2d": resized}
