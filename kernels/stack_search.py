"""Schedules of a stack, the fastest by the model first.

The order comes from a model of one multiprocessor's step (:func:`estimate`): good enough to choose a dozen to
try on a GPU, and to compile without one. Measurements on a GPU are kept in the tuning database and take precedence.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from codesign.kernels.stack import Part, Schedule, Stack, column_tiles, kernel_of, layout

MAX_WARPS = 16


@dataclass(frozen=True)
class Gpu:
    """Limits of an architecture on a schedule."""

    multiprocessors: int
    shared_bytes: int  # shared memory of one block at most
    shared_bytes_per_multiprocessor: int
    # cycles of m16n8k16 in FP16 with FP32 sums, or m16n8k32 in INT8, on one of the four tensor cores
    product_cycles: float
    clock_hz: float
    bytes_per_second: float


GPUS = {
    # Tensor rates: NVIDIA's architecture white papers; mma.sync reaches about 62 % of wgmma's rate on sm_90.
    # Clocks and bandwidths: the data sheets of A100 80 GB, RTX 3090 (84 of its class), RTX 4090 and H200.
    "sm_80": Gpu(108, 163 << 10, 164 << 10, 8.0, 1.41e9, 2.0e12),
    "sm_86": Gpu(84, 99 << 10, 100 << 10, 16.0, 1.7e9, 0.94e12),
    "sm_89": Gpu(128, 99 << 10, 100 << 10, 16.0, 2.5e9, 1.0e12),
    "sm_90a": Gpu(132, 227 << 10, 228 << 10, 6.5, 1.75e9, 4.8e12),
}


def registers(stack: Stack, part: Part) -> int:
    """Estimated registers of a thread of this role: weights, sums, parameters and some thirty for the rest."""
    layer = stack.layers[part.layer]
    rows, taps, chunks = kernel_of(stack, layer)
    weights = rows * taps * chunks * part.column_tiles
    sums = part.tiles * rows * part.column_tiles * 4
    per_column = 2 + (layer.activation == "prelu") * 2 if stack.precision == "fp16" else 8
    return weights + sums + part.column_tiles * per_column + 34


@dataclass(frozen=True)
class Estimate:
    """Modelled cycles of a launch, and its registers and shared memory."""

    cycles: float
    warps: int
    shared_bytes: int


def estimate(stack: Stack, schedule: Schedule, arch: str, height: int, width: int, batch: int = 1) -> Estimate:
    """Modelled cost of one launch: waves of blocks x steps x the busiest unit's cycles per step."""
    gpu = GPUS[arch]
    placed = layout(stack, schedule)
    tensor = [0.0] * 4
    issue = [0.0] * 4
    reads = longest = 0.0
    for warp, part in enumerate(placed.parts):
        products, instructions, wavefronts = _work_of(stack, part)
        tensor[warp % 4] += products * gpu.product_cycles
        issue[warp % 4] += instructions
        reads += wavefronts
        # Two warps hide each other's latency; one alone waits for part of its own.
        longest = max(longest, max(products * gpu.product_cycles, instructions) * 1.3 + 60)
    for item in stack.inputs:
        ring = placed.rings[item.name]
        taps = placed.unfolded.get(item.name)
        per_pixel = taps * item.channels * 5 + 12 if taps else ring.planes * 8
        longest = max(longest, ring.pixels / 32 * per_pixel + 80)
    for out in stack.outputs:
        values = schedule.columns * stack.channels(out.name)
        planar = out.format == "planar"
        longest = max(longest, values / stack.chunk / 32 * (stack.chunk * 9 + 30 if planar else 16) + 80)
    resident = schedule.blocks
    step = max(longest, resident * max(tensor), resident * max(issue), resident * reads) + 40
    blocks = -(-width // schedule.columns) * -(-height // schedule.band) * batch
    waves = -(-blocks // (gpu.multiprocessors * resident))
    steps = min(schedule.band, height) + placed.tail
    return Estimate(waves * steps * step, placed.warps(stack), placed.shared_bytes)


def _work_of(stack: Stack, part: Part) -> tuple[float, float, float]:
    """Matrix products, instructions and shared-memory wavefronts of a part's step."""
    layer = stack.layers[part.layer]
    rows, taps, chunks = kernel_of(stack, layer)
    words = taps * chunks
    pairs, singles = words // 2, words % 2
    loads = pairs * 4 + singles * 2
    per_value = {"linear": 2, "relu": 3, "prelu": 4, "tanh": 12, "sigmoid": 14}[layer.activation]
    if stack.precision == "int8":
        per_value = 14
    epilogue = part.column_tiles * (4 * per_value + (8 if layer.add else 4)) + 16
    products = rows * part.column_tiles * (pairs + 0.6 * singles)
    moves = rows * part.column_tiles * 4
    instructions = rows * part.column_tiles * (pairs + singles) + (pairs + singles) * 1.5 + epilogue + moves
    return part.tiles * products, part.tiles * instructions, part.tiles * (loads + part.column_tiles * 2)


def candidates(stack: Stack, arch: str, height: int, width: int, batch: int = 1, limit: int = 16) -> list[Schedule]:
    """Up to ``limit`` schedules that fit ``arch``, the fastest by the model first; none if the stack does not fit."""
    found = {
        schedule: estimate(stack, schedule, arch, height, width, batch).cycles
        for schedule in _search(stack, arch, height, width, batch)
    }
    return sorted(found, key=lambda schedule: found[schedule])[:limit]


def _search(stack: Stack, arch: str, height: int, width: int, batch: int) -> Iterator[Schedule]:
    gpu = GPUS[arch]
    helpers = len(stack.inputs) + len(stack.outputs)
    widths = sorted(
        {
            columns
            for columns in (
                16,
                24,
                32,
                40,
                48,
                56,
                64,
                72,
                80,
                88,
                96,
                112,
                120,
                128,
                144,
                160,
                176,
                192,
                208,
                240,
                256,
            )
            if columns < width + 16
        }
    )
    for columns in widths:
        for blocks in (1, 2, 3, 4):
            for warps in range(len(stack.layers) + helpers, MAX_WARPS + 1):
                cap = min(255, 65536 // (-(-warps // 4) * 4 * 32 * blocks) // 8 * 8)
                splits = _balance(stack, columns, warps - helpers, cap, arch)
                if splits is None:
                    continue
                placed = layout(stack, Schedule(columns, 1, splits, blocks))
                if placed.warps(stack) != warps:
                    continue
                if placed.shared_bytes > gpu.shared_bytes:
                    continue
                if (placed.shared_bytes + 1024) * blocks > gpu.shared_bytes_per_multiprocessor:
                    continue
                strips = -(-width // columns) * batch
                for waves in (1, 2, 3):
                    bands = max(1, min(height, gpu.multiprocessors * blocks * waves // strips))
                    yield Schedule(columns, -(-height // bands), splits, blocks)


def _balance(stack: Stack, columns: int, warps: int, cap: int, arch: str) -> tuple[tuple[int, int], ...] | None:
    """Splits of the layers over exactly ``warps`` warps of at most ``cap`` registers that load the busiest warp
    least."""
    probe = layout(stack, Schedule(columns, 1, ((1, 1),) * len(stack.layers)))
    tiles = [next(part.tiles for part in probe.parts if part.layer == index) for index in range(len(stack.layers))]
    chosen: list[tuple[int, int]] = []
    for index in range(len(stack.layers)):
        split = _cheapest(stack, index, tiles[index], cap, 1)
        if split is None:
            return None
        chosen.append(split)
    spare = warps - sum(a * c for a, c in chosen)
    while spare > 0:
        order = sorted(range(len(chosen)), key=lambda i: -_busiest(stack, i, tiles[i], chosen[i], arch))
        index = order[0]
        count = chosen[index][0] * chosen[index][1]
        better = _cheapest(stack, index, tiles[index], cap, count + 1)
        if better is None or better[0] * better[1] - count > spare:
            return None
        spare -= better[0] * better[1] - count
        chosen[index] = better
    return tuple(chosen) if spare == 0 else None


@functools.lru_cache(maxsize=4096)
def _parts(stack: Stack, index: int, tiles: int, split: tuple[int, int]) -> tuple[Part, ...]:
    from codesign.kernels.stack import split_layer

    try:
        return tuple(split_layer(stack, index, tiles, column_tiles(stack, stack.layers[index]), split))
    except ValueError:
        return ()


def _cheapest(stack: Stack, index: int, tiles: int, cap: int, at_least: int) -> tuple[int, int] | None:
    """The split into the fewest warps (but ``at_least``) whose registers fit; splits by pixels before channels."""
    for count in range(at_least, MAX_WARPS + 1):
        for channels in (c for c in range(1, count + 1) if count % c == 0):
            parts = _parts(stack, index, tiles, (count // channels, channels))
            if parts and all(registers(stack, part) <= cap for part in parts):
                return count // channels, channels
    return None


def _busiest(stack: Stack, index: int, tiles: int, split: tuple[int, int], arch: str) -> float:
    cycles = GPUS[arch].product_cycles
    return max(
        max(products * cycles, instructions)
        for products, instructions, _ in (_work_of(stack, part) for part in _parts(stack, index, tiles, split))
    )


def best(stack: Stack, arch: str, height: int, width: int, batch: int = 1) -> Schedule | None:
    """The model's first choice, or None if the stack does not fit."""
    return next(iter(candidates(stack, arch, height, width, batch, 1)), None)
