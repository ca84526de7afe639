"""Measures of flow, video and stabilisation, against cases computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codesign.hw.errors import InputError
from codesign.metrics.lpips import Lpips
from codesign.metrics.motion import end_point_error, jitter, sampled, visible, warping_error
from codesign.pictures.flows import flow_picture, load_flow, save_flow


def constant(u: float, v: float, height: int = 4, width: int = 6) -> np.ndarray:
    return np.stack([np.full((height, width), u), np.full((height, width), v)]).astype(np.float32)


def test_end_point_error_by_hand() -> None:
    truth = constant(0.0, 0.0)
    flow = truth.copy()
    flow[:, 0, 0] = 3.0, 4.0  # 5 pixels off
    found = end_point_error(flow, truth)
    assert found.epe_pixels == pytest.approx(5.0 / 24)
    assert found.outliers == pytest.approx(1 / 24)
    assert found.pixels == 24


def test_an_outlier_is_wrong_in_pixels_and_in_share() -> None:
    long = constant(100.0, 0.0)
    assert end_point_error(long + np.float32(2.9), long).outliers == 0.0  # 4.1 pixels, 4.1 %
    assert end_point_error(long + np.float32(4.0), long).outliers == 1.0  # 5.7 pixels, 5.7 %
    short = constant(10.0, 0.0)
    assert end_point_error(short + np.float32(2.0), short).outliers == 0.0  # 2.8 pixels, 28 %


def test_unknown_truth_does_not_count() -> None:
    truth = constant(1.0, 0.0)
    truth[:, 2:] = np.nan
    found = end_point_error(constant(1.0, 2.0), truth)
    assert (found.epe_pixels, found.pixels) == (2.0, 12)
    only = np.zeros((4, 6), bool)
    only[0, 0] = True
    assert end_point_error(constant(1.0, 2.0), truth, only).pixels == 1
    for flow, wanted in ((constant(1.0, 0.0, 3), truth), (truth * np.nan, constant(0.0, 0.0))):
        with pytest.raises(InputError):
            end_point_error(flow, wanted)
    with pytest.raises(InputError, match="no pixel"):
        end_point_error(constant(0.0, 0.0), truth * np.nan)


def test_sampling_between_pixels_and_beyond_the_border() -> None:
    image = np.arange(24.0).reshape(4, 6)
    found, inside = sampled(image, constant(0.5, 1.0))
    assert found[0, 0] == 6.5
    assert found[3, 5] == 23.0
    assert inside[:3, :5].all()
    assert not inside[3].any()
    assert not inside[:, 5].any()


def test_what_comes_back_is_visible() -> None:
    there, back = constant(2.0, 0.0), constant(-2.0, 0.0)
    seen = visible(there, back)
    assert seen[:, :4].all()
    assert not seen[:, 4:].any()  # it leaves the frame
    back[:, 1, 3] = 5.0, 0.0  # what pixel (1, 1) leads to came from elsewhere
    assert not visible(there, back)[1, 1]
    assert visible(there, back)[0, 1]


def test_warping_error_by_hand() -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((5, 8, 3))
    following = np.roll(frame, 2, axis=1)  # by two pixels to the right
    everywhere = np.ones((5, 8), bool)
    assert warping_error(frame, following, constant(2.0, 0.0, 5, 8), everywhere) == pytest.approx(0.0, abs=1e-15)
    brighter = following + 0.1
    assert warping_error(frame, brighter, constant(2.0, 0.0, 5, 8), everywhere) == pytest.approx(0.01)
    assert warping_error(frame, following, constant(0.0, 0.0, 5, 8), everywhere) > 0.01
    with pytest.raises(InputError, match="nothing in common"):
        warping_error(frame, following, constant(9.0, 0.0, 5, 8), everywhere)


def test_jitter_is_what_is_left_of_an_even_path() -> None:
    even = np.stack([3.0 * np.arange(9), -0.5 * np.arange(9)], 1)
    assert jitter(even) == pytest.approx(0.0, abs=1e-12)
    # One frame is off by (0.3, 0.4): second differences of 0.5, 1 and 0.5 pixels among seven.
    even[4] += 0.3, 0.4
    assert jitter(even) == pytest.approx(math.sqrt((0.25 + 1.0 + 0.25) / 7))
    with pytest.raises(InputError):
        jitter(even[:2])


def test_flow_files_come_back(tmp_path: Path) -> None:
    flow = np.random.default_rng(1).normal(0, 9, (2, 5, 7)).astype(np.float32)
    flow[:, 2, 3] = np.nan
    save_flow(flow, tmp_path / "a.flo")
    np.testing.assert_array_equal(load_flow(tmp_path / "a.flo"), flow)
    raw = (tmp_path / "a.flo").read_bytes()
    assert raw[:4] == b"PIEH"
    (tmp_path / "short.flo").write_bytes(raw[:-4])
    (tmp_path / "other.flo").write_bytes(b"P6 7 5 255\n" + raw)
    for name, message in (("short", "bytes"), ("other", "not a Middlebury"), ("absent", "no such")):
        with pytest.raises(InputError, match=message):
            load_flow(tmp_path / f"{name}.flo")


def test_a_flow_s_picture() -> None:
    picture = flow_picture(np.array([[[0.0, 2.0, -2.0]], [[0.0, 0.0, 0.0]]]))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert np.abs(picture[0, 1].astype(int) - picture[0, 2]).max() == 255
    assert Image.fromarray(picture).size == (3, 1)


def lpips_weights(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Weights that are zero, except for the changes."""
    shapes = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    made: dict[str, np.ndarray] = {}
    for index, (outputs, inputs, side) in enumerate(shapes, start=1):
        made[f"conv{index}.weight"] = np.zeros((outputs, inputs, side, side), np.float32)
        made[f"conv{index}.bias"] = np.zeros(outputs, np.float32)
        made[f"lin{index}.weight"] = np.zeros((1, outputs, 1, 1), np.float32)
    return made | {name.replace("__", "."): value for name, value in changes.items()}


