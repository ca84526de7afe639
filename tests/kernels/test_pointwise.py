"""Kernels on chunked tensors, on the emulator: the fast one and the naive one against float64."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from codesign.kernels.chain import (
    Apply,
    Chain,
    Kind,
    PerChannel,
    Planes,
    Read,
    read,
    scale_channels,
    simple_gate,
)
from codesign.kernels.chunked import CHUNK, NAIVE_THREADS, Grid, Number, plane_count
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.pointwise import (
    Depthwise,
    LayerNorm,
    SegmentAverage,
    SegmentSums,
    ToChunked,
    ToPlanar,
)
from codesign.kernels.runtime.emulate import build_emulated, run_emulated
from codesign.kernels.runtime.nvrtc import compile_cuda_text

Rng = np.random.Generator
Array = NDArray[Any]


def fenced(values: Array, *, at_end: bool) -> Array:
    """A copy that ends, or begins, at a page that cannot be read: an index out of bounds kills the test."""
    page = mmap.PAGESIZE
    pages = -(-max(values.nbytes, 1) // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    for fence in (base, base + (pages + 1) * page):
        assert protect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    start = page + (pages * page - values.nbytes if at_end else 0)
    result: Array = np.frombuffer(memory, values.dtype, values.size, start).reshape(values.shape)
    result[...] = values
    return result


class Bench:
    """The fast and the naive kernel of many operators, in one build: a build takes longer than most runs."""

    def __init__(self, folder: Path, operators: Sequence[FrameKernel]) -> None:
        self.numbers = {id(op): number for number, op in enumerate(operators)}
        texts: list[str] = []
        calls: list[str] = []
        self.counts: list[int] = []
        for number, op in enumerate(operators):
            for kind, write in (("fast", op.text), ("naive", op.naive_text)):
                name = f"{kind}_{number}"
                text = write(name)
                signature = text[text.index(f"\n{name}(") :].split(")")[0]
                count = signature.count("char*")
                arguments = [f"pointer_{i}" for i in range(count)]
                arguments += [f"integer_{i}" for i in range(signature.count("int "))]
                calls.append(f"  if (which == {len(calls)}) {name}({', '.join(arguments)});\n")
                texts.append(text)
                self.counts.append(count)
        declared = [f"char* pointer_{i}" for i in range(max(self.counts))] + [f"int integer_{i}" for i in range(4)]
        source = "\n".join(texts) + f'\nextern "C" __global__ void chosen({", ".join(declared)}, int which) {{\n'
        self.library = build_emulated(source + "".join(calls) + "}\n", "chosen", max(self.counts), 5, folder=folder)

    def run(
        self,
        op: FrameKernel,
        inputs: Sequence[Array],
        outputs: Sequence[tuple[tuple[int, ...], Any]],
        integers: Sequence[int],
    ) -> tuple[list[Array], list[Array]]:
        """Outputs of the fast and of the naive kernel; the fast one's must not depend on the order of threads."""
        number, batch, parameters = self.numbers[id(op)], inputs[0].shape[0], op.parameters()
        blocks, naive_blocks = op.grid(integers, batch), op.naive_grid(integers, batch)

        def once(which: int, blocks: Grid, threads: int, shared_bytes: int, seed: int) -> list[Array]:
            arrays = [fenced(values, at_end=seed % 2 == 0) for values in inputs]
            made = [fenced(np.full(shape, np.nan, dtype), at_end=seed % 2 == 0) for shape, dtype in outputs]
            arrays += made
            if parameters:
                arrays.append(fenced(np.frombuffer(parameters, np.uint8), at_end=seed % 2 == 0))
            assert len(arrays) == self.counts[which]
            unused = [np.zeros(1)] * (max(self.counts) - len(arrays))
            numbers = [*integers, *[0] * (4 - len(integers)), which]
            run_emulated(
                self.library,
                [*arrays, *unused],
                numbers,
                grid=blocks,
                threads=threads,
                shared_bytes=shared_bytes,
                seed=seed,
            )
            return made

        fast, again = (once(2 * number, blocks, op.threads, op.shared_bytes, seed) for seed in (1, 2))
        for a, b in zip(fast, again, strict=True):
            np.testing.assert_array_equal(a, b)
        return fast, once(2 * number + 1, naive_blocks, NAIVE_THREADS, 0, 3)


