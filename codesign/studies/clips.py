"""Clips for studies of motion: a folder of frames, or a camera that moves over a photograph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codesign import networks
from codesign.hw.errors import InputError
from codesign.pictures import images
from codesign.pictures.images import Reals

FlowOf = Callable[[Reals, Reals], NDArray[np.float32]]
"""The flow ``float32[2, H, W]`` from one image ``[H, W, 3]`` to another."""


@dataclass(frozen=True)
class Clip:
    """Frames ``float64[H, W, 3]`` in [0, 1]; ``path [frames, 2]``: the camera's position in pixels, if known."""

    source: str
    frames: list[Reals] = field(repr=False)
    path: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        return self.frames[0].shape[1], self.frames[0].shape[0]


def from_folder(folder: Path, size: tuple[int, int] | None) -> Clip:
    """The images of a folder by name, ``size`` cut from their centres; raises :class:`InputError` for fewer than 3."""
    paths = images.image_files(folder)
    frames = [images.to_real(images.load_image(path)) for path in paths]
    if size is not None:
        frames = [images.fit(frame, *size) for frame in frames]
    if len(frames) < 3 or len({frame.shape for frame in frames}) > 1:
        raise InputError("is not a clip of three or more frames of one size", where=str(folder), hint="Give --size.")
    return Clip(str(folder), frames)


def over_photograph(size: tuple[int, int], path: NDArray[np.float64]) -> Clip:
    """The reference photograph seen along ``path``, relative to its centre: ``[frames, 2]`` pixels right, down.

    Raises :class:`InputError` where the camera would leave the photograph.
    """
    photograph = images.to_real(images.reference_photograph())
    height, width = photograph.shape[:2]
    x, y = (width - size[0]) / 2 + path[:, 0], (height - size[1]) / 2 + path[:, 1]
    if min(x.min(), y.min()) < 0 or x.max() > width - size[0] - 1 or y.max() > height - size[1] - 1:
        raise InputError(
            f"a camera of {size[0]}x{size[1]} leaves the photograph", where="--size", hint="Use smaller frames."
        )
    return Clip("the reference photograph", [view(photograph, size, at) for at in zip(x, y, strict=True)], path)


def moving_camera(size: tuple[int, int]) -> Clip:
    """Eight frames of the reference photograph, in a slow swaying pan."""
    frames = np.arange(8.0)
    return over_photograph(size, np.stack([2.3 * frames, 6.0 * np.sin(frames / 3.0)], 1))


def view(picture: Reals, size: tuple[int, int], at: tuple[float, float]) -> Reals:
    """``size`` of a picture from ``at`` (right, down), bilinear."""
    left, top = int(np.floor(at[0])), int(np.floor(at[1]))
    u, v = at[0] - left, at[1] - top
    part = picture[top : top + size[1] + 1, left : left + size[0] + 1]
    upper = part[:-1, :-1] * (1 - u) + part[:-1, 1:] * u
    lower = part[1:, :-1] * (1 - u) + part[1:, 1:] * u
    return np.asarray(upper * (1 - v) + lower * v)


def flow_by(name: str, weights: Path | None) -> FlowOf:
    """A flow network as a function. Raises :class:`InputError` for a network of another task or with seeded weights."""
    network = networks.get(name)
    if network.task != "flow":
        raise InputError("makes no flow", where=name, hint="flow_small has trained weights; spynet takes --weights.")
    if not network.trained and weights is None:
        raise InputError("has no trained weights here", where=name, hint="Give --weights, or use flow_small.")
    module = networks.load(name, weights)

    def flow(first: Reals, second: Reals) -> NDArray[np.float32]:
        pair = np.concatenate([first, second], axis=2).transpose(2, 0, 1)[None].astype(np.float32)
        with torch.inference_mode():
            found: NDArray[np.float32] = module(torch.from_numpy(np.ascontiguousarray(pair)))[0].numpy()
        return found

    return flow
