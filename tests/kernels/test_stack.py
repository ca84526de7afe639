"""The fused stack on the emulator against float64 and against the machine's integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.kernels.layers import activation_header
from codesign.kernels.runtime.emulate import aligned, build_emulated, run_emulated
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from codesign.kernels.stack import Schedule, Stack, grid, layout, pack, render
from tests.kernels.stacks import Rng, expected, random_input, random_schedule, random_stack, to_memory


def run(
    stack: Stack, schedule: Schedule, frames: list[dict[str, NDArray[Any]]], folder: Path, seed: int
) -> list[list[NDArray[Any]]]:
    """Outputs of each frame of a batch, in memory layout."""
    height, width = next(iter(frames[0].values())).shape[:2]
    dtype = np.float16 if stack.precision == "fp16" else np.int8
    arrays = []
    for item in stack.inputs:
        frame = [to_memory(stack, values[item.name], item.channels, item.format) for values in frames]
        arrays.append(aligned((len(frames), *frame[0].shape), dtype))
        arrays[-1][...] = np.stack(frame)
    for out in stack.outputs:
        channels = stack.channels(out.name)
        if out.format == "planar":
            shape = (len(frames), channels // out.shuffle**2, height * out.shuffle, width * out.shuffle)
        else:
            planes = -(-channels // out.shuffle**2 // stack.chunk)
            shape = (len(frames), planes, height * out.shuffle, width * out.shuffle, stack.chunk)
        arrays.append(aligned(shape, dtype, np.nan if dtype is np.float16 else 77))
    blob, _, _ = pack(stack, schedule)
    arrays.append(aligned((len(blob),), np.uint8))
    arrays[-1][...] = np.frombuffer(blob, np.uint8)
    placed = layout(stack, schedule)
    library = build_emulated(render(stack, schedule, "stack"), "stack", len(arrays), 2, folder=folder)
    run_emulated(
        library,
        arrays,
        [height, width],
        grid=grid(schedule, height, width, len(frames)),
        threads=placed.warps(stack) * 32,
        shared_bytes=placed.shared_bytes,
        seed=seed,
    )
    made = arrays[len(stack.inputs) : -1]
    return [[array[index] for array in made] for index in range(len(frames))]


def check(rng: Rng, stack: Stack, schedule: Schedule, size: tuple[int, int], folder: Path, batch: int = 1) -> None:
    height, width = size
    frames = [{item.name: random_input(rng, stack, item, height, width) for item in stack.inputs} for _ in range(batch)]
    results = run(stack, schedule, frames, folder, int(rng.integers(2**32)))
    for frame, made in zip(frames, results, strict=True):
        values = expected(stack, frame)
        for out, got in zip(stack.outputs, made, strict=True):
            channels = stack.channels(out.name)
            want = to_memory(stack, values[out.name], channels, out.format, out.shuffle)
            if out.format == "chunked":  # what a chunk holds beyond the channels is nobody's
                keep = (
                    np.arange(want.shape[0] * stack.chunk).reshape(-1, 1, 1, stack.chunk) < channels // out.shuffle**2
                )
                want, got = np.where(keep, want, 0), np.where(keep, got, 0)
            if stack.precision == "int8":
                np.testing.assert_array_equal(got, want)
            else:
                error = np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want)
                assert error < 5e-3, error  # NaN, unwritten, fails too


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("case", range(10))
def test_random_stacks(precision: str, case: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([case, precision == "int8"])
    stack = random_stack(rng, precision)
    size = (int(rng.integers(5, 40)), int(rng.integers(5, 60)))
    check(rng, stack, random_schedule(rng, stack), size, tmp_path, batch=1 + case % 2)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compiles_for_gpus(precision: str, arch: str) -> None:
    rng = np.random.default_rng(3)
    stack = random_stack(rng, precision, max_layers=3)
    binary = compile_cuda_text(render(stack, random_schedule(rng, stack), "stack"), arch)
    assert [kernel.name for kernel in binary.kernels] == ["stack"]
    assert binary.code[:4] == b"\x7fELF"


def test_the_activations_are_rendered_from_python() -> None:
    """After changing ``Activation``, write ``activation_header()`` to the file."""
    import codesign.kernels

    header = Path(codesign.kernels.__path__[0]) / "cuda" / "activation.cuh"
    assert header.read_text() == activation_header()
