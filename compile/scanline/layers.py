"""Layers as the machine runs them, between lowering and the planner: a kernel makes psums, an epilogue makes codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from codesign.compile.scanline.kernels.kernel import Int8, Int64, Kernel
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.numerics import INT8_MAX, INT8_MIN, AddRule, MultiplyRule


@dataclass(frozen=True)
class SecondOperand:
    """A tensor that is added to the requantised result or multiplied with it, pixel by pixel."""

    tensor: str
    broadcast: bool  # the tensor has one channel, for all of the result's
    rule: AddRule | MultiplyRule


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Everything done to psums, in this order: bias, requantisation, clip, table, second operand."""

    bias: Int64 = field(repr=False)  # [Cout], before the source's zero point is folded in
    multiplier: Int64 = field(repr=False)  # [Cout]
    negative_multiplier: Int64 = field(repr=False)
    shift: Int64 = field(repr=False)
    zero_point: int  # of the requantised result
    qmin: int = INT8_MIN
    qmax: int = INT8_MAX
    table: Int8 | None = field(default=None, repr=False)  # int8[256]
    second: SecondOperand | None = None
    planes: Int64 | None = field(
        default=None, repr=False
    )  # isa.Plane by channel: its byte of 16-bit values; None: 8 bits

    def pick(self, channels: Int64 | Sequence[int] | slice) -> Epilogue:
        """The epilogue of the channels ``channels``, in that order."""
        return dataclasses.replace(
            self,
            bias=self.bias[channels],
            multiplier=self.multiplier[channels],
            negative_multiplier=self.negative_multiplier[channels],
            shift=self.shift[channels],
            planes=None if self.planes is None else self.planes[channels],
        )

    def place(self, places: Int64, channels: int) -> Epilogue:
        """The epilogue of ``channels``, among which the present ones are at ``places``; others are rounded to zero."""

        def placed(values: Int64) -> Int64:
            found = np.zeros(channels, np.int64)
            found[places] = values
            return found

        return dataclasses.replace(
            self,
            bias=placed(self.bias),
            multiplier=placed(self.multiplier),
            negative_multiplier=placed(self.negative_multiplier),
            shift=placed(self.shift),
        )


@dataclass(frozen=True, eq=False)
class Layer:
    """A tensor computed row by row from others. Zero points of the sources are equal."""

    name: str  # of the operator in the user's model
    sources: tuple[str, ...]  # the kernel reads their channels one source after another
    output: str
    kernel: Kernel
    epilogue: Epilogue
    macs: int = 0  # of the user's operator
    first_channel: int = 0  # of the output tensor: layers that were split compute a slice of it

    @property
    def channels(self) -> int:
        """Output channels that this layer computes."""
        return self.kernel.channels

    @property
    def operand(self) -> str | None:
        """The tensor that is read at each output pixel's own place, besides the sources."""
        return self.epilogue.second.tensor if self.epilogue.second is not None else self.kernel.flow

    @property
    def follows_order(self) -> str | None:
        """The second operand, where its channels lie in the order of the result's."""
        second = self.epilogue.second
        return None if second is None or second.broadcast else second.tensor

    @property
    def streamed(self) -> tuple[str, ...]:
        """The tensors that it reads row by row."""
        return self.sources if self.operand is None else (*self.sources, self.operand)

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors that it needs."""
        return (*self.streamed, *self.kernel.whole)

    @property
    def seen(self) -> str:
        """The tensor whose values are summed up or sampled."""
        return self.kernel.seen(self.sources)

    def pick(self, channels: Int64 | Sequence[int]) -> Layer:
        """This layer with the output channels ``channels``, in that order."""
        return dataclasses.replace(self, kernel=self.kernel.pick(channels), epilogue=self.epilogue.pick(channels))

    def with_second(self, second: SecondOperand | None) -> Layer:
        return dataclasses.replace(self, epilogue=dataclasses.replace(self.epilogue, second=second))

    def with_table(self, table: Int8 | None) -> Layer:
        return dataclasses.replace(self, epilogue=dataclasses.replace(self.epilogue, table=table))


@dataclass(frozen=True)
class Shuffle:
    """Depth to space by ``factor``: channel ``c f^2 + i f + j`` becomes pixel ``(f y + i, f x + j)`` of channel c.

    Nothing is computed: the store engine spreads the channels on their way to memory.
    """

    name: str
    source: str
    output: str
    factor: int

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def streamed(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True)
class Concat:
    """The channels of several tensors of one scale and zero point, in order."""

    name: str
    parts: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class LayerGraph:
    """Layers and shuffles in execution order over named tensors; a concatenation is several sources of its readers."""

    name: str
    tensors: dict[str, Tensor]
    layers: tuple[Layer | Shuffle, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.computed)

    @property
    def computed(self) -> list[Layer]:
        """The layers without shuffles."""
        return computed(self.layers)

    @property
    def shuffles(self) -> list[Shuffle]:
        return [layer for layer in self.layers if isinstance(layer, Shuffle)]

    def each(self, change: Callable[[Layer], Layer]) -> LayerGraph:
        """This graph with every layer changed, and shuffles as they are."""
        layers = tuple(change(layer) if isinstance(layer, Layer) else layer for layer in self.layers)
        return dataclasses.replace(self, layers=layers)

    def is_slice(self, layer: Layer) -> bool:
        """Whether ``layer`` computes some of its output's channels alone."""
        return layer.channels != self.tensors[layer.output].channels

    def source_channels(self, layer: Layer) -> tuple[int, ...]:
        """Channels by source."""
        return tuple(self.tensors[name].channels for name in layer.sources)


def computed(layers: Sequence[Layer | Shuffle]) -> list[Layer]:
    """Those that the machine computes: all but shuffles."""
    return [layer for layer in layers if isinstance(layer, Layer)]
