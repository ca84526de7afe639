"""Slices, concatenations and copies along the channels, and constant tensors, as CUDA kernels.

Outputs are chunked FP16; inputs chunked or planar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.chunked import CHUNK, plane_count
from codesign.kernels.frame_kernel import FrameKernel, Size
from codesign.kernels.layers import Format


@dataclass(frozen=True)
class Channels(FrameKernel):
    """Slices, concatenations and copies along the channels.

    ``inputs``: channels of each input; ``chosen``: (input, channel of it) for every output channel;
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
    def pointers(self) -> tuple[str, ...]:
        return *(f"input_{i}" for i in range(len(self.inputs))), "output"

    def taking(self, stored: Sequence[Format]) -> tuple[Channels, tuple[Format, ...]]:
        return replace(self, planar=tuple(form == "planar" for form in stored)), tuple(stored)

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        return output

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // self.threads), self.planes

    def body(self, name: str) -> str:
        lines = [
            "  const long long pixels = static_cast<long long>(height) * width;",
            f"  const long long pixel = static_cast<long long>(blockIdx.x) * {self.threads} + threadIdx.x;",
            "  if (pixel >= pixels) return;",
            "  const int plane = blockIdx.y;",
            "  uint4 chunk;",
            "  switch (plane) {",
        ]
        for plane in range(self.planes):
            chosen = self.chosen[plane * CHUNK : (plane + 1) * CHUNK]
            lines.append(f"    {f'case {plane}' if plane + 1 < self.planes else 'default'}: {{")
            lines += [f"      {line}" for line in _plane(self, chosen)]
            lines += ["      break;", "    }"]
        lines += ["  }", f"  store_global16(output + plane_offset({self.planes}, plane, pixels) + pixel * 16, chunk);"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class Constant(FrameKernel):
    """A constant tensor, ``value: float16[C, H, W]``."""

    value: NDArray[np.float16] = field(repr=False)
    threads: int = 128

    @property
    def channels(self) -> int:
        return int(self.value.shape[0])

    @property
    def pointers(self) -> tuple[str, ...]:
        return "output", "parameters"

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        return output

    def parameters(self) -> bytes:
        """The constant in its memory layout."""
        channels, height, width = self.value.shape
        padded = np.zeros((self.planes * CHUNK, height, width), np.float16)
        padded[:channels] = self.value
        return np.ascontiguousarray(padded.reshape(-1, CHUNK, height, width).transpose(0, 2, 3, 1)).tobytes()

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // self.threads), self.planes

    def body(self, name: str) -> str:
        return f"  copy_constant<{self.planes}, {self.threads}>(output, parameters, height, width);\n"


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
