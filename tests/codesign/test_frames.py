"""Several frames in parallel give the same results as each alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from codesign.hw.errors import InputError
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate, simulate_frames
from codesign.workflows.sources import find
from codesign.workflows.watch import Watch


@pytest.fixture(scope="module")
def compiled():
    return compile_source(find("espcn_x3"), "tiny", FrameChoice((23, 17)))


def other(frame, shift):
    return dataclasses.replace(frame, tensor=np.ascontiguousarray(np.roll(frame.tensor, shift, axis=3)))


def test_frames_side_by_side_are_as_if_alone(compiled):
    frames = [other(compiled.frame, shift) for shift in range(3)]
    ticks = []
    together = simulate_frames(
        compiled, frames, watch=Watch(tick=lambda done, expected: ticks.append(expected)), jobs=2
    )
    for frame, result in zip(frames, together, strict=True):
        alone = simulate(dataclasses.replace(compiled, frame=frame))
        assert result.bit_exact is True
        np.testing.assert_array_equal(result.output, alone.output)
        assert result.counters == alone.counters
    assert not np.array_equal(together[0].output, together[1].output)


def test_a_frame_of_another_size_is_refused(compiled):
    short = dataclasses.replace(compiled.frame, tensor=compiled.frame.tensor[:, :, :-1])
    with pytest.raises(InputError, match="compiled for 23x17"):
        simulate_frames(compiled, [compiled.frame, short])


def test_an_interruption_ends_every_frame(compiled):
    def interrupt(done, expected):
        raise KeyboardInterrupt

    wide = compile_source(find("espcn_x3"), "tiny", FrameChoice((160, 120)))
    with pytest.raises(KeyboardInterrupt):
        simulate_frames(wide, [wide.frame] * 3, watch=Watch(tick=interrupt), jobs=2)


def test_a_folder_of_images(tmp_path, monkeypatch, capsys):
    from codesign.cli import app as cli

    rng = np.random.default_rng(1)
    for name in ("b", "a"):
        Image.fromarray(rng.integers(0, 256, (20, 26, 3), np.uint8)).save(tmp_path / f"{name}.png")
    saved = tmp_path / "restored"
    monkeypatch.setattr(
        "sys.argv",
        [
            "codesign",
            "simulate",
            "espcn_x3",
            "--accel",
            "tiny",
            "--input",
            str(tmp_path),
            "--save",
            str(saved),
            "--json",
            "-",
        ],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    frames = json.loads(capsys.readouterr().out)["frames"]
    assert [frame["input"][-5:] for frame in frames] == ["a.png", "b.png"]
    assert all(frame["bit_exact"] for frame in frames)
    assert Image.open(saved / "a.png").size == (78, 60)
