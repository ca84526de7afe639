"""Warps, cost volumes and resizing on the emulator: the fast kernel and the naive one against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from codesign.kernels.chunked import CHUNK, plane_count
from codesign.kernels.correlation import Correlation, Window
from codesign.kernels.resize import Resize
from codesign.kernels.warp import BackwardWarp
from tests.kernels.test_pointwise import (
    Array,
    Bench,
    check_both,
    check_compiles,
    chunked,
    planar,
    random_half,
    texts_of,
)

WARPS = (
    (BackwardWarp(3, "fp32", "zeros", rows=2), (9, 37)),
    (BackwardWarp(20, "fp16", "zeros", rows=4, group=2, unroll=1), (7, 11)),
    (BackwardWarp(8, "fp32", "border", rows=1), (5, 33)),
    (BackwardWarp(17, "fp16", "border", rows=2, group=1), (6, 7)),
    (BackwardWarp(5, "fp32", "zeros", rows=1), (1, 1)),
    (BackwardWarp(5, "fp32", "border", rows=1), (1, 1)),
)

CORRELATIONS = (
    (Correlation(20, slope=0.1, columns=16, rows=2, groups=3), (9, 37)),
    (Correlation(40, columns=32, rows=1, groups=1, stages=3), (5, 34)),
    (Correlation(3, reach=1, columns=16, rows=3, groups=2), (7, 6)),
    (Correlation(72, reach=3, slope=0.25, columns=16, rows=1, groups=7, stages=4), (3, 17)),
    (Correlation(8, reach=2, columns=48, rows=1, groups=2), (2, 50)),
    (Correlation(16, columns=16, rows=1, groups=3), (1, 1)),
    (Correlation(32, slope=0.1, columns=32, resident=1), (6, 35)),
)

WINDOWS = (
    (Window(3, 2, "fp32", True, pixels=16, threads=64), (6, 9)),
    (Window(4, 4, "fp16", False, pixels=8, threads=96), (5, 11)),  # whose last level has no rows
    (Window(2, 3, "fp32", False, pixels=32, threads=32), (2, 3)),
    (Window(1, 1, "fp32", True, pixels=32, threads=32), (1, 1)),
)

RESIZES = (
    (Resize(11, rows=2), (5, 7), None),
    (Resize(16, rows=1, group=1), (4, 33), None),
    (Resize(3, rows=1), (1, 1), None),
    (Resize(12, align_corners=True, rows=2), (5, 9), None),
    (Resize(4, align_corners=True, rows=1), (1, 1), None),
    (Resize(5, factor=3, rows=2), (4, 11), None),
    (Resize(9, factor=0, rows=2), (7, 10), (11, 13)),
    (Resize(9, factor=0, rows=2), (16, 24), (5, 1)),
    (Resize(20, factor=0, align_corners=True, rows=2, group=2), (6, 5), (1, 40)),
    (Resize(3, factor=0, align_corners=True, rows=2), (9, 13), (4, 5)),
    (Resize(13, "nearest", 2, rows=2), (5, 7), None),
    (Resize(8, "nearest", 3, rows=2), (1, 13), None),
    (Resize(19, "average", rows=2, unroll=1), (7, 10), None),
    (Resize(8, "average", rows=1), (2, 67), None),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    operators = [case[0] for cases in (WARPS, CORRELATIONS, WINDOWS, RESIZES) for case in cases]
    return Bench(tmp_path_factory.mktemp("motion"), operators)


def sample(maps: Array, index: Array, y: Array, x: Array) -> Array:
    """Bilinear values of ``maps[index]`` (``[N, ..., H, W]``) at ``y``, ``x``, zeros outside: ``[*index, ...]``."""
    height, width = maps.shape[-2:]
    y, x = (np.nan_to_num(np.clip(v, -2, size + 1), nan=-2.0) for v, size in ((y, height), (x, width)))
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    padded = np.pad(maps.astype(np.float64), [(0, 0)] * (maps.ndim - 2) + [(3, 3)] * 2)
    moved = np.moveaxis(padded, (-2, -1), (1, 2))
    result = 0.0
    for i in (0, 1):
        for j in (0, 1):
            weight = (y - row if i else row + 1 - y) * (x - column if j else column + 1 - x)
            value = moved[index, row + i + 3, column + j + 3]
            result = result + weight.reshape(*weight.shape, *[1] * (value.ndim - weight.ndim)) * value
    return np.asarray(result)


def positions(flow: Array) -> tuple[Array, Array]:
    """Target positions of a flow ``[batch, 2, H, W]``: y and x, float64 ``[batch, H, W]``."""
    rows, columns = np.mgrid[: flow.shape[2], : flow.shape[3]]
    return rows + flow[:, 1].astype(np.float64), columns + flow[:, 0].astype(np.float64)


def expected_warp(op: BackwardWarp, features: Array, flow: Array) -> Array:
    y, x = positions(flow)
    if op.padding == "border":
        y = np.clip(np.nan_to_num(y, nan=0.0), 0, features.shape[2] - 1)
        x = np.clip(np.nan_to_num(x, nan=0.0), 0, features.shape[3] - 1)
    frame = np.broadcast_to(np.arange(len(flow))[:, None, None], y.shape)
    return np.moveaxis(sample(features, frame, y, x), -1, 1)


def check_warp(bench: Bench, op: BackwardWarp, features: Array, flow: Array) -> Array:
    """The result; the features' unused channels are NaN."""
    flow = flow.astype(np.float16 if op.number == "fp16" else np.float32)
    stored = chunked(features, padding=np.nan)
    fast, naive = bench.run(op, [stored, flow], [(stored.shape, np.float16)], features.shape[2:])
    with np.errstate(all="ignore"):
        want = expected_warp(op, features, flow)
    check_both(planar(fast[0], op.channels), planar(naive[0], op.channels), want)
    return want


