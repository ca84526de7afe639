"""Restore a video: read, run the network on every frame, write, and go on where an earlier run was interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from codesign import simulate as verbs
from codesign.hw.errors import InputError
from codesign.video.pump import DEPTH, pump
from codesign.video.sink import SUFFIXES, Restored, Sink, making_of
from codesign.video.source import Decoded, Video, frames, luma, probe, rgb
from codesign.video.targets import Run, Target, running

Say = Callable[[str], None]
Tick = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Restoration:
    """What became of a video."""

    frames: int
    resumed_frames: int  # of them, from an earlier run
    size: tuple[int, int]
    seconds: float

    @property
    def frames_per_second(self) -> float:
        return (self.frames - self.resumed_frames) / max(self.seconds, 1e-9)


def restore(
    path: Path,
    output: Path,
    source: verbs.Source,
    *,
    target: Target = "cpu",
    accel: str = "base",
    resume: bool = False,
    overwrite: bool = False,
    depth: int = DEPTH,
    say: Say = lambda _: None,
    tick: Tick = lambda _, __: None,
) -> Restoration:
    """Every frame of ``path`` through the network into ``output``, audio copied, times kept.

    ``tick`` is told frames written and expected. An interruption (``KeyboardInterrupt``) leaves a playable file, from
    which ``resume`` goes on. Raises :class:`InputError` for a source that cannot be taken (see
    :func:`codesign.video.source.probe`), for a network that makes no frames, for an output that is there, or that
    something else made.
    """
    network = source.network
    if network is None or network.task not in ("upscale", "denoise"):
        raise InputError(
            "makes no restored frames", where=source.name, hint="Name one that up-scales or denoises: see `networks`."
        )
    if output.suffix.lower() not in SUFFIXES:
        raise InputError("is no container that is written here", where=str(output), hint=f"{', '.join(SUFFIXES)}.")
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError("is the source itself", where=str(output), hint="Give another name.")
    video = probe(path)
    size = video.width * network.scale, video.height * network.scale
    making = json.dumps(
        {"source": path.name, "bytes": path.stat().st_size, "network": source.name, "target": target,
         "accel": accel if target == "scanline-model" else None, "size": list(size)},
        sort_keys=True,
    )  # fmt: skip
    kept = _earlier(output, making, resume=resume, overwrite=overwrite)
    # Before the output is touched: a network that does not compile costs nothing.
    with running(source, target, (video.width, video.height), accel=accel, say=say) as run:
        sink = Sink(output, video, size, making, kept)
        if kept is not None:
            kept.unlink()
        resumed = sink.done
        began = time.monotonic()
        whole = False

        def write(restored: list[Restored]) -> None:
            for one in restored:
                sink.write(one)
                tick(sink.done, video.frames)

        def work(group: tuple[Decoded, ...]) -> list[Restored]:
            return _restored(group, video, run, network.channels)

        say("restore")
        try:
            pump(_groups(video, resumed, network.images), work, write, depth=max(1, depth // network.images))
            whole = True
        finally:
            sink.close(whole=whole)
    return Restoration(sink.done, resumed, size, time.monotonic() - began)


def _groups(video: Video, skip: int, count: int) -> Iterator[tuple[Decoded, ...]]:
    """Frames by ``count``; an earlier run's groups of pictures are multiples of it (see ``GROUP``)."""
    stream = frames(video, skip)
    while group := tuple(islice(stream, count)):
        yield group


def _restored(group: tuple[Decoded, ...], video: Video, run: Run, channels: int) -> list[Restored]:
    """A frame, or as many as the network takes at a time; a short last group is filled up with its last frame."""
    planes = [luma(one, video) if channels == 1 else rgb(one, video) for one in group]
    wanted = max(1, channels // 3)
    made = run(np.concatenate(planes + planes[-1:] * (wanted - len(planes)), axis=0))
    parts = np.split(made, wanted, axis=0)
    return [Restored(part, one) for part, one in zip(parts, group, strict=False)]


def _earlier(output: Path, making: str, *, resume: bool, overwrite: bool) -> Path | None:
    """An interrupted output, set aside to be continued. Raises :class:`InputError` for one that is in the way."""
    aside = output.with_name(f"{output.stem}.interrupted{output.suffix}")
    found = aside if aside.exists() else output if output.exists() else None
    if found is None or overwrite:
        aside.unlink(missing_ok=True)
        return None
    if not resume:
        raise InputError(
            "is there already", where=str(found), hint="--resume goes on with it, --overwrite begins again."
        )
    if making_of(found) != making:
        raise InputError(
            "was not made from this source by this network on this target", where=str(found),
            hint="Use the same command, or --overwrite.",
        )  # fmt: skip
    return found if found == aside else found.rename(aside)
