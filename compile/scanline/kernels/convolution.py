"""A convolution: constant weights at the taps of a window. Copies, sums, averages and scalings are convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.kernel import Footprint, Int8, Int64, Kernel
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.hw import numerics
from codesign.hw.numerics import weight_planes
from codesign.hw.spec import AccelSpec

Weights = Int8 | NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Convolution(Kernel):
    """Sums of products with constant weights. Padding reads the source's zero point, or the nearest pixel.

    The array has 8-bit weights: it sums with the high bytes of 16-bit ones, counts that 256-fold, and sums with their
    low bytes. The channels of a 16-bit source are bytes, too: a weight ``w`` is ``256 w`` for the high byte.
    """

    weights: Weights = field(repr=False)  # [kernel rows, kernel columns, Cin, Cout]
    stride: int = 1
    pad_top: int = 0
    pad_left: int = 0
    edge: bool = False
    orders_channels: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        return int(self.weights.shape[3])

    @property
    def label(self) -> str:
        rows, columns = self.weights.shape[:2]
        return f"conv{rows}x{columns}"

    @property
    def footprint(self) -> Footprint:
        rows, columns = self.weights.shape[:2]
        return Footprint(rows, columns, self.stride, self.pad_top, self.pad_left, edge=self.edge)

    @property
    def cost_key(self) -> Hashable:
        return type(self), self.footprint, self.weights.shape, self.weights.dtype.itemsize

    def pick(self, channels: Int64 | Sequence[int]) -> Convolution:
        return dataclasses.replace(self, weights=self.weights[..., channels])

    def pick_inputs(self, channels: Int64 | Sequence[int]) -> Convolution:
        """This kernel for a source whose channels are the channels ``channels`` of the present one."""
        return dataclasses.replace(self, weights=self.weights[:, :, channels])

    def place_inputs(self, places: Int64, channels: int) -> Convolution:
        """This kernel for a source of ``channels``, whose channels ``places`` are the present ones; others weigh 0."""
        rows, columns, _, outputs = self.weights.shape
        weights = np.zeros((rows, columns, channels, outputs), self.weights.dtype)
        weights[:, :, places] = self.weights
        return dataclasses.replace(self, weights=weights)

    def on_byte_planes(self, sources: int) -> Convolution:
        """A weight of 8 bits becomes ``256 w`` for the high byte and ``w`` for the low one.

        Weights of 16 bits are in units of 256: the low bytes of the source meet their high bytes alone.
        """
        pairs: list[Weights] = []
        for share in np.split(self.weights.astype(np.int16), sources, 2):
            whole = self.weights.dtype == np.int16
            pairs += [share, weight_planes(share)[0]] if whole else [256 * share, share]
        return dataclasses.replace(self, weights=np.concatenate(pairs, 2).astype(np.int16))

    def slice(self, first: int, count: int) -> Convolution:
        return dataclasses.replace(self, weights=self.weights[..., first : first + count])

    def unfolding(self, spec: AccelSpec) -> int:
        unfold = min(self.weights.shape[1], spec.ci_lanes)
        possible = self.stride == 1 and not self.edge and unfold >= 2 and unfold > self.pad_left
        return unfold if possible else 0

    def map(self, mappings: Mappings, source_channels: tuple[int, ...], unfold: int = 0) -> Mapping:
        return mappings.of(self._unfolded(unfold), self.stride, source_channels)

    def _unfolded(self, unfold: int) -> Weights:
        """The weights, with the taps of ``unfold`` neighbouring pixels as channels."""
        if not unfold:
            return self.weights
        rows, columns, _, outputs = self.weights.shape
        unfolded = np.zeros((rows, columns, unfold, outputs), self.weights.dtype)
        for column in range(columns):
            base, lane = divmod(column, unfold)
            unfolded[:, base * unfold, lane] = self.weights[:, column, 0]
        return unfolded

    @property
    def weight_bytes(self) -> int:
        """A pair of channels counts two bytes a tap only if one of its weights needs 16 bits."""
        planes = weight_planes(self.weights)
        if len(planes) == 1:
            return self.weights.size
        pairs = sum(np.count_nonzero(np.any(plane, axis=(0, 1))) for plane in planes)
        return int(pairs) * self.weights[:, :, 0, 0].size

    def folded_bias(self, bias: Int64, zero_point: int) -> Int64:
        """``b - z sum(w)``, so that the array multiplies raw codes."""
        return np.asarray(bias - zero_point * self.weights.astype(np.int64).sum(axis=(0, 1, 2)))

    def psum_unit(self, source_bits: int) -> float:
        return 256.0 if source_bits == 16 and self.weights.dtype == np.int16 else 1.0

    def psum_reach(self, source_channels: int) -> Int64:
        return numerics.psum_reach(self.weights)


def identity(channels: int) -> Convolution:
    """A copy of every channel."""
    return Convolution(np.eye(channels, dtype=np.int8)[None, None])