@pytest.mark.parametrize(("op", "size"), WARPS)
def test_warp(bench: Bench, op: BackwardWarp, size: tuple[int, int]) -> None:
    """By random displacements, as torch does, and by none."""
    rng = np.random.default_rng(op.channels)
    features, flow = random_half(rng, 2, op.channels, *size), random_half(rng, 2, 2, *size) * np.float16(3)
    want = check_warp(bench, op, features, flow)
    height, width = size
    if min(size) > 1:
        y, x = positions(flow)
        places = torch.from_numpy(np.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1))
        wide = torch.from_numpy(features.astype(np.float64))
        by_torch = functional.grid_sample(wide, places, padding_mode=op.padding, align_corners=True)
        np.testing.assert_allclose(by_torch.numpy(), want, atol=1e-9)
    still = check_warp(bench, op, features[:1], np.zeros((1, 2, *size)))
    np.testing.assert_array_equal(still, features[:1])


@pytest.mark.parametrize(("op", "size"), WARPS)
def test_warp_to_edges_and_beyond(bench: Bench, op: BackwardWarp, size: tuple[int, int]) -> None:
    """To whole pixels, to the frame's edges and just outside; by displacements too large, infinite or not numbers."""
    rng = np.random.default_rng(op.channels + 1)
    height, width = size
    features = random_half(rng, 2, op.channels, *size)
    rows, columns = np.mgrid[:height, :width]
    to_x = rng.choice([-1.0, -0.5, 0.0, 1.0, width - 1.0, width - 0.5, float(width), width + 1.0], (2, *size)) - columns
    to_y = rng.choice([-1.0, -0.25, 0.0, 1.0, height - 1.0, height - 0.75, float(height)], (2, *size)) - rows
    check_warp(bench, op, features, np.stack([to_x, to_y], 1))
    largest = 65504.0 if op.number == "fp16" else 3.4e38
    wild = [np.nan, np.inf, -np.inf, largest, -largest, 30000.0, -30000.0, 0.0]
    check_warp(bench, op, features, rng.choice(wild, (2, 2, *size)))
    for value in wild[:5]:
        want = check_warp(bench, op, features[:1], np.full((1, 2, *size), value))
        corner = features[:1, :, -1:, -1:] if value > 0 else features[:1, :, :1, :1]
        np.testing.assert_array_equal(want, np.broadcast_to(corner if op.padding == "border" else 0, want.shape))


