"""Frames written to a video file that is playable at every moment and can be continued after an interruption.

The output is its own checkpoint: MP4 is written in fragments, each a group of pictures (Matroska always is), and its
metadata states what made it. To continue, its complete groups are copied and the rest is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.video.source import Video

SUFFIXES = (".mp4", ".mov", ".mkv")
GROUP = 24
"""Frames of a group of pictures: the most that a killed process loses. A clip network's length divides it."""

MARK = "comment"
QUALITY = 16


@dataclass(frozen=True)
class Restored:
    """A frame to be written: planes ``float32[C, H, W]`` in [0, 1], or None for the source's frame unchanged."""

    source: av.VideoFrame  # the source frame; for a luma network it provides the chroma
    pts: int  # in units of ``Timing.time_base``
    planes: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Timing:
    """Unit of the output's times in seconds, and its average frames per second."""

    time_base: Fraction
    rate: Fraction


class Sink:
    """Writes restored frames and copies the source's audio.

    ``kept``: an interrupted output of the same making, whose complete groups are copied first; ``times`` gives the
    times of that many frames. After construction ``done`` is their number.
    """

    def __init__(
        self,
        path: Path,
        video: Video,
        size: tuple[int, int],
        timing: Timing,
        making: str,
        kept: Path | None = None,
        times: Callable[[int], list[int]] = lambda _: [],
    ) -> None:
        self.video, self.size, self.timing = video, size, timing
        odd = size[0] % 2 or size[1] % 2
        self.format = ("yuv444p" if odd else "yuv420p") + ("10le" if video.ten_bit else "")
        options = {"movflags": "frag_keyframe+delay_moov+default_base_moof+use_metadata_tags", "flush_packets": "1"}
        try:
            self.container = av.open(str(path), "w", container_options=options if path.suffix != ".mkv" else {})
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(
                f"cannot write here ({error.strerror})",
                where=str(path),
                hint="Check the folder's permissions and the free space.",
            ) from error
        self.container.metadata[MARK] = making
        self.stream: Any = self.container.add_stream(
            "libx264",
            rate=timing.rate,
            # No reordered frames, so that the last complete group ends at its last packet.
            options={"crf": str(QUALITY), "preset": "medium", "bf": "0", "sc_threshold": "0", "forced-idr": "1"},
        )
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt, context.gop_size = *size, self.format, GROUP
        context.time_base = self.stream.time_base = timing.time_base
        code = 1 if video.bt709 else 6
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = code, code, code, 1
        self.audio = self._audio() if video.audio else iter(())
        self.waiting: Any = None
        self.done = 0
        if kept is not None:
            self.container.start_encoding()
            packets = list(whole_groups(kept))
            # Containers shift all times if audio begins before zero: the source's own times are restored.
            for packet, pts in zip(packets, times(len(packets)), strict=False):
                packet.time_base, packet.pts, packet.dts = timing.time_base, pts, pts
                self._interleave(float(pts * timing.time_base))
                packet.stream = self.stream
                self.container.mux(packet)
                self.done += 1

    def write(self, restored: Restored) -> None:
        """Encode one frame at its source's time. Raises :class:`InputError` when the disk is full."""
        made = self._frame(restored)
        made.pts, made.time_base = restored.pts, self.timing.time_base
        made.pict_type = av.video.frame.PictureType.I if self.done % GROUP == 0 else av.video.frame.PictureType.NONE
        self._interleave(float(made.pts * made.time_base))
        self._mux(self.stream.encode(made))
        self.done += 1

    def close(self, *, whole: bool) -> None:
        """Finish the file. ``whole``: all frames are written, so the rest of the audio follows."""
        try:
            self._mux(self.stream.encode(None))
            if whole:
                self._interleave(float("inf"))
        finally:
            try:
                self.container.close()
            except (av.error.FFmpegError, OSError) as error:
                raise _full(error) from error

    def _mux(self, packets: Any) -> None:
        try:
            self.container.mux(packets)
        except (av.error.FFmpegError, OSError) as error:
            raise _full(error) from error

    def _frame(self, restored: Restored) -> av.VideoFrame:
        width, height = self.size
        deep = self.video.ten_bit
        if restored.planes is None:
            return restored.source.reformat(width, height, self.format, dst_color_range=1)
        planes = np.clip(restored.planes, 0.0, 1.0)
        if planes.shape[0] == 1:  # the chroma is the source's, enlarged
            frame = restored.source.reformat(
                width, height, self.format, interpolation=Interpolation.BICUBIC, dst_color_range=1
            )
            if frame is restored.source:  # the decoder predicts the next one from this
                frame = _copied(frame)
            top = 1023 if deep else 255
            _fill(frame.planes[0], np.floor(planes[0] * top + 0.5).astype("<u2" if deep else np.uint8).view(np.uint8))
            return frame
        top, dtype, name = (65535, np.uint16, "rgb48le") if deep else (255, np.uint8, "rgb24")
        pixels = np.floor(planes.transpose(1, 2, 0) * top + 0.5).astype(dtype)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=name)
        return frame.reformat(format=self.format, dst_colorspace=self.video.colorspace, dst_color_range=1)

    def _audio(self) -> Iterator[Any]:
        source = av.open(str(self.video.path))
        streams = list(source.streams.audio)
        copies = {}
        for stream in streams:
            try:
                copies[stream.index] = self.container.add_stream_from_template(stream)
            except (ValueError, av.error.FFmpegError) as error:
                raise InputError(
                    f"its audio ({stream.codec_context.name}) cannot be stored in {Path(self.container.name).suffix}",
                    where=str(self.video.path),
                    hint="Name the output .mkv, which takes any audio.",
                ) from error
        return self._packets(source, streams, copies)

    def _packets(self, source: Any, streams: list[Any], copies: dict[int, Any]) -> Iterator[Any]:
        with source:
            for packet in source.demux(streams):
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    yield packet

    def _interleave(self, seconds: float) -> None:
        """Copy the audio before ``seconds``."""
        while True:
            if self.waiting is None:
                self.waiting = next(self.audio, None)
            if self.waiting is None or float(self.waiting.dts * self.waiting.time_base) > seconds:
                return
            self._mux(self.waiting)
            self.waiting = None


