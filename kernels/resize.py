"""Resizing of chunked FP16 tensors as CUDA kernels (``cuda/resize.cuh``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codesign.kernels.chunked import WARP, flag, literal
from codesign.kernels.frame_kernel import FrameKernel, Size

Method = Literal["bilinear", "nearest", "average"]


@dataclass(frozen=True)
class Resize(FrameKernel):
    """Resize ``bilinear`` by a whole factor or (``factor`` 0) to any size, ``nearest`` by a whole factor, ``average``
    of 2x2.

    Positions as torch's ``interpolate`` with ``align_corners``, without antialiasing; ``average`` makes a frame half as
    high and wide, rounded down.
    """

    header = "resize.cuh"

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
    def threads(self) -> int:
        return WARP * self.rows

    @property
    def doubles(self) -> bool:
        """Whether a thread makes two output rows."""
        return self.method == "bilinear" and self.factor == 2 and not self.align_corners

    @property
    def integer_names(self) -> tuple[str, ...]:
        sizes = ("height", "width")
        return sizes if self.factor else (*sizes, "output_height", "output_width")

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        return inputs[0] if self.factor else (*inputs[0], *output)

    def covered(self, *integers: int) -> Size:
        """Height and width of the output, from those of the input (and of the output, for any size)."""
        height, width, *output = integers
        if not self.factor:
            return output[0], output[1]
        if self.method == "average":
            return height // 2, width // 2
        return height * self.factor, width * self.factor

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        rows = height // 2 + 1 if self.doubles else height
        return -(-width // WARP) * -(-self.planes // self.group), -(-rows // self.rows)

    def body(self, name: str) -> str:
        tile = f"{self.rows}, {self.group}, {self.unroll}"
        if self.doubles:
            return f"  resize_double<{self.channels}, {tile}>(input, output, height, width);\n"
        if self.method == "bilinear":
            numbers = f"{self.channels}, {flag(self.align_corners)}, {tile}"
            return f"  resize_bilinear<{numbers}>(input, output, height, width, {self._output_text()});\n"
        if self.method == "nearest":
            return f"  resize_nearest<{self.channels}, {self.factor}, {tile}>(input, output, height, width);\n"
        return f"  resize_average<{self.channels}, {tile}>(input, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        if self.method == "bilinear":
            numbers = f"{self.channels}, {flag(self.align_corners)}"
            return f"  naive_resize_bilinear<{numbers}>(input, output, height, width, {self._output_text()});\n"
        if self.method == "nearest":
            return f"  naive_resize_nearest<{self.channels}, {self.factor}>(input, output, height, width);\n"
        return f"  naive_resize_average<{self.channels}>(input, output, height, width);\n"

    def _output_text(self) -> str:
        return f"height * {self.factor}, width * {self.factor}" if self.factor else "output_height, output_width"


@dataclass(frozen=True)
class ConvexUpsample(FrameKernel):
    """RAFT's up-sampling by 8: softmax-weighted sums of the nine coarse pixels around each fine one, times ``scale``.

    Mask chunked, of 576 channels: ``k * 64 + i * 8 + j`` for neighbour ``k`` (rows first) and fine pixel ``(i, j)``;
    flow chunked, of 2 channels, zeros outside. Output planar ``[2][8 H][8 W]``.
    """

    header = "resize.cuh"
    writes = "planar"

    scale: float = 8.0
    threads: int = 128

    @property
    def pointers(self) -> tuple[str, ...]:
        return "mask", "flow", "output"

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        """Blocks for the size of the coarse flow."""
        return -(-height * width // self.threads), 8

    def body(self, name: str) -> str:
        return f"  upsample_convex<{self.threads}>(mask, flow, output, {literal(self.scale)}, height, width);\n"