def expected_correlation(op: Correlation, first: Array, second: Array) -> Array:
    height, width = first.shape[2:]
    reach = op.reach
    around = np.pad(second.astype(np.float64), [(0, 0)] * 2 + [(reach, reach)] * 2)
    mean = np.stack(
        [
            (first.astype(np.float64) * around[:, :, y : y + height, x : x + width]).mean(1)
            for y in range(op.window)
            for x in range(op.window)
        ],
        1,
    )
    return np.where(mean > 0, mean, mean * op.slope)


@pytest.mark.parametrize(("op", "size"), CORRELATIONS)
def test_correlation(bench: Bench, op: Correlation, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(op.channels)
    first, second = random_half(rng, 2, op.channels, *size), random_half(rng, 2, op.channels, *size)
    first[0, :, 0, 0] = 200  # a sum of products that FP16 cannot hold
    second[0, :, 0, 0] = 300
    outputs = [((2, plane_count(op.output_channels), *size, CHUNK), np.float16)]
    fast, naive = bench.run(op, [chunked(first), chunked(second)], outputs, size)
    want = expected_correlation(op, first, second)
    ours, theirs = planar(fast[0], op.output_channels), planar(naive[0], op.output_channels)
    check_both(ours, theirs, want)
    check_both(ours[1], theirs[1], want[1])  # without the large values, which would hide the others


def test_correlation_of_one_point(bench: Bench) -> None:
    """Channel (dy + reach) * window + dx + reach, by hand: a point that moved by (3, -2)."""
    op = CORRELATIONS[0][0]
    first, second = np.zeros((1, 20, 8, 12)), np.zeros((1, 20, 8, 12))
    first[0, :, 5, 4] = 1
    second[0, :, 3, 7] = 0.5
    fast, naive = bench.run(op, [chunked(first), chunked(second)], [((1, 11, 8, 12, CHUNK), np.float16)], (8, 12))
    for made in (planar(fast[0], 81), planar(naive[0], 81)):
        assert np.argwhere(made).tolist() == [[0, (-2 + 4) * 9 + 3 + 4, 5, 4]]
        assert made.max() == 0.5


def test_tiles_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="not a multiple of 16"):
        Correlation(8, columns=24)
    with pytest.raises(ValueError, match="1 stages"):
        Correlation(8, stages=1)
    with pytest.raises(ValueError, match="1152 threads"):
        Correlation(8, columns=64, rows=1, groups=9)
    with pytest.raises(ValueError, match="average of 3 x 3"):
        Resize(8, "average", 3)
    with pytest.raises(ValueError, match="nearest by a factor of 0"):
        Resize(8, "nearest", 0)


def expected_window(op: Window, levels: list[Array], coordinates: Array) -> Array:
    batch, _, height, width = coordinates.shape
    y, x = positions(coordinates) if not op.absolute else (coordinates[:, 1], coordinates[:, 0])
    dx, dy = np.mgrid[-op.radius : op.radius + 1, -op.radius : op.radius + 1].reshape(2, -1, 1)
    result = []
    for level, maps in enumerate(levels):
        ys, xs = (value.astype(np.float64).reshape(-1) / 2**level for value in (y, x))
        index = np.broadcast_to(np.arange(batch * height * width), (len(dx), batch * height * width))
        values = sample(maps.reshape(batch * height * width, *maps.shape[2:]), index, ys + dy, xs + dx)
        result.append(values.reshape(-1, batch, height, width))
    return np.moveaxis(np.concatenate(result), 0, 1)


