"""Resizing of chunked FP16 tensors as CUDA kernels (``cuda/resize.cuh``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from codesign.kernels.chunked import NAIVE_THREADS, WARP, Grid, flag, kernel_text, literal, naive_grid, plane_count

Method = Literal["bilinear", "nearest", "average"]


@dataclass(frozen=True)
class Resize:
    """``bilinear`` by a whole factor or (``factor`` 0) to any size, ``nearest`` by a whole factor, ``average`` of 2x2.

    Positions as torch's ``interpolate`` with ``align_corners``, without antialiasing; ``average`` makes a frame half as
    high and wide, rounded down.
    """

    channels: int
    method: Method = "bilinear"
    factor: int = 2
    align_corners: bool = False
    rows: int = 8
    """A block is a tile of 32 x ``rows`` output pixels (twice as high for the doubling of the size)."""
    group: int = 8
    """Planes of a thread."""
    unroll: int = 2
    """Planes in flight."""

    def __post_init__(self) -> None:
        if self.factor < (0 if self.method == "bilinear" else 1):
            raise ValueError(f"{self.method} by a factor of {self.factor}")
        if self.method == "average" and self.factor != 2:
            raise ValueError(f"an average of {self.factor} x {self.factor} pixels: only 2 x 2")

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def threads(self) -> int:
        return WARP * self.rows

    @property
    def shared_bytes(self) -> int:
        return 0

    @property
    def doubles(self) -> bool:
        """Two output rows per thread."""
        return self.method == "bilinear" and self.factor == 2 and not self.align_corners

    @property
    def integers(self) -> tuple[str, ...]:
        """The kernel's arguments after the pointers."""
        sizes = ("height", "width")
        return sizes if self.factor else (*sizes, "output_height", "output_width")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Of a factor that is known here."""
        if not self.factor:
            raise ValueError("the size of the output is an argument of this kernel")
        if self.method == "average":
            return height // 2, width // 2
        return height * self.factor, width * self.factor


@dataclass(frozen=True)
class ConvexUpsample:
    """RAFT's up-sampling by 8: softmax-weighted sums of the nine coarse pixels around each fine one, times ``scale``.

    Mask chunked, of 576 channels: ``k * 64 + i * 8 + j`` for neighbour ``k`` (rows first) and fine pixel ``(i, j)``;
    flow chunked, of 2 channels, zeros outside. Output planar ``[2][8 H][8 W]``.
    """

    scale: float = 8.0
    threads: int = 128

    @property
    def shared_bytes(self) -> int:
        return 0


def convex_grid(op: ConvexUpsample, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z, for the size of the coarse flow."""
    return -(-height * width // op.threads), 8, batch


def render_convex(op: ConvexUpsample, name: str) -> str:
    """The kernel's CUDA text. Its arguments: mask, flow, output, height and width of the coarse flow."""
    body = f"  upsample_convex<{op.threads}>(mask, flow, output, {literal(op.scale)}, height, width);\n"
    return kernel_text("resize.cuh", name, op.threads, ("mask", "flow", "output"), body)


def grid(op: Resize, output_height: int, output_width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z, for the size of the output."""
    rows = output_height // 2 + 1 if op.doubles else output_height
    return -(-output_width // WARP) * -(-op.planes // op.group), -(-rows // op.rows), batch


def render(op: Resize, name: str) -> str:
    """The kernel's CUDA text. Its arguments: input, output, then ``op.integers``."""
    tile = f"{op.rows}, {op.group}, {op.unroll}"
    if op.doubles:
        body = f"  resize_double<{op.channels}, {tile}>(input, output, height, width);\n"
    elif op.method == "bilinear":
        body = (
            f"  resize_bilinear<{op.channels}, {flag(op.align_corners)}, {tile}>(input, output, height, width, "
            f"{_output_size(op)});\n"
        )
    elif op.method == "nearest":
        body = f"  resize_nearest<{op.channels}, {op.factor}, {tile}>(input, output, height, width);\n"
    else:
        body = f"  resize_average<{op.channels}, {tile}>(input, output, height, width);\n"
    return kernel_text("resize.cuh", name, op.threads, ("input", "output"), body, op.integers)


def render_naive(op: Resize, name: str) -> str:
    """The reference, with the same arguments."""
    if op.method == "bilinear":
        body = (
            f"  naive_resize_bilinear<{op.channels}, {flag(op.align_corners)}>(input, output, height, width, "
            f"{_output_size(op)});\n"
        )
    elif op.method == "nearest":
        body = f"  naive_resize_nearest<{op.channels}, {op.factor}>(input, output, height, width);\n"
    else:
        body = f"  naive_resize_average<{op.channels}>(input, output, height, width);\n"
    return kernel_text("naive.cuh", name, NAIVE_THREADS, ("input", "output"), body, op.integers)


def naive_grid_of(op: Resize, output_height: int, output_width: int, batch: int = 1) -> Grid:
    return naive_grid(op.channels, output_height, output_width, batch)


def _output_size(op: Resize) -> str:
    return f"height * {op.factor}, width * {op.factor}" if op.factor else "output_height, output_width"
