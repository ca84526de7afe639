"""A stack of thin convolutions as one CUDA kernel: its layers, their split over warps, and the source text.

:func:`layout` places every tensor's rows in shared memory and every layer in time, :func:`render` writes the kernel
(an instance of ``cuda/stack.cuh``), :func:`pack` arranges weights in the order of the lanes. All shapes are
compile-time constants, except the frame's height and width and the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.chunked import flag, literal
from codesign.kernels.layers import CHUNK_CHANNELS, Conv, Format, Precision, lane_channels

Reader = tuple[str, Literal["source", "add", "store"]]
"""A layer's name, empty for a store, and the role in which it reads a tensor."""

PREFETCH = 2
"""Rows that a chunked input is loaded ahead of its first reader."""


@dataclass(frozen=True)
class Input:
    """A tensor from global memory. ``planar``: NCHW of few channels; ``chunked``: [planes][H][W][16 bytes]."""

    name: str
    channels: int
    format: Format
    zero_point: int = 0


@dataclass(frozen=True)
class Output:
    """A tensor to global memory, after moving channels to ``shuffle`` x ``shuffle`` pixels."""

    name: str
    format: Format
    shuffle: int = 1


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers in execution order, all of one frame size."""

    precision: Precision
    inputs: tuple[Input, ...]
    layers: tuple[Conv, ...]
    outputs: tuple[Output, ...]

    @property
    def chunk(self) -> int:
        """Channels in 16 bytes."""
        return CHUNK_CHANNELS[self.precision]

    @property
    def element_bytes(self) -> int:
        return 16 // self.chunk

    def channels(self, tensor: str) -> int:
        made = {layer.output: layer.channels for layer in self.layers} | {i.name: i.channels for i in self.inputs}
        return made[tensor]

    def planes(self, tensor: str) -> int:
        """Chunks of a pixel between launches and, but for unfolded inputs, in shared memory."""
        return -(-self.channels(tensor) // self.chunk)


@dataclass(frozen=True)
class Schedule:
    """The parameters that are searched. ``splits``: for each layer, warps side by side and warps on different output
    channels."""

    columns: int  # columns of the result per block
    band: int  # rows of the result per block
    splits: tuple[tuple[int, int], ...]
    blocks: int = 1  # blocks on one multiprocessor at a time


@dataclass(frozen=True)
class Ring:
    """A tensor's rows in shared memory; the fields of ``Ring`` in ``stack.cuh``."""

    offset: int
    rows: int
    row_bytes: int
    plane_bytes: int
    planes: int
    origin: int
    left: int
    pixels: int
    after: int

    def text(self) -> str:
        return "{" + ", ".join(str(value) for value in vars(self).values()) + "}"


@dataclass(frozen=True)
class Part:
    """One warp's share of a layer: tiles of 16 pixels, tiles of 8 output channels."""

    layer: int
    tile: int
    tiles: int
    column_tile: int
    column_tiles: int


@dataclass(frozen=True)
class Layout:
    """A stack under a schedule: places of tensors, times of rows, work of warps."""

    rings: Mapping[str, Ring]
    delays: Mapping[tuple[str, Reader], int]  # (tensor, reader): steps from writing a row to reading it
    unfolded: Mapping[str, int]  # planar input: horizontal taps held by a pixel
    parts: tuple[Part, ...]
    shared_bytes: int
    tail: int  # steps beyond the band's rows

    def warps(self, stack: Stack) -> int:
        return len(self.parts) + len(stack.inputs) + len(stack.outputs)


