"""Channels put in another order, and constants, as CUDA kernels: what no reader of a tensor can do by itself.

Outputs are chunked FP16; inputs chunked or planar.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.chunked import CHUNK, Grid, kernel_text, plane_count


@dataclass(frozen=True)
class Channels:
    """Slices, concatenations and copies along the channels.

    ``inputs``: channels of each input; ``chosen``: of every output channel, which input and which of its channels;
    ``planar``: whether each input is NCHW instead of chunked.
    """

    inputs: tuple[int, ...]
    chosen: tuple[tuple[int, int], ...]
    planar: tuple[bool, ...]
    threads: int = 128

    def __post_init__(self) -> None:
        for tensor, channel in self.chosen:
            if not 0 <= tensor < len(self.inputs) or not 0 <= channel < self.inputs[tensor]:
                raise ValueError(f"channel {channel} of input {tensor}; inputs have {self.inputs} channels")

    @property
    def channels(self) -> int:
        return len(self.chosen)

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Constant:
    """``value: float16[C, H, W]``, which the network does not compute."""

    value: NDArray[np.float16] = field(repr=False)
    threads: int = 128

    @property
    def planes(self) -> int:
        return plane_count(self.value.shape[0])

    @property
    def shared_bytes(self) -> int:
        return 0


Operator = Channels | Constant


def pack(op: Operator) -> bytes:
    """The parameters: a constant as it lies in memory."""
    if isinstance(op, Channels):
        return b""
    channels, height, width = op.value.shape
    padded = np.zeros((op.planes * CHUNK, height, width), np.float16)
    padded[:channels] = op.value
    return np.ascontiguousarray(padded.reshape(-1, CHUNK, height, width).transpose(0, 2, 3, 1)).tobytes()


def grid(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z for a frame of ``height`` x ``width`` pixels."""
    return -(-height * width // op.threads), op.planes, batch


def render(op: Operator, name: str) -> str:
    """The kernel's CUDA text. Its arguments: inputs, output (and a constant's parameters), height, width."""
    if isinstance(op, Constant):
        body = f"  copy_constant<{op.planes}, {op.threads}>(output, parameters, height, width);\n"
        return kernel_text("pointwise.cuh", name, op.threads, ("output", "parameters"), body)
    names = tuple(f"input_{i}" for i in range(len(op.inputs)))
    lines = [
        "  const long long pixels = static_cast<long long>(height) * width;",
        f"  const long long pixel = static_cast<long long>(blockIdx.x) * {op.threads} + threadIdx.x;",
        "  if (pixel >= pixels) return;",
        "  const int plane = blockIdx.y;",
        "  uint4 chunk;",
        "  switch (plane) {",
    ]
    for plane in range(op.planes):
        chosen = op.chosen[plane * CHUNK : (plane + 1) * CHUNK]
        lines.append(f"    {f'case {plane}' if plane + 1 < op.planes else 'default'}: {{")
        lines += [f"      {line}" for line in _plane(op, chosen)]
        lines += ["      break;", "    }"]
    lines += ["  }", f"  store_global16(output + plane_offset({op.planes}, plane, pixels) + pixel * 16, chunk);"]
    return kernel_text("pointwise.cuh", name, op.threads, (*names, "output"), "\n".join(lines) + "\n")


def _plane(op: Channels, chosen: tuple[tuple[int, int], ...]) -> list[str]:
    """Statements that make one chunk: a single load where it is one of an input, else channel by channel."""
    tensor, first = chosen[0]
    run = tuple((tensor, first + c) for c in range(len(chosen)))
    whole = len(chosen) == CHUNK or first + len(chosen) == op.inputs[tensor]
    if chosen == run and first % CHUNK == 0 and whole and not op.planar[tensor]:
        return [f"chunk = load_global16({_chunk(op, tensor, first)});"]
    lines = ["float values[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};"]
    for place, (tensor, channel) in enumerate(chosen):
        if op.planar[tensor]:
            index = f"(blockIdx.z * {op.inputs[tensor]}ll + {channel}) * pixels + pixel"
            lines.append(f"values[{place}] = read_value<false>(input_{tensor}, {index});")
        else:
            lines.append(f"values[{place}] = read_value<false>({_chunk(op, tensor, channel)}, {channel % CHUNK});")
    return [*lines, "chunk = pack(values);"]


def _chunk(op: Channels, tensor: int, channel: int) -> str:
    planes = plane_count(op.inputs[tensor])
    return f"input_{tensor} + plane_offset({planes}, {channel // CHUNK}, pixels) + pixel * 16"
