"""Images in and out, colour and the resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from codesign.hw.errors import InputError
from codesign.pictures import images

SIDES = st.integers(1, 40)


def test_primary_colours_have_the_studio_levels_of_bt601() -> None:
    rgb = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    levels = images.rgb_to_ycbcr(rgb) * 255.0
    known = [[16, 128, 128], [235, 128, 128], [81.481, 90.203, 240], [144.553, 53.797, 34.214], [40.966, 240, 109.786]]
    np.testing.assert_allclose(levels, known, atol=1e-9)
    np.testing.assert_allclose(images.luma(rgb) * 255.0, levels[:, 0], atol=1e-9)


def test_colour_comes_back() -> None:
    rgb = np.random.default_rng(0).random((5, 7, 3))
    np.testing.assert_allclose(images.ycbcr_to_rgb(images.rgb_to_ycbcr(rgb)), rgb, atol=1e-12)


def test_halving_has_the_eight_taps_of_the_stretched_kernel() -> None:
    impulse = np.zeros((32, 1))
    impulse[15] = 1.0
    # Keys' kernel at the odd quarters, halved. Every second tap meets the impulse.
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256.0
    column = images.resize(impulse, 1, 16)[:, 0]
    np.testing.assert_allclose(column[6:10], taps[[1, 3, 5, 7]], atol=1e-12)
    assert np.count_nonzero(np.abs(column) > 1e-12) == 4


def test_doubling_interpolates_at_quarters() -> None:
    # Keys' kernel at 0.25 and 0.75 from its neighbours.
    line = np.zeros((1, 9))
    line[0, 4] = 1.0
    doubled = images.resize(line, 18, 1)[0]
    near, far = 111 / 128, 29 / 128
    np.testing.assert_allclose([doubled[8], doubled[9]], [near, near], atol=1e-12)
    np.testing.assert_allclose([doubled[7], doubled[10]], [far, far], atol=1e-12)
    np.testing.assert_allclose([doubled[6], doubled[11]], [-9 / 128, -9 / 128], atol=1e-12)
    np.testing.assert_allclose([doubled[5], doubled[12]], [-3 / 128, -3 / 128], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_a_flat_image_stays_flat(height: int, width: int, new_height: int, new_width: int) -> None:
    resized = images.resize(np.full((height, width), 0.7), new_width, new_height)
    assert resized.shape == (new_height, new_width)
    np.testing.assert_allclose(resized, 0.7, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([(2, 1), (1, 2), (3, 1), (1, 1)]))
def test_resize_is_linear_and_turns_with_the_image(height: int, width: int, ratio: tuple[int, int]) -> None:
    rng = np.random.default_rng(height * 100 + width)
    first, second = rng.random((2, height, width))
    target = (max(1, width * ratio[0] // ratio[1]), max(1, height * ratio[0] // ratio[1]))
    both = images.resize(first + 2.0 * second, *target)
    np.testing.assert_allclose(both, images.resize(first, *target) + 2.0 * images.resize(second, *target), atol=1e-12)
    np.testing.assert_allclose(images.resize(first[::-1, ::-1], *target)[::-1, ::-1], images.resize(first, *target))
    np.testing.assert_allclose(images.resize(first.T, *target[::-1]).T, images.resize(first, *target), atol=1e-12)


def test_the_same_size_changes_nothing_and_planes_are_independent() -> None:
    image = np.random.default_rng(1).random((9, 6, 3))
    np.testing.assert_allclose(images.resize(image, 6, 9), image, atol=1e-12)
    np.testing.assert_allclose(images.resize(image, 12, 4)[..., 1], images.resize(image[..., 1], 12, 4), atol=1e-12)


def test_a_long_thin_image_needs_no_table_of_its_length_squared() -> None:
    assert images.resize(np.zeros((65536, 1)), 1, 32768).shape == (32768, 1)


def test_crop_and_fit() -> None:
    image = np.arange(7 * 5).reshape(7, 5)
    assert images.crop_to_multiple(image, 3).shape == (6, 3)
    np.testing.assert_array_equal(images.fit(image, 3, 5), image[1:6, 1:4])
    np.testing.assert_array_equal(images.fit(np.array([[1, 2]]), 4, 1), [[1, 1, 2, 2]])
    assert images.fit(np.zeros((2, 3, 3)), 50, 41).shape == (41, 50, 3)
    with pytest.raises(InputError):
        images.crop_to_multiple(image[:2], 3)


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0), (-1, 4), (65537, 1), (1, 65537), (65536, 65536)])
def test_impossible_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(InputError, match=f"{width}x{height}"):
        images.check_size(width, height)
    with pytest.raises(InputError):
        images.resize(np.zeros((2, 2)), width, height)


def test_pixels_round_half_up_and_clip() -> None:
    np.testing.assert_array_equal(images.to_pixels(np.array([-1.0, 0.5 / 255, 0.4999 / 255, 2.0])), [0, 1, 0, 255])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_pixels(images.to_real(every)), every)


def test_png_comes_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, 4, 3), np.uint8)
    images.save_image(pixels, tmp_path / "a.png")
    np.testing.assert_array_equal(images.load_image(tmp_path / "a.png"), pixels)
    images.save_image(pixels[..., 0], tmp_path / "grey.png")
    np.testing.assert_array_equal(images.load_image(tmp_path / "grey.png")[..., 2], pixels[..., 0])
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(images.load_image(tmp_path / "deep.png")[..., 1], pixels[..., 0])


def test_bad_files_say_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such image"):
        images.load_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png"):
        images.load_image(tmp_path / "text.png")
    images.save_image(images.reference_photograph(), tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"half\.png"):
        images.load_image(tmp_path / "half.png")
    with pytest.raises(InputError, match="not a readable image"):
        images.load_image(tmp_path)


def test_writing_fails_without_harm(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(InputError, match="format"):
        images.save_image(pixels, tmp_path / "a.txt")
    with pytest.raises(InputError):
        images.save_image(pixels, tmp_path / "absent" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_the_reference_is_a_photograph() -> None:
    photograph = images.reference_photograph()
    assert photograph.shape == (512, 512, 3)
    assert len(np.unique(photograph)) == 256
