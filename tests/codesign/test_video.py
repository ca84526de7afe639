"""Video in, video out: times, audio, colours, odd sizes, interruption, and a stream whose memory does not grow."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from codesign import networks
from codesign.cli import app as cli
from codesign.hw.errors import InputError
from codesign.metrics import psnr
from codesign.pictures.images import to_real
from codesign.video.making import difference, making_of_run
from codesign.video.pump import pump
from codesign.video.restore import restore
from codesign.video.sink import GROUP, Restored, Sink, Timing
from codesign.video.source import frames, luma, probe, rgb
from codesign.video.targets import Device
from codesign.workflows.sources import Source, find


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A smooth scene that moves: ``uint8[H, W, 3]``."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin((x + 3 * index) / (9.0 + c)) * np.cos(y / (7.0 + c)) for c in range(3)]
    return np.uint8(127.5 + 100.0 * np.stack(planes, 2))


def make_video(
    path: Path,
    count: int = 6,
    size: tuple[int, int] = (32, 24),
    *,
    times: list[int] | None = None,
    audio: bool = False,
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    context: dict[str, int] | None = None,
) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=24, options=options or {"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 12000)
        for name, value in (context or {}).items():
            setattr(stream.codec_context, name, value)
        sound = out.add_stream("aac", rate=48000, layout="mono") if audio else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = (times or [500 * i for i in range(count)])[index], Fraction(1, 12000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            for index in range(count * 2000 // 1024):
                block = np.float32(0.1 * np.sin(np.arange(1024) * 0.06 + index))[None]
                made = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                made.sample_rate, made.pts = 48000, 1024 * index
                out.mux(sound.encode(made))
            out.mux(sound.encode(None))
    return path


def turn(path: Path, degrees: int) -> None:
    """Set a clockwise rotation in an MP4's track header (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0), 45: (1, 1, -1, 1)}[degrees]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def read(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as container:
        shown = list(container.decode(container.streams.video[0]))
        return [frame.time for frame in shown], [frame.to_ndarray(format="rgb24") for frame in shown]


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def test_times_and_audio_are_kept(tmp_path: Path) -> None:
    uneven = [0, 500, 1400, 1500, 3000, 3333]
    source = make_video(tmp_path / "in.mp4", times=uneven, audio=True)
    ticks: list[tuple[int, int | None]] = []
    made = restore(source, tmp_path / "out.mp4", find("sesr_m5_x2"), tick=lambda *told: ticks.append(told))
    times, pictures = read(tmp_path / "out.mp4")
    assert times == pytest.approx([pts / 12000 for pts in uneven])
    assert (made.frames, made.resumed_frames, made.size) == (6, 0, (64, 48))
    assert [done for done, _ in ticks] == [1, 2, 3, 4, 5, 6]
    assert sound(tmp_path / "out.mp4") == sound(source)
    for index, shown in enumerate(pictures):
        assert shown.shape == (48, 64, 3)
        assert psnr(to_real(shown[::2, ::2]), to_real(picture(index, 32, 24)), shave=2) > 20.0