def texts_of(operators: Sequence[FrameKernel]) -> list[str]:
    """The fast and the naive kernel of every operator."""
    texts = [op.text(f"kernel_{index}") for index, op in enumerate(operators)]
    return texts + [op.naive_text(f"naive_{index}") for index, op in enumerate(operators)]


def chunked(values: Array, *, padding: float = 0.0) -> Array:
    """``[batch, C, H, W]`` to FP16 ``[batch, planes, H, W, 8]``; ``padding`` in the unused channels of the last
    chunk."""
    batch, channels, height, width = values.shape
    filled = np.full((batch, plane_count(channels) * CHUNK, height, width), padding, np.float16)
    filled[:, :channels] = values
    cut_ = filled.reshape(batch, -1, CHUNK, height, width)
    return np.ascontiguousarray(cut_.transpose(0, 1, 3, 4, 2))


def planar(values: Array, channels: int) -> Array:
    """Back to ``[batch, C, H, W]``; unused channels of the last chunk must be zeros."""
    batch, planes, height, width, _ = values.shape
    filled = values.transpose(0, 1, 4, 2, 3).reshape(batch, planes * CHUNK, height, width)
    np.testing.assert_array_equal(filled[:, channels:], 0)
    return filled[:, :channels]


def random_half(rng: Rng, *shape: int) -> Array:
    return rng.normal(size=shape).astype(np.float16)


def check_close(got: Array, want: Array) -> None:
    """Within 5e-3 of float64 as a whole, and no value far off; NaN fails."""
    assert got.shape == want.shape
    difference = np.abs(got.astype(np.float64) - want)
    assert np.linalg.norm(difference) <= 5e-3 * np.linalg.norm(want), np.linalg.norm(difference) / np.linalg.norm(want)
    scale = np.abs(want).max(initial=0.0)
    assert (difference <= 2e-3 * scale + 2e-3 * np.abs(want)).all()


def check_both(fast: Array, naive: Array, want: Array) -> None:
    """Both close to float64, and to each other: two roundings of nearly the same number."""
    check_close(fast, want)
    check_close(naive, want)
    scale = float(np.abs(want).max(initial=0.0))
    np.testing.assert_allclose(fast.astype(np.float64), naive.astype(np.float64), rtol=2**-9, atol=scale * 2**-12)


def torch_of(kind: Kind, x: Array, constants: Sequence[float] = ()) -> Array:
    values = torch.from_numpy(x.astype(np.float64))
    functions: dict[Kind, Callable[[], torch.Tensor]] = {
        "relu": lambda: functional.relu(values),
        "leaky_relu": lambda: functional.leaky_relu(values, constants[0]),
        "clip": lambda: values.clamp(constants[0], constants[1]),
        "sigmoid": lambda: torch.sigmoid(values),
        "tanh": lambda: torch.tanh(values),
        "gelu_tanh": lambda: functional.gelu(values, approximate="tanh"),
        "gelu_erf": lambda: functional.gelu(values),
        "silu": lambda: functional.silu(values),
        "copy": lambda: values,
    }
    return functions[kind]().numpy()


def concatenate(*channels: int) -> Chain:
    """Tensors one after the other; all but the last of whole chunks."""
    parts = tuple(Planes(tensor, plane_count(count)) for tensor, count in enumerate(channels))
    return Chain(sum(channels), channels, (Read(parts),), (0,))


