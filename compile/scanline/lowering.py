"""The layers of a region while they are collected: what operators lower themselves with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.unit import Activation, Codes, RoundedUnit
from codesign.compile.scanline.kernels.convolution import identity
from codesign.compile.scanline.kernels.kernel import Int64, Kernel
from codesign.compile.scanline.layers import Concat, Epilogue, Layer, LayerGraph, Shuffle
from codesign.compile.scanline.rewrite.concat import fold_concats
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Plane

RESULT_READERS = 2
"""Readers that leaving the region counts as: a result is never read by one layer alone."""


@dataclass(frozen=True)
class Psums:
    """A layer before its rounding: its psum is worth ``source scale x scales[c]``."""

    name: str
    sources: tuple[str, ...]
    kernel: Kernel  # over whole values, where sources or result have 16 bits
    scales: NDArray[np.float64]  # [Cout]
    height: int
    width: int
    macs: int = 0
    shuffle: int = 1  # output pixels per side of each psum pixel: a transposed convolution in sub-pixel form
    bias: Int64 | None = None
    activation: Activation = field(default_factory=Activation)

    def activated(self, unit: RoundedUnit) -> Psums:
        """With the activation of ``unit``."""
        slope = unit.activation.slope
        if isinstance(slope, np.ndarray) and slope.size > 1:
            slope = np.repeat(slope, self.shuffle**2)
        return replace(self, activation=replace(unit.activation, slope=slope))


def identity_of(name: str, tensor: Tensor) -> Psums:
    """A tensor as a one-by-one layer, so that it can be rounded anew."""
    return Psums(
        name=name,
        sources=(tensor.name,),
        kernel=identity(tensor.values),
        scales=np.ones(tensor.values),
        height=tensor.height,
        width=tensor.width,
    )


class Lowering:
    """Tensors and layers of a region, unit by unit.

    ``readers``: how many operands of the region's units each tensor of codes is, by its name in the network.
    """

    def __init__(self, readers: dict[str, int]) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer | Shuffle | Concat] = []
        self._named: dict[str, str] = {}  # the tensor that holds each tensor of codes of the network
        self._counted = readers
        self._readers: dict[str, int] = {}  # the same, by tensor

    # Tensors

    def take(self, codes: Codes) -> None:
        """Make the tensor of an input of the region, unless it is there."""
        if codes.name not in self._named:
            self._named[codes.name] = self.make(_tensor(codes, self.fresh(codes.name))).name

    def target(self, unit: RoundedUnit) -> Tensor:
        """The tensor that ``unit`` is rounded to, which its operator then makes."""
        tensor = _tensor(unit.result, self.fresh(unit.name))
        self._named[unit.result.name] = tensor.name
        self._readers[tensor.name] = self._counted.get(unit.result.name, 0)
        return tensor

    def make(self, tensor: Tensor) -> Tensor:
        """Add ``tensor`` to the region's."""
        self.tensors[tensor.name] = tensor
        return tensor

    def operands(self, unit: RoundedUnit) -> list[Tensor]:
        return [self.tensors[self._named[codes.name]] for codes in unit.operands]

    def fresh(self, name: str) -> str:
        """A name that no tensor has, close to ``name``."""
        count, candidate = 1, name
        while candidate in self.tensors:
            count, candidate = count + 1, f"{name}.{count}"
        return candidate

    # Layers

    def close(self, psums: Psums, target: Tensor) -> None:
        """Append the layer that rounds ``psums`` to ``target``, and a shuffle where they are sub-pixels.

        Raises :class:`UnsupportedError` where the scales are too far apart for the requantiser.
        """
        kernel, outputs = psums.kernel, psums.kernel.channels
        low, high = psums.activation.low, psums.activation.high
        try:
            multiplier, negative, shift = numerics.requantise_parameters(
                self.psum_unit(psums), np.broadcast_to(psums.scales, outputs), target.scale, psums.activation.slope
            )
        except ValueError as error:
            raise UnsupportedError(str(error), where=psums.name) from error
        bounds = numerics.clip_bounds(low, high, target.scale, target.zero_point)
        bias = np.zeros(outputs, np.int64) if psums.bias is None else psums.bias
        epilogue = Epilogue(bias, multiplier, negative, shift, target.zero_point, *bounds)
        if self.tensors[psums.sources[0]].bits == 16:
            kernel = kernel.on_byte_planes(len(psums.sources))
        if target.bits == 16:
            kernel, epilogue = kernel.in_byte_planes(), epilogue.pick([*range(outputs), *range(outputs)])
            planes = np.repeat(np.array([Plane.HIGH, Plane.LOW], np.int64), outputs)
            epilogue, outputs = replace(epilogue, planes=planes), 2 * outputs
        made = target
        if psums.shuffle > 1:
            name = f"{target.name}.subpixel"
            made = self.make(replace(target, name=name, height=psums.height, width=psums.width, channels=outputs))
        self.layers.append(Layer(psums.name, psums.sources, made.name, kernel, epilogue, psums.macs))
        if psums.shuffle > 1:
            self.layers.append(Shuffle(f"{psums.name}.shuffle", made.name, target.name, psums.shuffle))

    def psum_unit(self, psums: Psums) -> float:
        """The worth of a unit of the psum, but for its weight's scale."""
        source = self.tensors[psums.kernel.seen(psums.sources)]
        return source.scale * psums.kernel.psum_unit(source.bits)

    def rescaled(self, tensor: Tensor, target: Tensor) -> str:
        """The name of ``tensor`` in the scale and zero point of ``target``: itself, or a copy that is rounded anew."""
        # An 8-bit operand of a 16-bit tensor is its high bytes.
        unit = 256 if (target.bits, tensor.bits) == (16, 8) else 1
        if (tensor.scale, tensor.zero_point) == (unit * target.scale, target.zero_point):
            return tensor.name
        name = self.fresh(f"{tensor.name}.rescaled")
        copy = self.make(replace(target, name=name, channels=tensor.values * target.planes))
        self.close(identity_of(copy.name, tensor), copy)
        return copy.name

    def unjoined(self, name: str) -> Layer | None:
        """The layer that makes tensor ``name``, if it has one reader, who may join it, and no second operand."""
        for layer in self.layers:
            if isinstance(layer, Layer) and layer.output == name and layer.operand is None:
                return layer if self._readers.get(name, 0) == 1 else None
        return None

    def replace_layer(self, old: Layer, new: Layer) -> None:
        """Take ``old`` out, and append ``new``, which makes more of it."""
        self.layers = [layer for layer in self.layers if layer is not old]
        self.layers.append(new)

    def graph(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> LayerGraph:
        """The layers; ``inputs`` and ``outputs`` are tensors of codes of the network."""
        results = tuple(self._named[codes] for codes in outputs)
        layers, tensors = fold_concats(self.layers, self.tensors, results)
        used = {read for layer in layers for read in (*layer.reads, layer.output)} | set(results)
        return LayerGraph(
            name=name,
            tensors={key: tensor for key, tensor in tensors.items() if key in used},
            layers=layers,
            inputs=tuple(self._named[codes] for codes in inputs),
            outputs=results,
        )


def _tensor(codes: Codes, name: str) -> Tensor:
    _, channels, height, width = codes.shape
    planes = codes.bits // 8
    return Tensor(name, height, width, channels * planes, codes.scale, codes.zero_point, codes.bits)
