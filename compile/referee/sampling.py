"""Exact samples, averages and enlargements of tensors of codes: psums that are rounded once, by who reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from codesign.compile.operators.grids import is_grid_of_flow, windows_of_grid
from codesign.compile.referee.sums import looked_up
from codesign.compile.referee.values import Grid, NoMeaningError, Psum, Tensor, Wide
from codesign.hw import numerics

_SAMPLE_SHARE = 1.0 / numerics.SAMPLE_UNITS


def sampled(call: relax.Call, tensor: Tensor, grid: Any) -> Psum:
    if not isinstance(grid, Grid) or grid.flow.codes.dtype != np.int16 or not 1 <= len(grid.added) <= 2:
        raise NoMeaningError("a grid that is not a flow's")
    return _warped(call, tensor, grid) if len(grid.added) == 1 else _windowed(call, tensor, grid)


def _windowed(call: relax.Call, maps: Tensor, grid: Grid) -> Psum:
    """Windows of ``maps [H W, 1, h, w]``, as ``[H W, 1, k, k]``."""
    rows, columns = maps.codes.shape[2:]
    places, around = grid.added
    found = windows_of_grid(grid.scale, places, around, (rows, columns))
    how = str(call.attrs.method), str(call.attrs.padding_mode), bool(call.attrs.align_corners)
    if found is None or how != ("bilinear", "zeros", False) or len(maps.codes) != grid.flow.codes[0, 0].size:
        raise NoMeaningError("a grid that is not that of windows around a flow")
    samples = looked_up(maps.centred()[:, 0], grid.flow.codes[0], grid.bits, *found)
    return Psum(samples[:, None], maps.scale, np.full(1, _SAMPLE_SHARE))


def _warped(call: relax.Call, tensor: Tensor, grid: Grid) -> Psum:
    if not is_grid_of_flow(grid.scale, grid.added[0]):
        raise NoMeaningError("a grid that is not a flow's")
    padding = str(call.attrs.padding_mode)
    if str(call.attrs.method) != "bilinear" or not call.attrs.align_corners or padding not in ("zeros", "border"):
        raise NoMeaningError("sampling that is not bilinear")
    bits = grid.bits
    values = tensor.centred()[0]
    height, width = values.shape[1:]
    codes = np.clip(grid.flow.codes[0], numerics.INT16_MIN, numerics.INT16_MAX)
    (across, right), (down, below) = (numerics.sample_places(one, bits) for one in codes)
    x, y = np.arange(width) + across, np.arange(height)[:, None] + down

    def pixels(rows: Wide, columns: Wide) -> Wide:
        found: Wide = values[:, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return found if padding == "border" else np.where(inside, found, 0)

    upper, lower = (numerics.interpolate(pixels(rows, x), pixels(rows, x + 1), right) for rows in (y, y + 1))
    scales = np.full(len(values), _SAMPLE_SHARE)
    return Psum(numerics.interpolate(upper, lower, below)[None], tensor.scale, scales)


def averaged(call: relax.Call, tensor: Tensor) -> Psum:
    rows, columns = (int(extent) for extent in call.attrs.pool_size)
    stride_y, stride_x = (int(s) for s in call.attrs.strides)
    top, left, bottom, right = (int(p) for p in call.attrs.padding)
    counted = bool(call.attrs.count_include_pad) or not any((top, left, bottom, right))
    if not counted or call.attrs.ceil_mode or any(int(d) != 1 for d in call.attrs.dilation):
        raise NoMeaningError("an average over windows of unlike sizes")
    padded = np.pad(tensor.centred(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))
    values = windows[:, :, ::stride_y, ::stride_x].sum(axis=(4, 5))
    return Psum(values, tensor.scale, np.full(values.shape[1], 1.0 / (rows * columns)))


def resized(call: relax.Call, tensor: Tensor, size: tuple[int, ...]) -> Psum:
    """Along each direction, pixel ``x`` lies at ``(x + 1/2) before / after - 1/2``: a whole number of its units."""
    how = str(call.attrs.method), str(call.attrs.coordinate_transformation_mode)
    if how == ("linear", "align_corners"):
        return _resized_by_corners(tensor, size)
    if how not in (("linear", "half_pixel"), ("linear", "pytorch_half_pixel")):
        raise NoMeaningError("a resize that is not bilinear with half-pixel centres")
    values, unit = tensor.centred(), 1
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
    return Psum(values, tensor.scale, np.full(values.shape[1], 1.0 / unit))


def _resized_by_corners(tensor: Tensor, size: tuple[int, ...]) -> Psum:
    values = tensor.centred()
    for axis, after in zip((2, 3), size, strict=True):
        before = values.shape[axis]
        if after < 2 * before:
            raise NoMeaningError("a resize with aligned corners to less than twice the size")
        first, share = numerics.corner_places(np.arange(after), numerics.corner_step(before, after))
        near, far = (np.take(values, np.minimum(first + step, before - 1), axis) for step in (0, 1))
        values = numerics.interpolate(near, far, share[:, None] if axis == 2 else share)
    return Psum(values, tensor.scale, np.full(values.shape[1], _SAMPLE_SHARE))
