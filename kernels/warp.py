"""Backward warp of a chunked FP16 tensor by a flow field, as a CUDA kernel (``cuda/warp.cuh``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.kernels.chunked import WARP, Number, flag
from codesign.kernels.frame_kernel import FrameKernel

Padding = Literal["zeros", "border"]


@dataclass(frozen=True)
class BackwardWarp(FrameKernel):
    """Backward warp ``output(x, y) = features(x + u, y + v)``, bilinear; torch's ``grid_sample`` with
    ``align_corners=True``.

    ``features``, ``output``: chunked; ``flow``: planar ``[batch][2][H][W]`` of ``number``, x displacement first, in
    pixels. Outside the frame there are zeros, or with ``border`` the nearest pixel. A displacement that is not a number
    gives zeros, or with ``border`` the value of column (or row) 0.
    """

    header = "warp.cuh"

    channels: int
    number: Number = "fp16"
    padding: Padding = "zeros"
    chunked: bool = False
    """The flow is chunked FP16 instead."""
    rows: int = 8
    """A block is a tile of 32 x ``rows`` pixels."""
    group: int = 8
    """Planes of a thread."""
    unroll: int = 2
    """Planes in flight."""

    @property
    def threads(self) -> int:
        return WARP * self.rows

    @property
    def pointers(self) -> tuple[str, ...]:
        return "features", "flow", "output"

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-width // WARP) * -(-self.planes // self.group), -(-height // self.rows)

    def body(self, name: str) -> str:
        numbers = f"{self._numbers()}, {self.rows}, {self.group}, {self.unroll}"
        return f"  warp_backward<{numbers}>(features, flow, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        return f"  naive_warp<{self._numbers()}>(features, flow, output, height, width);\n"

    def _numbers(self) -> str:
        border, single = flag(self.padding == "border"), flag(self.number == "fp32")
        return f"{self.channels}, {border}, {single}, {flag(self.chunked)}"
