"""Inputs of networks and their quality: from a ground-truth image, a given input, or the reference photograph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.compile.importing.published.restorer import SizeRule
from codesign.compile.importing.value_range import Values
from codesign.hw.errors import InputError
from codesign.metrics import degrade, psnr
from codesign.pictures import images
from codesign.pictures.flows import flow_picture
from codesign.pictures.images import Pixels, Reals

PAIR_CHANNELS = 6
"""Input channels of flow and interpolation: two RGB images."""

PAIR_SHIFT = (3, 2)
"""Pixels (right, down) that a photograph moves from one image to the next of a pair or clip made from it."""


@dataclass(frozen=True)
class Frame:
    """A network's input, and the truth that its output is compared with.

    ``tensor``: float32[1, C, H, W] in the network's ``values``; ``rgb``: the low-resolution RGB image in [0, 1];
    ``truth``: the RGB ground truth or None. ``shown``: (width, height) of the image, where the tensor was padded.
    """

    tensor: NDArray[np.float32] = field(repr=False)
    rgb: Reals = field(repr=False)
    truth: Reals | None = field(repr=False)
    scale: int
    source: str
    values: Values = Values()
    shown: tuple[int, int] | None = None

    @property
    def width(self) -> int:
        return int(self.tensor.shape[3])

    @property
    def height(self) -> int:
        return int(self.tensor.shape[2])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def fitted(self, sides: SizeRule, values: Values) -> Frame:
        """This image in [0, 1] as a network wants it: padded to sides that it takes, in its values."""
        tensor = values.range.encode(sides.pad(self.tensor))
        shown = self.size if tensor.shape != self.tensor.shape else self.shown
        return replace(self, tensor=tensor, values=values, shown=shown)

    def planes(self, tensor: NDArray[np.float32], scale: int) -> Reals:
        """``tensor`` of this frame, ``scale`` times as large, as ``float64[C, H, W]`` in [0, 1] without padding."""
        real = self.values.range.decode(tensor[0].astype(np.float64))
        if self.shown is None or tensor.shape[2:] != (scale * self.height, scale * self.width):
            return real
        return real[:, : scale * self.shown[1], : scale * self.shown[0]]


@dataclass(frozen=True)
class FrameChoice:
    """The frame that the user asks for.

    ``image`` is ground truth: cropped to a multiple of the scale, down-sampled, compared with the output. ``given`` is
    fed as it is. Without either the reference photograph is the ground truth. ``size`` is (width, height) of the input:
    the centre is taken, mirrored outwards where the image is smaller. Raises :class:`InputError` for both images.
    """

    size: tuple[int, int] | None = None
    image: Path | None = None
    given: Path | None = None

    def __post_init__(self) -> None:
        if self.image is not None and self.given is not None:
            raise InputError("--image and --input exclude each other", where="options", hint="Give only one of them.")


def make_frame(channels: int, scale: int, choice: FrameChoice = FrameChoice()) -> Frame:
    """The input of a network with ``channels`` (1 takes luma, 3 n take n RGB images) that up-scales by ``scale``.

    A pair or clip is the one image, moved by ``PAIR_SHIFT`` from frame to frame; it has no ground truth. Raises
    :class:`InputError` for an unusable image.
    """
    size, image, given = choice.size, choice.image, choice.given
    if channels != 1 and (channels < 1 or channels % 3):
        raise InputError(
            f"a network of {channels} input channels does not take images",
            where="input",
            hint="1 channel takes luma, 3 take RGB, 6 and more take two and more RGB images.",
        )
    if given is not None:
        pixels = images.load_image(given)
        pixels = pixels if size is None else images.fit(pixels, *size)
        return _frame(images.to_real(pixels), None, channels, scale, str(given))
    truth = images.reference_photograph() if image is None else images.load_image(image)
    truth = (
        images.crop_to_multiple(truth, scale) if size is None else images.fit(truth, size[0] * scale, size[1] * scale)
    )
    real = images.to_real(truth)
    low = degrade(real, scale) if scale > 1 else real
    if channels >= PAIR_CHANNELS:
        return _frame(low, None, channels, scale, "reference photograph" if image is None else str(image))
    return _frame(low, real, channels, scale, "reference photograph" if image is None else str(image))


def _frame(rgb: Reals, truth: Reals | None, channels: int, scale: int, source: str) -> Frame:
    if channels == 1:
        planes = images.luma(rgb)[None]
    else:
        right, down = PAIR_SHIFT
        shifts = [(i * right, i * down) for i in range(channels // 3)]
        padded = [np.pad(rgb, ((y, 0), (x, 0), (0, 0)), mode="edge") for x, y in shifts]
        planes = np.concatenate([image[: rgb.shape[0], : rgb.shape[1]] for image in padded], axis=2).transpose(2, 0, 1)
    # Luma is rounded to 8 bits, as a video decoder would hand it over.
    tensor = images.to_pixels(planes).astype(np.float32)[None] / np.float32(255.0)
    return Frame(np.ascontiguousarray(tensor), rgb, truth, scale, source)


@dataclass(frozen=True)
class Judged:
    """An output as an image, its PSNR against the truth, and the host's time for the chroma."""

    pixels: Pixels = field(repr=False)  # uint8[H, W, 3]
    psnr_db: float | None
    chroma_seconds: float


