"""Cascades: which layers run depth first together, in which strips, with which rolling buffers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from codesign.compile.scanline.layers import Layer, LayerGraph
from codesign.compile.scanline.plan.mapping import Mapping
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec


class RowOrder(Enum):
    """The order of an iteration of a cascade's loop (:mod:`codesign.compile.scanline.plan.schedule`)."""

    RELAXED = "relaxed"
    EAGER = "eager"  # producers before consumers


@dataclass(frozen=True)
class Conversion:
    """Layout of a loaded tensor in its buffer: as in memory, or each pixel with its right neighbours as channels."""

    unfold: int = 0  # neighbours per word; 0: as it is
    pad_left: int = 0


@dataclass(frozen=True)
class BufferPlan:
    """A rolling buffer of a cascade."""

    tensor: str
    rows: int
    groups: int
    loaded: bool
    freed_by_store: bool
    freed_by_layer: bool
    operand: bool  # some layer reads it at each pixel's own place
    conversion: Conversion = Conversion()


@dataclass(frozen=True)
class LayerPlan:
    """A layer of a cascade with its mapping and its place in the schedule."""

    layer: Layer
    mapping: Mapping = field(repr=False)
    group_cycles: int  # of one pixel group in a long row
    delay: int  # iterations before its first row
    repeat: int  # rows per iteration
    frees: tuple[bool, ...]  # by source: its rows are free when this layer has read them
    free_operand: bool


@dataclass(frozen=True)
class StorePlan:
    """A tensor that leaves the chip, as it is or shuffled."""

    tensor: str
    target: str  # the tensor in memory
    factor: int  # pixel shuffle; 1: none
    first_channel: int  # of the target (a split layer stores its slice)
    delay: int
    repeat: int


@dataclass(frozen=True)
class KeptPlan:
    """A tensor whose columns next to a cut go to memory with one strip and come back with the next."""

    tensor: str
    channels: int
    delay: int  # of the loads: they fill the rows that are being computed
    store_delay: int
    repeat: int


@dataclass(frozen=True)
class Strip:
    """Columns [first, end) of every tensor of the cascade."""

    columns: dict[str, tuple[int, int]]  # that its buffer has room for
    computed: dict[str, int]  # the first that this strip computes, of every tensor that it does compute
    stored: dict[str, tuple[int, int]]  # of tensors that leave the chip
    halos: dict[str, int]  # columns before the first computed one that earlier strips computed and this one loads
    tails: dict[str, tuple[int, int]]  # that go to memory for the next strip

    def width(self, tensor: str) -> int:
        first, end = self.columns[tensor]
        return end - first

    def computed_width(self, tensor: str) -> int:
        return self.columns[tensor][1] - self.computed[tensor]


@dataclass(frozen=True)
class Cascade:
    """Layers [first, end) of the graph."""

    first: int
    end: int
    buffers: tuple[BufferPlan, ...]
    loads: tuple[tuple[str, int], ...]  # tensor, rows per iteration
    layers: tuple[LayerPlan, ...]
    stores: tuple[StorePlan, ...]
    kept: tuple[KeptPlan, ...]  # empty: halos are recomputed
    iterations: int
    order: RowOrder
    strips: tuple[Strip, ...]
    weight_words: int
    fill_words: int
    parameter_words: int
    scratchpad_words: int  # per bank, in the widest strip


def consumers(graph: LayerGraph) -> dict[str, list[int]]:
    """For every tensor the indices of the layers that read it."""
    table: dict[str, list[int]] = {name: [] for name in graph.tensors}
    for index, layer in enumerate(graph.layers):
        for name in layer.reads:
            table[name].append(index)
    return table


def words_per_row(spec: AccelSpec, width: int) -> int:
    """Words that a row of one channel group takes in every bank."""
    return ceil_div(width, spec.banks)
