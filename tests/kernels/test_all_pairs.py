"""RAFT's kernels, orders of channels and instance normalisation against float64, on the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codesign.kernels.channels import Channels, Constant
from codesign.kernels.correlation import AllPairs
from codesign.kernels.pointwise import InstanceNorm, SegmentMoments
from codesign.kernels.resize import ConvexUpsample
from codesign.kernels.runtime.emulate import aligned, build_emulated, run_emulated
from codesign.kernels.runtime.launch import Stored
from tests.kernels.test_pointwise import check_compiles

Array = NDArray[Any]

PAIRS = (
    (AllPairs(24, 0.25, tiles=2, columns=2, slab=2, warps=(2, 1), stages=2), (5, 7), (3, 3)),  # odd, so single halves
    (AllPairs(13, 1.0, tiles=4, columns=4, slab=4, warps=(2, 2)), (9, 9), (4, 6)),  # a chunk that is not full
    (AllPairs(40, 0.5, tiles=1, columns=2, slab=2, warps=(1, 2)), (1, 3), (5, 8)),
)
CONVEX = ConvexUpsample(8.0, threads=32)
MOMENTS, NORM = SegmentMoments(11, segments=4, threads=64), InstanceNorm(11, 1e-5, True, 4, threads=32, items=2)
PLAIN = InstanceNorm(11, 1e-5, False, 4, threads=32, items=2)
ORDER = Channels(
    (6, 19, 8),
    ((0, 5), *((1, c) for c in range(2, 9)), *((1, c) for c in range(8, 16)), (2, 7), (0, 0)),
    (True, False, False),
    threads=32,
)
WHOLE = Channels((8, 3), (*((0, c) for c in range(8)), *((1, c) for c in range(3))), (False, False), threads=32)
FIXED = Constant(np.random.default_rng(3).normal(size=(10, 5, 7)).astype(np.float16), threads=32)


def texts() -> dict[str, str]:
    """The kernels by name."""
    found = {f"pairs_{i}": op.text(f"pairs_{i}") for i, (op, _, _) in enumerate(PAIRS)}
    found["convex"] = CONVEX.text("convex")
    for name, op in (("moments", MOMENTS), ("normalised", NORM), ("plain", PLAIN)):
        found[name] = op.text(name)
    for name, other in (("order", ORDER), ("whole", WHOLE), ("fixed", FIXED)):
        found[name] = other.text(name)
    return found


class Kernels:
    """All of them in one build."""

    def __init__(self, folder: Path) -> None:
        calls, counts = "", {}
        for name, text in texts().items():
            counts[name] = text[text.index(f"\n{name}(") :].split(")")[0].count("char*")
            arguments = ", ".join(f"p{i}" for i in range(counts[name]))
            calls += f"  if (which == {len(counts) - 1}) {name}({arguments}, a, b);\n"
        pointers = max(counts.values())
        declared = ", ".join(f"char* p{i}" for i in range(pointers))
        source = "\n".join(texts().values())
        source += f'\nextern "C" __global__ void chosen({declared}, int a, int b, int which) {{\n{calls}}}\n'
        self.order, self.pointers = list(counts), pointers
        self.library = build_emulated(source, "chosen", pointers, 3, folder=folder)

    def run(self, name: str, op: Any, arrays: list[Array], size: tuple[int, int], grid: tuple[int, int, int]) -> None:
        unused = [np.zeros(1)] * (self.pointers - len(arrays))
        run_emulated(
            self.library,
            [*arrays, *unused],
            (*size, self.order.index(name)),
            grid=grid,
            threads=op.threads,
            shared_bytes=op.shared_bytes,
            seed=len(name),
        )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


def chunks(value: Array) -> Array:
    """``[C, H, W]`` as a chunked tensor lies in memory."""
    packed = Stored("x", "fp16", "chunked", *value.shape).pack(value.astype(np.float16))
    memory = aligned(packed.shape, np.float16)
    memory[...] = packed
    return memory


def unchunked(memory: Array, channels_: int) -> Array:
    _, _, height, width, _ = memory.shape
    return Stored("x", "fp16", "chunked", channels_, height, width).unpack(memory).astype(np.float64)


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_all_pairs(kernels: Kernels, number: int) -> None:
    op, first_size, second_size = PAIRS[number]
    rng = np.random.default_rng(number)
    first, second = (rng.normal(size=(op.channels, *size)).astype(np.float16) for size in (first_size, second_size))
    rows, columns = first_size[0] * first_size[1], second_size[0] * second_size[1]
    out = aligned((rows, columns), np.float16, np.nan)
    kernels.run(
        f"pairs_{number}",
        op,
        [chunks(first), chunks(second), out],
        (rows, columns),
        op.grid((rows, columns)),
    )
    flat = [x.astype(np.float64).reshape(op.channels, -1) for x in (first, second)]
    np.testing.assert_allclose(out.astype(np.float64), op.scale * flat[0].T @ flat[1], rtol=1e-3, atol=4e-3)


def test_convex_upsampling_is_rafts(kernels: Kernels) -> None:
    rng = np.random.default_rng(1)
    height, width = 5, 9
    mask, flow = rng.normal(size=(576, height, width)) * 3, rng.normal(size=(2, height, width))
    mask[:, 0, 0] = 60000.0  # a softmax that does not subtract the largest overflows
    mask, flow = mask.astype(np.float16), flow.astype(np.float16)
    out = aligned((2, 8 * height, 8 * width), np.float16, np.nan)
    kernels.run("convex", CONVEX, [chunks(mask), chunks(flow), out], (height, width), CONVEX.grid((height, width)))
    wide = torch.from_numpy(mask.astype(np.float64)).reshape(1, 1, 9, 8, 8, height, width).softmax(2)
    near = torch.nn.functional.unfold(torch.from_numpy(8.0 * flow.astype(np.float64))[None], 3, padding=1)
    summed = (wide * near.reshape(1, 2, 9, 1, 1, height, width)).sum(2)  # the published code
    want = summed.permute(0, 1, 4, 2, 5, 3).reshape(2, 8 * height, 8 * width).numpy()
    np.testing.assert_allclose(out.astype(np.float64), want, rtol=2e-3, atol=4e-3)


@pytest.mark.parametrize("mean", [0.0, 200.0])
def test_instance_norm(kernels: Kernels, mean: float) -> None:
    """The variance survives a mean two hundred times the deviation."""
    rng = np.random.default_rng(2)
    height, width = 9, 13
    x = (rng.normal(size=(11, height, width)) + mean).astype(np.float16)
    x[3] = 7.0  # a channel without variance
    moments = aligned((2, MOMENTS.segments, 16), np.float32, np.nan)
    size = height, width
    kernels.run("moments", MOMENTS, [chunks(x), moments], size, MOMENTS.grid(size))
    wide = x.astype(np.float64)
    want = (wide - wide.mean((1, 2), keepdims=True)) / np.sqrt(wide.var((1, 2), keepdims=True) + 1e-5)
    for name, op in (("normalised", NORM), ("plain", PLAIN)):
        out = aligned((1, 2, height, width, 8), np.float16, np.nan)
        kernels.run(name, op, [chunks(x), moments, out], size, op.grid(size))
        assert not out[0, 1, :, :, 3:].any()
        np.testing.assert_allclose(unchunked(out, 11), np.maximum(want, 0) if op.relu else want, rtol=2e-3, atol=2e-3)


def test_channels_in_any_order(kernels: Kernels) -> None:
    rng = np.random.default_rng(4)
    height, width = 5, 7
    planar, one, two = (rng.normal(size=(c, height, width)).astype(np.float16) for c in (6, 19, 8))
    out = aligned((1, 3, height, width, 8), np.float16, np.nan)
    flat = aligned((1, *planar.shape), np.float16)
    flat[0] = planar
    kernels.run("order", ORDER, [flat, chunks(one), chunks(two), out], (height, width), ORDER.grid((height, width)))
    sources = planar, one, two
    want = np.stack([sources[tensor][channel] for tensor, channel in ORDER.chosen])
    np.testing.assert_array_equal(unchunked(out, ORDER.channels), want)
    assert not out[0, 2, :, :, ORDER.channels % 8 :].any()
    out = aligned((1, 2, height, width, 8), np.float16, np.nan)
    kernels.run("whole", WHOLE, [chunks(two), chunks(one[:3]), out], (height, width), WHOLE.grid((height, width)))
    np.testing.assert_array_equal(unchunked(out, 11), np.concatenate((two, one[:3])))
    assert "pack" in ORDER.text("x")
    assert "pack" not in WHOLE.text("x")  # whole chunks are moved as such


def test_constant(kernels: Kernels) -> None:
    parameters = aligned((len(FIXED.parameters()),), np.uint8)
    parameters[...] = np.frombuffer(FIXED.parameters(), np.uint8)
    out = aligned((1, 2, 5, 7, 8), np.float16, np.nan)
    kernels.run("fixed", FIXED, [out, parameters], (5, 7), FIXED.grid((5, 7)))
    np.testing.assert_array_equal(unchunked(out, 10), FIXED.value)


def test_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="channel 8 of input 0"):
        Channels((8,), ((0, 8),), (False,))


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compile_without_spills(arch: str) -> None:
    found = [
        AllPairs(256, 0.0625).text("pairs"),
        ConvexUpsample().text("convex"),
        SegmentMoments(96).text("moments"),
        InstanceNorm(96).text("normalised"),
        ORDER.text("order"),
        FIXED.text("fixed"),
    ]
    check_compiles(found, arch)
