"""Frames and properties of a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.pictures.images import check_size

_HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273) of HDR video, which these networks were not trained for."""

_TURNS: dict[int, tuple[tuple[str, str], ...]] = {
    0: (),
    90: (("transpose", "cclock"),),
    180: (("hflip", ""), ("vflip", "")),
    270: (("transpose", "clock"),),
}
"""libavfilter's filters by anticlockwise degrees."""

_BT709, _BT2020 = 1, (9, 10)
HD_ROWS = 720


@dataclass(frozen=True)
class Video:
    """Properties of a file's first video stream."""

    path: Path
    width: int
    height: int
    time_base: Fraction  # unit of a frame's time, in seconds
    rate: Fraction  # average frames per second
    frames: int | None  # estimated by the container
    ten_bit: bool
    bt709: bool  # colour matrix; else BT.601
    audio: int  # number of streams
    rotation: int = 0  # anticlockwise degrees, a multiple of 90, by which frames must be turned to be upright

    @property
    def colorspace(self) -> Colorspace:
        return Colorspace.ITU709 if self.bt709 else Colorspace.ITU601


@dataclass(frozen=True)
class Decoded:
    """A decoded frame and its time in units of ``Video.time_base``."""

    frame: av.VideoFrame
    pts: int


def probe(path: Path) -> Video:
    """Read a file's properties and its first frame.

    Raises :class:`InputError` for a missing or broken file, and for video that is interlaced, turned by odd angles or
    HDR: these must be converted first.
    """
    with _opened(path) as container:
        if not container.streams.video:
            raise InputError("has no video stream", where=str(path), hint="Give a file with a video stream.")
        stream = container.streams.video[0]
        try:
            first = next(iter(container.decode(stream)), None)
        except av.error.FFmpegError as error:
            raise InputError(
                f"its video cannot be decoded ({error.strerror})",
                where=str(path),
                hint="Convert it first, for example with ffmpeg -i IN OUT.mp4.",
            ) from error
        if first is None:
            raise InputError(
                "has no frame that can be decoded",
                where=str(path),
                hint="The file is damaged: copy or convert it again.",
            )
        check_size(first.width, first.height, where=str(path))
        _check(first, path)
        if stream.codec_context.color_trc in _HDR:
            raise InputError(
                f"its transfer curve is {_HDR[stream.codec_context.color_trc]} (HDR)",
                where=str(path),
                hint="These networks take SDR: tone-map it first, with ffmpeg's zscale and tonemap filters.",
            )
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        frames = stream.frames or None
        if frames is None and stream.duration is not None and stream.time_base is not None:
            frames = max(1, round(float(stream.duration * stream.time_base * rate)))
        width, height = (first.width, first.height)[:: -1 if first.rotation % 180 else 1]
        known = int(first.colorspace) if int(first.colorspace) != 2 else None
        return Video(
            path=path,
            width=width,
            height=height,
            time_base=stream.time_base or Fraction(1, 90000),
            rate=rate,
            frames=frames,
            ten_bit=any(part.bits > 8 for part in first.format.components),
            bt709=known == _BT709 or known in _BT2020 or (known is None and first.height >= HD_ROWS),
            audio=len(container.streams.audio),
            rotation=first.rotation,
        )


def frames(video: Video, skip: int = 0) -> Iterator[Decoded]:
    """The frames after the first ``skip``, upright, in display order, with increasing times.

    A frame without a time gets one from the average rate. Raises :class:`InputError` where the file turns out to be
    interlaced, to change size, or to be broken at its beginning; frames after a later damage are left out, as players
    do.
    """
    step = max(1, round(1 / (video.rate * video.time_base)))
    last = None
    with _opened(video.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        turned = _turning(stream, video.rotation)
        for index, frame in enumerate(container.decode(stream)):
            pts = frame.pts if frame.pts is not None else (last + step if last is not None else 0)
            if last is not None and pts <= last:
                pts = last + 1
            last = pts
            if index < skip:
                continue
            _check(frame, video.path)
            frame = turned(frame)
            if (frame.width, frame.height) != (video.width, video.height):
                raise InputError(
                    f"changes its size from {video.width}x{video.height} to {frame.width}x{frame.height}",
                    where=f"{video.path}, frame {index}",
                    hint="Cut it into files of one size.",
                )
            yield Decoded(frame, pts)


def times(video: Video, count: int) -> list[int]:
    """Times of the first ``count`` frames, equal to those of :func:`frames`, without decoding any."""
    with _opened(video.path) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    known = sorted(packet.pts for packet in packets if packet.pts is not None)
    if len(known) < len(packets):
        return [one.pts for one in islice(frames(video), count)]
    return known[:count]


def rgb(decoded: Decoded, video: Video) -> NDArray[np.float32]:
    """``float32[3, H, W]`` in [0, 1]."""
    deep = "rgb48le" if video.ten_bit else "rgb24"
    pixels = decoded.frame.reformat(format=deep, src_colorspace=video.colorspace).to_ndarray()
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(65535 if video.ten_bit else 255)


def luma(decoded: Decoded, video: Video) -> NDArray[np.float32]:
    """``float32[1, H, W]``: studio-range luma divided by 255, as in :mod:`codesign.pictures.images`."""
    wanted = "yuv420p10le" if video.ten_bit else "yuv420p"
    frame = decoded.frame.reformat(format=wanted, dst_color_range=ColorRange.MPEG)
    return plane(frame, video.ten_bit)[None].astype(np.float32) / np.float32(1023 if video.ten_bit else 255)


def plane(frame: av.VideoFrame, ten_bit: bool) -> NDArray[np.generic]:
    """The luma codes of a frame, ``[H, W]``."""
    first = frame.planes[0]
    dtype = np.dtype("<u2" if ten_bit else np.uint8)
    rows = np.frombuffer(memoryview(first), np.uint8).reshape(-1, first.line_size)[: frame.height]
    return np.ascontiguousarray(rows[:, : frame.width * dtype.itemsize]).view(dtype)


def _check(frame: av.VideoFrame, path: Path) -> None:
    if frame.interlaced_frame:
        raise InputError(
            "is interlaced: each frame shows two moments",
            where=str(path),
            hint="Deinterlace it first, for example with ffmpeg -i IN -vf bwdif OUT.",
        )
    if frame.rotation % 90:
        raise InputError(
            f"is rotated by {frame.rotation} degrees in its metadata",
            where=str(path),
            hint="Rotate its pixels first, for example with ffmpeg -i IN OUT.",
        )


def _turning(stream: av.VideoStream, rotation: int) -> Callable[[av.VideoFrame], av.VideoFrame]:
    """A function that turns the stream's frames upright: phones store them as the sensor is oriented."""
    filters = _TURNS[rotation % 360]
    if not filters:
        return lambda frame: frame
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=stream), *(graph.add(*one) for one in filters), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()

    def turn(frame: av.VideoFrame) -> av.VideoFrame:
        graph.push(frame)
        upright = graph.pull()
        assert isinstance(upright, av.VideoFrame)
        return upright

    return turn


def _opened(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path))
    except FileNotFoundError as error:
        raise InputError("no such video", where=str(path), hint="Check the path.") from error
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"is not a readable video ({reason})",
            where=str(path),
            hint="Convert it first, for example with ffmpeg -i IN OUT.mp4.",
        ) from error