def cut(channels: int, first: int, count: int) -> Chain:
    """Channels ``first`` to ``first + count`` of ``channels``, on chunk boundaries."""
    return Chain(count, (channels,), (Read((Planes(0, plane_count(count), first // CHUNK),)),), (0,))


UNARY: dict[Kind, tuple[float, ...]] = {
    "relu": (),
    "leaky_relu": (0.1,),
    "clip": (-0.5, 0.75),
    "sigmoid": (),
    "tanh": (),
    "gelu_tanh": (),
    "gelu_erf": (),
    "silu": (),
    "copy": (),
}


RNG = np.random.default_rng(0)
BINARY: tuple[Kind, ...] = ("add", "subtract", "multiply", "maximum", "minimum", "prelu")
CONSTANTS = RNG.normal(size=13)
PER_CHANNEL = PerChannel(tuple(CONSTANTS.tolist()))

ONE_VALUE = Chain(
    11,
    (11,),
    (read(11), *(Apply(kind, (0, *constants)) for kind, constants in UNARY.items())),
    tuple(range(1, 1 + len(UNARY))),
    threads=32,
    items=3,
)
TWO_VALUES = Chain(
    13,
    (13, 13),
    (
        read(13),
        read(13, 1),
        *(Apply(kind, (0, 1)) for kind in BINARY[:5]),
        *(Apply(kind, (0, PER_CHANNEL)) for kind in BINARY),
        Apply("subtract", (0.5, 0)),
        Apply("maximum", (7, -0.25)),
        Apply("add", (13, 3)),
    ),
    tuple(range(2, 16)),
    threads=64,
    items=1,
)
GATE, SCALE, CUT, CONCATENATION = simple_gate(32), scale_channels(16), cut(32, 8, 16), concatenate(16, 32, 5)
SILU = Chain(3, (3,), (read(3), Apply("sigmoid", (0,)), Apply("multiply", (0, 1))), (2,))
CHAINS = (ONE_VALUE, TWO_VALUES, GATE, SCALE, CUT, CONCATENATION, SILU)


def norm(channels: int, pixel_warps: int, channel_warps: int) -> LayerNorm:
    return LayerNorm(RNG.normal(size=channels), RNG.normal(size=channels), 1e-6, pixel_warps, channel_warps)


NORMS = (
    (norm(20, 2, 1), (5, 9)),
    (norm(70, 2, 3), (3, 23)),
    (norm(8, 1, 0), (1, 1)),
    (norm(136, 4, 0), (2, 17)),
    (norm(2050, 4, 0), (1, 3)),
)
AVERAGES = tuple(
    (SegmentSums(c, 5, 64), SegmentAverage(c, 5, 32), size)
    for c, size in (
        (11, (9, 13)),
        (16, (1, 1)),
        (3, (31, 40)),
    )
)


def separable(
    channels: int, activation: Kind, constants: tuple[float, ...], rows: int, warps: int, gate: bool = False
) -> Depthwise:
    weights, bias = RNG.normal(size=(channels, 3, 3)), RNG.normal(size=channels)
    return Depthwise(weights, bias, activation, constants, gate, rows, warps)


DEPTHWISE = (
    (separable(12, "copy", (), 4, 2), (13, 37)),
    (separable(8, "leaky_relu", (0.2,), 3, 1), (2, 5)),
    (separable(3, "sigmoid", (), 8, 4), (1, 1)),
    (separable(19, "gelu_erf", (), 2, 1), (7, 33)),
    (separable(32, "copy", (), 4, 2, True), (9, 35)),
    (separable(16, "gelu_erf", (), 3, 2, True), (1, 2)),
)
NUMBERS: tuple[Number, ...] = ("fp16", "fp32")
CONVERSIONS = tuple(
    (ToChunked(channels, number, 32, 2), ToPlanar(channels, number, 32, 2), size)
    for channels, size in ((1, (1, 1)), (3, (5, 7)), (21, (3, 45)))
    for number in NUMBERS
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    operators = [*CHAINS, *(op for op, _ in NORMS), *(op for op, _ in DEPTHWISE)]
    for first, second, _ in (*AVERAGES, *CONVERSIONS):
        operators += [first, second]
    return Bench(tmp_path_factory.mktemp("pointwise"), operators)


def check_chain(bench: Bench, op: Chain, inputs: Sequence[Array], wanted: Sequence[Array]) -> None:
    """Check a chain; ``inputs`` and ``wanted`` are ``[batch, C, H, W]``, unused channels of the inputs are NaN."""
    batch, _, *size = wanted[0].shape
    outputs = [((batch, op.planes, *size, CHUNK), np.float16)] * len(wanted)
    stored = [chunked(values, padding=np.nan) for values in inputs]
    fast, naive = bench.run(op, stored, outputs, size)
    for a, b, want in zip(fast, naive, wanted, strict=True):
        check_both(planar(a, op.channels), planar(b, op.channels), want)


def test_every_function_of_one_value(bench: Bench) -> None:
    """In one kernel of many outputs, on values from tiny to huge."""
    x = random_half(np.random.default_rng(0), 2, 11, 5, 7) * np.float16(3)
    x[0, 0, 0] = [0, 6e-8, -6e-8, 1e-3, 30000, -30000, 12]
    check_chain(bench, ONE_VALUE, [x], [torch_of(kind, x, constants) for kind, constants in UNARY.items()])


def test_functions_of_two_values_and_constants(bench: Bench) -> None:
    rng = np.random.default_rng(1)
    a, b = random_half(rng, 1, 13, 4, 33), random_half(rng, 1, 13, 4, 33)
    each = CONSTANTS[:, None, None]
    x, y = a.astype(np.float64), b.astype(np.float64)

    def binary(other: Array) -> list[Array]:
        return [x + other, x - other, x * other, np.maximum(x, other), np.minimum(x, other)]

    wanted = [*binary(y), *binary(each), np.where(x > 0, x, x * each), 0.5 - x, np.maximum(x + each, -0.25)]
    check_chain(bench, TWO_VALUES, [a, b], [*wanted, 0.5 - x + x - y])


def test_gate_scale_cut_and_concatenation(bench: Bench) -> None:
    rng = np.random.default_rng(2)
    x, y, tail = random_half(rng, 2, 32, 3, 21), random_half(rng, 2, 16, 3, 21), random_half(rng, 2, 5, 3, 21)
    vector = random_half(rng, 2, 16, 1, 1)
    check_chain(bench, GATE, [x], [x[:, :16].astype(np.float64) * x[:, 16:]])
    check_chain(bench, SCALE, [y, vector], [y.astype(np.float64) * vector])
    check_chain(bench, CUT, [x], [x[:, 8:24]])
    check_chain(bench, CONCATENATION, [y, x, tail], [np.concatenate([y, x, tail], 1)])


def test_chain_on_one_pixel(bench: Bench) -> None:
    x = random_half(np.random.default_rng(3), 1, 3, 1, 1)
    check_chain(bench, SILU, [x], [torch_of("silu", x)])


def test_chains_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="not whole chunks"):
        simple_gate(24)
    with pytest.raises(ValueError, match="not whole chunks"):
        Depthwise(np.ones((24, 3, 3)), np.zeros(24), gate=True)
    with pytest.raises(ValueError, match="do not end with a whole chunk"):
        concatenate(12, 8)
    with pytest.raises(ValueError, match="reads step 1"):
        Chain(8, (8,), (read(8), Apply("add", (0, 1))), (1,))
    with pytest.raises(ValueError, match="clip with 2 operands"):
        Chain(8, (8,), (read(8), Apply("clip", (0, 1.0))), (1,))
    with pytest.raises(ValueError, match="2 constants for 8 channels"):
        Chain(8, (8,), (read(8), Apply("add", (0, PerChannel((1.0, 2.0))))), (1,))
    with pytest.raises(ValueError, match="planes 1 to 2 of 1"):
        Chain(8, (8,), (Read((Planes(0, 1, 1),)),), (0,))


@pytest.mark.parametrize(("op", "size"), NORMS)
def test_layer_norm(bench: Bench, op: LayerNorm, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(op.channels)
    # A mean far from zero: the variance must not be a difference of large sums.
    x = (random_half(rng, 2, op.channels, *size) * 0.5 + rng.normal(size=(2, 1, *size)) * 8).astype(np.float16)
    outputs = [((2, op.planes, *size, CHUNK), np.float16)]
    fast, naive = bench.run(op, [chunked(x, padding=np.nan)], outputs, size)
    wide = x.astype(np.float64)
    away = wide - wide.mean(1, keepdims=True)
    want = away / np.sqrt((away**2).mean(1, keepdims=True) + 1e-6)
    want = want * op.scale[:, None, None] + op.shift[:, None, None]
    check_both(planar(fast[0], op.channels), planar(naive[0], op.channels), want)


@pytest.mark.parametrize("channels", [1, 1024, 1025, 2048, 2049, 4096, 9999])
def test_a_layer_norm_fits_a_block(channels: int) -> None:
    assert norm(channels, 4, 0).threads <= 1024


@pytest.mark.parametrize(("sums", "average", "size"), AVERAGES)
def test_global_average(bench: Bench, sums: SegmentSums, average: SegmentAverage, size: tuple[int, int]) -> None:
    x = (random_half(np.random.default_rng(sums.channels), 2, sums.channels, *size) + 100).astype(np.float16)
    outputs = [((2, sums.planes, sums.segments, CHUNK), np.float32)]
    fast, naive = bench.run(sums, [chunked(x, padding=np.nan)], outputs, size)
    np.testing.assert_allclose(fast[0], naive[0], rtol=1e-5)
    halves, naive_halves = bench.run(average, [chunked(x), *fast], [((2, sums.planes, 1, 1, CHUNK), np.float16)], size)
    want = x.astype(np.float64).mean((2, 3), keepdims=True)
    check_both(planar(halves[0], sums.channels), planar(naive_halves[0], sums.channels), want)


@pytest.mark.parametrize(("op", "size"), DEPTHWISE)
def test_depthwise(bench: Bench, op: Depthwise, size: tuple[int, int]) -> None:
    x = random_half(np.random.default_rng(op.channels), 2, op.channels, *size)
    outputs = [((2, op.planes, *size, CHUNK), np.float16)]
    fast, naive = bench.run(op, [chunked(x, padding=np.nan)], outputs, size)
    made = op.output_channels
    sums = functional.conv2d(
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(op.weights)[:, None],
        torch.from_numpy(op.bias),
        padding=1,
        groups=op.channels,
    )
    want = torch_of(op.activation, sums[:, :made].numpy(), op.constants)
    want = want * sums[:, made:].numpy() if op.gate else want
    check_both(planar(fast[0], made), planar(naive[0], made), want)


@pytest.mark.parametrize(("there", "back", "size"), CONVERSIONS)
def test_planar_and_back(bench: Bench, there: ToChunked, back: ToPlanar, size: tuple[int, int]) -> None:
    x = random_half(np.random.default_rng(there.channels), 2, there.channels, *size)
    dtype = np.float16 if there.number == "fp16" else np.float32
    for made in bench.run(there, [x.astype(dtype)], [((2, there.planes, *size, CHUNK), np.float16)], size):
        np.testing.assert_array_equal(made[0], chunked(x))
    for made in bench.run(back, [chunked(x, padding=np.nan)], [(x.shape, dtype)], size):
        np.testing.assert_array_equal(made[0], x)


def check_compiles(kernels: Sequence[str], arch: str) -> None:
    binary = compile_cuda_text("\n".join(kernels), arch)
    assert len(binary.kernels) == len(kernels)
    assert {kernel.name: kernel.spilled_bytes for kernel in binary.kernels if kernel.spilled_bytes} == {}
    assert binary.code[:4] == b"\x7fELF"


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_compiles_for_gpus(arch: str) -> None:
    """Every kernel, at its default tiles, without spills."""
    steps: list[Read | Apply] = [read(48)]
    steps += [Apply(kind, (0, *constants)) for kind, constants in UNARY.items()]
    operators: tuple[FrameKernel, ...] = (
        Chain(48, (48,), tuple(steps), (5, len(steps) - 1)),
        simple_gate(64),
        scale_channels(52),
        concatenate(64, 32, 3),
        LayerNorm(np.ones(64), np.zeros(64)),
        LayerNorm(np.ones(516), np.zeros(516)),
        SegmentSums(52),
        SegmentAverage(52),
        Depthwise(np.ones((52, 3, 3)), np.zeros(52)),
        Depthwise(np.ones((64, 3, 3)), np.zeros(64), "gelu_erf"),
        Depthwise(np.ones((64, 3, 3)), np.zeros(64), gate=True),
        Depthwise(np.ones((64, 3, 3)), np.zeros(64), "gelu_erf", gate=True),
        ToChunked(3),
        ToChunked(3, "fp32"),
        ToPlanar(3),
        ToPlanar(52, "fp32"),
    )
    check_compiles(texts_of(operators), arch)
