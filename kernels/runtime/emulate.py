"""Kernels on a CPU, for tests: the same CUDA text, compiled by g++ with ``cuda/emulator.h``.

A build is cached by the text of the kernel and of every header. Runs are slow (a light network's 64x48 frame takes
seconds) and strict: ``emulator.h`` lists the faults they catch.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.built import built
from codesign.hw.errors import CodesignError

SOURCES = Path(__file__).parents[1] / "cuda"


@dataclass(frozen=True)
class Entry:
    """A kernel to build: its text, its name in it, and its numbers of pointers and ints."""

    source: str
    name: str
    pointers: int
    integers: int

    @property
    def call(self) -> str:
        arguments = [f"(char*)pointers[{i}]" for i in range(self.pointers)]
        arguments += [f"integers[{i}]" for i in range(self.integers)]
        return f"{self.name}({', '.join(arguments)})"


def build_emulated(source: str, name: str, pointers: int, integers: int, *, folder: Path) -> Path:
    """Compile kernel ``name`` of ``source``, which takes ``pointers`` pointers and then ``integers`` ints.

    Returns the shared library in ``folder``. Raises :class:`CodesignError` with the compiler's message when it fails.
    """
    return build_emulated_together([Entry(source, name, pointers, integers)], folder=folder)


def build_emulated_together(kernels: Sequence[Entry], *, folder: Path) -> Path:
    """Compile ``kernels`` into one library, in a fraction of the time; :func:`run_emulated` runs one by its index."""
    # Each in a function of its own: inlined into one, they would take the compiler many times longer.
    functions = "\n".join(
        f"__attribute__((noinline)) static void call_{index}(void** pointers, const int* integers) {{ {kernel.call}; }}"
        for index, kernel in enumerate(kernels)
    )
    calls = "\n".join(f"    if (kernel == {i}) call_{i}(pointers, integers);" for i in range(len(kernels)))
    sources = "\n".join(kernel.source for kernel in kernels)
    text = f"""#define CODESIGN_EMULATED
{sources}
{functions}
extern "C" void run_one(void** pointers, const int* integers, const unsigned* grid, unsigned threads,
                        unsigned shared_bytes, unsigned long long seed, int kernel) {{
  emulator::launch({{grid[0], grid[1], grid[2]}}, {{threads, 1, 1}}, shared_bytes, seed, [=] {{
{calls}
  }});
}}
extern "C" void run(void** pointers, const int* integers, const unsigned* grid, unsigned threads,
                    unsigned shared_bytes, unsigned long long seed) {{
  run_one(pointers, integers, grid, threads, shared_bytes, seed, 0);
}}
"""
    name = kernels[0].name
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    key = hashlib.sha256(text.encode() + headers).hexdigest()[:20]

    def build(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "kernel.cpp"
            path.write_text(text)
            command = [
                "g++",
                "-std=c++17",
                "-O1",
                "-U_FORTIFY_SOURCE",
                "-fno-strict-aliasing",
                "-shared",
                "-fPIC",
                "-w",
                f"-I{SOURCES}",
                "-o",
                str(target),
                str(path),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CodesignError(f"does not compile for the emulator: {done.stderr[:2000]}", where=name)

    return built(folder, f"{name[:60]}-{key}.so", key, build)


def run_emulated(
    library: Path,
    arrays: Sequence[NDArray[Any]],
    integers: Sequence[int],
    *,
    grid: tuple[int, int, int],
    threads: int,
    shared_bytes: int,
    seed: int = 0,
    kernel: int = 0,
) -> None:
    """Run kernel number ``kernel`` of a build over ``arrays`` (contiguous; written in place).

    A broken rule of CUDA aborts the process.
    """
    function = ctypes.CDLL(str(library)).run_one
    pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    numbers = (ctypes.c_int * max(1, len(integers)))(*integers)
    blocks = (ctypes.c_uint * 3)(*grid)
    function(
        pointers, numbers, blocks, ctypes.c_uint(threads), ctypes.c_uint(shared_bytes), ctypes.c_ulonglong(seed), kernel
    )


def aligned(shape: tuple[int, ...], dtype: Any, fill: int | float = 0) -> NDArray[Any]:
    """An array whose first byte is 64-byte aligned, as device memory's is."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(count + 64, np.uint8)
    start = -raw.ctypes.data % 64
    result: NDArray[Any] = raw[start : start + count].view(dtype).reshape(shape)
    result[...] = fill
    return result
