"""Pictures as they are stored: 8 or 16 bits, with transparency, upright; read and written without loss.

Pillow keeps eight bits of a colour, so PNG files of 16 are read and written by FFmpeg.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageOps

from codesign.hw.errors import InputError
from codesign.hw.files import replaced
from codesign.pictures.images import Reals, check_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm")
"""Pictures that are read and written."""

_OPAQUE = (".jpg", ".jpeg", ".bmp", ".ppm")
_PNG = b"\x89PNG\r\n\x1a\n"
_SIXTEEN = {"gray16be": "rgb48le", "rgb48be": "rgb48le", "ya16be": "rgba64le", "rgba64be": "rgba64le"}


@dataclass(frozen=True)
class Picture:
    """A picture: ``rgb`` float64[H, W, 3] and ``alpha`` float64[H, W] or None, both in [0, 1]."""

    rgb: Reals = field(repr=False)
    alpha: Reals | None = field(repr=False)
    bits: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[0])


def read_picture(path: Path) -> Picture:
    """Read a picture; one that a camera stored turned comes out upright.

    Raises :class:`InputError` for a missing, corrupt or enormous file, and for one whose values would be lost.
    """
    if _is_deep_png(path):
        return _read_sixteen(path)
    try:
        with Image.open(path) as image:
            check_size(*image.size, where=str(path))
            if image.mode.startswith("I") or image.mode == "F":
                raise InputError(
                    f"has pixels of kind {image.mode}, which would lose most of their bits",
                    where=str(path),
                    hint="Store it as a PNG of 16 bits.",
                )
            upright = ImageOps.exif_transpose(image)
            clear = upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info
            pixels = np.asarray(upright.convert("RGBA" if clear else "RGB"), np.float64) / 255.0
    except InputError:
        raise
    except Exception as error:  # decoders of broken files raise anything
        raise _unreadable(path, error) from error
    return Picture(pixels[..., :3], pixels[..., 3] if clear else None, 8)


def write_picture(picture: Picture, path: Path) -> None:
    """Write a picture, whole or not at all; the suffix picks the format.

    Raises :class:`InputError` for an unknown suffix, and for a format that has no transparency or not as many bits.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError("is not a picture that can be written", where=str(path), hint=f"Use {', '.join(SUFFIXES)}.")
    if picture.alpha is not None and suffix in _OPAQUE:
        raise InputError("cannot hold the picture's transparency", where=str(path), hint="Write a .png.")
    if picture.bits > 8 and suffix != ".png":
        raise InputError("cannot hold the picture's 16 bits", where=str(path), hint="Write a .png.")
    planes = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha[..., None]]
    greatest = 2**picture.bits - 1
    codes = np.floor(np.clip(np.concatenate(planes, axis=2), 0.0, 1.0) * greatest + 0.5)
    with replaced(path) as temporary:
        if picture.bits > 8:
            temporary.write_bytes(_sixteen(codes.astype(np.uint16)))
        else:
            options: dict[str, Any] = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
            Image.fromarray(codes.astype(np.uint8)).save(temporary, **options)


def _is_deep_png(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return False  # told when it is opened
    return head.startswith(_PNG) and len(head) == 26 and head[24] == 16


def _read_sixteen(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            check_size(*image.size, where=str(path))
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            layout = _SIXTEEN[frame.format.name]
            codes = frame.reformat(format=layout).to_ndarray()
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    real = codes.astype(np.float64) / 65535.0
    return Picture(real[..., :3], real[..., 3] if layout == "rgba64le" else None, 16)


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError("no such image", where=str(path), hint="Check the path.")
    return InputError(
        f"is not a readable image ({type(error).__name__})", where=str(path), hint="Give a PNG or JPEG file."
    )


def _sixteen(codes: NDArray[np.uint16]) -> bytes:
    """A PNG file of ``uint16[H, W, 3 or 4]``."""
    layout = "rgb48" if codes.shape[2] == 3 else "rgba64"
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(codes), format=f"{layout}le")
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height = codes.shape[1], codes.shape[0]
    encoder.pix_fmt = f"{layout}be"
    encoder.time_base = Fraction(1)
    packets = [*encoder.encode(frame.reformat(format=f"{layout}be")), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