def column_tiles(stack: Stack, layer: Conv) -> int:
    """Tiles of 8 output channels; an even number for int8 beyond one, so that lanes store whole words."""
    tiles = -(-layer.channels // 8)
    return tiles + tiles % 2 if stack.precision == "int8" and tiles > 1 else tiles


def kernel_of(stack: Stack, layer: Conv) -> tuple[int, int, int]:
    """Rows, columns and chunks a pixel as the kernel sees them: the columns of a planar input are unfolded."""
    ky, kx, channels, _ = layer.weights.shape
    planar = any(item.name == layer.source and item.format == "planar" for item in stack.inputs)
    if planar:
        return int(ky), 1, -(-kx * channels // stack.chunk)
    return int(ky), int(kx), -(-channels // stack.chunk)


def layout(stack: Stack, schedule: Schedule) -> Layout:
    """Place ``stack`` under ``schedule``. Raises ``ValueError`` if a layer cannot be split this way."""
    need = _needs(stack)
    unfolded = _unfolded(stack)
    origin, delays = _times(stack, need)
    tiles = {layer.output: -(-(schedule.columns + 2 * need[layer.output][1]) // 16) for layer in stack.layers}
    pixels = {name: schedule.columns + 2 * need[name][1] for name in need}
    extent = dict(pixels) | {name: 16 * count for name, count in tiles.items()}
    for layer in stack.layers:
        left = need[layer.output][1]
        taps = 0 if layer.source in unfolded else layer.weights.shape[1] // 2
        start = need[layer.source][1] - left - taps
        extent[layer.source] = max(extent[layer.source], start + tiles[layer.output] * 16 + 2 * taps)
        if layer.add is not None:
            start = need[layer.add][1] - left
            extent[layer.add] = max(extent[layer.add], start + tiles[layer.output] * 16)
    planes: dict[str, int] = {}
    for item in stack.inputs:
        values = item.channels * unfolded.get(item.name, 1)
        planes[item.name] = -(-values // stack.chunk)
    for layer in stack.layers:
        planes[layer.output] = -(-column_tiles(stack, layer) * 8 // stack.chunk)
    rings: dict[str, Ring] = {}
    offset = 0
    formats = {item.name: item.format for item in stack.inputs}
    for name in need:
        longest = max(delay for (tensor, _), delay in delays.items() if tensor == name)
        rows = longest + 1 + (PREFETCH if formats.get(name) == "chunked" else 0)
        plane = extent[name] * 16
        rings[name] = Ring(
            offset,
            rows,
            plane * planes[name],
            plane,
            planes[name],
            origin[name],
            -need[name][1],
            pixels[name],
            need[name][0],
        )
        offset += rows * plane * planes[name]
    parts = tuple(
        part
        for index, (layer, split) in enumerate(zip(stack.layers, schedule.splits, strict=True))
        for part in split_layer(stack, index, tiles[layer.output], column_tiles(stack, layer), split)
    )
    tail = 1 - min(origin[item.name] for item in stack.outputs)
    return Layout(rings, delays, unfolded, parts, offset, tail)


def _needs(stack: Stack) -> dict[str, tuple[int, int]]:
    """Rows and columns of each tensor needed beyond those of the result."""
    need: dict[str, tuple[int, int]] = {item.name: (0, 0) for item in stack.inputs}
    need |= {layer.output: (0, 0) for layer in stack.layers}
    for layer in reversed(stack.layers):
        rows, columns = need[layer.output]
        ky, kx = layer.weights.shape[:2]
        more = (rows + ky // 2, columns + kx // 2)
        need[layer.source] = (max(need[layer.source][0], more[0]), max(need[layer.source][1], more[1]))
        if layer.add is not None:
            need[layer.add] = (max(need[layer.add][0], rows), max(need[layer.add][1], columns))
    return need


def _unfolded(stack: Stack) -> dict[str, int]:
    """Horizontal taps of the layers that read each planar input."""
    result: dict[str, int] = {}
    for item in stack.inputs:
        if item.format == "planar":
            taps = {int(layer.weights.shape[1]) for layer in stack.layers if layer.source == item.name}
            if len(taps) > 1:
                raise ValueError(f"layers of {sorted(taps)} taps read the planar input {item.name}")
            result[item.name] = taps.pop() if taps else 1
    return result


def _times(stack: Stack, need: Mapping[str, tuple[int, int]]) -> tuple[dict[str, int], dict[tuple[str, Reader], int]]:
    """The row of each tensor written in step 0, and every reader's delay."""
    sources = {layer.source for layer in stack.layers}
    origin = {item.name: -need[item.name][0] for item in stack.inputs if item.name in sources}
    late = {item.name for item in stack.inputs if item.name not in sources}
    delays: dict[tuple[str, Reader], int] = {}
    for layer in stack.layers:
        below = layer.weights.shape[0] // 2
        made = origin[layer.source] - below - 1
        if layer.add is not None and layer.add not in late:
            made = min(made, origin[layer.add] - 1)
        origin[layer.output] = made
        delays[layer.source, (layer.name, "source")] = origin[layer.source] - below - made
    for name in late:
        origin[name] = 1 + max(origin[layer.output] for layer in stack.layers if layer.add == name)
    for layer in stack.layers:
        if layer.add is not None:
            delays[layer.add, (layer.name, "add")] = origin[layer.add] - origin[layer.output]
    for item in stack.outputs:
        delays[item.name, ("", "store")] = 1
    return origin, delays


def split_layer(stack: Stack, index: int, tiles: int, columns: int, split: tuple[int, int]) -> list[Part]:
    across, channels = split
    unit = 2 if stack.precision == "int8" and columns > 1 else 1
    if across > tiles or channels > columns // unit:
        raise ValueError(f"{across} x {channels} warps for {tiles} tiles and {columns // unit} groups of channels")
    parts = []
    for c in range(channels):
        first, last = (round(edge * (columns // unit) / channels) * unit for edge in (c, c + 1))
        for a in range(across):
            left, right = (round(edge * tiles / across) for edge in (a, a + 1))
            parts.append(Part(index, left, right - left, first, last - first))
    return parts


# Parameters


def pack(stack: Stack, schedule: Schedule) -> tuple[bytes, dict[tuple[int, int], int], dict[int, int]]:
    """The parameter blob, and the offsets of each (layer, first column tile) and of each layer's table."""
    placed = layout(stack, schedule)
    blob = bytearray()
    begins: dict[tuple[int, int], int] = {}
    tables: dict[int, int] = {}
    for part in placed.parts:
        if (part.layer, part.column_tile) not in begins:
            begins[part.layer, part.column_tile] = len(blob)
            blob += _part_parameters(stack, placed, part)
    for index, layer in enumerate(stack.layers):
        if layer.requantise is not None and layer.requantise.table is not None:
            tables[index] = len(blob)
            blob += layer.requantise.table.tobytes()
    return bytes(blob), begins, tables


def channels_of(stack: Stack, part: Part) -> NDArray[np.int64]:
    """The output channel of each of a part's columns: ``int64[tiles, 8]``."""
    return part.column_tile * 8 + lane_channels(stack.precision, part.column_tiles)


def _part_parameters(stack: Stack, placed: Layout, part: Part) -> bytes:
    layer = stack.layers[part.layer]
    channel = channels_of(stack, part)
    valid = channel < layer.channels
    index = np.where(valid, channel, 0)
    chunks = _chunks(stack, layer)  # [KY, words, 16 bytes' elements, Cout]
    columns = np.where(valid, chunks[..., index], 0)  # [KY, words, elements, tiles, 8]
    # A lane's word: bytes 4 (lane % 4) of the chunk for column lane / 4.
    ordered = np.ascontiguousarray(columns.transpose(0, 1, 3, 4, 2))  # [KY, words, tiles, 8 columns, elements]
    dtype = np.float16 if stack.precision == "fp16" else np.int8
    blob = ordered.astype(dtype).tobytes()

    def of_channel(values: Any, fill: int = 0) -> NDArray[Any]:
        return np.where(valid, np.broadcast_to(values, layer.channels)[index], fill).reshape(-1)

    if layer.requantise is None:
        blob += of_channel(layer.bias).astype(np.float32).tobytes()
        if layer.activation == "prelu":
            assert layer.slope is not None
            blob += of_channel(layer.slope).astype(np.float32).tobytes()
    else:
        rule = layer.requantise
        values = (
            of_channel(layer.bias),
            of_channel(rule.multiplier),
            of_channel(rule.negative_multiplier),
            of_channel(rule.shift, 32),
        )
        blob += b"".join(value.astype(np.int32).tobytes() for value in values)
        blob += np.array([rule.zero_point, rule.low, rule.high, 0], np.int32).tobytes()
    if operand_kind(stack, placed, layer) == "MAPPED":
        assert layer.add is not None
        ring = placed.rings[layer.add]
        wanted = np.array(layer.add_channels or range(layer.channels))
        source = next((item for item in stack.inputs if item.name == layer.add), None)
        element = wanted
        if layer.add in placed.unfolded and source is not None:
            element = placed.unfolded[layer.add] // 2 * source.channels + wanted
        offset = element // stack.chunk * ring.plane_bytes + element % stack.chunk * stack.element_bytes
        blob += of_channel(offset).astype(np.int32).tobytes()
    return blob + bytes(-len(blob) % 16)


def _chunks(stack: Stack, layer: Conv) -> NDArray[Any]:
    """Weights in the order of the kernel's words: ``[KY, words, chunk, Cout]``."""
    rows, taps, chunks = kernel_of(stack, layer)
    co = layer.channels
    flat = layer.weights.reshape(rows, taps, -1, co)
    padded = np.zeros((rows, taps, chunks * stack.chunk, co), layer.weights.dtype)
    padded[:, :, : flat.shape[2]] = flat
    cut = padded.reshape(rows, taps, chunks, stack.chunk, co)
    order = [(dx, c) for dx in range(taps) for c in range(chunks // 2 * 2)]
    if chunks % 2:
        order += [(dx, chunks - 1) for dx in range(taps)]
    return np.stack([cut[:, dx, c] for dx, c in order], axis=1)


def operand_kind(stack: Stack, placed: Layout, layer: Conv) -> str:
    """Kind of the second operand: NOTHING, ALIGNED or MAPPED."""
    if layer.add is None:
        return "NOTHING"
    same = layer.add_channels is None or layer.add_channels == tuple(range(layer.channels))
    return "ALIGNED" if same and layer.add not in placed.unfolded else "MAPPED"


# Source text


def render(stack: Stack, schedule: Schedule, name: str) -> str:
    """The kernel's CUDA text. Its arguments: inputs, outputs, the parameter blob, height, width."""
    placed = layout(stack, schedule)
    _, begins, tables = pack(stack, schedule)
    element = "Half" if stack.precision == "fp16" else "Int8"
    threads = placed.warps(stack) * 32
    works: list[str] = []
    classes: dict[str, list[int]] = {}
    for warp, part in enumerate(placed.parts):
        works.append(_work(stack, placed, part, begins, tables))
        classes.setdefault(_class(stack, placed, part, element), []).append(warp)
    arguments = [f"const char* input_{i}" for i in range(len(stack.inputs))]
    arguments += [f"char* output_{i}" for i in range(len(stack.outputs))]
    lines = [
        '#include "stack.cuh"',
        "",
        f"__device__ constexpr Work {name}_work[] = {{",
        *(f"  {work}," for work in works),
        "};",
        "",
        f'extern "C" __global__ void __launch_bounds__({threads}, {schedule.blocks})',
        f"{name}({', '.join(arguments)}, const char* parameters, int height, int width) {{",
        f"  constexpr int THREADS = {threads}, COLUMNS = {schedule.columns}, BAND = {schedule.band};",
        "  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;",
        "  const int top = blockIdx.y * BAND, rows = min(BAND, height - top);",
        "  const int strip = blockIdx.x * COLUMNS;",
        f"  const Place place{{height, width, top, rows, strip, rows + {placed.tail}}};",
        "  const long long pixels = static_cast<long long>(height) * width * blockIdx.z;",
        "  switch (warp) {",
    ]
    for text, warps in classes.items():
        lines += [
            "    " + " ".join(f"case {warp}:" for warp in warps),
            f"      {{ {text} layer; layer.march({name}_work[warp], place, parameters, lane, THREADS); }}",
            "      return;",
        ]
    warp = len(placed.parts)
    for i, item in enumerate(stack.inputs):
        lines += [f"    case {warp}:", f"      {_load(stack, placed, item, i, element)}", "      return;"]
        warp += 1
    for i, out in enumerate(stack.outputs):
        lines += [f"    case {warp}:", f"      {_store(stack, placed, out, i, element)}", "      return;"]
        warp += 1
    lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def _class(stack: Stack, placed: Layout, part: Part, element: str) -> str:
    layer = stack.layers[part.layer]
    rows, taps, chunks = kernel_of(stack, layer)
    rule = layer.requantise
    clip = rule is None and (layer.low > -math.inf or layer.high < math.inf)
    wide = rule is not None and bool(np.all(rule.shift >= 32))
    activation = layer.activation.upper() if rule is None else "LINEAR"

    return (
        f"Layer<{element}, {rows}, {taps}, {chunks}, {part.column_tiles}, {part.tiles}, {activation}, "
        f"{operand_kind(stack, placed, layer)}, {flag(clip)}, {flag(wide)}, "
        f"{flag(rule is not None and rule.table is not None)}>"
    )


def _work(
    stack: Stack, placed: Layout, part: Part, begins: Mapping[tuple[int, int], int], tables: Mapping[int, int]
) -> str:
    layer = stack.layers[part.layer]
    out = placed.rings[layer.output]
    source = placed.rings[layer.source]
    below = layer.weights.shape[0] // 2
    taps = 0 if layer.source in placed.unfolded else layer.weights.shape[1] // 2
    delay = placed.delays[layer.source, (layer.name, "source")]
    first = -(out.after + below) - source.origin + delay
    last = out.after - 1 - out.origin
    other = "{}"
    if layer.add is not None:
        ring = placed.rings[layer.add]
        later = placed.delays[layer.add, (layer.name, "add")]
        other = f"{{{ring.text()}, {later}, {out.left - ring.left}}}"
    rule = "{0, 0, 0, 0, 0, 0, 0, 0}"
    if layer.add_rule is not None:
        rule = "{" + ", ".join(str(value) for value in vars(layer.add_rule).values()) + "}"

    return (
        f"{{{{{source.text()}, {delay}, {out.left - taps - source.left}}}, {other}, {out.text()}, {first}, {last}, "
        f"{part.tile}, {part.column_tile}, {begins[part.layer, part.column_tile]}, {layer.padding}, "
        f"{literal(float(layer.low))}, {literal(float(layer.high))}, {tables.get(part.layer, 0)}, {rule}}}"
    )


def _load(stack: Stack, placed: Layout, item: Input, index: int, element: str) -> str:
    ring = placed.rings[item.name]
    if item.format == "planar":
        taps = placed.unfolded[item.name]
        return (
            f"load_unfolded<{element}, {taps}, {item.channels}, {ring.pixels}>(Ring{ring.text()}, "
            f"input_{index} + pixels * {item.channels * stack.element_bytes}, {item.zero_point}, place, lane, THREADS);"
        )
    return (
        f"load_chunked<{PREFETCH}>(Ring{ring.text()}, input_{index} + pixels * {stack.planes(item.name) * 16}, "
        f"{item.zero_point}, place, lane, THREADS);"
    )


def _store(stack: Stack, placed: Layout, out: Output, index: int, element: str) -> str:
    ring = placed.rings[out.name]
    source = f"Source{{{ring.text()}, {placed.delays[out.name, ('', 'store')]}, {-ring.left}}}"
    channels = stack.channels(out.name)
    square = out.shuffle**2
    if channels % square:
        raise ValueError(f"{channels} channels cannot become {out.shuffle} x {out.shuffle} pixels")
    if out.format == "planar":
        return (
            f"store_shuffled<{element}, {out.shuffle}, {channels // square}>({source}, "
            f"output_{index} + pixels * {channels * stack.element_bytes}, place, COLUMNS, lane, THREADS);"
        )
    if out.shuffle > 1:
        planes = -(-channels // square // stack.chunk)
        return (
            f"store_shuffled_chunks<{element}, {out.shuffle}, {channels // square}>({source}, "
            f"output_{index} + pixels * {planes * square * 16}, place, COLUMNS, lane, THREADS);"
        )
    return (
        f"store_chunked({source}, output_{index} + pixels * {stack.planes(out.name) * 16}, place, COLUMNS, lane, "
        "THREADS);"
    )


def grid(schedule: Schedule, height: int, width: int, batch: int = 1) -> tuple[int, int, int]:
    """Blocks in x, y and z."""
    return -(-width // schedule.columns), -(-height // schedule.band), batch


def signature(stack: Stack) -> str:
    """The stack's structure in one line; stacks with the same signature share their best schedules."""
    names = {item.name: f"x{index}" for index, item in enumerate(stack.inputs)}
    names |= {layer.output: f"t{index}" for index, layer in enumerate(stack.layers)}
    parts: list[str] = [stack.precision]
    parts += [f"{names[item.name]}:{item.channels}{item.format[0]}" for item in stack.inputs]
    for layer in stack.layers:
        ky, kx, ci, co = layer.weights.shape
        text = f"{names[layer.source]}>{ky}x{kx}x{ci}x{co}"
        text += "" if layer.activation == "linear" else f" {layer.activation}"
        text += "" if math.isinf(layer.low) and math.isinf(layer.high) else " clip"
        if layer.add is not None:
            text += f" +{names[layer.add]}" + ("" if layer.add_channels is None else "*")
        if layer.requantise is not None:
            text += " lut" if layer.requantise.table is not None else ""
        parts.append(text)
    parts += [f"{names[out.name]}>{out.format[0]}{out.shuffle}" for out in stack.outputs]
    return "; ".join(parts)
