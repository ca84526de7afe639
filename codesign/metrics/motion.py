"""Measures of flow, video and stabilisation: end-point error, warping error, residual jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError

Flow = NDArray[np.floating]
"""``[2, H, W]``: displacement in pixels right and down, from a pixel of one image to its place in another."""

OUTLIER_PIXELS, OUTLIER_SHARE = 3.0, 0.05


@dataclass(frozen=True)
class FlowError:
    """Errors of a flow over the pixels with a known true flow."""

    epe_pixels: float
    """Mean end-point error."""
    outliers: float
    """Share of vectors wrong by more than 3 pixels and by more than 5 % of their length (KITTI's Fl)."""
    pixels: int


def end_point_error(flow: Flow, truth: Flow, valid: NDArray[np.bool_] | None = None) -> FlowError:
    """Mean Euclidean distance of the vectors of ``flow`` from those of ``truth``, both ``[2, H, W]``, and outliers.

    ``valid [H, W]``: where there is a truth; by default where it is finite. Raises :class:`InputError` for shapes that
    differ, for no valid pixel and for a flow that is not finite on one.
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[0] != 2:
        raise InputError(
            f"cannot compare flows {flow.shape} and {truth.shape}",
            where="end-point error",
            hint="Give flows of one size.",
        )
    counted = np.isfinite(truth).all(0) if valid is None else valid
    if counted.shape != truth.shape[1:] or not counted.any():
        raise InputError(
            "no pixel has a true flow",
            where="end-point error",
            hint="Mark the valid pixels, or give a truth with finite values.",
        )
    ours, theirs = (np.asarray(x[:, counted], np.float64) for x in (flow, truth))
    if not np.isfinite(ours).all():
        raise InputError(
            "the flow is not finite", where="end-point error", hint="Mark the pixels without a flow as not valid."
        )
    error = np.hypot(*(ours - theirs))
    wrong = (error > OUTLIER_PIXELS) & (error > OUTLIER_SHARE * np.hypot(*theirs))
    return FlowError(float(error.mean()), float(wrong.mean()), int(counted.sum()))


def sampled(image: NDArray[np.floating], flow: Flow) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``image [H, W, ...]`` at every pixel's place plus its flow, bilinear; and whether it lies inside, ``[H, W]``.

    Places outside take the nearest border pixel's value.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    across, down = x + flow[0].astype(np.float64), y + flow[1].astype(np.float64)
    inside = (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)
    across, down = np.clip(across, 0, width - 1), np.clip(down, 0, height - 1)
    left, top = np.floor(across).astype(np.int64), np.floor(down).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    shape = (height, width) + (1,) * (image.ndim - 2)
    u, v = (across - left).reshape(shape), (down - top).reshape(shape)
    pixels = image.astype(np.float64)
    upper = pixels[top, left] * (1 - u) + pixels[top, right] * u
    lower = pixels[bottom, left] * (1 - u) + pixels[bottom, right] * u
    return upper * (1 - v) + lower * v, inside


def visible(forward: Flow, backward: Flow) -> NDArray[np.bool_]:
    """Pixels ``[H, W]`` seen in both images: their flow there and back again ends where it began.

    Forward-backward check of Sundaram et al. (ECCV 2010): ``|f + b'|^2 < 0.01 (|f|^2 + |b'|^2) + 0.5``.
    """
    back, inside = sampled(np.moveaxis(backward, 0, -1), forward)
    back = np.moveaxis(back, -1, 0)
    gap = ((forward + back) ** 2).sum(0)
    return np.asarray(inside & (gap < 0.01 * ((forward**2).sum(0) + (back**2).sum(0)) + 0.5))


def warping_error(
    frame: NDArray[np.floating], following: NDArray[np.floating], flow: Flow, seen: NDArray[np.bool_]
) -> float:
    """Mean square difference of ``frame`` and the ``following`` frame warped back along ``flow``, over the pixels
    ``seen``.

    Frames ``[H, W]`` or ``[H, W, C]`` in [0, 1]; the measure of temporal consistency of Lai et al. (ECCV 2018). Raises
    :class:`InputError` if no pixel is seen in both.
    """
    back, inside = sampled(following, flow)
    counted = inside & seen
    if frame.shape != following.shape or not counted.any():
        raise InputError(
            "the frames have nothing in common to compare",
            where="warping error",
            hint="Give consecutive frames and the flow between them.",
        )
    return float(np.mean((frame.astype(np.float64)[counted] - back[counted]) ** 2))


def jitter(path: NDArray[np.floating] | Sequence[Sequence[float]]) -> float:
    """Jitter of a camera path: root mean square of its second differences, in pixels per frame squared.

    ``path [frames, 2]``: position of the picture in each frame, in pixels. A camera that stands still or moves evenly
    has 0. Raises :class:`InputError` for fewer than three frames.
    """
    places = np.asarray(path, np.float64)
    if places.ndim != 2 or places.shape[0] < 3:
        raise InputError(
            f"a path of shape {places.shape} has no second difference",
            where="jitter",
            hint="Give at least three positions, [frames, 2].",
        )
    shake = places[2:] - 2.0 * places[1:-1] + places[:-2]
    return float(np.sqrt(np.mean((shake**2).sum(1))))
