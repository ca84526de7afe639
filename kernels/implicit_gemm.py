"""Convolutions of any width, stride and dilation over concatenated tensors (``cuda/implicit_gemm.cuh``).

Every tensor is chunked; only the result may be planar. :func:`candidates` orders schedules by a model of one
multiprocessor; :func:`render` writes a kernel, :func:`pack` its parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.kernels.chunked import flag, literal
from codesign.kernels.layers import CHUNK_CHANNELS, Conv, Format, Precision, lane_channels
from codesign.kernels.stack_search import GPUS

MAX_SOURCES = 16


@dataclass(frozen=True, eq=False)
class GemmConv:
    """``conv`` over ``sources``, each (channels, zero point), whose channels follow each other.

    ``padding``: rows above and columns to the left. The result is stored after moving channels to ``shuffle`` x
    ``shuffle`` pixels. The second operand, if any, is chunked, of ``add_planes`` planes.
    """

    precision: Precision
    conv: Conv
    sources: tuple[tuple[int, int], ...]
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    format: Format = "chunked"
    shuffle: int = 1
    add_planes: int = 0

    @property
    def chunk(self) -> int:
        return CHUNK_CHANNELS[self.precision]

    @property
    def planes(self) -> tuple[int, ...]:
        """Chunks of each source."""
        return tuple(-(-channels // self.chunk) for channels, _ in self.sources)

    @property
    def column_tiles(self) -> int:
        """Tiles of 8 output channels."""
        return -(-self.conv.channels // 8)


@dataclass(frozen=True)
class GemmSchedule:
    """The parameters that are searched: a block's patch and output channels, the size of a stage, the split over
    warps."""

    rows: int
    tiles: int  # tiles of 16 pixels, side by side
    columns: int  # tiles of 8 output channels
    slab: int  # chunks of channels per stage
    stages: int
    warps: tuple[int, int]  # warps over pixels, warps over output channels
    blocks: int = 1

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * 32


def stage_bytes(wide: GemmConv, schedule: GemmSchedule) -> tuple[int, int]:
    """Bytes of the input patch and of the weights of a stage."""
    ky, kx = wide.conv.weights.shape[:2]
    rows = (schedule.rows - 1) * wide.stride + (ky - 1) * wide.dilation + 1
    columns = (schedule.tiles * 16 - 1) * wide.stride + (kx - 1) * wide.dilation + 1
    return schedule.slab * rows * columns * 16, ky * kx * schedule.slab * schedule.columns * 8 * 16


def shared_bytes(wide: GemmConv, schedule: GemmSchedule) -> int:
    """Shared memory of one block."""
    return sum(stage_bytes(wide, schedule)) * schedule.stages


def slabs(wide: GemmConv, schedule: GemmSchedule) -> int:
    """Number of stages for all input channels."""
    return -(-sum(wide.planes) // schedule.slab)


def column_blocks(wide: GemmConv, schedule: GemmSchedule) -> int:
    """Blocks that share the output channels of a patch."""
    return -(-wide.column_tiles // schedule.columns)


def registers(wide: GemmConv, schedule: GemmSchedule) -> int:
    """Estimated registers of one thread."""
    mt = schedule.rows * schedule.tiles // schedule.warps[0]
    nt = schedule.columns // schedule.warps[1]
    per_column = 4 if wide.precision == "fp16" else 8
    return mt * nt * 4 + mt * 4 + nt * 2 + nt * per_column + 44


def grid(wide: GemmConv, schedule: GemmSchedule, height: int, width: int, batch: int = 1) -> tuple[int, int, int]:
    """Blocks for an *output* of ``height`` x ``width`` pixels before any shuffle."""
    across = -(-width // (schedule.tiles * 16)) * column_blocks(wide, schedule)
    return across, -(-height // schedule.rows), batch


def estimate(wide: GemmConv, schedule: GemmSchedule, arch: str, height: int, width: int, batch: int = 1) -> float:
    """Modelled cycles of a launch: waves x (stages x the busiest unit's cycles per stage + a block's beginning and
    end)."""
    gpu = GPUS[arch]
    ky, kx = wide.conv.weights.shape[:2]
    mt = schedule.rows * schedule.tiles // schedule.warps[0]
    nt = schedule.columns // schedule.warps[1]
    warps = schedule.warps[0] * schedule.warps[1]
    steps = ky * kx * schedule.slab // 2
    tensor = steps * mt * nt * gpu.product_cycles * warps / 4
    issue = steps * (mt * nt + 1.5 * mt + nt + 6) * warps / 4
    conflict = 2 if wide.stride == 2 else 1
    reads = steps * (mt * 4 * conflict + -(-nt // 2) * 4) * warps
    copied = sum(stage_bytes(wide, schedule))
    fetch = copied / 16 / 32 * 14 / 4  # instructions
    stage = max(tensor, issue + fetch, reads + copied / 128) * schedule.blocks + 60
    blocks = math.prod(grid(wide, schedule, height, width, batch))
    waves = -(-blocks // (gpu.multiprocessors * schedule.blocks))
    ends = 900 + schedule.rows * schedule.tiles * schedule.columns * 16 * 8 / 32 * (
        2 if wide.precision == "fp16" else 4
    )
    return float(waves * (slabs(wide, schedule) * stage + ends))


def _search(wide: GemmConv, arch: str) -> Iterator[GemmSchedule]:
    gpu = GPUS[arch]
    even = wide.precision == "int8"
    wanted = sorted({min(c, wide.column_tiles + wide.column_tiles % 2) for c in (1, 2, 4, 8, 12, 16)})
    for rows, tiles, columns, slab in itertools.product((2, 4, 8, 16), (1, 2, 4), wanted, (2, 4)):
        if not 4 <= rows * tiles <= 16 or slab > 2 * -(-sum(wide.planes) // 2):
            continue
        for warps in ((4, 1), (4, 2), (2, 2), (8, 1), (2, 4), (8, 2)):
            if rows * tiles % warps[0] or columns % warps[1] or (even and columns // warps[1] % 2 and columns > 1):
                continue
            for stages, blocks in itertools.product((2, 3, 4), (1, 2, 3)):
                schedule = GemmSchedule(rows, tiles, columns, slab, stages, warps, blocks)
                if stages - 1 > slabs(wide, schedule) and stages > 2:
                    continue
                size = shared_bytes(wide, schedule)
                cap = min(255, 65536 // (-(-schedule.threads // 128) * 128 * blocks) // 8 * 8)
                fits = size <= gpu.shared_bytes and (size + 1024) * blocks <= gpu.shared_bytes_per_multiprocessor
                if fits and registers(wide, schedule) <= cap:
                    yield schedule


def candidates(
    wide: GemmConv, arch: str, height: int, width: int, batch: int = 1, limit: int = 16
) -> list[GemmSchedule]:
    """Up to ``limit`` schedules that fit ``arch``, the fastest by the model first."""
    if len(wide.sources) > MAX_SOURCES:
        return []
    return sorted(_search(wide, arch), key=lambda s: estimate(wide, s, arch, height, width, batch))[:limit]


# Parameters


def pack(wide: GemmConv, schedule: GemmSchedule) -> tuple[bytes, dict[str, int]]:
    """The parameter blob, and the offsets of its parts: ``weights``, ``epilogue``, ``mapped``, ``table``."""
    blob = bytearray(_weights(wide, schedule))
    at = {"weights": 0, "epilogue": len(blob)}
    parts = [
        _epilogue(wide, schedule, block, warp)
        for block in range(column_blocks(wide, schedule))
        for warp in range(schedule.warps[1])
    ]
    blob += b"".join(parts)
    at["epilogue_bytes"] = len(parts[0])
    at["mapped"] = len(blob)
    if wide.conv.add_channels is not None:
        mapped = np.zeros(column_blocks(wide, schedule) * schedule.columns * 8 + 16, np.int32)
        mapped[: wide.conv.channels] = wide.conv.add_channels
        blob += mapped.tobytes()
    at["table"] = len(blob)
    if wide.conv.requantise is not None and wide.conv.requantise.table is not None:
        blob += wide.conv.requantise.table.tobytes()
    return bytes(blob + bytes(-len(blob) % 16)), at


def _channels(wide: GemmConv, schedule: GemmSchedule, block: int) -> Any:
    """The output channel of each column of a block, ``int64[columns, 8]``, in the order of ``channel_of``."""
    per_warp = schedule.columns // schedule.warps[1]
    channel = lane_channels(wide.precision, per_warp)
    warps = np.arange(schedule.warps[1])[:, None, None] * per_warp * 8
    return block * schedule.columns * 8 + (warps + channel).reshape(schedule.columns, 8)


def _weights(wide: GemmConv, schedule: GemmSchedule) -> bytes:
    """Weights as ``[column block][slab][tap][chunk][column][16 bytes]``."""
    ky, kx, _, co = wide.conv.weights.shape
    total = slabs(wide, schedule) * schedule.slab * wide.chunk
    spread = np.zeros((ky, kx, total, co), wide.conv.weights.dtype)
    first = plane = 0
    for (channels, _), planes in zip(wide.sources, wide.planes, strict=True):
        start = plane * wide.chunk
        spread[:, :, start : start + channels] = wide.conv.weights[:, :, first : first + channels]
        first, plane = first + channels, plane + planes
    dtype = np.float16 if wide.precision == "fp16" else np.int8
    cut = spread.astype(dtype).reshape(ky * kx, slabs(wide, schedule), schedule.slab, wide.chunk, co)
    parts = []
    for block in range(column_blocks(wide, schedule)):
        channel = _channels(wide, schedule, block).reshape(-1)
        valid = channel < co
        columns = np.where(valid, cut[..., np.where(valid, channel, 0)], 0).astype(dtype)
        parts.append(np.ascontiguousarray(columns.transpose(1, 0, 2, 4, 3)).tobytes())
    return b"".join(parts)


def _epilogue(wide: GemmConv, schedule: GemmSchedule, block: int, warp: int) -> bytes:
    conv = wide.conv
    per_warp = schedule.columns // schedule.warps[1]
    channel = _channels(wide, schedule, block)[warp * per_warp : (warp + 1) * per_warp].reshape(-1)
    valid = channel < conv.channels
    index = np.where(valid, channel, 0)

    def of_channel(values: Any, fill: int = 0) -> Any:
        return np.where(valid, np.broadcast_to(values, conv.channels)[index], fill)

    if conv.requantise is None:
        blob = of_channel(conv.bias).astype(np.float32).tobytes()
        if conv.activation == "prelu":
            blob += of_channel(conv.slope).astype(np.float32).tobytes()
    else:
        rule = conv.requantise
        values = (
            of_channel(conv.bias),
            of_channel(rule.multiplier),
            of_channel(rule.negative_multiplier),
            of_channel(rule.shift, 32),
        )
        blob = b"".join(value.astype(np.int32).tobytes() for value in values)
        blob += np.array([rule.zero_point, rule.low, rule.high, 0], np.int32).tobytes()
    return bytes(blob + bytes(-len(blob) % 16))


# Source text


def render(wide: GemmConv, schedule: GemmSchedule, name: str) -> str:
    """The kernel's CUDA text.

    Its arguments: the sources, the second operand if there is one, the result, the parameter blob; then the input's
    height and width, the output's height and width (before any shuffle).
    """
    conv = wide.conv
    _, at = pack(wide, schedule)
    ky, kx = conv.weights.shape[:2]
    element = "Half" if wide.precision == "fp16" else "Int8"
    rule = conv.requantise
    operand = "NOTHING" if conv.add is None else "ALIGNED" if conv.add_channels is None else "MAPPED"
    clip = rule is None and (conv.low > -math.inf or conv.high < math.inf)
    activation = conv.activation.upper() if rule is None else "LINEAR"
    wide_shift = rule is not None and bool(np.all(rule.shift >= 32))

    blocks = column_blocks(wide, schedule)
    numbers = [
        element,
        ky,
        kx,
        wide.stride,
        wide.dilation,
        *wide.padding,
        len(wide.sources),
        slabs(wide, schedule),
        schedule.slab,
        schedule.rows,
        schedule.tiles,
        schedule.columns,
        *schedule.warps,
        schedule.stages,
        activation,
        operand,
        flag(clip),
        flag(wide_shift),
        flag(rule is not None and rule.table is not None),
    ]
    add = "{0, 0, 0, 0, 0, 0, 0, 0}"
    if conv.add_rule is not None:
        add = "{" + ", ".join(str(value) for value in vars(conv.add_rule).values()) + "}"
    per_warp = schedule.columns // schedule.warps[1]
    values = 2 if wide.precision == "fp16" or per_warp % 2 else 4
    size = 16 // wide.chunk
    square = wide.shuffle**2
    channels = conv.channels // square
    out_planes = -(-channels // wide.chunk)
    if wide.format == "chunked" and wide.shuffle == 1:
        per_frame = f"{out_planes * 16}"
        store = f"ToChunks<{element}, {values}>{{to, output_height, output_width, {out_planes}}}"
    else:
        chunked = wide.format == "chunked"
        per_frame = f"{out_planes * 16 * square}" if chunked else f"{conv.channels * size}"
        kind = f"ToPixels<{element}, {values}, {wide.shuffle}, {flag(chunked)}>"
        store = f"{kind}{{to, output_height, output_width, {channels}}}"
    arguments = [f"const char* source_{i}" for i in range(len(wide.sources))]
    arguments += ["const char* operand"] if conv.add is not None else []
    bases = ", ".join(f"source_{i} + pixels * {planes * 16}" for i, planes in enumerate(wide.planes))
    low, high = literal(float(conv.low)), literal(float(conv.high))
    other = f"operand + outputs * {wide.add_planes * 16}" if conv.add is not None else "nullptr"
    return f"""#include "implicit_gemm.cuh"