@pytest.mark.parametrize(("op", "size"), WINDOWS)
def test_window(bench: Bench, op: Window, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(op.levels)
    height, width = size
    levels = [random_half(rng, 2, height * width, height >> level, width >> level) for level in range(op.levels)]
    shape = (2, plane_count(op.output_channels), *size, CHUNK)
    moved = rng.normal(size=(2, 2, *size)) * 4
    if op.absolute:
        moved += np.mgrid[:height, :width][::-1]
    wild = rng.choice([np.nan, np.inf, -np.inf, 30000.0, -30000.0, 0.0, 1.0, -float(op.radius), width], moved.shape)
    for coordinates in (moved, wild):
        coordinates = coordinates.astype(np.float16 if op.number == "fp16" else np.float32)
        fast, naive = bench.run(op, [*levels, coordinates], [(shape, np.float16)], size)
        with np.errstate(all="ignore"):
            want = expected_window(op, levels, coordinates)
        check_both(planar(fast[0], op.output_channels), planar(naive[0], op.output_channels), want)


def test_window_is_rafts() -> None:
    """The reference agrees with RAFT's use of grid_sample, order of channels included."""
    rng = np.random.default_rng(5)
    op, (height, width), radius = Window(2, 2), (8, 10), 2
    levels = [random_half(rng, 1, height * width, height >> level, width >> level) for level in (0, 1)]
    coordinates = (rng.normal(size=(1, 2, height, width)) * 3 + 4).astype(np.float32)
    span = torch.arange(-radius, radius + 1, dtype=torch.float64)
    delta = torch.stack(torch.meshgrid(span, span, indexing="ij"), -1)
    centre = torch.from_numpy(coordinates.astype(np.float64)).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    result = []
    for level, maps in enumerate(levels):
        place = centre / 2**level + delta
        size = torch.tensor([maps.shape[3] - 1, maps.shape[2] - 1])
        volume = torch.from_numpy(maps.astype(np.float64)).reshape(-1, 1, *maps.shape[2:])
        read = functional.grid_sample(volume, 2 * place / size - 1, align_corners=True)
        result.append(read.reshape(1, height, width, -1))
    want = torch.cat(result, -1).permute(0, 3, 1, 2).numpy()
    np.testing.assert_allclose(expected_window(op, levels, coordinates), want, atol=1e-9)


def expected_resize(op: Resize, x: Array, size: tuple[int, int]) -> Array:
    values = torch.from_numpy(x.astype(np.float64))
    if op.method == "nearest":
        return functional.interpolate(values, size=size, mode="nearest").numpy()
    if op.method == "average":
        return functional.avg_pool2d(values, 2).numpy()
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=op.align_corners).numpy()


@pytest.mark.parametrize(("op", "size", "output_size"), RESIZES)
def test_resize(bench: Bench, op: Resize, size: tuple[int, int], output_size: tuple[int, int] | None) -> None:
    x = random_half(np.random.default_rng(op.channels), 2, op.channels, *size)
    integers = (*size, *(output_size or ()))
    made = op.covered(*integers)
    outputs = [((2, op.planes, *made, CHUNK), np.float16)]
    fast, naive = bench.run(op, [chunked(x, padding=np.nan)], outputs, integers)
    check_both(planar(fast[0], op.channels), planar(naive[0], op.channels), expected_resize(op, x, made))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compiles_for_gpus(arch: str) -> None:
    """Every kernel, at its default tiles, without spills."""
    operators = [
        *(BackwardWarp(36, number, padding) for number in ("fp16", "fp32") for padding in ("zeros", "border")),
        *(Correlation(channels, slope=0.1) for channels in (32, 196)),
        Correlation(64, rows=8, groups=1, stages=3, resident=1),
        Window(),
        Window(number="fp16", absolute=False),
        *(Resize(36, factor=factor, align_corners=align) for factor in (0, 2) for align in (False, True)),
        Resize(64, "nearest"),
        Resize(64, "average"),
    ]
    check_compiles(texts_of(operators), arch)
