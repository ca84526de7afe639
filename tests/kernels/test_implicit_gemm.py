"""The implicit GEMM on the emulator against float64 and against the machine's integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.kernels.implicit_gemm import (
    GemmConv,
    GemmSchedule,
    candidates,
    grid,
    pack,
    render,
    shared_bytes,
)
from codesign.kernels.layers import Conv
from codesign.kernels.runtime.emulate import aligned, build_emulated, run_emulated
from codesign.kernels.runtime.launch import Stored
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from tests.kernels.stacks import Rng, _activate, random_layer

SCHEDULES = (
    GemmSchedule(4, 1, 2, 2, 2, (4, 1)),
    GemmSchedule(4, 2, 4, 2, 3, (4, 2)),
    GemmSchedule(2, 2, 2, 4, 2, (2, 1)),
    GemmSchedule(8, 1, 1, 2, 4, (2, 1)),
    GemmSchedule(4, 1, 8, 2, 2, (2, 2)),
)


def random_wide(rng: Rng, precision: str) -> GemmConv:
    int8 = precision == "int8"
    sources = tuple(
        (int(rng.choice([3, 8, 16, 20, 40])), int(rng.integers(-128, 128)) if int8 else 0)
        for _ in range(int(rng.integers(1, 4)))
    )
    ky, kx = (int(k) for k in rng.choice([1, 2, 3, 5], 2))
    shuffle = int(rng.choice([1, 1, 2]))
    co = shuffle**2 * int(rng.choice([1, 3, 8, 12, 24]))
    total = sum(channels for channels, _ in sources)
    conv = random_layer(rng, "one", "x", total, co, ky, kx, int8, 0)
    if int8:  # each source has a zero point of its own
        first, bias = 0, rng.integers(-2000, 2000, co)
        for channels, zero in sources:
            bias = bias - zero * conv.weights[:, :, first : first + channels].astype(np.int64).sum((0, 1, 2))
            first += channels
        conv = replace(conv, bias=bias)
    if rng.random() < 0.5:
        channels = tuple(int(c) for c in rng.integers(0, co, co)) if rng.random() < 0.4 else None
        conv = replace(conv, add="other", add_channels=channels)
        if conv.requantise is not None:
            rule = numerics.AddRule(
                conv.requantise.zero_point,
                int(rng.integers(-128, 128)),
                int(rng.integers(2**29, 2**31)),
                int(rng.integers(-(2**31) + 1, 2**31)),
                31,
                int(rng.integers(-128, 128)),
                -100,
                120,
            )
            conv = replace(conv, add_rule=rule)
    chunk = 16 if int8 else 8
    return GemmConv(
        precision,
        conv,
        sources,
        int(rng.choice([1, 1, 2])),
        int(rng.choice([1, 1, 2])),  # type: ignore[arg-type]
        (int(rng.integers(0, ky)), int(rng.integers(0, kx))),
        str(rng.choice(["chunked", "planar"])),  # type: ignore[arg-type]
        shuffle,
        -(-co // chunk) if conv.add else 0,
    )


def expected(wide: GemmConv, parts: list[NDArray[Any]], other: NDArray[Any] | None, size: tuple[int, int]) -> Any:
    """``[C, H, W]`` of the result, before any shuffle."""
    conv, (height, width) = wide.conv, size
    ky, kx = conv.weights.shape[:2]
    reach_y, reach_x = (height - 1) * wide.stride + ky * wide.dilation, (width - 1) * wide.stride + kx * wide.dilation
    planes = []
    for part, (_, zero) in zip(parts, wide.sources, strict=True):
        frame = np.full((part.shape[0], reach_y + part.shape[1], reach_x + part.shape[2]), zero, np.float64)
        top, left = wide.padding
        frame[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        planes.append(frame)
    frame = np.concatenate(planes)
    psum = np.zeros((height, width, conv.channels))
    for y in range(ky):
        for x in range(kx):
            rows = slice(y * wide.dilation, y * wide.dilation + (height - 1) * wide.stride + 1, wide.stride)
            columns = slice(x * wide.dilation, x * wide.dilation + (width - 1) * wide.stride + 1, wide.stride)
            psum += frame[:, rows, columns].transpose(1, 2, 0) @ conv.weights[y, x].astype(np.float64)
    psum += conv.bias
    second = None if other is None else other.transpose(1, 2, 0)
    if second is not None and conv.add_channels is not None:
        second = second[..., list(conv.add_channels)]
    if conv.requantise is None:
        value = _activate(conv, psum)
        return np.clip(value if second is None else value + second, conv.low, conv.high).transpose(2, 0, 1)
    rule = conv.requantise
    q = numerics.requantise(
        np.rint(psum).astype(np.int64),
        multiplier=rule.multiplier,
        negative_multiplier=rule.negative_multiplier,
        shift=rule.shift,
        zero_point=rule.zero_point,
        qmin=rule.low,
        qmax=rule.high,
    )
    if rule.table is not None:
        q = numerics.apply_table(q, rule.table)
    if conv.add_rule is not None and second is not None:
        add = conv.add_rule
        q = numerics.add_requantised(q, second, add)
    return q.transpose(2, 0, 1)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("case", range(10))
def test_random_convolutions(precision: str, case: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([case, precision == "int8", 9])
    wide, schedule = random_wide(rng, precision), SCHEDULES[case % len(SCHEDULES)]
    conv, int8 = wide.conv, precision == "int8"
    height, width = int(rng.integers(5, 20)), int(rng.integers(5, 40))
    ky, kx = conv.weights.shape[:2]
    out = [
        max(1, (extent + 2 * pad - (k - 1) * wide.dilation - 1) // wide.stride + 1)
        for extent, pad, k in zip((height, width), wide.padding, (ky, kx), strict=True)
    ]

    def values(channels: int, rows: int, columns: int) -> NDArray[Any]:
        if int8:
            return rng.integers(-128, 128, (channels, rows, columns)).astype(np.int8)
        return rng.normal(size=(channels, rows, columns)).astype(np.float16)

    def stored(name: str, channels: int, rows: int, columns: int, format_: str = "chunked") -> Stored:
        return Stored(name, precision, format_, channels, rows, columns)  # type: ignore[arg-type]

    parts = [values(channels, height, width) for channels, _ in wide.sources]
    packed = [stored("s", c, height, width).pack(part) for (c, _), part in zip(wide.sources, parts, strict=True)]
    other = values(conv.channels, *out) if conv.add else None
    if other is not None:
        packed.append(stored("o", conv.channels, *out).pack(other))
    r = wide.shuffle
    result = stored("y", conv.channels // r**2, out[0] * r, out[1] * r, wide.format)
    arrays = [aligned(array.shape, array.dtype) for array in packed]
    for array, value in zip(arrays, packed, strict=True):
        array[...] = value
    arrays.append(aligned(result.shape, result.dtype, 77 if int8 else np.nan))
    blob, _ = pack(wide, schedule)
    arrays.append(aligned((len(blob),), np.uint8))
    arrays[-1][...] = np.frombuffer(blob, np.uint8)
    library = build_emulated(render(wide, schedule, "gemm"), "gemm", len(arrays), 4, folder=tmp_path)
    run_emulated(
        library,
        arrays,
        [height, width, *out],
        grid=grid(wide, schedule, *out),
        threads=schedule.threads,
        shared_bytes=shared_bytes(wide, schedule),
        seed=case,
    )
    want = expected(wide, parts, other, (out[0], out[1]))
    cut = want.reshape(conv.channels // r**2, r, r, *out)
    want = cut.transpose(0, 3, 1, 4, 2).reshape(conv.channels // r**2, out[0] * r, out[1] * r)
    got = result.unpack(arrays[-2])
    if int8:
        np.testing.assert_array_equal(got, want)
    else:
        assert np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want) < 5e-3


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(("channels", "co", "kernel", "stride"), [(192, 64, 3, 1), (64, 32, 3, 1), (64, 128, 1, 2)])
def test_first_choice_does_not_spill(
    arch: str, precision: str, channels: int, co: int, kernel: int, stride: int
) -> None:
    rng = np.random.default_rng(1)
    conv: Conv = random_layer(rng, "one", "x", channels, co, kernel, kernel, precision == "int8", 0)
    wide = GemmConv(precision, conv, ((channels, 0),), stride, 1, (kernel // 2,) * 2)  # type: ignore[arg-type]
    first = candidates(wide, arch, 360, 640)[0]
    (kernel_report,) = compile_cuda_text(render(wide, first, "gemm"), arch).kernels
    assert kernel_report.spilled_bytes == 0
