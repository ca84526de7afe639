"""Exact samples, averages and enlargements of tensors of codes: psums that are rounded once, by who reads them."""

from __future__ import annotations

import math

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.sums import looked_up
from codesign.compile.referee.values import NoMeaningError, Psum, Tensor, Wide
from codesign.hw import numerics

_SAMPLE_SHARE = 1.0 / numerics.SAMPLE_UNITS


def _fraction_bits(flow: Tensor) -> int:
    """Bits of a flow's fraction of a pixel."""
    if not flow.wide or flow.zero_point:
        raise NoMeaningError("a flow that has not 16 bits")
    bits = round(-math.log2(flow.scale))
    if flow.scale != 2.0**-bits or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
        raise NoMeaningError("a flow that is not in binary fractions of a pixel")
    return bits


def windowed(node: Node, volume: Tensor, flow: Tensor) -> Psum:
    """Windows of every pixel's own map, the channels of ``volume``."""
    (rows, columns), radius = node.attributes["map"], int(node.attributes["radius"])
    maps = volume.centred()[0].reshape(rows * columns, -1).T.reshape(-1, rows, columns)
    bits, level = _fraction_bits(flow), int(node.attributes["level"])
    samples = looked_up(maps, flow.codes[0], bits, radius, level)  # [H W, k, k]
    by_window = samples.reshape(len(maps), -1).T.reshape(1, -1, *flow.codes.shape[2:])
    return Psum(by_window, volume.scale, np.full(by_window.shape[1], _SAMPLE_SHARE))


def warped(node: Node, tensor: Tensor, flow: Tensor) -> Psum:
    padding = str(node.attributes["padding_mode"])
    if padding not in ("zeros", "border"):
        raise NoMeaningError("a warp that reads something else beyond the frame than zeros or the border")
    bits = _fraction_bits(flow)
    values = tensor.centred()[0]
    height, width = values.shape[1:]
    codes = np.clip(flow.codes[0], numerics.INT16_MIN, numerics.INT16_MAX)
    (across, right), (down, below) = (numerics.sample_places(one, bits) for one in codes)
    x, y = np.arange(width) + across, np.arange(height)[:, None] + down

    def pixels(rows: Wide, columns: Wide) -> Wide:
        found: Wide = values[:, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return found if padding == "border" else np.where(inside, found, 0)

    upper, lower = (numerics.interpolate(pixels(rows, x), pixels(rows, x + 1), right) for rows in (y, y + 1))
    scales = np.full(len(values), _SAMPLE_SHARE)
    return Psum(numerics.interpolate(upper, lower, below)[None], tensor.scale, scales)


def averaged(node: Node, tensor: Tensor) -> Psum:
    rows, columns = (int(extent) for extent in node.attributes["pool_size"])
    stride_y, stride_x = (int(s) for s in node.attributes["strides"])
    top, left, bottom, right = (int(p) for p in node.attributes["padding"])
    counted = bool(node.attributes["count_include_pad"]) or not any((top, left, bottom, right))
    if not counted or node.attributes["ceil_mode"] or any(int(d) != 1 for d in node.attributes["dilation"]):
        raise NoMeaningError("an average over windows of unlike sizes")
    padded = np.pad(tensor.centred(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))
    values = windows[:, :, ::stride_y, ::stride_x].sum(axis=(4, 5))
    return Psum(values, tensor.scale, np.full(values.shape[1], 1.0 / (rows * columns)))


def resized(node: Node, tensor: Tensor) -> Psum:
    """Along each direction, pixel ``x`` lies at ``(x + 1/2) before / after - 1/2``: a whole number of its units."""
    size = node.shape[2:]
    how = str(node.attributes["method"]), str(node.attributes["coordinate_transformation_mode"])
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
