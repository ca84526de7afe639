"""Optical flow as files and pictures. A flow is ``float32[2, H, W]``: pixels right and down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.hw.files import replaced
from codesign.pictures.images import Pixels, check_size, to_pixels

Flow = NDArray[np.float32]

_MAGIC = np.float32(202021.25)
UNKNOWN = 1e9
"""Middlebury's mark for a pixel without a flow: values above it, either sign."""


def load_flow(path: str | Path) -> Flow:
    """Read Middlebury's ``.flo``; unknown vectors are NaN. Raises :class:`InputError` for any other file."""
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError("no such flow file", where=str(path), hint="Check the path.") from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), hint="Check the file's permissions."
        ) from error
    if len(raw) < 12 or np.frombuffer(raw, "<f4", 1)[0] != _MAGIC:
        raise InputError(
            "is not a Middlebury .flo file", where=str(path), hint="Give a file written as Middlebury's .flo."
        )
    width, height = (int(x) for x in np.frombuffer(raw, "<i4", 2, 4))
    check_size(width, height, where=str(path))
    if len(raw) != 12 + 8 * width * height:
        raise InputError(
            f"has {len(raw)} bytes, a flow of {width}x{height} has {12 + 8 * width * height}",
            where=str(path),
            hint="The file is incomplete or damaged: copy it again.",
        )
    flow = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1).astype(np.float32)
    return np.asarray(np.where(np.abs(flow).max(0) > UNKNOWN, np.float32(np.nan), flow))


def save_flow(flow: Flow, path: str | Path) -> None:
    """Write ``[2, H, W]`` as Middlebury's ``.flo``, NaN as unknown, whole or not at all."""
    _, height, width = flow.shape
    known = np.where(np.isfinite(flow), flow, np.float32(1e10)).astype("<f4")
    with replaced(path) as temporary, temporary.open("wb") as handle:
        handle.write(_MAGIC.astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes())
        handle.write(np.ascontiguousarray(known.transpose(1, 2, 0)).tobytes())


def flow_picture(flow: NDArray[np.floating]) -> Pixels:
    """Direction as hue, length as saturation (the longest vector is fully saturated): ``[2, H, W]`` to ``uint8[H, W,
    3]``."""
    from matplotlib.colors import hsv_to_rgb

    length = np.hypot(flow[0], flow[1])
    hue = np.arctan2(-flow[1], -flow[0]) / (2.0 * np.pi) + 0.5
    saturation = length / max(float(length.max()), 1e-9)
    return to_pixels(np.asarray(hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=2))))
