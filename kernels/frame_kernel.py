"""A CUDA kernel of one operator on frames, and the naive kernel that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from codesign.kernels.chunked import NAIVE_THREADS, Grid, kernel_text, naive_grid, plane_count
from codesign.kernels.layers import Format

Size = tuple[int, int]
"""(height, width) in pixels."""


class FrameKernel:
    """One operator as a kernel; every operator is a frozen dataclass that derives from this.

    The kernel's arguments are :attr:`pointers` (inputs, outputs, then the parameters if there are any) and integers:
    the height and width of a frame unless :attr:`integer_names` says otherwise. Channels, constants and tiles are in
    the text; sizes and the batch are not. Outputs must not overlap inputs. The naive kernel has the same arguments.
    """

    header: ClassVar[str] = "pointwise.cuh"

    writes: ClassVar[Format] = "chunked"
    """The layout of its output."""

    def taking(self, stored: Sequence[Format]) -> tuple[FrameKernel, tuple[Format, ...]]:
        """The kernel for inputs that are stored in these layouts, and the layouts in which it takes them: chunks."""
        form: Format = "chunked"
        return self, (form,) * len(stored)

    if TYPE_CHECKING:  # fields or properties of the operators

        @property
        def channels(self) -> int:
            """Channels of the first input."""

        @property
        def threads(self) -> int:
            """Threads of a block."""

    @property
    def output_channels(self) -> int:
        return self.channels

    @property
    def rows(self) -> int:
        """Rows of an output that is no frame, as a tensor one pixel wide; 0 where the output is one."""
        return 0

    @property
    def planes(self) -> int:
        """Chunks of a pixel of the output."""
        return plane_count(self.output_channels)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return 0

    @property
    def bounds(self) -> str:
        """Arguments of ``__launch_bounds__``."""
        return str(self.threads)

    @property
    def pointers(self) -> tuple[str, ...]:
        return "input", "output"

    @property
    def integer_names(self) -> tuple[str, ...]:
        return "height", "width"

    def integers(self, inputs: Sequence[Size], output: Size) -> tuple[int, ...]:
        """The kernel's integers for tensors of these sizes."""
        return inputs[0]

    def macs(self, integers: Sequence[int]) -> int:
        return 0

    def covered(self, *integers: int) -> Size:
        """The frame that the grid covers."""
        height, width = integers
        return height, width

    def grid(self, integers: Sequence[int], batch: int = 1) -> Grid:
        """Blocks in x, y and z."""
        return *self.blocks(*self.covered(*integers)), batch

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        """Blocks in x and y for the frame that is covered."""
        raise NotImplementedError

    def parameters(self) -> bytes:
        """The parameters, to lie on a 16-byte boundary; empty for a kernel without."""
        return b""

    def text(self, name: str) -> str:
        """The kernel's CUDA text."""
        functions, body = self.functions(name), self.body(name)
        return kernel_text(self.header, name, self.bounds, self.pointers, body, self.integer_names, functions)

    def functions(self, name: str) -> str:
        """Device code in front of the kernel."""
        return ""

    def body(self, name: str) -> str:
        """Statements of the kernel."""
        raise NotImplementedError

    def naive_text(self, name: str) -> str:
        """The naive kernel's CUDA text. Raises ``NotImplementedError`` for an operator that has none."""
        functions, body = self.naive_functions(name), self.naive_body(name)
        return kernel_text("naive.cuh", name, NAIVE_THREADS, self.pointers, body, self.integer_names, functions)

    def naive_functions(self, name: str) -> str:
        return ""

    def naive_body(self, name: str) -> str:
        raise NotImplementedError(f"{type(self).__name__} has no naive kernel")

    def naive_grid(self, integers: Sequence[int], batch: int = 1) -> Grid:
        """Blocks of ``NAIVE_THREADS`` threads."""
        return naive_grid(self.output_channels, *self.covered(*integers), batch)
