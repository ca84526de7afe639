"""Restore pictures: one, or every one of a folder, with names, bits and transparency kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from codesign.compile.importing.check.result import ImportCheck
from codesign.hw.errors import InputError
from codesign.networks import Network
from codesign.pictures import images
from codesign.pictures.deep import SUFFIXES, Picture, read_picture, write_picture
from codesign.video.restore import Existing, Restoration
from codesign.video.targets import Device, running
from codesign.video.tiles import Run, tile_size
from codesign.workflows.sources import Source
from codesign.workflows.watch import Say, silent


def are_pictures(path: Path) -> bool:
    """Whether ``path`` is a folder or a picture, not a video."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def restore_pictures(
    path: Path,
    output: Path,
    source: Source,
    device: Device = Device(),
    *,
    existing: Existing = "refuse",
    say: Say = silent,
    tick: Callable[[int, int | None], None] = silent,
    imported: Callable[[ImportCheck], object] = silent,
) -> Restoration:
    """Run a picture, or every picture in and below a folder, through the network into ``output``.

    ``existing="resume"`` leaves pictures alone that are there already. Raises :class:`InputError` for a network that
    makes no pictures, a picture that cannot be read or written, and an output that exists.
    """
    network = source.network
    if network is None or network.task not in ("upscale", "denoise") or network.images > 1:
        raise InputError(
            "makes no picture from one picture",
            where=source.name,
            hint="Name one that up-scales or denoises, or give a .pth; `networks` lists them.",
        )
    began = time.monotonic()
    pairs = _pairs(path, output)
    kept = [pair for pair in pairs if pair[1].exists()] if existing != "overwrite" else []
    if kept and existing == "refuse":
        raise InputError(
            "exists already", where=str(kept[0][1]), hint="Keep it with --resume, or replace it with --overwrite."
        )
    size, result, done = (0, 0), (0, 0), len(kept)
    with contextlib.ExitStack() as opened:
        for taken, made in (pair for pair in pairs if pair not in kept):
            picture = read_picture(taken)
            wanted = tile_size(picture.size, device.tile)
            if wanted != size:  # pictures of one size, or of tiles of one size, share what is compiled for it
                opened.close()
                size = wanted
                run = opened.enter_context(running(source, device, size, say, imported))
            say(f"restore {taken.name}")
            restored = _restored(picture, network, run)
            result = restored.size
            made.parent.mkdir(parents=True, exist_ok=True)
            write_picture(restored, made)
            done += 1
            tick(done, len(pairs))
    return Restoration(done, len(kept), result, time.monotonic() - began)


def _pairs(path: Path, output: Path) -> list[tuple[Path, Path]]:
    """Pictures and where they go."""
    if not path.is_dir():
        made = output / path.name if output.is_dir() else output
        pairs = [(path, made)]
    else:
        if output.suffix.lower() in SUFFIXES or output.is_file():
            raise InputError("is a picture, the source a folder", where=str(output), hint="Give a folder for them.")
        found = [one for one in images.image_files(path) if one.suffix.lower() in SUFFIXES]
        pairs = [(one, output / one.relative_to(path)) for one in found]
        if not pairs:
            raise InputError("holds no pictures", where=str(path), hint=f"Give a folder of {', '.join(SUFFIXES)}.")
    for taken, made in pairs:
        if made.exists() and taken.exists() and made.samefile(taken):
            raise InputError("is the source itself", where=str(made), hint="Give another name.")
        if made.suffix.lower() not in SUFFIXES:
            raise InputError(
                "is not a picture that can be written", where=str(made), hint=f"Use {', '.join(SUFFIXES)}."
            )
    return pairs


def _restored(picture: Picture, network: Network, run: Run) -> Picture:
    """``picture`` by the network; what it does not take is resized: chroma beside luma, transparency."""
    width, height = (side * network.scale for side in picture.size)
    if network.channels == 1:
        ycbcr = images.rgb_to_ycbcr(picture.rgb)
        luma = run(np.ascontiguousarray(ycbcr[..., :1].transpose(2, 0, 1), np.float32))
        chroma = images.resize(ycbcr[..., 1:], width, height)
        bright = np.clip(luma[0].astype(np.float64), 0.0, 1.0)[..., None]
        rgb = images.ycbcr_to_rgb(np.concatenate([bright, chroma], axis=2))
    else:
        planes = run(np.ascontiguousarray(picture.rgb.transpose(2, 0, 1), np.float32))
        rgb = planes.transpose(1, 2, 0).astype(np.float64)
    if rgb.shape[:2] != (height, width):
        raise InputError(
            f"makes {rgb.shape[1]}x{rgb.shape[0]} of {picture.size[0]}x{picture.size[1]}",
            where=network.name,
            hint=f"A network of scale {network.scale} makes {width}x{height}.",
        )
    alpha = None if picture.alpha is None else images.resize(picture.alpha, width, height)
    return Picture(rgb, alpha, picture.bits)
