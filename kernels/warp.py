"""Backward warp of a chunked FP16 tensor by a flow field, as a CUDA kernel (``cuda/warp.cuh``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.kernels.chunked import NAIVE_THREADS, WARP, Grid, Number, flag, kernel_text, naive_grid, plane_count

Padding = Literal["zeros", "border"]


@dataclass(frozen=True)
class BackwardWarp:
    """``output(x, y) = features(x + u, y + v)``, bilinear; torch's ``grid_sample`` with ``align_corners=True``.

    ``features``, ``output``: chunked; ``flow``: planar ``[batch][2][H][W]`` of ``number``, x displacement first, in
    pixels. Outside the frame there are zeros, or with ``border`` the nearest pixel. A displacement that is not a number
    gives zeros, or with ``border`` the value of column (or row) 0.
    """

    channels: int
    number: Number = "fp16"
    padding: Padding = "zeros"
    chunked: bool = False
    """The flow lies in chunks instead, as FP16."""
    rows: int = 8
    """A block is a tile of 32 x ``rows`` pixels."""
    group: int = 8
    """Planes of a thread."""
    unroll: int = 2
    """Planes in flight."""

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def threads(self) -> int:
        return WARP * self.rows

    @property
    def shared_bytes(self) -> int:
        return 0


def grid(op: BackwardWarp, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z."""
    return -(-width // WARP) * -(-op.planes // op.group), -(-height // op.rows), batch


def render(op: BackwardWarp, name: str) -> str:
    """The kernel's CUDA text. Its arguments: features, flow, output, height, width."""
    body = (
        f"  warp_backward<{op.channels}, {flag(op.padding == 'border')}, {flag(op.number == 'fp32')}, "
        f"{flag(op.chunked)}, {op.rows}, {op.group}, {op.unroll}>(features, flow, output, height, width);\n"
    )
    return kernel_text("warp.cuh", name, op.threads, ("features", "flow", "output"), body)


def render_naive(op: BackwardWarp, name: str) -> str:
    """The reference, with the same arguments."""
    body = (
        f"  naive_warp<{op.channels}, {flag(op.padding == 'border')}, {flag(op.number == 'fp32')}, {flag(op.chunked)}>"
        "(features, flow, output, height, width);\n"
    )
    return kernel_text("naive.cuh", name, NAIVE_THREADS, ("features", "flow", "output"), body)


def naive_grid_of(op: BackwardWarp, height: int, width: int, batch: int = 1) -> Grid:
    return naive_grid(op.channels, height, width, batch)
