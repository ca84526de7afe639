"""Resizes by any rule, as sums of rows and columns taken from the frame.

Every resize of the ONNX standard and of torch is a weighted sum of a few rows, and then of a few columns. Which ones,
and how much of each, depends on the sizes and on the rule alone: constants. TVM's own operator computes coordinates
from the ratio of the sizes; where a factor is given that does not divide the frame (1.3 of 25 pixels are 32) the
model's engine takes the factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from codesign.compile.graph.graph import Array

Emit = Callable[[Any], Any]
"""Binds an expression to a variable."""


@dataclass(frozen=True)
class Rule:
    """How an axis is resized, in the words of the ONNX standard.

    ``scale``: pixels after over pixels before, as the coordinates are computed from; ``nearest_mode`` has besides
    ``simple``, which Resize had in opset 10.
    """

    mode: str
    coordinates: str
    scale: float
    nearest_mode: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    inverse: bool = False
    """Whether coordinates are multiplied by the scale's inverse, as torch does, and not divided by the scale."""


@dataclass(frozen=True)
class Taps:
    """For every pixel after, ``int64[after, K]`` pixels before, and ``float32[after, K]`` how much of each."""

    places: Array = field(repr=False)
    weights: Array = field(repr=False)


def taps(before: int, after: int, rule: Rule) -> Taps:
    """The pixels that each of ``after`` pixels is made of.

    Coordinates are float32, as the engines compute them: which pixel is nearest can depend on it.
    """
    if rule.antialias and rule.mode != "nearest":
        return _antialiased(before, after, rule)
    x = _coordinates(before, after, rule)
    match rule.mode:
        case "nearest":
            nearest = np.clip(_nearest(x, rule), 0, before - 1).astype(np.int64)
            return Taps(nearest[:, None], np.ones((after, 1), np.float32))
        case "linear":
            x = np.clip(x, 0, before - 1)
            first = np.floor(x).astype(np.int64)
            share = (x - first).astype(np.float64)
            places = np.stack([first, np.minimum(first + 1, before - 1)], 1)
            return Taps(places, np.stack([1 - share, share], 1).astype(np.float32))
        case _:
            first = np.floor(x).astype(np.int64)
            places = first[:, None] + np.arange(-1, 3)
            weights = _cubic(x.astype(np.float64)[:, None] - places, rule.cubic)
            if rule.exclude_outside:
                weights = np.where((places < 0) | (places >= before), 0.0, weights)
                weights = weights / weights.sum(1, keepdims=True)
            return Taps(np.clip(places, 0, before - 1), weights.astype(np.float32))


def _coordinates(before: int, after: int, rule: Rule) -> Array:
    i, scale, half = np.arange(after, dtype=np.float32), np.float32(rule.scale), np.float32(0.5)

    def placed(x: Array) -> Array:
        return x * np.float32(1.0 / rule.scale) if rule.inverse else x / scale

    match rule.coordinates:
        case "align_corners":
            return i * np.float32(before - 1) / np.float32(after - 1) if after > 1 else np.zeros(1, np.float32)
        case "asymmetric":
            return placed(i)
        case "tf_half_pixel_for_nn":
            return placed(i + half)
        case "half_pixel_symmetric":
            adjusted = np.float32(after) / (scale * np.float32(before))
            return np.float32(before / 2) * (1 - adjusted) + placed(i + half) - half
        case "pytorch_half_pixel" if after == 1:
            return np.zeros(1, np.float32)
        case _:
            return placed(i + half) - half


def _nearest(x: Array, rule: Rule) -> Array:
    match rule.nearest_mode:
        case "floor":
            return np.floor(x)
        case "ceil":
            return np.ceil(x)
        case "round_prefer_ceil":
            return np.floor(x + np.float32(0.5))
        case "simple":
            return np.ceil(x) if rule.scale < 1 else np.trunc(x)
        case _:
            return np.ceil(x - np.float32(0.5))


def _cubic(x: Array, a: float) -> Array:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _antialiased(before: int, after: int, rule: Rule) -> Taps:
    """A filter as wide as the pixels after, where they are the larger ones, cut off at the border."""
    widened = max(1.0 / rule.scale, 1.0)
    centres = (np.arange(after) + 0.5) / rule.scale
    support = (2.0 if rule.mode == "cubic" else 1.0) * widened
    low = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centres + support + 0.5).astype(np.int64), before)
    places = low[:, None] + np.arange(int((high - low).max()))
    x = (places - centres[:, None] + 0.5) / widened
    weights = _cubic(x, rule.cubic) if rule.mode == "cubic" else np.maximum(1 - np.abs(x), 0)
    weights = np.where(places < high[:, None], weights, 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    return Taps(np.minimum(places, before - 1), weights.astype(np.float32))


def is_plain(before: tuple[int, int], after: tuple[int, int], rules: tuple[Rule, Rule]) -> bool:
    """Whether TVM's resize means the same: coordinates by the ratio of the sizes, and nearest by whole factors."""
    return all(_axis_is_plain(*one) for one in zip(before, after, rules, strict=True))


def _axis_is_plain(before: int, after: int, rule: Rule) -> bool:
    if not math.isclose(rule.scale * before, after, rel_tol=1e-6) or (
        rule.antialias and (rule.scale < 1 or rule.mode == "cubic")
    ):
        return False
    if rule.mode == "nearest":
        whole = after % before == 0
        return whole and np.array_equal(taps(before, after, rule).places[:, 0], np.arange(after) // (after // before))
    if rule.coordinates in ("pytorch_half_pixel", "align_corners"):
        return after > 1 and not rule.exclude_outside
    return rule.coordinates == "half_pixel" and not rule.exclude_outside


def resized(emit: Emit, x: Any, after: tuple[int, int], rules: tuple[Rule, Rule]) -> Any:
    """``x: [N, C, H, W]`` resized to ``after`` (H, W): rows first, then columns."""
    shape = [int(extent) for extent in x.ty.shape]
    before = shape[2], shape[3]
    if is_plain(before, after, rules):
        mode, coordinates = rules[0].mode, rules[0].coordinates
        plain_nearest = mode == "nearest"  # by whole factors: a pixel for each, whatever the rule was called
        return emit(
            relax.op.image.resize2d(
                x,
                relax.ShapeExpr(after),
                layout="NCHW",
                method="nearest_neighbor" if plain_nearest else mode,
                coordinate_transformation_mode="asymmetric" if plain_nearest else coordinates,
                rounding_method="floor" if plain_nearest else "round",
                cubic_alpha=rules[0].cubic,
            )
        )
    for axis, (old, new, rule) in enumerate(zip(before, after, rules, strict=True), start=2):
        x = _along(emit, x, axis, taps(old, new, rule))
    return x


def _along(emit: Emit, x: Any, axis: int, made: Taps) -> Any:
    shape = [1, 1, 1, 1]
    shape[axis] = len(made.places)
    if np.array_equal(made.places[:, 0], np.arange(int(x.ty.shape[axis]))) and np.all(made.weights[:, 0] == 1):
        return x
    total = None
    for places, weights in zip(made.places.T, made.weights.T, strict=True):
        if not np.any(weights):
            continue
        part = emit(relax.op.take(x, relax.const(places, "int64"), axis))
        if not np.all(weights == 1):
            dtype = str(x.ty.dtype.dtype)
            part = emit(relax.op.multiply(part, relax.const(weights.reshape(shape), dtype)))
        total = part if total is None else emit(relax.op.add(total, part))
    return total
