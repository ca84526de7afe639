"""Restore a video: read, run the network on every frame, write; an interrupted run can be continued."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codesign.compile.importing.check.result import ImportCheck
from codesign.hw.errors import InputError
from codesign.hw.files import is_special
from codesign.video.making import difference, making_of_run
from codesign.video.passes import BetweenFrames, EachFrame, Pass, Window
from codesign.video.pump import DEPTH, pump
from codesign.video.sink import SUFFIXES, Restored, Sink, Timing, making_of
from codesign.video.source import probe
from codesign.video.targets import Device, running
from codesign.workflows.sources import Source
from codesign.workflows.watch import Say, silent

Tick = Callable[[int, int | None], None]


Existing = Literal["refuse", "resume", "overwrite"]
"""Treatment of an output that exists already."""


@dataclass(frozen=True)
class Restoration:
    """The result of restoring a video."""

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
    source: Source,
    device: Device = Device(),
    *,
    existing: Existing = "refuse",
    depth: int = DEPTH,
    say: Say = silent,
    tick: Tick = silent,
    imported: Callable[[ImportCheck], object] = silent,
) -> Restoration:
    """Run every frame of ``path`` through the network into ``output``; audio is copied, times are kept.

    ``tick`` is told frames written and expected, ``imported`` how far the imported network agrees with the model. An
    interruption (``KeyboardInterrupt``) leaves a playable file, which ``existing="resume"`` continues. Raises
    :class:`InputError` for an unsuitable source (see :func:`codesign.video.source.probe`), for a network that makes no
    frames, and for an output that exists already or was made by something else.
    """
    network = source.network
    if network is None or network.task == "flow":
        raise InputError(
            "makes no frames",
            where=source.name,
            hint="Name one that up-scales, denoises or interpolates; `networks` lists them.",
        )
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(
            "is not a container format that can be written", where=str(output), hint=f"Use {', '.join(SUFFIXES)}."
        )
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError("is the source itself", where=str(output), hint="Give another name.")
    special = is_special(output)
    if special and existing == "resume":
        raise InputError(
            "is not a regular file, so there is nothing to resume", where=str(output), hint="Leave --resume out."
        )
    if not special:
        output = Path(os.path.realpath(output))  # the target of a link
    video = probe(path)
    way: Pass = (BetweenFrames if network.task == "interpolate" else EachFrame)(video, network)
    size = video.width * network.scale, video.height * network.scale
    making = making_of_run(path, source, device, size)
    kept = None if special else _earlier(output, making, existing)
    # Compile before the output is touched: a network that does not compile costs nothing.
    with running(source, device, (video.width, video.height), say, imported) as run:
        sink = Sink(output, video, size, Timing(way.time_base, way.rate), json.dumps(making), kept, way.times)
        if kept is not None:
            kept.unlink()
        resumed = sink.done
        began = time.monotonic()
        whole = False

        def write(restored: list[Restored]) -> None:
            for one in restored:
                sink.write(one)
                tick(sink.done, way.frames)

        def work(window: Window) -> list[Restored]:
            return way.made(window, run)

        say("restore")
        try:
            pump(way.windows(resumed), work, write, depth=max(1, depth // network.images))
            whole = True
        finally:
            sink.close(whole=whole)
    return Restoration(sink.done, resumed, size, time.monotonic() - began)


def _earlier(output: Path, making: dict[str, Any], existing: Existing) -> Path | None:
    """An interrupted output, renamed to be continued. Raises :class:`InputError` for an output that is in the way."""
    aside = output.with_name(f"{output.stem}.interrupted{output.suffix}")
    found = aside if aside.exists() else output if output.exists() else None
    if found is None or existing == "overwrite":
        aside.unlink(missing_ok=True)
        return None
    if existing == "refuse":
        raise InputError(
            "exists already", where=str(found), hint="Continue it with --resume, or replace it with --overwrite."
        )
    if (other := difference(making_of(found), making)) is not None:
        raise InputError(
            f"cannot be continued: it was made with {other}",
            where=str(found),
            hint="Use the same inputs, or --overwrite.",
        )
    return found if found == aside else found.rename(aside)
