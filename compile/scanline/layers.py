"""What lowering produces and the planner consumes: layers as the machine runs them, on int8 tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.hw.normalise import UNIT_CARRIES, Normalisation

Int8 = NDArray[np.int8]
Int16 = NDArray[np.int16]
Int64 = NDArray[np.int64]
Weights = Int8 | Int16


@dataclass(frozen=True)
class Tensor:
    """An int8 feature map; real = scale x (q - zero_point).

    A ``wide`` one is int16 in byte planes (``numerics.byte_planes``): its channels are those of both, high bytes first.
    """

    name: str
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int
    wide: bool = False
    as_weights: bool = False
    """It lies in memory as a layer's weights: by group of channels, pixel by pixel, the last word filled up."""


@dataclass(frozen=True)
class Add:
    """The second operand of a layer: ``other`` is added to the requantised result (``numerics.add_requantised``).

    Or, as a ``product``, multiplied with it (``numerics.multiply_requantised``, by ``other_multiplier``).
    """

    other: str
    broadcast: bool  # other has one channel, for all of the result's
    value_zero_point: int  # of the result, look-up included
    multiplier: int
    other_multiplier: int
    shift: int
    zero_point: int  # of what is stored
    qmin: int
    qmax: int
    product: bool = False


@dataclass(frozen=True)
class Warp:
    """A layer that samples its source at the second operand's flow, in ``2**-fraction_bits`` pixels.

    Its weights weigh nothing: their rows and columns are the window of the source that is on chip.
    """

    fraction_bits: int


@dataclass(frozen=True)
class Windows:
    """A layer that looks up a window of a map of every pixel's own, around its place plus the source's flow.

    The flow is in ``2**-fraction_bits`` pixels of the frame; maps have ``2**level`` times fewer pixels than the frame.
    Channels are the ``2 radius + 1`` rows and columns, columns slower. Weights weigh nothing.
    """

    radius: int
    level: int
    fraction_bits: int
    map_height: int
    map_width: int

    @property
    def map_bytes(self) -> int:
        return self.map_height * self.map_width


@dataclass(frozen=True)
class Resize:
    """A layer that samples its source at steps that make it ``factor`` times as large, corners on corners.

    Its weights weigh nothing either; three rows and columns around a pixel's own place in the source are needed.
    """

    factor: int


@dataclass(frozen=True)
class Conv:
    """A convolution with everything the machine does to its psums. Padding reads the source's zero point.

    Weights of 16 bits are two of 8 to the array: it sums with their high bytes, counts that 256-fold, and sums with
    their low ones. The channels of a wide source are bytes, too: a weight ``w`` is ``256 w`` for the high one.
    """

    name: str  # of the operator in the user's model
    source: str
    output: str
    weights: Weights = field(repr=False)  # [kernel rows, kernel columns, Cin, Cout]
    bias: Int64 = field(repr=False)  # [Cout], before the source's zero point is folded in
    stride: int
    pad_top: int
    pad_left: int
    multiplier: Int64 = field(repr=False)  # [Cout]
    negative_multiplier: Int64 = field(repr=False)
    shift: Int64 = field(repr=False)
    zero_point: int  # of the requantised result
    qmin: int
    qmax: int
    table: Int8 | None = field(repr=False)  # int8[256], applied after requantisation
    add: Add | None
    macs: int  # of the user's operator
    first_channel: int = 0  # of the output tensor that this layer computes (wide layers are split)
    more: tuple[str, ...] = ()  # further sources, whose channels follow the first one's: a concatenation
    edge: bool = False  # padding reads the nearest pixel instead
    planes: Int64 | None = field(default=None, repr=False)  # isa.Plane by output channel; None: whole
    warp: Warp | None = None
    correlates: bool = False  # products of two sources at all displacements of the window, instead of weights
    norm: Normalisation | None = None
    """The source is normalised: its sums decide bias, multipliers and shift. Weights: ``normalise.UNIT_WEIGHT``."""
    resize: Resize | None = None

    windows: Windows | None = None
    volume: str | None = None  # where there are windows, the tensor whose channels are every pixel's map
    weights_from: str | None = None  # the tensor whose pixels are the weights, one for each output channel

    @property
    def weighs(self) -> bool:
        """Whether its weights are what it multiplies with; else only their shape means something."""
        return not self.sampled and not self.correlates and self.weights_from is None

    @property
    def sampled(self) -> bool:
        """Whether it is computed beside the array, of samples."""
        return self.warp is not None or self.resize is not None or self.windows is not None

    @property
    def sees(self) -> str:
        """The tensor whose values are convolved or sampled."""
        return self.source if self.volume is None else self.volume

    @property
    def enlarges(self) -> int:
        """Rows and columns of the output by each of the sources', where the stride does not make them fewer."""
        return 1 if self.resize is None else self.resize.factor

    def needs_from(self, place: int) -> int:
        """The first row or column of the sources, padding not taken off, that row or column ``place`` may need."""
        return place * self.stride // self.enlarges

    @property
    def plain(self) -> bool:
        """Whether it is a convolution, whose sources' channels may lie anywhere and in any order."""
        return self.weighs and self.norm is None

    @property
    def carries(self) -> int:
        """How often the whole sum counts 256-fold in the end."""
        return UNIT_CARRIES if self.norm is not None else 0

    @property
    def channels(self) -> int:
        """Output channels this layer computes."""
        return int(self.weights.shape[3])

    @property
    def convolved(self) -> tuple[str, ...]:
        """The tensors whose channels the weights are for, in order."""
        return (self.source, *self.more)


def weight_planes(weights: Weights) -> tuple[Int8, ...]:
    """Weights byte by byte, the high ones first; both signed."""
    if weights.dtype == np.int8:
        return (weights.astype(np.int8, copy=False),)
    whole = weights.astype(np.int64)
    high = (whole + 128) >> 8
    return high.astype(np.int8), (whole - 256 * high).astype(np.int8)


def psum_reach(weights: Weights) -> Int64:
    """The largest magnitude, per output channel, of a sum over any of the taps of ``weights`` in any order."""
    planes = [np.abs(plane.astype(np.int64)).sum(axis=(0, 1, 2)) for plane in weight_planes(weights)]
    return np.asarray(128 * (planes[0] if len(planes) == 1 else 256 * planes[0] + planes[1]))


@dataclass(frozen=True)
class Shuffle:
    """Depth to space by ``factor``: channel ``c f^2 + i f + j`` becomes pixel ``(f y + i, f x + j)`` of channel c."""

    name: str
    source: str
    output: str
    factor: int


@dataclass(frozen=True)
class Concat:
    """The channels of several tensors of one scale and zero point, in order."""

    name: str
    parts: tuple[str, ...]
    output: str


Layer = Conv | Shuffle
"""What is planned: concatenations have become further sources of the layers that read them."""


@dataclass(frozen=True)
class LayerGraph:
    """Layers in execution order over named tensors."""

    name: str
    tensors: dict[str, Tensor]
    layers: tuple[Layer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers if isinstance(layer, Conv))


def sources(layer: Layer) -> tuple[str, ...]:
    """The tensors a layer reads row by row."""
    if isinstance(layer, Shuffle):
        return (layer.source,)
    return (*layer.convolved, layer.add.other) if layer.add is not None else layer.convolved


def reads(layer: Layer) -> tuple[str, ...]:
    """All tensors a layer needs."""
    whole = (layer.weights_from, layer.volume) if isinstance(layer, Conv) else ()
    return (*sources(layer), *(name for name in whole if name is not None))