def test_lpips_by_hand(tmp_path: Path) -> None:
    """Two features of the first layer, red and a constant: unit vectors of known angles."""
    kernel = np.zeros((64, 3, 11, 11), np.float32)
    kernel[0, 0, 5, 5] = 1.0  # at the middle of its window
    bias = np.zeros(64, np.float32)
    bias[1] = 1.0
    linear = np.zeros((1, 64, 1, 1), np.float32)
    linear[0, 0], linear[0, 1] = 2.0, 0.5
    np.savez(tmp_path / "lpips.npz", **lpips_weights(conv1__weight=kernel, conv1__bias=bias, lin1__weight=linear))
    distance = Lpips.load(tmp_path / "lpips.npz")
    red, dark = np.zeros((67, 71, 3)), np.zeros((67, 71, 3))
    red[..., 0] = 1.0
    dark[..., 0] = 0.5
    assert distance(red, red) == 0.0

    def unit(value: float) -> np.ndarray:
        feature = max(0.0, (2.0 * value - 1.0 + 0.030) / 0.458)
        return np.array([feature, 1.0]) / math.hypot(feature, 1.0)

    gap = (unit(1.0) - unit(0.5)) ** 2
    assert distance(red, dark) == pytest.approx(2.0 * gap[0] + 0.5 * gap[1], rel=1e-5)
    assert distance(red, dark) == pytest.approx(distance(dark, red))


def test_lpips_says_what_its_file_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights"):
        Lpips.load(tmp_path / "absent.npz")
    weights = lpips_weights()
    del weights["lin3.weight"]
    np.savez(tmp_path / "a.npz", **weights)
    with pytest.raises(InputError, match=r"lin3\.weight.*missing"):
        Lpips.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **lpips_weights(conv2__bias=np.zeros(3, np.float32)))
    with pytest.raises(InputError, match=r"conv2\.bias.*\[3\]"):
        Lpips.load(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a readable"):
        Lpips.load(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", **lpips_weights())
    with pytest.raises(InputError, match="63 pixels"):
        Lpips.load(tmp_path / "d.npz")(np.zeros((30, 90, 3)), np.zeros((30, 90, 3)))
