"""A quantised Relax function becomes a :class:`LayerGraph`: real scales become the machine's integers.

The function is followed symbolically, binding by binding. ``dequantize`` opens a tensor, float operators collect in a
pending value, ``quantize`` closes it as one layer: the machine rounds where the graph does. The rules that turn scales
into integers are those that :mod:`codesign.compile.referee.integer` documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.canonical.resample import average_weights, bilinear_weights, corner_factor, resize_factor
from codesign.compile.canonical.transposed import subpixel_weights
from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.convolution import Convolution, Weights, identity
from codesign.compile.scanline.kernels.correlation import Correlation
from codesign.compile.scanline.kernels.kernel import Int64
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.kernels.resize import Resize
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.layers import Concat, Epilogue, Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.pending import (
    Open,
    PendingConcat,
    PendingConv,
    PendingGather,
    PendingGrid,
    PendingMaps,
    PendingMoved,
    PendingNorm,
    PendingPair,
    PendingPixels,
    PendingShuffle,
    PendingTable,
    PendingUnshuffle,
    Reals,
    Weight,
)
from codesign.compile.scanline.rewrite.concat import fold_concats
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import normalise, numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Plane


def lower(function: relax.Function, name: str) -> LayerGraph:
    """Lower a function whose parameters and results are int8 codes (composite functions inside are followed).

    Raises :class:`UnsupportedError`, naming the operator, for what the machine cannot run.
    """
    builder = _Builder(name)
    arguments: list[str | None] = []
    for parameter in function.params:
        _, channels, height, width = shape_of(parameter)
        # Two regions' results may come under one name.
        argument = builder.fresh(parameter.name)
        builder.inputs[argument] = (channels, height, width)
        arguments.append(argument)
    results = builder.follow(function, arguments)
    names = results if isinstance(results, tuple) else (results,)
    return builder.graph(names)


def shape_of(expression: Any) -> tuple[int, int, int, int]:
    """The static NCHW shape of a Relax expression."""
    n, c, h, w = (int(extent) for extent in expression.ty.shape.values)
    return n, c, h, w


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: dict[str, tuple[int, int, int]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.layers: list[Layer | Shuffle | Concat] = []
        self._readers: dict[str, int] = {}  # of a tensor; being a result counts as several

    # Following the function

    def follow(self, function: relax.Function, arguments: list[Any]) -> Any:
        values: dict[Any, Any] = dict(zip(function.params, arguments, strict=True))
        readers = _readers(function)
        local: dict[Any, relax.Function] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                value, var = binding.value, binding.var
                if isinstance(value, relax.Function):
                    local[var] = value
                elif isinstance(value, relax.Call) and value.op in local:
                    values[var] = self.follow(local[value.op], [self._operand(values, a) for a in value.args])
                elif isinstance(value, relax.Call):
                    operands = [self._operand(values, argument) for argument in value.args]
                    values[var] = self._call(value, var, operands)
                elif isinstance(value, relax.TupleGetItem):
                    values[var] = values[value.tuple_value][value.index]
                else:
                    values[var] = self._operand(values, value)
                if isinstance(values.get(var), str):
                    self._readers[values[var]] = readers.get(var, 0)
        return self._operand(values, function.body.body)

    def _operand(self, values: dict[Any, Any], argument: Any) -> Any:
        if isinstance(argument, tvm.ir.GenericConst):
            return argument.value.numpy()
        if isinstance(argument, relax.Tuple):
            return tuple(self._operand(values, item) for item in argument.fields)
        if isinstance(argument, relax.ShapeExpr):
            return tuple(int(extent) for extent in argument.values)
        if isinstance(argument, tvm.tirx.IntImm | tvm.tirx.FloatImm):
            return argument.value
        return values[argument]

    def _call(self, call: relax.Call, var: relax.Var, operands: list[Any]) -> Any:
        op = call.op.name.removeprefix("relax.")
        name = str(var.name)
        rules: dict[str, Callable[[], Any]] = {
            "quantize": lambda: self._close(operands[0], float(operands[1]), int(operands[2]), call, var),
            "dequantize": lambda: self._open(call, operands),
            "nn.conv2d": lambda: self._conv(call, var, operands),
            "nn.conv2d_transpose": lambda: self._transposed(call, var, operands),
            "add": lambda: self._add(name, operands, subtract=False),
            "subtract": lambda: self._add(name, operands, subtract=True),
            "multiply": lambda: self._multiply(name, operands),
            "nn.instance_norm": lambda: PendingNorm(name, operands[0].tensor, float(call.attrs.epsilon)),
            "nn.avg_pool2d": lambda: self._averaged(call, var, operands[0]),
            "image.grid_sample": lambda: self._sampled(call, var, operands[0], operands[1]),
            "image.resize2d": lambda: self._resized(call, var, operands[0]),
            "nn.relu": lambda: self._relu(name, operands[0]),
            "nn.leakyrelu": lambda: self._sloped(name, operands[0], float(call.attrs.alpha)),
            "nn.prelu": lambda: self._sloped(name, operands[0], np.asarray(operands[1], np.float64).reshape(-1)),
            "clip": lambda: self._clipped(name, operands[0], float(operands[1]), float(operands[2])),
            "nn.pixel_shuffle": lambda: PendingShuffle(name, operands[0].tensor, int(call.attrs.upscale_factor)),
            "concat": lambda: PendingConcat(name, tuple(part.tensor for part in operands[0])),
            "reshape": lambda: self._reshaped(name, operands),
            "permute_dims": lambda: operands[0],
            "mean": lambda: operands[0],
            "matmul": lambda: self._paired(name, operands[1], operands[0]),
            "repeat": lambda: self._gather(name, operands[0], lambda c: np.repeat(c, int(call.attrs.repeats))),
            "tile": lambda: self._gather(name, operands[0], lambda c: np.tile(c, int(call.attrs.repeats[1]))),
            "strided_slice": lambda: self._gather(name, operands[0], lambda c: _sliced(c, operands)),
        }
        if op in rules:
            return rules[op]()
        if op.removeprefix("nn.") in numerics.LOOK_UPS:
            return PendingTable(name, operands[0].tensor, op.removeprefix("nn."))
        raise UnsupportedError("is not an operator of the machine", where=f"{op} '{name}'")

    # Opening and collecting

    def _open(self, call: relax.Call, operands: list[Any]) -> Open | Weight:
        source, scale, zero_point = operands
        if isinstance(source, np.ndarray):
            return Weight(source, np.asarray(scale, np.float64).reshape(-1), int(call.attrs.axis))
        if source not in self.tensors:  # a parameter: its first reader tells what its codes mean
            channels, height, width = self.inputs[source]
            bits = _bits(call.args[0])
            channels *= bits // 8
            self.tensors[source] = Tensor(source, height, width, channels, float(scale), int(zero_point), bits)
        return Open(source)

    def _conv(self, call: relax.Call, var: relax.Var, operands: list[Any]) -> PendingConv | PendingMoved:
        weight: Weight | NDArray[np.float32] = operands[1]
        if isinstance(weight, np.ndarray):  # the legality rules know it for one that moves
            return PendingMoved(operands[0].tensor, weight.shape[2] // 2)
        groups = int(call.attrs.groups)
        dense = _dense(weight.codes.transpose(2, 3, 1, 0), groups)
        step_y, step_x = (int(d) for d in call.attrs.dilation)
        dense = _dilated(dense, step_y, step_x)
        _, outputs, height, width = shape_of(var)
        kernel = weight.codes.shape
        padding = int(call.attrs.padding[0]), int(call.attrs.padding[1])
        return PendingConv(
            name=str(var.name),
            sources=(operands[0].tensor,),
            kernel=Convolution(dense.copy(order="C"), int(call.attrs.strides[0]), *padding),
            scales=weight.scales,
            height=height,
            width=width,
            macs=height * width * outputs * kernel[1] * kernel[2] * kernel[3],
        )

    def _transposed(self, call: relax.Call, var: relax.Var, operands: list[Any]) -> PendingConv:
        weight: Weight = operands[1]
        factor, padding = int(call.attrs.strides[0]), (int(call.attrs.padding[0]), int(call.attrs.padding[1]))
        inputs, outputs, rows, columns = weight.codes.shape
        dense, (top, left) = subpixel_weights(weight.codes, factor, padding)
        _, _, height, width = shape_of(call.args[0])
        return PendingConv(
            name=str(var.name),
            sources=(operands[0].tensor,),
            kernel=Convolution(dense, pad_top=top, pad_left=left),
            scales=np.repeat(np.broadcast_to(weight.scales, outputs), factor * factor),
            height=height,
            width=width,
            macs=height * width * inputs * outputs * rows * columns,
            shuffle=factor,
        )

    def _averaged(self, call: relax.Call, var: relax.Var, value: Open) -> PendingConv:
        rows, columns = (int(extent) for extent in call.attrs.pool_size)
        top, left = int(call.attrs.padding[0]), int(call.attrs.padding[1])
        return self._mean(var, value, rows, columns, int(call.attrs.strides[0]), top, left)

    def _mean(
        self, var: relax.Var, value: Open, rows: int, columns: int, stride: int, top: int = 0, left: int = 0
    ) -> PendingConv:
        """The mean of every window."""
        _, channels, height, width = shape_of(var)
        return PendingConv(
            name=str(var.name),
            sources=(value.tensor,),
            kernel=Convolution(average_weights(channels, rows, columns), stride, top, left),
            scales=np.full(channels, 1.0 / (rows * columns)),
            height=height,
            width=width,
        )

    def _resized(self, call: relax.Call, var: relax.Var, value: Open) -> PendingConv:
        tensor, (rows, columns) = self.tensors[value.tensor], shape_of(var)[2:]
        how = str(call.attrs.method), str(call.attrs.coordinate_transformation_mode)
        frames = (tensor.height, tensor.width), (rows, columns)
        if corners := corner_factor(*frames, *how):
            return self._stepped(var, tensor, corners)
        factor = resize_factor(*frames, *how)
        if factor == -2:
            return self._mean(var, value, 2, 2, 2)
        weights = bilinear_weights(tensor.values, factor)
        return PendingConv(
            name=str(var.name),
            sources=(tensor.name,),
            kernel=Convolution(weights, pad_top=1, pad_left=1, edge=True),
            scales=np.full(weights.shape[3], 1.0 / (4 * factor**2)),
            height=tensor.height,
            width=tensor.width,
            shuffle=factor,
        )

    def _stepped(self, var: relax.Var, tensor: Tensor, factor: int) -> PendingConv:
        """A resize whose corners lie on corners."""
        _, _, height, width = shape_of(var)
        return PendingConv(
            name=str(var.name),
            sources=(tensor.name,),
            kernel=Resize(factor, tensor.values),
            scales=np.full(tensor.values, 1.0 / numerics.SAMPLE_UNITS),
            height=height,
            width=width,
        )

    def _sampled(self, call: relax.Call, var: relax.Var, value: Open | PendingMaps, grid: PendingGrid) -> PendingConv:
        """A warp, of whose source the planner chooses what is on chip; or windows of maps."""
        tensor, flow = self.tensors[value.tensor], self.tensors[grid.flow]
        bits = round(-math.log2(flow.scale))
        if flow.scale != 2.0**-bits or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
            raise UnsupportedError("samples at a flow that is not in binary fractions of a pixel", where=str(var.name))
        if isinstance(value, PendingMaps):
            side = shape_of(var)[2]
            level = round(math.log2(2.0 / (value.width * grid.scale)))
            return PendingConv(
                name=str(var.name),
                sources=(flow.name,),
                kernel=Window(tensor.name, value.height, value.width, side // 2, level, bits),
                scales=np.full(side * side, 1.0 / numerics.SAMPLE_UNITS),
                height=flow.height,
                width=flow.width,
            )
        edge = str(call.attrs.padding_mode) == "border"
        return PendingConv(
            name=str(var.name),
            sources=(tensor.name,),
            kernel=Warp(flow.name, bits, tensor.channels, edge),
            scales=np.full(tensor.channels, 1.0 / numerics.SAMPLE_UNITS),
            height=tensor.height,
            width=tensor.width,
        )

    def _correlated(self, name: str, gathered: PendingGather, moved: PendingMoved) -> PendingConv:
        """A local cost volume; its mean over the channels is the scale's business."""
        first, second = self.tensors[gathered.source], self.tensors[moved.source]
        if first.zero_point or second.zero_point:
            raise UnsupportedError("correlates tensors with a zero point", where=name)
        if first.name == second.name:
            copy = replace(second, name=self.fresh(f"{second.name}.moved"))
            self.tensors[copy.name] = copy
            self._close_conv(self._identity(copy.name, Open(second.name)), copy)
            second = copy
        kernel = Correlation(moved.reach)
        return PendingConv(
            name=name,
            sources=(first.name, second.name),
            kernel=kernel,
            scales=np.full(kernel.channels, second.scale / first.channels),
            height=first.height,
            width=first.width,
        )

    def _paired(self, name: str, columns: PendingPixels, rows: PendingPixels) -> PendingConv:
        """Products of all pixels: the rows' are the weights, and lie in memory as such."""
        first, second = self.tensors[columns.tensor], self.tensors[rows.tensor]
        if first.zero_point or second.zero_point:
            raise UnsupportedError("multiplies tensors with a zero point", where=name)
        words = replace(second, name=self.fresh(f"{second.name}.weights"), as_weights=True)
        self.tensors[words.name] = words
        self._close_conv(self._identity(words.name, Open(second.name)), words)
        pixels = second.height * second.width
        return PendingConv(
            name=name,
            sources=(first.name,),
            kernel=AllPairs(words.name, pixels),
            scales=np.full(pixels, second.scale),
            height=first.height,
            width=first.width,
            macs=first.height * first.width * first.channels * pixels,
        )

    def _identity(self, name: str, value: Any) -> PendingConv:
        """A tensor as a one-by-one layer, so that what follows may round it anew."""
        if isinstance(value, PendingConv):
            return value
        tensor = self.tensors[value.tensor]
        return PendingConv(
            name=name,
            sources=(tensor.name,),
            kernel=identity(tensor.values),
            scales=np.ones(tensor.values),
            height=tensor.height,
            width=tensor.width,
        )

    def _add(self, name: str, operands: list[Any], *, subtract: bool) -> PendingConv | PendingPair | PendingGrid:
        first, second = operands
        if isinstance(first, PendingGrid):
            return first
        if isinstance(first, PendingConv) and isinstance(second, np.ndarray):
            scale = self._unit(first)
            per_channel = first.scales[:: first.shuffle**2]
            bias = numerics.bias_integers(second.reshape(-1), scale, per_channel)
            return replace(first, bias=np.repeat(bias, first.shuffle**2))
        return PendingPair(name, (first.tensor, second.tensor), "subtract" if subtract else "add")

    def _multiply(self, name: str, operands: list[Any]) -> PendingConv | PendingPair | PendingGrid:
        value, factor = operands
        if isinstance(factor, PendingMoved):
            return self._correlated(name, value, factor)
        if isinstance(factor, np.ndarray) and factor.size > 1:  # only a flow is scaled by direction
            return PendingGrid(value.tensor, float(factor.reshape(-1)[0]))
        if not isinstance(factor, np.ndarray):
            return PendingPair(name, (value.tensor, factor.tensor), "multiply")
        pending = self._identity(name, value)
        return replace(pending, scales=pending.scales * float(factor.reshape(-1)[0]))

    def _sloped(self, name: str, value: Any, slope: Reals | float) -> PendingConv:
        pending = self._identity(name, value)
        if isinstance(slope, np.ndarray):
            slope = np.repeat(slope, pending.shuffle**2) if slope.size > 1 else slope
        return replace(pending, slope=slope)

    def _relu(self, name: str, value: Any) -> PendingConv | PendingPair | PendingNorm:
        if isinstance(value, PendingPair | PendingNorm):
            return replace(value, low=0.0)
        return self._sloped(name, value, 0.0)

    def _clipped(self, name: str, value: Any, low: float, high: float) -> PendingConv | PendingPair | PendingNorm:
        pending = value if isinstance(value, PendingPair | PendingNorm) else self._identity(name, value)
        return replace(pending, low=low, high=high)

    def _gather(self, name: str, value: Open, pick: Callable[[Int64], Int64]) -> PendingGather:
        tensor = self.tensors[value.tensor]
        planes = np.split(np.arange(tensor.channels, dtype=np.int64), tensor.planes)
        picked = np.concatenate([pick(plane) for plane in planes])
        return PendingGather(name, value.tensor, tuple(int(channel) for channel in picked))

    def _reshaped(self, name: str, operands: list[Any]) -> Any:
        """Of a frame to its pixels, or the first of three operators that unshuffle; a product's shape says nothing."""
        value, shape = operands
        if isinstance(value, PendingConv | PendingGrid):
            return replace(value, name=name) if isinstance(value, PendingConv) else value
        if isinstance(value, PendingPixels):
            return PendingMaps(value.tensor, int(shape[2]), int(shape[3]))
        if len(shape) == 2:
            return PendingPixels(value.tensor)
        return value if isinstance(value, PendingUnshuffle) else PendingUnshuffle(name, value.tensor, int(shape[3]))

    # Closing: one layer per rounding

    def _close(self, value: Any, scale: float, zero_point: int, call: relax.Call, var: relax.Var) -> str:
        _, channels, height, width = shape_of(call)
        name = self.fresh(value.name if hasattr(value, "name") else str(var.name))
        bits = _bits(call)
        target = Tensor(name, height, width, channels * (bits // 8), scale, zero_point, bits)
        if isinstance(value, Open):
            value = self._identity(name, value)
        self._readers.setdefault(name, 0)
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
        else:
            raise UnsupportedError("quantises what no layer produces", where=f"quantize '{name}'")
        self.tensors[name] = target
        return name

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
        self._close_conv(self._identity(copy.name, Open(name)), copy)
        return copy.name

    def fresh(self, name: str) -> str:
        """A name that no tensor has, close to ``name``."""
        count, candidate = 1, name
        while candidate in self.tensors or candidate in self.inputs:
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
        table = numerics.lut_table(pending.function, source.scale, source.zero_point, target.scale, target.zero_point)
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

    def graph(self, results: tuple[str, ...]) -> LayerGraph:
        layers, tensors = fold_concats(self.layers, self.tensors, results)
        used = {name for layer in layers for name in (*layer.reads, layer.output)} | set(results)
        return LayerGraph(
            name=self.name,
            tensors={name: tensor for name, tensor in tensors.items() if name in used},
            layers=layers,
            inputs=tuple(name for name in self.inputs if name in used),
            outputs=tuple(dict.fromkeys(results)),
        )


def _bits(expression: Any) -> int:
    """Bits of a quantised tensor's values."""
    return 16 if str(expression.ty.dtype.dtype) == "int16" else 8


def _readers(function: relax.Function) -> dict[Any, int]:
    """How often each variable is read; a result is never read by one layer alone."""
    counts: dict[Any, int] = {}

    def count(expression: Any, weight: int) -> None:
        if isinstance(expression, relax.Tuple):
            for item in expression.fields:
                count(item, weight)
        elif isinstance(expression, relax.Var):
            counts[expression] = counts.get(expression, 0) + weight

    for block in function.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                for argument in binding.value.args:
                    count(argument, 1)
            else:
                count(binding.value, 2)  # an alias or a tuple: stay out of its way
    count(function.body.body, 2)
    return counts


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


def _sliced(channels: Int64, operands: list[Any]) -> Int64:
    begin, end = int(operands[2][0]), int(operands[3][0])
    step = int(operands[4][0]) if len(operands) > 4 else 1
    return channels[begin:end:step]
