"""A region of a quantised network becomes a :class:`LayerGraph`: real scales become the machine's integers.

A unit becomes one layer, mostly: the machine rounds where the graph does. The rules that turn scales into integers are
those that :mod:`codesign.compile.referee.integer` documents.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from codesign.compile.canonical.resample import average_weights, bilinear_weights, corner_factor, resize_factor
from codesign.compile.canonical.transposed import subpixel_weights
from codesign.compile.ir.graph import Node
from codesign.compile.quantise.rounded import Codes, RoundedUnit
from codesign.compile.quantise.rounded import Weights as RealWeights
from codesign.compile.quantise.units import Kind
from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.convolution import Convolution, Weights, identity
from codesign.compile.scanline.kernels.correlation import Correlation
from codesign.compile.scanline.kernels.kernel import Int64
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.kernels.resize import Resize
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.layers import Concat, Epilogue, Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.partition import Region
from codesign.compile.scanline.pending import (
    PendingConcat,
    PendingConv,
    PendingGather,
    PendingNorm,
    PendingPair,
    PendingShuffle,
    PendingTable,
    PendingUnshuffle,
)
from codesign.compile.scanline.rewrite.concat import fold_concats
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import normalise, numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Plane


def lower(region: Region, name: str) -> LayerGraph:
    """The layers of ``region``, unit by unit; its inputs and outputs come in the region's order.

    Raises :class:`UnsupportedError`, naming the operator, for what the machine cannot run.
    """
    builder = _Builder(name)
    for unit in region.units.values():
        for operand in unit.operands:
            builder.count_reader(operand.name, 1)
    for output in region.outputs:
        builder.count_reader(output, _NOT_ALONE)
    for unit in region.units.values():
        for operand in unit.operands:
            if operand.name in region.inputs:
                builder.take(operand)
        builder.close(unit)
    return builder.graph(region)


_NOT_ALONE = 2
"""Readers that being a region's result counts as: what leaves the region is never read by one layer alone."""


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer | Shuffle | Concat] = []
        self._named: dict[str, str] = {}  # the tensor that holds each tensor of codes of the network
        self._counted: dict[str, int] = {}  # by tensor of codes: how many operands it is
        self._readers: dict[str, int] = {}  # the same by tensor

    def count_reader(self, codes: str, times: int) -> None:
        self._counted[codes] = self._counted.get(codes, 0) + times

    def take(self, codes: Codes) -> None:
        """Make the tensor of an input of the region, whose meaning its first reader tells."""
        if codes.name not in self._named:
            tensor = self._tensor(codes, self.fresh(codes.name))
            self.tensors[tensor.name] = tensor
            self._named[codes.name] = tensor.name

    def _tensor(self, codes: Codes, name: str) -> Tensor:
        _, channels, height, width = codes.shape
        planes = codes.bits // 8
        return Tensor(name, height, width, channels * planes, codes.scale, codes.zero_point, codes.bits)

    def _operand(self, unit: RoundedUnit, which: int = 0) -> Tensor:
        return self.tensors[self._named[unit.operands[which].name]]

    # From a unit to what its rounding closes

    def _pending(self, unit: RoundedUnit) -> Any:
        """What ``unit`` computes before its rounding."""
        source = self._operand(unit)
        match unit.kind:
            case None:
                return self._identity(unit.result.name, source)
            case Kind.CONVOLUTION:
                return self._conv(unit, source)
            case Kind.SUM | Kind.PRODUCT:
                operands = (source.name, self._operand(unit, 1).name)
                how: Any = {"add": "add", "subtract": "subtract", "multiply": "multiply"}[unit.head.op]
                return PendingPair(unit.head.name, operands, how, unit.activation.low, unit.activation.high)
            case Kind.SCALE:
                identity = self._identity(unit.head.name, source)
                return self._activated(replace(identity, scales=identity.scales * unit.factor), unit)
            case Kind.ACTIVATION:
                return self._activated(self._identity(unit.head.name, source), unit)
            case Kind.RESAMPLING:
                resampled = self._resampled(unit, source)
                return replace(resampled, scales=resampled.scales * unit.factor)
            case Kind.CORRELATION:
                return self._activated(self._correlated(unit, source, self._operand(unit, 1)), unit)
            case Kind.PAIRS:
                return self._paired(unit, source, self._operand(unit, 1))
            case Kind.WARP:
                return self._warped(unit, source, self._operand(unit, 1))
            case Kind.WINDOWS:
                return self._windowed(unit, source, self._operand(unit, 1))
            case Kind.NORM:
                epsilon = float(unit.head.attributes["epsilon"])
                return PendingNorm(unit.head.name, source.name, epsilon, unit.activation.low, unit.activation.high)
            case Kind.LOOK_UP:
                return PendingTable(unit.head.name, source.name, unit.head.op.removeprefix("nn."))
            case Kind.CONCAT:
                parts = tuple(self._operand(unit, which).name for which in range(len(unit.operands)))
                return PendingConcat(unit.head.name, parts)
            case Kind.MOVEMENT:
                return self._moved(unit.head, source)
            case _:
                raise UnsupportedError("is not an operator of the machine", where=unit.head.where)

    def _activated(self, pending: PendingConv, unit: RoundedUnit) -> PendingConv:
        slope = unit.activation.slope
        if isinstance(slope, np.ndarray) and slope.size > 1:
            slope = np.repeat(slope, pending.shuffle**2)
        return replace(pending, slope=slope, low=unit.activation.low, high=unit.activation.high)

    def _conv(self, unit: RoundedUnit, source: Tensor) -> PendingConv:
        head, weights = unit.head, unit.weights
        assert weights is not None
        transposed = head.op == "nn.conv2d_transpose"
        pending = self._transposed(head, source, weights) if transposed else self._plain_conv(head, source, weights)
        if unit.bias is not None:
            per_channel = pending.scales[:: pending.shuffle**2]
            bias = numerics.bias_integers(unit.bias, self._unit(pending), per_channel)
            pending = replace(pending, bias=np.repeat(bias, pending.shuffle**2))
        return self._activated(pending, unit)

    def _plain_conv(self, head: Node, source: Tensor, weight: RealWeights) -> PendingConv:
        top, left, *_ = (int(side) for side in head.attributes["padding"])
        dense = _dense(weight.codes.transpose(2, 3, 1, 0), int(head.attributes["groups"]))
        dense = _dilated(dense, *(int(step) for step in head.attributes["dilation"]))
        _, outputs, height, width = head.shape
        kernel = weight.codes.shape
        return PendingConv(
            name=head.name,
            sources=(source.name,),
            kernel=Convolution(dense.copy(order="C"), int(head.attributes["strides"][0]), top, left),
            scales=weight.scales,
            height=height,
            width=width,
            macs=height * width * outputs * kernel[1] * kernel[2] * kernel[3],
        )

    def _transposed(self, head: Node, source: Tensor, weight: RealWeights) -> PendingConv:
        factor = int(head.attributes["strides"][0])
        top, left, *_ = (int(side) for side in head.attributes["padding"])
        inputs, outputs, rows, columns = weight.codes.shape
        dense, (pad_top, pad_left) = subpixel_weights(weight.codes, factor, (top, left))
        return PendingConv(
            name=head.name,
            sources=(source.name,),
            kernel=Convolution(dense, pad_top=pad_top, pad_left=pad_left),
            scales=np.repeat(np.broadcast_to(weight.scales, outputs), factor * factor),
            height=source.height,
            width=source.width,
            macs=source.height * source.width * inputs * outputs * rows * columns,
            shuffle=factor,
        )

    def _resampled(self, unit: RoundedUnit, source: Tensor) -> PendingConv:
        head = unit.head
        if head.op == "nn.avg_pool2d":
            rows, columns = (int(extent) for extent in head.attributes["pool_size"])
            top, left, *_ = (int(side) for side in head.attributes["padding"])
            return self._mean(head, source, rows, columns, int(head.attributes["strides"][0]), top, left)
        how = str(head.attributes["method"]), str(head.attributes["coordinate_transformation_mode"])
        frames = (source.height, source.width), (head.shape[2], head.shape[3])
        if corners := corner_factor(*frames, *how):
            return self._stepped(head, source, corners)
        factor = resize_factor(*frames, *how)
        if factor == -2:
            return self._mean(head, source, 2, 2, 2)
        weights = bilinear_weights(source.values, factor)
        return PendingConv(
            name=head.name,
            sources=(source.name,),
            kernel=Convolution(weights, pad_top=1, pad_left=1, edge=True),
            scales=np.full(weights.shape[3], 1.0 / (4 * factor**2)),
            height=source.height,
            width=source.width,
            shuffle=factor,
        )

    def _mean(
        self, head: Node, source: Tensor, rows: int, columns: int, stride: int, top: int = 0, left: int = 0
    ) -> PendingConv:
        """The mean of every window."""
        _, channels, height, width = head.shape
        return PendingConv(
            name=head.name,
            sources=(source.name,),
            kernel=Convolution(average_weights(channels, rows, columns), stride, top, left),
            scales=np.full(channels, 1.0 / (rows * columns)),
            height=height,
            width=width,
        )

    def _stepped(self, head: Node, source: Tensor, factor: int) -> PendingConv:
        """A resize whose corners lie on corners."""
        _, _, height, width = head.shape
        return PendingConv(
            name=head.name,
            sources=(source.name,),
            kernel=Resize(factor, source.values),
            scales=np.full(source.values, 1.0 / numerics.SAMPLE_UNITS),
            height=height,
            width=width,
        )

    def _windowed(self, unit: RoundedUnit, volume: Tensor, flow: Tensor) -> PendingConv:
        attributes = unit.head.attributes
        (rows, columns), radius = attributes["map"], int(attributes["radius"])
        return PendingConv(
            name=unit.head.name,
            sources=(flow.name,),
            kernel=Window(volume.name, rows, columns, radius, int(attributes["level"]), _fraction_bits(flow)),
            scales=np.full(unit.head.shape[1], 1.0 / numerics.SAMPLE_UNITS),
            height=flow.height,
            width=flow.width,
        )

    def _warped(self, unit: RoundedUnit, source: Tensor, flow: Tensor) -> PendingConv:
        """A warp, of whose source the planner chooses the part on chip."""
        edge = str(unit.head.attributes["padding_mode"]) == "border"
        return PendingConv(
            name=unit.head.name,
            sources=(source.name,),
            kernel=Warp(flow.name, _fraction_bits(flow), source.channels, edge),
            scales=np.full(source.channels, 1.0 / numerics.SAMPLE_UNITS),
            height=source.height,
            width=source.width,
        )

    def _correlated(self, unit: RoundedUnit, first: Tensor, second: Tensor) -> PendingConv:
        """A local cost volume; the scale takes the mean over the channels."""
        if first.name == second.name:
            copy = replace(second, name=self.fresh(f"{second.name}.moved"))
            self.tensors[copy.name] = copy
            self._close_conv(self._identity(copy.name, second), copy)
            second = copy
        kernel = Correlation(int(unit.head.attributes["reach"]))
        return PendingConv(
            name=unit.head.name,
            sources=(first.name, second.name),
            kernel=kernel,
            scales=np.full(kernel.channels, second.scale / first.channels),
            height=first.height,
            width=first.width,
        )

    def _paired(self, unit: RoundedUnit, first: Tensor, second: Tensor) -> PendingConv:
        """Products of all pixels: the second tensor's are the weights, and lie in memory as such."""
        words = replace(second, name=self.fresh(f"{second.name}.weights"), as_weights=True)
        self.tensors[words.name] = words
        self._close_conv(self._identity(words.name, second), words)
        pixels = second.height * second.width
        return PendingConv(
            name=unit.head.name,
            sources=(first.name,),
            kernel=AllPairs(words.name, pixels),
            scales=np.full(pixels, second.scale * float(unit.head.attributes["scale"])),
            height=first.height,
            width=first.width,
            macs=first.height * first.width * first.channels * pixels,
        )

    def _identity(self, name: str, tensor: Tensor) -> PendingConv:
        """A tensor as a one-by-one layer, so that what follows may round it anew."""
        return PendingConv(
            name=name,
            sources=(tensor.name,),
            kernel=identity(tensor.values),
            scales=np.ones(tensor.values),
            height=tensor.height,
            width=tensor.width,
        )

    def _moved(self, head: Node, source: Tensor) -> PendingShuffle | PendingUnshuffle | PendingGather:
        match head.op:
            case "nn.pixel_shuffle":
                return PendingShuffle(head.name, source.name, int(head.attributes["upscale_factor"]))
            case "pixel_unshuffle":
                return PendingUnshuffle(head.name, source.name, int(head.attributes["downscale_factor"]))
            case _:
                planes = np.split(np.arange(source.channels, dtype=np.int64), source.planes)
                picked = np.concatenate([_picked(head, plane) for plane in planes])
                return PendingGather(head.name, source.name, tuple(int(channel) for channel in picked))

    # Closing: one layer per rounding

    def close(self, unit: RoundedUnit) -> None:
        """Append the layers of ``unit``."""
        value = self._pending(unit)
        name = self.fresh(unit.head.name if unit.nodes else unit.result.name)
        target = self._tensor(unit.result, name)
        self._named[unit.result.name] = name
        self._readers[name] = self._counted.get(unit.result.name, 0)
        if isinstance(value, PendingConv):
            self._close_conv(value, target)
        elif isinstance(value, PendingPair):
            self._close_pair(value, target)
        elif isinstance(value, PendingTable):
            self._close_table(value, target)
        elif isinstance(value, PendingNorm):
            self._close_norm(value, target)
        elif isinstance(value, PendingShuffle):
            self.layers.append(Shuffle(value.name, value.source, name, value.factor))
        elif isinstance(value, PendingConcat):
            self.layers.append(Concat(value.name, tuple(self._rescaled(part, target) for part in value.parts), name))
        elif isinstance(value, PendingUnshuffle):
            self._close_unshuffle(value, target)
        elif isinstance(value, PendingGather):
            copy = copy_layer(value.name, self.tensors[value.source], target)
            self.layers.append(copy.pick(list(value.channels)))
        self.tensors[name] = target

    def _close_unshuffle(self, pending: PendingUnshuffle, target: Tensor) -> None:
        """Layers of stride 2 that copy: each takes blocks of 2 x 2 pixels apart."""
        source, done = self.tensors[pending.source], 1
        while done < pending.factor:
            done *= 2
            last = done == pending.factor
            name = target.name if last else self.fresh(f"{target.name}.by{done}")
            made = replace(
                source, name=name, height=source.height // 2, width=source.width // 2, channels=source.channels * 4
            )
            self.tensors[made.name] = made
            copy = copy_layer(f"{pending.name}.by{done}" if not last else pending.name, made, made)
            weights = np.zeros((2, 2, source.channels, made.channels), np.int8)
            # Channel (c, a, b) of the source is sub-pixel (a, b) so far; pixel (i, j) of a block makes it (2 i' + a).
            half = done // 2
            c, a, b = np.unravel_index(np.arange(source.channels), (source.channels // half**2, half, half))
            for i in range(2):
                for j in range(2):
                    weights[i, j, np.arange(source.channels), (c * done + half * i + a) * done + half * j + b] = 1
            self.layers.append(replace(copy, sources=(source.name,), kernel=Convolution(weights, stride=2)))
            source = made

    def _rescaled(self, name: str, target: Tensor) -> str:
        """``name`` with the scale and zero point of ``target``: itself, or a copy that is rounded anew."""
        tensor = self.tensors[name]
        # To a tensor of 16 bits one of 8 is its high bytes.
        unit = 256 if (target.bits, tensor.bits) == (16, 8) else 1
        if (tensor.scale, tensor.zero_point) == (unit * target.scale, target.zero_point):
            return name
        copy = replace(
            target,
            name=self.fresh(f"{name}.rescaled"),
            channels=tensor.values * target.planes,
        )
        self.tensors[copy.name] = copy
        self._close_conv(self._identity(copy.name, tensor), copy)
        return copy.name

    def fresh(self, name: str) -> str:
        """A name that no tensor has, close to ``name``."""
        count, candidate = 1, name
        while candidate in self.tensors:
            count, candidate = count + 1, f"{name}.{count}"
        return candidate

    def _unit(self, pending: PendingConv) -> float:
        """The worth of a unit of the psum, but for its weight's scale."""
        source = self.tensors[pending.kernel.seen(pending.sources)]
        return source.scale * pending.kernel.psum_unit(source.bits)

    def _close_conv(self, pending: PendingConv, target: Tensor) -> None:
        kernel, outputs = pending.kernel, pending.kernel.channels
        scales = np.broadcast_to(pending.scales, outputs)
        try:
            multiplier, negative, shift = numerics.requantise_parameters(
                self._unit(pending), scales, target.scale, pending.slope
            )
        except ValueError as error:
            raise UnsupportedError(str(error), where=pending.name) from error
        qmin, qmax = numerics.clip_bounds(pending.low, pending.high, target.scale, target.zero_point)
        bias = np.zeros(outputs, np.int64) if pending.bias is None else pending.bias
        epilogue = Epilogue(bias, multiplier, negative, shift, target.zero_point, qmin, qmax)
        if self.tensors[pending.sources[0]].bits == 16:
            kernel = kernel.on_byte_planes(len(pending.sources))
        if target.bits == 16:
            kernel, epilogue = kernel.in_byte_planes(), epilogue.pick([*range(outputs), *range(outputs)])
            planes = np.repeat(np.array([Plane.HIGH, Plane.LOW], np.int64), outputs)
            epilogue, outputs = replace(epilogue, planes=planes), 2 * outputs
        made = target
        if pending.shuffle > 1:
            made = replace(
                target, name=f"{target.name}.subpixel", height=pending.height, width=pending.width, channels=outputs
            )
            self.tensors[made.name] = made
        self.layers.append(Layer(pending.name, pending.sources, made.name, kernel, epilogue, pending.macs))
        if pending.shuffle > 1:
            self.layers.append(Shuffle(f"{pending.name}.shuffle", made.name, target.name, pending.shuffle))

    def _close_wide_sum(self, pending: PendingPair, target: Tensor) -> None:
        """A sum of 16 bits: both tensors in units of the finer scale, which are whole."""
        first, second = (self.tensors[name] for name in pending.operands)
        unit = min(first.scale, second.scale)
        factors = np.array([first.scale / unit, second.scale / unit * (-1 if pending.how == "subtract" else 1)])
        if {first.bits, second.bits} != {16} or pending.how == "multiply" or np.abs(factors).max() > 127:
            raise UnsupportedError("joins tensors of 8 and 16 bits, or of scales far apart", where=pending.name)
        eye = np.eye(first.values)[None, None]
        weights = np.concatenate([eye * factor for factor in factors], 2).astype(np.int8)
        total = PendingConv(
            name=pending.name,
            sources=(first.name, second.name),
            kernel=Convolution(weights),
            scales=np.full(first.values, unit / first.scale),
            height=first.height,
            width=first.width,
            low=pending.low,
            high=pending.high,
        )
        self._close_conv(total, target)

    def _close_pair(self, pending: PendingPair, target: Tensor) -> None:
        tensors = [self.tensors[name] for name in pending.operands]
        if any(tensor.bits == 16 for tensor in (*tensors, target)):
            self._close_wide_sum(pending, target)
            return
        # The pair belongs to the layer that makes one operand; that operand must have all channels.
        order = [i for i in (0, 1) if tensors[i].channels == target.channels]
        joinable = {name: layer for name, layer in self._unjoined().items() if layer.kernel.takes_operand}
        chosen = next((i for i in order if pending.operands[i] in joinable), order[0])
        mine, other = tensors[chosen], tensors[1 - chosen]
        layer = copy_layer(pending.name, mine, replace(mine, name=target.name))
        if mine.name in joinable and mine.name != other.name:
            made = joinable[mine.name]
            self.layers = [one for one in self.layers if one is not made]
            layer = replace(made, output=target.name)
        rule = self._pair_rule(pending, chosen, target)
        self.layers.append(layer.with_second(SecondOperand(other.name, other.channels == 1, rule)))

    def _pair_rule(self, pending: PendingPair, chosen: int, target: Tensor) -> numerics.AddRule | numerics.MultiplyRule:
        """How the other operand joins operand ``chosen``."""
        mine, other = (self.tensors[pending.operands[which]] for which in (chosen, 1 - chosen))
        bounds = numerics.clip_bounds(pending.low, pending.high, target.scale, target.zero_point)
        ends = target.zero_point, *bounds
        try:
            if pending.how == "multiply":
                product = numerics.product_parameters(mine.scale, other.scale, target.scale)
                return numerics.MultiplyRule(mine.zero_point, other.zero_point, *product, *ends)
            signs = (1, -1 if pending.how == "subtract" else 1)
            factors = numerics.quantise_pair(
                signs[chosen] * mine.scale / target.scale, signs[1 - chosen] * other.scale / target.scale
            )
        except ValueError as error:
            raise UnsupportedError(str(error), where=pending.name) from error
        return numerics.AddRule(mine.zero_point, other.zero_point, *factors, *ends)

    def _close_norm(self, pending: PendingNorm, target: Tensor) -> None:
        """An identity whose requantisation the machine computes of its source's sums."""
        source = self.tensors[pending.source]
        try:
            constants = normalise.normalisation(
                source.height * source.width, pending.epsilon, source.scale, target.scale
            )
        except ValueError as error:
            raise UnsupportedError(str(error), where=pending.name) from error
        qmin, qmax = numerics.clip_bounds(pending.low, pending.high, target.scale, target.zero_point)
        none = np.zeros(source.channels, np.int64)
        epilogue = Epilogue(none, none, none, none, target.zero_point, qmin, qmax)
        kernel = Normalise(constants, source.channels)
        self.layers.append(Layer(pending.name, (source.name,), target.name, kernel, epilogue))

    def _close_table(self, pending: PendingTable, target: Tensor) -> None:
        source = self.tensors[pending.source]
        table = numerics.function_table(
            pending.function, source.scale, source.zero_point, target.scale, target.zero_point
        )
        unjoined = self._unjoined()
        if source.name in unjoined and unjoined[source.name].epilogue.table is None:
            layer = unjoined[source.name]
            self.layers = [one for one in self.layers if one is not layer]
        else:
            layer = copy_layer(pending.name, source, replace(source, name=target.name))
        self.layers.append(replace(layer, output=target.name).with_table(table))

    def _unjoined(self) -> dict[str, Layer]:
        """Layers with one reader and no second operand: that reader can be folded into them."""
        return {
            layer.output: layer
            for layer in self.layers
            if isinstance(layer, Layer) and layer.operand is None and self._readers.get(layer.output, 0) == 1
        }

    def graph(self, region: Region) -> LayerGraph:
        results = tuple(self._named[name] for name in region.outputs)
        layers, tensors = fold_concats(self.layers, self.tensors, results)
        used = {name for layer in layers for name in (*layer.reads, layer.output)} | set(results)
        return LayerGraph(
            name=self.name,
            tensors={name: tensor for name, tensor in tensors.items() if name in used},
            layers=layers,
            inputs=tuple(self._named[name] for name in region.inputs),
            outputs=results,
        )


def _dense(kernel: Weights, groups: int) -> Weights:
    """Grouped weights ``[KY, KX, Cin / groups, Cout]`` as dense ones; the zero blocks are never computed."""
    if groups == 1:
        return kernel
    rows, columns, inputs, outputs = kernel.shape
    dense = np.zeros((rows, columns, inputs * groups, outputs), kernel.dtype)
    share = outputs // groups
    for group in range(groups):
        take = slice(group * share, (group + 1) * share)
        dense[:, :, group * inputs : (group + 1) * inputs, take] = kernel[..., take]
    return dense


def _dilated(kernel: Weights, step_y: int, step_x: int) -> Weights:
    if step_y == step_x == 1:
        return kernel
    rows, columns, inputs, outputs = kernel.shape
    spread = np.zeros(((rows - 1) * step_y + 1, (columns - 1) * step_x + 1, inputs, outputs), kernel.dtype)
    spread[::step_y, ::step_x] = kernel
    return spread


def _picked(head: Node, channels: Int64) -> Int64:
    """The channels that a copy, tiling or slice of ``channels`` has, in order."""
    attributes = head.attributes
    match head.op:
        case "repeat":
            return np.repeat(channels, int(attributes["repeats"]))
        case "tile":
            return np.tile(channels, int(attributes["repeats"][1]))
        case _:
            (step,) = attributes.get("strides") or (1,)
            return channels[int(attributes["begin"][0]) : int(attributes["end"][0]) : int(step)]


def _fraction_bits(flow: Tensor) -> int:
    """Bits of a flow's fraction of a pixel."""
    bits = round(-math.log2(flow.scale))
    if flow.scale != 2.0**-bits or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
        raise UnsupportedError("samples at a flow that is not in binary fractions of a pixel", where=flow.name)
    return bits
