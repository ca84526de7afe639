"""Studies of motion give the right result where it is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codesign.hw.errors import InputError
from codesign.studies.clips import Clip, flow_by, from_folder, over_photograph, view
from codesign.studies.stabilise import shaken, smoothed, stabilise
from codesign.studies.temporal import temporal


def known_flow(path: np.ndarray):
    """The true flow of a camera's clip; each frame is identified by its first pixel."""

    def of(clip: Clip):
        index = {frame[..., 0].tobytes(): i for i, frame in enumerate(clip.frames)}

        def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            a, b = (index[frame[..., 0].tobytes()] for frame in (first, second))
            step = path[a] - path[b]
            return np.broadcast_to(step[:, None, None], (2, *first.shape[:2])).astype(np.float32)

        return flow

    return of


def test_a_view_between_pixels() -> None:
    picture = np.arange(20.0).reshape(4, 5)
    np.testing.assert_allclose(view(picture, (2, 2), (1.5, 0.25)), [[2.75, 3.75], [7.75, 8.75]])


def test_a_perfect_flow_leaves_no_jitter_but_the_smoothing_s() -> None:
    clip, even = shaken((64, 48), 40, 4.0)
    assert clip.path is not None
    result, made = stabilise(clip, even, 4.0, known_flow(clip.path)(clip), "known")
    assert result.step_error_pixels < 1e-5
    assert result.jitter_before > 5.0
    assert result.jitter_after < 0.05 * result.jitter_before
    assert result.holds
    assert len(made) == 40


def test_no_flow_leaves_all_of_it() -> None:
    clip, even = shaken((64, 48), 20, 4.0)
    result, _ = stabilise(clip, even, 4.0, lambda a, _: np.zeros((2, *a.shape[:2]), np.float32), "none")
    assert result.jitter_after == pytest.approx(result.jitter_before)
    assert not result.holds
    assert result.change == pytest.approx(0.0)


def test_smoothing_keeps_even_paths() -> None:
    even = np.stack([2.0 * np.arange(30), -np.arange(30.0)], 1)
    np.testing.assert_allclose(smoothed(even), even, atol=1e-9)


def test_guidance_calms_grain_and_blurs_nothing() -> None:
    """With a camera that stands still, seven frames of grain are averaged; a wrong flow does no harm."""
    still = over_photograph((64, 48), np.zeros((8, 2)))
    none = lambda a, _: np.zeros((2, *a.shape[:2]), np.float32)  # noqa: E731
    result = temporal(still, none, "none")
    assert result.truth_error == pytest.approx(0.0, abs=1e-12)
    assert result.change < -0.5
    assert result.guided_db > result.per_frame_db + 1.0
    wrong = temporal(over_photograph((64, 48), np.stack([6.0 * np.arange(5), np.zeros(5)], 1)), none, "none")
    assert wrong.guided_db > wrong.per_frame_db - 1.0


def test_clips_and_networks_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves the photograph"):
        over_photograph((500, 500), np.array([[0.0, 0.0], [30.0, 0.0]]))
    for index in range(3):
        Image.fromarray(np.zeros((20 + index, 30, 3), np.uint8)).save(tmp_path / f"{index}.png")
    with pytest.raises(InputError, match="not a clip of three"):
        from_folder(tmp_path, None)
    assert from_folder(tmp_path, (16, 12)).size == (16, 12)
    with pytest.raises(InputError, match="no trained weights"):
        flow_by("spynet", None)
    with pytest.raises(InputError, match="makes no flow"):
        flow_by("sesr_m5_x2", None)
