"""Image files, colour conversion, and the bicubic resize used in super-resolution benchmarks.

Pixels are ``uint8[H, W, 3]`` RGB in files and ``float64`` in [0, 1] inside. Luma is BT.601 studio range over 255, as in
MATLAB's ``rgb2ycbcr``: 16/255 to 235/255.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from codesign.hw.errors import InputError
from codesign.hw.files import replaced

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float64]

MAX_SIDE, MAX_PIXELS = 65536, 2**28

# ITU-R BT.601, studio range, for R, G, B in [0, 1] and Y, Cb, Cr in [0, 1].
_TO_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255.0
_OFFSET = np.array([16.0, 128.0, 128.0]) / 255.0


def load_image(path: str | Path) -> Pixels:
    """Read an image as ``uint8[H, W, 3]``; grey becomes RGB, transparency is dropped, 16 bits become 8.

    Raises :class:`InputError` for a missing, corrupt or enormous file.
    """
    try:
        with Image.open(path) as image:
            check_size(*image.size, where=str(path))
            if image.mode.startswith("I"):  # Pillow would clip 16-bit grey to white
                grey = np.clip(np.asarray(image, np.int64) // 257, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(image.convert("RGB"), np.uint8)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("no such image", where=str(path), hint="Check the path.") from error
    except Exception as error:  # decoders of broken files raise anything
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(
            f"is not a readable image ({reason})", where=str(path), hint="Give a PNG or JPEG file."
        ) from error


def image_files(folder: str | Path) -> list[Path]:
    """The images in ``folder`` and below it, ordered by name.

    Raises :class:`InputError` for a missing folder or one without images.
    """
    known = Image.registered_extensions()
    try:
        found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in known and path.is_file())
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(folder), hint="Check the folder's permissions."
        ) from error
    if not found:
        raise InputError(
            "is not a folder with images in it", where=str(folder), hint="Give a folder of PNG or JPEG files."
        )
    return found


def save_image(pixels: Pixels, path: str | Path) -> None:
    """Write ``uint8[H, W]`` or ``uint8[H, W, 3]``, whole or not at all; the suffix picks the format.

    Raises :class:`InputError` for a folder that cannot be written, a full disk or an unknown suffix.
    """
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise InputError("is not an image format that can be written", where=str(path), hint="End the name in .png.")
    with replaced(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def check_size(width: int, height: int, *, where: str = "size") -> None:
    """Raise :class:`InputError` for a frame that has no pixels or too many."""
    if width < 1 or height < 1:
        raise InputError(
            f"a frame of {width}x{height} has no pixels", where=where, hint="Give WIDTHxHEIGHT, both >= 1."
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"a frame of {width}x{height} is too large",
            where=where,
            hint=f"Use at most {MAX_SIDE} a side and {MAX_PIXELS} pixels.",
        )


def to_real(pixels: Pixels) -> Reals:
    """``uint8`` to ``float64`` in [0, 1]."""
    return pixels.astype(np.float64) / 255.0


def to_pixels(real: NDArray[Any]) -> Pixels:
    """Clip to [0, 1] and round to 8 bits, half up as MATLAB's ``im2uint8``."""
    return np.asarray(np.floor(np.clip(real, 0.0, 1.0) * 255.0 + 0.5), np.uint8)


def rgb_to_ycbcr(rgb: Reals) -> Reals:
    """``[..., 3]`` RGB in [0, 1] to studio-range YCbCr."""
    return np.asarray(rgb @ _TO_YCBCR.T + _OFFSET)


def ycbcr_to_rgb(ycbcr: Reals) -> Reals:
    """The inverse of :func:`rgb_to_ycbcr`, not clipped."""
    return np.asarray((ycbcr - _OFFSET) @ np.linalg.inv(_TO_YCBCR).T)


def luma(rgb: Reals) -> Reals:
    """``[..., 3]`` RGB to ``[...]`` Y."""
    return np.asarray(rgb @ _TO_YCBCR[0] + _OFFSET[0])


def _cubic(x: Reals) -> Reals:
    """Keys' kernel, a = -0.5 (Keys, IEEE TASSP 1981)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def _taps(size: int, target: int) -> tuple[NDArray[np.int64], Reals]:
    """Source indices and weights of one axis, both ``[taps, target]``: antialiased when shrinking, mirrored at
    borders."""
    scale = target / size
    stretch = min(scale, 1.0)
    count = math.ceil(4.0 / stretch) + 2
    centre = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centre - 2.0 / stretch).astype(np.int64)
    at = first + np.arange(count)[:, None]
    weight = _cubic((centre - at) * stretch)
    weight /= weight.sum(axis=0)
    mirrored = np.mod(at, 2 * size)
    mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    used = np.any(weight != 0.0, axis=1)
    return mirrored[used], weight[used]


def _resize_rows(image: Reals, target: int) -> Reals:
    result = np.zeros((target, *image.shape[1:]))
    shape = (target,) + (1,) * (image.ndim - 1)
    for sources, weights in zip(*_taps(image.shape[0], target), strict=True):
        result += weights.reshape(shape) * image[sources]
    return result


def resize(image: Reals, width: int, height: int) -> Reals:
    """Bicubic resize of ``[H, W]`` or ``[H, W, C]`` to ``width`` x ``height`` as MATLAB's ``imresize`` does it.

    Not clipped. Raises :class:`InputError` for a target without pixels or with too many.
    """
    check_size(width, height)
    rows = _resize_rows(image, height)
    return np.ascontiguousarray(np.swapaxes(_resize_rows(np.swapaxes(rows, 0, 1), width), 0, 1))


def crop_to_multiple(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """Cut right and bottom so that both sides are multiples of ``scale``."""
    height, width = (extent - extent % scale for extent in image.shape[:2])
    check_size(width, height, where="image")
    return image[:height, :width]


def fit(image: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """The centre of ``image`` at exactly ``width`` x ``height``, mirrored outwards where it is smaller."""
    check_size(width, height)
    pad = [(max(0, want - have), want) for want, have in ((height, image.shape[0]), (width, image.shape[1]))]
    if any(missing for missing, _ in pad):
        space = [(missing // 2, missing - missing // 2) for missing, _ in pad] + [(0, 0)] * (image.ndim - 2)
        image = np.pad(image, space, mode="symmetric")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def reference_photograph() -> Pixels:
    """A photograph shipped with scikit-image (an astronaut, 512x512, NASA), ``uint8[512, 512, 3]``."""
    from skimage import data

    return np.asarray(data.astronaut(), np.uint8)