extern "C" __global__ void __launch_bounds__({schedule.threads}, {schedule.blocks})
{name}({", ".join(arguments)}, char* output, const char* parameters, int height, int width, int output_height,
       int output_width) {{
  const long long pixels = static_cast<long long>(height) * width * blockIdx.z;
  const long long outputs = static_cast<long long>(output_height) * output_width * blockIdx.z;
  const Sources sources{{{{{bases}}}, {{{", ".join(map(str, wide.planes))}}},
                        {{{", ".join(str(zero) for _, zero in wide.sources)}}}}};
  const Frame frame{{height, width, output_height, output_width}};
  constexpr AddRule ADD{add};
  char* to = output + outputs * {per_frame};
  ImplicitGemm<{", ".join(map(str, numbers))}> gemm;
  gemm.run(sources, frame, parameters, {at["weights"]}, {at["epilogue"]}, {at["epilogue_bytes"]}, {at["table"]},
           blockIdx.x % {blocks}, blockIdx.x / {blocks}, blockIdx.y, {other}, {wide.add_planes},
           reinterpret_cast<const int*>(parameters + {at["mapped"]}), {low}, {high}, ADD,
           {store});
}}
"""


def signature(wide: GemmConv) -> str:
    """The structure in one line, for the tuning database."""
    conv = wide.conv
    ky, kx, _, co = conv.weights.shape
    sources = "+".join(str(channels) for channels, _ in wide.sources)
    text = f"gemm {wide.precision}; {sources}>{ky}x{kx}x{co} s{wide.stride} d{wide.dilation}"
    text += "" if conv.activation == "linear" else f" {conv.activation}"
    text += "" if conv.add is None else " +"
    return text + f" >{wide.format[0]}{wide.shuffle}"
