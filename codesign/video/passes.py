"""Passes of a network through a video: the frames taken at a time, the frames made from them, and their times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Protocol

import numpy as np

from codesign.networks import Network
from codesign.video.sink import Restored
from codesign.video.source import Decoded, Video, frames, luma, rgb, times
from codesign.video.tiles import Run

Window = tuple[Decoded, ...]


class Pass(Protocol):
    """A pass of a network through a video."""

    @property
    def rate(self) -> Fraction:
        """Average frames per second of the output."""
        ...

    @property
    def time_base(self) -> Fraction:
        """Unit of the output's times, in seconds."""
        ...

    @property
    def frames(self) -> int | None:
        """Number of frames of the output, if the source's container states its own."""
        ...

    def windows(self, done: int) -> Iterator[Window]:
        """The inputs of the network, one call at a time, for an output that has its first ``done`` frames (whole
        groups)."""
        ...

    def made(self, window: Window, run: Run) -> list[Restored]:
        """The frames of the output that a window yields."""
        ...

    def times(self, count: int) -> list[int]:
        """Times of the output's first ``count`` frames; decodes none."""
        ...


@dataclass(frozen=True)
class EachFrame:
    """Restores every frame, one after the other, or as many at a time as the network takes."""

    video: Video
    network: Network

    @property
    def rate(self) -> Fraction:
        return self.video.rate

    @property
    def time_base(self) -> Fraction:
        return self.video.time_base

    @property
    def frames(self) -> int | None:
        return self.video.frames

    def windows(self, done: int) -> Iterator[Window]:
        stream = frames(self.video, done)
        while window := tuple(islice(stream, self.network.images)):
            yield window

    def made(self, window: Window, run: Run) -> list[Restored]:
        """A short last window is filled up with its last frame."""
        planes = [luma(one, self.video) if self.network.channels == 1 else rgb(one, self.video) for one in window]
        wanted = self.network.images
        result = run(np.concatenate(planes + planes[-1:] * (wanted - len(planes)), axis=0))
        parts = np.split(result, wanted, axis=0)
        return [Restored(one.frame, one.pts, part) for part, one in zip(parts, window, strict=False)]

    def times(self, count: int) -> list[int]:
        return times(self.video, count)


@dataclass(frozen=True)
class BetweenFrames:
    """Passes every frame on, and inserts after each but the last a frame interpolated between it and the next."""

    video: Video
    network: Network

    @property
    def rate(self) -> Fraction:
        return 2 * self.video.rate

    @property
    def time_base(self) -> Fraction:
        return self.video.time_base / 2  # the middle of two times is a whole number of units

    @property
    def frames(self) -> int | None:
        return None if self.video.frames is None else max(1, 2 * self.video.frames - 1)

    def windows(self, done: int) -> Iterator[Window]:
        """Pairs of neighbouring frames; then the last frame alone."""
        last: Decoded | None = None
        for one in frames(self.video, done // 2):
            if last is not None:
                yield last, one
            last = one
        if last is not None:
            yield (last,)

    def made(self, window: Window, run: Run) -> list[Restored]:
        one = window[0]
        result = [Restored(one.frame, 2 * one.pts)]
        if len(window) > 1:
            middle = run(np.concatenate([rgb(frame, self.video) for frame in window], axis=0))
            result.append(Restored(one.frame, one.pts + window[1].pts, middle))
        return result

    def times(self, count: int) -> list[int]:
        known = times(self.video, count // 2 + 1)
        middles = [a + b for a, b in itertools.pairwise(known)]
        shown = [2 * one for one in known]
        return sorted(shown + middles)[:count]