def _fill(plane: av.video.plane.VideoPlane, pixels: NDArray[np.uint8]) -> None:
    """Write ``pixels [rows, bytes]`` to a plane, whose rows are padded and which may have more rows."""
    rows = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
    rows[: pixels.shape[0], : pixels.shape[1]] = pixels
    plane.update(rows.tobytes())


def _copied(frame: av.VideoFrame) -> av.VideoFrame:
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for ours, theirs in zip(copy.planes, frame.planes, strict=True):
        bytes_per_row = min(ours.line_size, theirs.line_size)
        rows = np.frombuffer(memoryview(theirs), np.uint8).reshape(-1, theirs.line_size)
        _fill(ours, rows[: min(len(rows), ours.buffer_size // ours.line_size), :bytes_per_row])
    return copy


def _full(error: Any) -> InputError:
    return InputError(f"the video cannot be written ({error.strerror})", where="output", hint="Is the disk full?")


def whole_groups(path: Path) -> Iterator[Any]:
    """The video packets of an interrupted output before its last key frame, whose group may be cut short."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        # Containers store lengths; the encoder's packets, which follow these, have start codes.
        respell = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
        group: list[Any] = []
        try:
            for packet in container.demux(stream):
                if packet.is_keyframe:
                    yield from group
                    group = []
                if packet.dts is not None:
                    group += respell.filter(packet)
        except av.error.FFmpegError:  # cut off within a packet
            return


def making_of(path: Path) -> str | None:
    """The making stored in an output; None for any other file."""
    try:
        with av.open(str(path)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            return tags.get(MARK)
    except (av.error.FFmpegError, OSError):
        return None
