"""The measures, against values worked out by hand and by others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codesign.hw.errors import InputError
from codesign.metrics import degrade, luma_psnr, psnr, set5, ssim
from codesign.pictures import images


def bicubic(frame: np.ndarray) -> np.ndarray:
    low = frame[0, 0].astype(np.float64)
    return images.resize(low, 2 * low.shape[1], 2 * low.shape[0])[None, None].astype(np.float32)


def test_psnr_by_hand() -> None:
    truth = np.zeros((4, 4))
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0)
    assert psnr(truth + 10.0, truth, peak=100.0) == pytest.approx(20.0)
    assert psnr(truth, truth) == math.inf
    one_wrong = truth.copy()
    one_wrong[0, 0] = 1.0  # one pixel in sixteen, all of the peak
    assert psnr(one_wrong, truth) == pytest.approx(10.0 * math.log10(16.0))
    assert psnr(one_wrong, truth, shave=1) == math.inf


def test_psnr_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(InputError):
        psnr(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(InputError):
        psnr(np.zeros((4, 4)), np.zeros((4, 4)), shave=2)


def test_ssim() -> None:
    photograph = images.luma(images.to_real(images.reference_photograph()[:96, :96]))
    assert ssim(photograph, photograph) == pytest.approx(1.0)
    grain = np.random.default_rng(0).normal(0.0, 1.0, photograph.shape)
    slightly, badly = (ssim(photograph + spread * grain, photograph) for spread in (0.01, 0.1))
    assert 1.0 > slightly > badly > 0.0
    # Two flat images: only the luminance term is left.
    assert ssim(np.full((16, 16), 0.5), np.full((16, 16), 0.6)) == pytest.approx((0.6 + 1e-4) / (0.61 + 1e-4))
    with pytest.raises(InputError):
        ssim(np.zeros((8, 8)), np.zeros((8, 8)))


def test_degraded_images_have_eight_bits() -> None:
    low = degrade(images.luma(images.to_real(images.reference_photograph())), 4)
    assert low.shape == (128, 128)
    np.testing.assert_allclose(low * 255.0, np.round(low * 255.0), atol=1e-9)


def test_output_is_clipped_and_rounded_before_it_is_judged() -> None:
    truth = np.full((8, 8), 1.0)
    assert luma_psnr(np.full((8, 8), 1.7), truth, 2) == math.inf
    assert luma_psnr(np.full((8, 8), 1.0 - 0.4 / 255), truth, 2) == math.inf


def test_set5_reads_a_folder_and_averages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set5"):
        set5(bicubic, tmp_path, 2)
    (tmp_path / "set5").mkdir()
    for name, pixels in (("a", images.reference_photograph()[:65, :63]), ("b", images.reference_photograph()[200:264])):
        Image.fromarray(pixels).save(tmp_path / "set5" / f"{name}.png")
    scores = set5(bicubic, tmp_path, 2)
    assert set(scores) == {"a", "b", "mean"}
    assert scores["mean"] == pytest.approx((scores["a"] + scores["b"]) / 2)


def test_bicubic_on_set5_is_what_everyone_publishes(data_dir: Path) -> None:
    assert set5(bicubic, data_dir, 2)["mean"] == pytest.approx(33.66, abs=0.02)