@pytest.mark.parametrize(
    ("network", "size", "out"),
    [("sesr_m5_x2", (33, 21), (66, 42)), ("quicksrnet_s_x3", (31, 23), (93, 69))],
)
def test_odd_sizes(tmp_path: Path, network: str, size: tuple[int, int], out: tuple[int, int]) -> None:
    source = make_video(tmp_path / "in.mkv", 3, size, pix_fmt="yuv444p")
    restore(source, tmp_path / "out.mp4", find(network))
    _, pictures = read(tmp_path / "out.mp4")
    assert [shown.shape for shown in pictures] == [(out[1], out[0], 3)] * 3


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("network", ["bicubic_x2", "quicksrnet_s_x2"])
def test_a_turned_video_comes_out_upright(tmp_path: Path, network: str, degrees: int) -> None:
    source = make_video(tmp_path / "in.mp4", 3, (36, 22))
    turn(source, degrees)
    made = restore(source, tmp_path / "out.mp4", find(network))
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = list(container.decode(container.streams.video[0]))
    assert made.size == (72, 44) if degrees == 180 else (44, 72)
    assert all(frame.rotation == 0 for frame in shown)
    if network == "bicubic_x2":  # the other has no trained weights
        for index, frame in enumerate(shown):
            small = to_real(frame.to_ndarray(format="rgb24")[::2, ::2])
            assert psnr(small, to_real(np.rot90(picture(index, 36, 22), -degrees // 90)), shave=2) > 20.0


def test_a_written_frame_leaves_its_source_alone(tmp_path: Path) -> None:
    """At the source's size and in its format too: the decoder predicts the next frame of it."""
    source = tmp_path / "in.mp4"  # which says what range its codes have, as cameras' files do
    restore(make_video(tmp_path / "plain.mp4", 2, (16, 12)), source, find("bicubic_x2"))
    video = probe(source)
    one = next(frames(video))
    before = one.frame.to_ndarray()
    sink = Sink(tmp_path / "out.mp4", video, (32, 24), Timing(video.time_base, video.rate), "test")
    sink.write(Restored(one.frame, one.pts, 1.0 - luma(one, video)))
    sink.close(whole=True)
    np.testing.assert_array_equal(one.frame.to_ndarray(), before)
    made = probe(tmp_path / "out.mp4")
    assert np.abs(1.0 - luma(one, video) - luma(next(frames(made)), made)).mean() < 0.03


def shown_as(source: Path, index: int) -> np.ndarray:
    return to_real(read(source)[1][index])


def test_a_frame_between_every_two(tmp_path: Path) -> None:
    """The source's frames as they came, and between them, in the middle of their times, what the network makes."""
    import torch

    class Mean(torch.nn.Module):
        def forward(self, pair: torch.Tensor) -> torch.Tensor:
            return (pair[:, :3] + pair[:, 3:]) / 2

    uneven = [0, 500, 1401, 1500, 3000]
    source = make_video(tmp_path / "in.mp4", times=uneven, count=5, audio=True)
    network = Source("mean", networks.get("rife"), Mean(), None, True)
    ticks: list[tuple[int, int | None]] = []
    made = restore(source, tmp_path / "out.mp4", network, tick=lambda *told: ticks.append(told))
    times, _ = read(tmp_path / "out.mp4")
    assert (made.frames, made.size) == (9, (32, 24))
    assert ticks == [(done, 9) for done in range(1, 10)]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(uneven)]
    assert times == pytest.approx([pts / 12000 for pts in sorted(uneven + middles)])
    assert sound(tmp_path / "out.mp4") == sound(source)
    for index in range(5):
        before = shown_as(source, index)
        assert psnr(shown_as(tmp_path / "out.mp4", 2 * index), before) > 34.0
        if index < 4:
            middle = (before + shown_as(source, index + 1)) / 2
            assert psnr(shown_as(tmp_path / "out.mp4", 2 * index + 1), middle) > 30.0


def test_a_doubled_video_goes_on(tmp_path: Path) -> None:
    """Interrupted in its second group and resumed: as if it never had been."""
    count = GROUP + 6
    source = make_video(tmp_path / "in.mp4", count)
    network = find("rife")

    def interrupt(done: int, _: int | None) -> None:
        if done == GROUP + 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(source, tmp_path / "out.mp4", network, tick=interrupt)
    made = restore(source, tmp_path / "out.mp4", network, existing="resume")
    assert (made.frames, made.resumed_frames) == (2 * count - 1, GROUP)
    whole = restore(source, tmp_path / "whole.mp4", network)
    assert whole.frames == made.frames
    ours, theirs = read(tmp_path / "out.mp4"), read(tmp_path / "whole.mp4")
    assert ours[0] == pytest.approx(theirs[0])
    # As near as the encoder, which begins again, brings them; neighbours are at 30 dB.
    assert all(psnr(to_real(a), to_real(b)) > 35.0 for a, b in zip(ours[1], theirs[1], strict=True))


def test_ten_bits_stay_ten(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 3, pix_fmt="yuv420p10le")
    video = probe(source)
    assert video.ten_bit
    for name in ("sesr_m5_x2", "quicksrnet_s_x2"):
        restore(source, tmp_path / f"{name}.mkv", find(name))
        with av.open(str(tmp_path / f"{name}.mkv")) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


def test_planes_of_a_frame_are_the_projects(tmp_path: Path) -> None:
    """Luma and RGB agree with the picture that was encoded, in both colour spaces."""
    from codesign.pictures.images import luma as luma_of

    source = make_video(tmp_path / "in.mkv", 1, (64, 48), pix_fmt="yuv444p", options={"crf": "0"})
    video = probe(source)
    (decoded,) = frames(video)
    want = to_real(picture(0, 64, 48))
    assert not video.bt709
    np.testing.assert_allclose(rgb(decoded, video).transpose(1, 2, 0), want, atol=0.02)
    np.testing.assert_allclose(luma(decoded, video)[0], luma_of(want), atol=0.01)


def test_a_clip_s_network_takes_frames_together(tmp_path: Path) -> None:
    """Three at a time, the last group filled up; nothing else is asked of the network here."""
    import torch

    class Mean(torch.nn.Module):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            mean = clip.reshape(1, 3, 3, *clip.shape[2:]).mean(1)
            return torch.nn.functional.interpolate(mean, scale_factor=4).repeat(1, 3, 1, 1)

    found = find("sesr_m5_x2")
    clip = Source("mean", networks.get("basicvsr_x4"), Mean(), None, True)
    assert found.network is not None
    source = make_video(tmp_path / "in.mp4", 5)
    assert restore(source, tmp_path / "out.mp4", clip).frames == 5
    _, pictures = read(tmp_path / "out.mp4")
    _, before = read(source)
    np.testing.assert_allclose(
        pictures[1][::4, ::4].astype(float), np.mean([p.astype(float) for p in before[:3]], 0), atol=8.0
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_interrupted_output_plays_and_goes_on(tmp_path: Path, suffix: str) -> None:
    count = 2 * GROUP + 9
    source = make_video(tmp_path / "in.mp4", count, (16, 16), audio=True)
    output = tmp_path / f"out{suffix}"
    network = find("bicubic_x2")

    def interrupt(done: int, expected: int | None) -> None:
        assert expected == count
        if done == GROUP + 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(source, output, network, tick=interrupt)
    times, before = read(output)
    assert GROUP + 12 <= len(times) <= GROUP + 13
    with pytest.raises(InputError, match="exists already"):
        restore(source, output, network)
    with pytest.raises(InputError, match="another network"):
        restore(source, output, find("sesr_m5_x2"), existing="resume")
    made = restore(source, output, network, existing="resume")
    assert (made.frames, made.resumed_frames) == (count, GROUP)
    whole = tmp_path / f"whole{suffix}"
    restore(source, whole, network)
    (ours, shown), (theirs, wanted) = read(output), read(whole)
    assert ours == theirs
    np.testing.assert_array_equal(shown[:GROUP], before[:GROUP])
    for a, b in zip(shown, wanted, strict=True):  # what the encoder had seen before it differs
        assert psnr(to_real(a), to_real(b)) > 35.0
    assert sound(output) == sound(source)
    assert [path.name for path in tmp_path.glob("*interrupted*")] == []


def test_only_the_same_run_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decides the frames and differs is named, and the interrupted output stays as it is."""
    source = make_video(tmp_path / "in.mp4", GROUP + 5, (16, 16))
    output = tmp_path / "out.mp4"
    network = find("bicubic_x2")

    def interrupt(done: int, _: int | None) -> None:
        if done == GROUP + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(source, output, network, tick=interrupt)
    before = output.read_bytes()

    def refused(what: str, *, of: Path = source, by: Source = network, **options: Any) -> None:
        with pytest.raises(InputError, match=f"made with {what}"):
            restore(of, output, by, existing="resume", **options)
        assert output.read_bytes() == before

    assert network.module is not None
    changed = copy.deepcopy(network.module)
    with torch.no_grad():
        next(changed.parameters()).view(-1)[0] += 1e-6
    refused("other weights", by=dataclasses.replace(network, module=changed))
    twin = tmp_path / "twin" / "in.mp4"  # another source of the same name and size
    twin.parent.mkdir()
    content = bytearray(source.read_bytes())
    content[-1] ^= 1
    twin.write_bytes(content)
    refused("another source", of=twin)
    refused("another target", device=Device("scanline-model", "tiny"))
    with monkeypatch.context() as patched:
        patched.setattr("codesign.__version__", "999")
        refused("another release")
    (tmp_path / "moved.mp4").write_bytes(source.read_bytes())  # the same film under another name goes on
    made = restore(tmp_path / "moved.mp4", output, network, existing="resume")
    assert (made.frames, made.resumed_frames) == (GROUP + 5, GROUP)
    make_video(tmp_path / "other.mp4", 3, (16, 16))
    with pytest.raises(InputError, match="something else"):
        restore(source, tmp_path / "other.mp4", network, existing="resume")


def test_another_machine_of_the_same_name(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", 3, (16, 16))
    machine = tmp_path / "m.toml"
    machine.write_text('extends = "tiny"\n')
    network, options = find("bicubic_x2"), (Device("scanline-model", str(machine)), (32, 32))
    before = making_of_run(source, network, *options)
    machine.write_text('extends = "tiny"\nscratchpad_bytes = 65536\n')
    after = making_of_run(source, network, *options)
    assert difference(json.dumps(before), after) == "another accelerator"
    assert difference(json.dumps(before), before) is None


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", GROUP + 5, (16, 16))
    real, link = tmp_path / "real.mp4", tmp_path / "link.mp4"
    link.symlink_to(real)
    network = find("bicubic_x2")

    def interrupt(done: int, _: int | None) -> None:
        if done == GROUP + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(source, link, network, tick=interrupt)
    restore(source, link, network, existing="resume")
    assert link.is_symlink()
    assert len(read(real)[0]) == GROUP + 5
    pipe = tmp_path / "pipe.mkv"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        restore(source, pipe, network)
        content, _ = reader.communicate()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "read.mkv").write_bytes(content)
    assert len(read(tmp_path / "read.mkv")[0]) == GROUP + 5
    with pytest.raises(InputError, match="not a regular file"):
        restore(source, pipe, network, existing="resume")


def test_a_killed_process_leaves_what_plays(tmp_path: Path) -> None:
    """SIGKILL: the groups of pictures that were finished are there, and the run goes on from them."""
    source = make_video(tmp_path / "in.mp4", 4000, (16, 16))
    output = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "codesign", "restore", str(source), "-o", str(output), "--network", "bicubic_x2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300

    def playable() -> int:
        try:
            return len(read(output)[0])
        except (av.error.FFmpegError, OSError, IndexError):
            return 0

    while playable() < GROUP and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = playable()
    assert GROUP <= kept < 4000

    def enough(done: int, _: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(source, output, find("bicubic_x2"), existing="resume", tick=enough)
    assert len(read(output)[0]) >= kept - GROUP


def test_the_golden_model_restores(tmp_path: Path) -> None:
    """Every frame is what the simulated machine gives, to the bit before the video's own compression."""
    source = make_video(tmp_path / "in.mp4", 2, (23, 17), pix_fmt="yuv444p")
    for target in ("cpu", "scanline-model"):
        restore(source, tmp_path / f"{target}.mkv", find("bicubic_x2"), Device(target, "tiny"))
    ours, theirs = (read(tmp_path / f"{target}.mkv")[1] for target in ("cpu", "scanline-model"))
    for a, b in zip(ours, theirs, strict=True):
        assert psnr(to_real(a), to_real(b)) > 35.0


def test_what_cannot_be_taken_is_said(tmp_path: Path) -> None:
    network = find("bicubic_x2")
    woven = make_video(
        tmp_path / "woven.mp4", 4, (32, 32), options={"x264opts": "tff=1"}, context={"flags": 1 << 29 | 1 << 18}
    )
    with pytest.raises(InputError, match="interlaced"):
        restore(woven, tmp_path / "a.mp4", network)
    hdr = make_video(tmp_path / "hdr.mp4", 2, pix_fmt="yuv420p10le", context={"color_trc": 16})
    with pytest.raises(InputError, match="HDR"):
        restore(hdr, tmp_path / "a.mp4", network)
    good = make_video(tmp_path / "good.mp4", 2)
    flow = Source("spynet", networks.get("spynet"), None, None, False)
    with pytest.raises(InputError, match="makes no frames"):
        restore(good, tmp_path / "a.mp4", flow)
    turn(make_video(tmp_path / "turned.mp4", 2), 45)
    with pytest.raises(InputError, match="45 degrees"):
        restore(tmp_path / "turned.mp4", tmp_path / "a.mp4", network)
    with pytest.raises(InputError, match="not a container"):
        restore(good, tmp_path / "a.avi", network)
    with pytest.raises(InputError, match="source itself"):
        restore(good, good, network, existing="overwrite")
    with pytest.raises(InputError, match="no such video"):
        restore(tmp_path / "absent.mp4", tmp_path / "a.mp4", network)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match="not a readable video"):
        restore(tmp_path / "text.mp4", tmp_path / "a.mp4", network)
    with pytest.raises(InputError, match="GPU"):
        restore(good, tmp_path / "a.mp4", network, Device("cuda"))
    assert not (tmp_path / "a.mp4").exists()


def test_a_stream_waits_for_its_slowest_part() -> None:
    """However long the stream: what was read and not yet written stays within the bound."""
    depth, lock = 3, threading.Lock()
    alive, most, order = 0, 0, []

    def items():
        nonlocal alive, most
        for index in range(200):
            with lock:
                alive += 1
                most = max(most, alive)
            yield index

    def sink(item: int) -> None:
        nonlocal alive
        time.sleep(0.001)
        order.append(item)
        with lock:
            alive -= 1

    assert pump(items(), lambda item: -item, sink, depth=depth) == 200
    assert order == [-index for index in range(200)]
    assert most <= 2 * depth + 4


@pytest.mark.parametrize("part", ["source", "work", "sink"])
def test_a_failure_anywhere_ends_the_stream(part: str) -> None:
    written: list[int] = []

    def fail(name: str, index: int) -> None:
        if name == part and index == 20:
            raise InputError(f"{name} fails")

    def items():
        for index in range(1000):
            fail("source", index)
            yield index

    def work(index: int) -> int:
        fail("work", index)
        return index

    def sink(index: int) -> None:
        fail("sink", index)
        written.append(index)

    with pytest.raises(InputError, match=f"{part} fails"):
        pump(items(), work, sink)
    assert written == list(range(20))
    assert threading.active_count() < 20


@pytest.mark.parametrize(("network", "warns"), [("sesr_m5_x2", False), ("quicksrnet_s_x2", True)])
def test_the_command_tells_what_it_did(tmp_path: Path, monkeypatch, capsys, network: str, warns: bool) -> None:
    source = make_video(tmp_path / "in.mp4", 3)
    output = tmp_path / "out.mp4"
    arguments = ["restore", str(source), "-o", str(output), "--network", network, "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["codesign", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    shown = capsys.readouterr()
    data = json.loads(shown.out)
    assert (data["frames"], data["output_size"], data["network"]) == (3, "64x48", network)
    assert ("random weights" in shown.err) == warns
