"""Cost volumes of optical-flow networks as CUDA kernels (``cuda/correlation.cuh``).

:class:`Correlation` is PWC-Net's local volume, :class:`AllPairs` RAFT's volume of all pairs and :class:`Lookup` its
reading of windows from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.kernels.chunked import (
    CHUNK,
    NAIVE_THREADS,
    WARP,
    Grid,
    Number,
    flag,
    kernel_text,
    literal,
    naive_grid,
    plane_count,
)


@dataclass(frozen=True)
class Correlation:
    """Mean over channels of ``first(x, y) * second(x + dx, y + dy)`` for all ``dx``, ``dy`` to ``reach``; leaky ReLU.

    Inputs chunked, of ``channels`` channels, with zeros in what fills up the last chunk; output chunked, of channels
    ``(dy + reach) * (2 * reach + 1) + dx + reach``. Features outside the frame are zero. ``slope`` 1: no activation.
    """

    channels: int
    reach: int = 4
    slope: float = 1.0
    columns: int = 16
    """Of a block's tile; a multiple of 16."""
    rows: int = 4
    """Of a block's tile."""
    groups: int = 3
    """Warps that share the rows of displacements."""
    stages: int = 2
    """Pairs of planes in shared memory."""
    blocks: int = 2
    """Resident on one multiprocessor, which bounds the registers."""

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
        return max(self.stages * tiles * 2 * 16, plane_count(self.output_channels) * self.columns * self.rows * 16)


@dataclass(frozen=True)
class Lookup:
    """Bilinear windows of ``radius`` around each pixel's coordinates, in every level of a pyramid of all-pairs volumes.

    Level ``l``: FP16 ``[batch][H * W][H >> l][W >> l]``. ``coordinates``: planar ``[batch][2][H][W]`` of ``number``, x
    first; ``absolute``: positions in level 0, else displacements from the pixel. Output chunked, of channels
    ``l * (2 * radius + 1)**2 + (dx + radius) * (2 * radius + 1) + dy + radius``, which is RAFT's order; zeros outside.
    """

    levels: int = 4
    radius: int = 4
    number: Number = "fp32"
    absolute: bool = True
    chunked: bool = False
    """The coordinates lie in chunks instead, as FP16."""
    pixels: int = 32
    """Of a block."""
    threads: int = 256

    @property
    def output_channels(self) -> int:
        return self.levels * (2 * self.radius + 1) ** 2

    @property
    def shared_bytes(self) -> int:
        windows = -(-self.pixels * (2 * self.radius + 2) ** 2 * 2 // 16) * 16
        return self.pixels * 8 + windows + plane_count(self.output_channels) * self.pixels * CHUNK * 2


@dataclass(frozen=True)
class AllPairs:
    """``scale`` times the sum over channels of ``first(i) * second(j)`` for every pair of pixels, as implicit GEMM.

    Inputs chunked, of ``channels`` channels, with zeros in what fills up the last chunk; they may differ in size.
    Output planar: ``[pixels of first][H of second][W of second]``.
    """

    channels: int
    scale: float = 1.0
    tiles: int = 8
    """Of 16 pixels of the first map in a block."""
    columns: int = 16
    """Tiles of 8 pixels of the second map in a block."""
    slab: int = 4
    """Chunks of channels a stage."""
    warps: tuple[int, int] = (4, 2)
    stages: int = 3
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.tiles % self.warps[0] or self.columns % self.warps[1] or self.slab % 2 or self.stages < 2:
            raise ValueError(f"{self.tiles} x {self.columns} tiles, {self.warps} warps, slabs of {self.slab}")

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * WARP

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.slab * (self.tiles * 16 + self.columns * 8) * 16


Operator = Correlation | Lookup | AllPairs


def grid(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z; of :class:`AllPairs` for ``height`` pixels of the first map and ``width`` of the second."""
    if isinstance(op, AllPairs):
        return -(-width // (op.columns * 8)), -(-height // (op.tiles * 16)), batch
    if isinstance(op, Correlation):
        return -(-width // op.columns), -(-height // op.rows), batch
    return -(-height * width // op.pixels), 1, batch


def pointers(op: Operator) -> tuple[str, ...]:
    """Names of the kernel's pointers, in order; height and width follow."""
    if isinstance(op, Correlation | AllPairs):
        return "first", "second", "output"
    return *(f"level_{level}" for level in range(op.levels)), "coordinates", "output"


def render(op: Operator, name: str) -> str:
    """The kernel's CUDA text. Its arguments: :func:`pointers`, then the two integers of :func:`grid`."""
    if isinstance(op, AllPairs):
        body = (
            f"  AllPairs<{plane_count(op.channels)}, {op.tiles}, {op.columns}, {op.slab}, {op.warps[0]}, "
            f"{op.warps[1]}, {op.stages}>::run(first, second, output, {literal(op.scale)}, height, width);\n"
        )
        return kernel_text("all_pairs.cuh", name, f"{op.threads}, {op.blocks}", pointers(op), body)
    if isinstance(op, Correlation):
        body = (
            f"  Correlation<{op.channels}, {op.reach}, {op.columns}, {op.rows}, {op.groups}, {op.stages}>::run("
            f"first, second, output, {literal(op.slope)}, height, width);\n"
        )
    else:
        body = (
            f"  {_levels(op)}\n  Lookup<{op.levels}, {op.radius}, {flag(op.number == 'fp32')}, {flag(op.absolute)}, "
            f"{flag(op.chunked)}, {op.pixels}, {op.threads}>::run(levels, coordinates, output, height, width);\n"
        )
    bounds = f"{op.threads}, {op.blocks}" if isinstance(op, Correlation) else op.threads
    return kernel_text("correlation.cuh", name, bounds, pointers(op), body)


def render_naive(op: Correlation | Lookup, name: str) -> str:
    """The reference, with the same arguments."""
    if isinstance(op, Correlation):
        body = (
            f"  naive_correlation<{op.channels}, {op.reach}>(first, second, output, {literal(op.slope)}, height, "
            "width);\n"
        )
    else:
        body = (
            f"  {_levels(op)}\n  naive_lookup<{op.levels}, {op.radius}, {flag(op.number == 'fp32')}, "
            f"{flag(op.absolute)}, {flag(op.chunked)}>(levels, coordinates, output, height, width);\n"
        )
    return kernel_text("naive.cuh", name, NAIVE_THREADS, pointers(op), body)


def naive_grid_of(op: Correlation | Lookup, height: int, width: int, batch: int = 1) -> Grid:
    return naive_grid(op.output_channels, height, width, batch)


def _levels(op: Lookup) -> str:
    names = ", ".join(f"level_{level}" for level in range(op.levels))
    return f"const char* const levels[{op.levels}] = {{{names}}};"