def judge(frame: Frame, output: NDArray[np.float32]) -> Judged:
    """Turn a network's output ``float32[1, C, H, W]`` into pixels and compare it.

    A luma network's chroma is up-scaled bicubically on the host. PSNR is on luma for a luma network and on RGB
    otherwise, ``scale`` pixels of border left out, output rounded to 8 bits.
    """
    return _judged(frame, frame.planes(output, frame.scale) if output.shape[1] != 2 else output[0].astype(np.float64))


def _judged(frame: Frame, real: Reals) -> Judged:
    began = time.perf_counter()
    luma_only = frame.tensor.shape[1] == 1
    if real.shape[0] == 2:
        return Judged(flow_picture(real), None, 0.0)
    if frame.tensor.shape[1] > PAIR_CHANNELS and real.shape[0] == frame.tensor.shape[1]:
        real = real[:3]  # the first frame of a clip is shown
    if real.shape[0] != (1 if luma_only else 3):  # not an image: its first channel is shown, and nothing is compared
        return Judged(np.repeat(images.to_pixels(real[0])[..., None], 3, axis=2), None, 0.0)
    if luma_only:
        chroma = images.resize(images.rgb_to_ycbcr(frame.rgb)[..., 1:], real.shape[2], real.shape[1])
        rgb = images.ycbcr_to_rgb(np.concatenate([np.clip(real[0], 0.0, 1.0)[..., None], chroma], axis=2))
    else:
        rgb = real.transpose(1, 2, 0)
    seconds = time.perf_counter() - began
    quality: float | None = None
    if frame.truth is not None and frame.truth.shape[:2] == real.shape[1:]:
        pair = (real[0], images.luma(frame.truth)) if luma_only else (real.transpose(1, 2, 0), frame.truth)
        if min(real.shape[1:]) > 2 * frame.scale:
            quality = psnr(images.to_real(images.to_pixels(pair[0])), pair[1], shave=frame.scale)
    return Judged(images.to_pixels(rgb), quality, seconds if luma_only else 0.0)


def bicubic_baseline(frame: Frame) -> Judged:
    """The frame up-scaled bicubically with mirrored borders, as a baseline."""
    low = frame.planes(frame.tensor, 1)
    height, width = (side * frame.scale for side in low.shape[1:])
    planes = [images.resize(plane, width, height) for plane in low]
    return _judged(frame, np.stack(planes).astype(np.float32).astype(np.float64))


CROP = 48
"""Side of a calibration crop, in pixels of the input: small, so that deep networks calibrate in seconds."""

CALIBRATION_PHOTOGRAPHS, TRAINING_PHOTOGRAPHS = 16, 200
"""Largest number of a folder's images used for each, spread evenly over it."""


def photographs(channels: int, scale: int, *, folder: Path | None = None, limit: int) -> list[NDArray[np.float32]]:
    """Photographs down-sampled like inputs, float32[1, C, H, W] in [0, 1]: those of ``folder``, or scikit-image's four.

    Raises :class:`InputError` for a folder that is missing, empty of images, or holds a broken one.
    """
    if folder is None:
        from skimage import data

        found = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    else:
        paths = images.image_files(folder)
        count = min(len(paths), limit)
        found = [images.load_image(paths[i * len(paths) // count]) for i in range(count)]
    return [_input(image, channels, scale) for image in found]


def _input(photograph: Pixels, channels: int, scale: int) -> NDArray[np.float32]:
    real = images.to_real(images.crop_to_multiple(photograph, scale))
    return _frame(degrade(real, scale) if scale > 1 else real, None, channels, scale, "").tensor


def calibration_crops(
    inputs: Sequence[NDArray[np.float32]], size: tuple[int, int] = (CROP, CROP)
) -> list[NDArray[np.float32]]:
    """Two crops of each input, float32[1, C, *reversed(size)]; smaller inputs are mirrored outwards."""
    crops: list[NDArray[np.float32]] = []
    for tensor in inputs:
        for across, down in ((0.3, 0.3), (0.7, 0.6)):
            height, width = tensor.shape[2:]
            top, left = int(down * max(0, height - size[1])), int(across * max(0, width - size[0]))
            crop = tensor[0, :, top : top + size[1], left : left + size[0]].transpose(1, 2, 0)
            crops.append(np.ascontiguousarray(images.fit(crop, *size).transpose(2, 0, 1))[None])
    return crops


def calibration_frames(
    channels: int, scale: int, folder: Path | None = None, size: tuple[int, int] = (CROP, CROP)
) -> list[NDArray[np.float32]]:
    """Crops of ``size`` (width, height) for calibration."""
    return calibration_crops(photographs(channels, scale, folder=folder, limit=CALIBRATION_PHOTOGRAPHS), size)
