"""Quality measures of restored images."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.pictures.images import Reals, crop_to_multiple, load_image, luma, resize, to_pixels, to_real

SSIM_WINDOW = 11

Upscaler = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Luma ``float32[1, 1, H, W]`` in [0, 1] to the same at scale times the size."""


def psnr(image: Reals, truth: Reals, *, shave: int = 0, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB over ``[H, W]`` or ``[H, W, C]``, a border of ``shave`` pixels left out.

    Infinite for equal images. Raises :class:`InputError` when shapes differ or nothing is left.
    """
    if image.shape != truth.shape or min(truth.shape[:2]) <= 2 * shave:
        raise InputError(
            f"cannot compare {image.shape} with {truth.shape} after shaving {shave}",
            where="psnr",
            hint="Give images of one size, larger than the border.",
        )
    inside = (slice(shave, truth.shape[0] - shave), slice(shave, truth.shape[1] - shave))
    error = float(np.mean((image[inside].astype(np.float64) - truth[inside]) ** 2))
    return math.inf if error == 0.0 else 10.0 * math.log10(peak**2 / error)


def ssim(image: Reals, truth: Reals, *, shave: int = 0) -> float:
    """Structural similarity of ``[H, W]`` in [0, 1]: Gaussian window, sigma 1.5 (Wang et al., IEEE TIP 2004).

    Raises :class:`InputError` when shapes differ or less than the window is left.
    """
    from skimage.metrics import structural_similarity

    if image.shape != truth.shape or min(truth.shape) - 2 * shave < SSIM_WINDOW:
        raise InputError(
            f"cannot compare {image.shape} with {truth.shape} after shaving {shave}",
            where="ssim",
            hint=f"At least {SSIM_WINDOW} pixels a side must be left.",
        )
    inside = (slice(shave, truth.shape[0] - shave), slice(shave, truth.shape[1] - shave))
    return float(
        structural_similarity(
            image[inside], truth[inside], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def degrade(truth: Reals, scale: int) -> Reals:
    """The low-resolution input of the evaluation: antialiased bicubic, rounded to 8 bits."""
    height, width = truth.shape[0] // scale, truth.shape[1] // scale
    return to_real(to_pixels(resize(truth, width, height)))


def luma_psnr(upscaled: Reals, truth: Reals, scale: int) -> float:
    """PSNR on Y as super-resolution papers state it: output rounded to 8 bits, ``scale`` pixels shaved."""
    return psnr(to_real(to_pixels(upscaled)), truth, shave=scale)


def set5(upscale: Upscaler, data: str | Path, scale: int) -> dict[str, float]:
    """Y-PSNR in dB per Set5 image and their ``mean``. ``data`` holds ``set5/*.png``."""
    paths = sorted((Path(data) / "set5").glob("*.png"))
    if not paths:
        raise InputError("holds no set5/*.png", where=str(data), hint="Give the folder that contains set5/.")
    result: dict[str, float] = {}
    for path in paths:
        truth = luma(to_real(crop_to_multiple(load_image(path), scale)))
        frame = degrade(truth, scale).astype(np.float32)[None, None]
        result[path.stem] = luma_psnr(upscale(frame)[0, 0].astype(np.float64), truth, scale)
    result["mean"] = float(np.mean(list(result.values())))
    return result
