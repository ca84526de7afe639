"""Cost volumes of optical-flow networks as CUDA kernels (``cuda/correlation.cuh``).

:class:`Correlation` is PWC-Net's local volume, :class:`AllPairs` RAFT's volume of all pairs and :class:`Window` the
reading of windows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codesign.kernels.chunked import CHUNK, WARP, Number, flag, literal, plane_count
from codesign.kernels.frame_kernel import FrameKernel, Size
from codesign.kernels.layers import Format


@dataclass(frozen=True)
class Correlation(FrameKernel):
    """Mean over channels of ``first(x, y) * second(x + dx, y + dy)`` for all ``dx``, ``dy`` to ``reach``; leaky ReLU.

    Inputs chunked, of ``channels`` channels, with zeros in the unused part of the last chunk; output chunked, of
    channels ``(dy + reach) * (2 * reach + 1) + dx + reach``. Features outside the frame are zero. ``slope`` 1: no
    activation.
    """

    header = "correlation.cuh"

    channels: int
    reach: int = 4
    slope: float = 1.0
    columns: int = 16
    """Columns of a block's tile; a multiple of 16."""
    rows: int = 4
    """Rows of a block's tile."""
    groups: int = 3
    """Warps that share the rows of displacements."""
    stages: int = 2
    """Pairs of planes in shared memory."""
    resident: int = 2
    """Blocks on one multiprocessor at a time, which bounds the registers."""

    def __post_init__(self) -> None:
        if self.columns % 16 or self.columns < 16:
            raise ValueError(f"a tile of {self.columns} columns: not a multiple of 16")
        if self.stages < 2 or not 1 <= self.groups <= self.window:
            raise ValueError(f"{self.stages} stages and {self.groups} groups of {self.window} rows of displacements")
        if self.threads > 1024:
            raise ValueError(f"{self.threads} threads in a block")

    @property
    def window(self) -> int:
        return 2 * self.reach + 1

    @property
    def output_channels(self) -> int:
        return self.window**2

    @property
    def threads(self) -> int:
        return self.columns // 16 * self.rows * self.groups * WARP

    @property
    def shared_bytes(self) -> int:
        wide = self.columns - 16 + -(-(16 + 2 * self.reach) // 8) * 8
        tiles = self.columns * self.rows + wide * (self.rows + 2 * self.reach)
        return max(self.stages * tiles * 2 * 16, self.planes * self.columns * self.rows * 16)

    @property
    def bounds(self) -> str:
        return f"{self.threads}, {self.resident}"

    @property
    def pointers(self) -> tuple[str, ...]:
        return "first", "second", "output"

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        return output

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-width // self.columns), -(-height // self.rows)

    def body(self, name: str) -> str:
        return (
            f"  Correlation<{self.channels}, {self.reach}, {self.columns}, {self.rows}, {self.groups}, {self.stages}>"
            f"::run(first, second, output, {literal(self.slope)}, height, width);\n"
        )

    def naive_body(self, name: str) -> str:
        return (
            f"  naive_correlation<{self.channels}, {self.reach}>(first, second, output, {literal(self.slope)}, height, "
            "width);\n"
        )


@dataclass(frozen=True)
class Window(FrameKernel):
    """Bilinear windows of ``radius`` around each pixel's coordinates, in every level of a pyramid of all-pairs volumes.

    Level ``l``: FP16 ``[batch][H * W][H >> l][W >> l]``. ``coordinates``: planar ``[batch][2][H][W]`` of ``number``, x
    first; ``absolute``: positions in level 0, else displacements from the pixel. Output chunked, of channels
    ``l * (2 * radius + 1)**2 + (dx + radius) * (2 * radius + 1) + dy + radius``, which is RAFT's order; zeros outside.
    """

    header = "correlation.cuh"

    levels: int = 4
    radius: int = 4
    number: Number = "fp32"
    absolute: bool = True
    chunked: bool = False
    """The coordinates are chunked FP16 instead."""
    pixels: int = 32
    """Pixels of a block."""
    threads: int = 256

    @property
    def output_channels(self) -> int:
        return self.levels * (2 * self.radius + 1) ** 2

    @property
    def shared_bytes(self) -> int:
        windows = -(-self.pixels * (2 * self.radius + 2) ** 2 * 2 // 16) * 16
        return self.pixels * 8 + windows + self.planes * self.pixels * CHUNK * 2

    @property
    def pointers(self) -> tuple[str, ...]:
        return *(f"level_{level}" for level in range(self.levels)), "coordinates", "output"

    def taking(self, stored: Sequence[Format]) -> tuple[Window, tuple[Format, ...]]:
        volumes: Format = "planar"
        return self, (*(volumes,) * self.levels, "chunked" if self.chunked else "planar")

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        return output

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // self.pixels), 1

    def body(self, name: str) -> str:
        numbers = f"{self._numbers()}, {self.pixels}, {self.threads}"
        return f"  {self._level_array()}\n  Window<{numbers}>::run(levels, coordinates, output, height, width);\n"

    def naive_body(self, name: str) -> str:
        return (
            f"  {self._level_array()}\n  naive_window<{self._numbers()}>(levels, coordinates, output, height, width);\n"
        )

    def _numbers(self) -> str:
        single, absolute, chunked = flag(self.number == "fp32"), flag(self.absolute), flag(self.chunked)
        return f"{self.levels}, {self.radius}, {single}, {absolute}, {chunked}"

    def _level_array(self) -> str:
        names = ", ".join(f"level_{level}" for level in range(self.levels))
        return f"const char* const levels[{self.levels}] = {{{names}}};"


@dataclass(frozen=True)
class AllPairs(FrameKernel):
    """``scale`` times the sum over channels of ``first(i) * second(j)`` for every pair of pixels, as implicit GEMM.

    Inputs chunked, of ``channels`` channels, with zeros in the unused part of the last chunk; they may differ in size.
    Output planar: ``[pixels of first][H of second][W of second]``.
    """

    header = "all_pairs.cuh"
    writes = "planar"

    channels: int
    scale: float = 1.0
    tiles: int = 8
    """Tiles of 16 pixels of the first map in a block."""
    columns: int = 16
    """Tiles of 8 pixels of the second map in a block."""
    slab: int = 4
    """Chunks of channels per stage."""
    warps: tuple[int, int] = (4, 2)
    stages: int = 3
    resident: int = 1
    """Blocks on one multiprocessor at a time, which bounds the registers."""

    def __post_init__(self) -> None:
        if self.tiles % self.warps[0] or self.columns % self.warps[1] or self.slab % 2 or self.stages < 2:
            raise ValueError(f"{self.tiles} x {self.columns} tiles, {self.warps} warps, slabs of {self.slab}")

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * WARP

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.slab * (self.tiles * 16 + self.columns * 8) * 16

    @property
    def bounds(self) -> str:
        return f"{self.threads}, {self.resident}"

    @property
    def pointers(self) -> tuple[str, ...]:
        return "first", "second", "output"

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        """Pixels of the first and of the second map."""
        first, second = inputs
        return first[0] * first[1], second[0] * second[1]

    def macs(self, integers: Sequence[int]) -> int:
        return integers[0] * integers[1] * self.channels

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-width // (self.columns * 8)), -(-height // (self.tiles * 16))

    def body(self, name: str) -> str:
        warps = f"{self.warps[0]}, {self.warps[1]}"
        return (
            f"  AllPairs<{plane_count(self.channels)}, {self.tiles}, {self.columns}, {self.slab}, {warps}, "
            f"{self.stages}>::run(first, second, output, {literal(self.scale)}, height, width);\n"
        )
