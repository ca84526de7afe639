"""The referee: what a quantised network computes, in integers, the whole frame at once.

This evaluates a quantised graph (the form that :mod:`codesign.compile.quantise.quantise` documents) and shares nothing
with the lowering but :mod:`codesign.hw.numerics` and :mod:`codesign.hw.normalise`. It says exactly how
real numbers become integers, and the lowering does the same. Scales ``s`` are the float32 constants, all rules compute
in float64, ``z`` are zero points.

convolution
    ``psum = sum (q - z_in) w + b`` with ``b = bias_integers(bias, s_in, s_w)``, out-of-frame taps are ``q = z_in``; a
    transposed convolution scatters every input pixel by its kernel. ``|psum| >= 2**31`` raises. Then
    ``requantise(psum, *requantise_parameters(s_in, s_w, s_out, slope), z_out, qmin, qmax)`` per channel; the slope is 1
    without activation, 0 for ReLU, ``alpha`` or the PReLU constant otherwise; a clip is
    ``clip_bounds(min, max, s_out, z_out)``.
scale, activation alone, change of scale
    the same with ``psum = q - z_in``, no bias, and ``s_w`` the scalar constant (1 when there is none).
sum
    ``add_requantised`` with ``add_parameters(s_a, s_b, s_out, subtract=...)``; ReLU is ``clip_bounds(0, inf)``.
product
    ``psum = (q_a - z_a)(q_b - z_b)`` requantised by ``requantise_parameters(s_a, [s_b], s_out)``; ReLU is slope 0.
average pool, bilinear resize
    ``psum`` is the sum over the window, or over the four neighbours (beyond the border the border's) with their weights
    in ``1 / (2 f)`` a direction; ``s_w`` is one over the window's size, or ``1 / (4 f^2)``; requantised as above. With
    corners on corners, places by ``corner_places``, ``interpolate`` down, then across, and ``s_w = 1 / SAMPLE_UNITS``.
    A scalar constant may follow, which multiplies ``s_w``.
all pairs
    ``psum`` is the sum over channels of products of codes; ``s_w`` is the second tensor's scale times the constant.
correlation
    ``psum`` is the sum over channels of products of codes, beyond the frame 0; ``s_w`` is the second tensor's scale
    over the number of channels; requantised as above.
windows
    places by ``window_places`` of the int16 flow, as a warp's; ``psum`` is ``interpolate`` across, then down, of ``q -
    z_in`` in every pixel's own map, beyond which it is 0; ``s_w = 1 / SAMPLE_UNITS``.
warp
    places by ``sample_places`` of the int16 flow, whose scale is ``2**-bits`` pixels; ``psum`` is ``interpolate``
    across, then down, of ``q - z_in``, which beyond the frame is 0 or the nearest pixel's; ``s_w = 1 / SAMPLE_UNITS``.
16 bits
    instead of ``requantise``, ``requantise_wide``; of a sum of two int16 tensors the psum is in units of the finer
    scale, of which the other is a whole multiple. Zero points are 0. Weights are int8 or int16, their rules the same;
    of int16 weights ``256 v + w`` and activations ``256 h + l`` the psum, in units of 256, is of ``h (256 v + w) + l
    v``.
normalisation
    ``psum = q 2^UNIT_BITS + bias`` of the codes as they are, requantised by ``normalise.frame_factors`` of their
    ``sums`` and the ``normalisation(pixels, epsilon, s_in, s_out)``; ReLU is ``clip_bounds(0, inf)``.
table
    ``apply_table(q, function_table(steps, s_in, z_in, s_out, z_out))``.
movement, concat
    codes are moved; where scale or zero point change on the way, that operand is first requantised as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.referee.sampling import averaged, resized, warped, windowed
from codesign.compile.referee.sums import BLOCK, Exact, correlated, scattered
from codesign.compile.referee.values import (
    AnyInts,
    Codes,
    Concat,
    Incoming,
    NoMeaningError,
    Normal,
    Psum,
    Reals,
    Sum,
    Tabled,
    Tensor,
    Weight,
    Wide,
)
from codesign.hw import normalise, numerics
from codesign.hw.errors import InputError, UnsupportedError


def evaluate(graph: Graph, x: Codes) -> Codes:
    """Run a whole quantised network on codes.

    ``x: int8[1, C, H, W]`` are codes of the network's input; the result is ``int8[1, C', H', W']``, the codes of its
    output. Raises :class:`InputError` for a wrong input, :class:`UnsupportedError`, naming the operator, for what has
    no integer meaning, and ``OverflowError`` for a psum beyond 32 bits.
    """
    if x.dtype != np.int8 or tuple(x.shape) != graph.input_shape:
        raise InputError(
            f"the input is {x.dtype}{list(x.shape)}",
            where="main",
            hint=f"This network takes int8{list(graph.input_shape)}.",
        )
    result = _followed(graph, {graph.input: Incoming(x)}, (graph.output,))[0]
    if not isinstance(result, Tensor):
        raise InputError("the network's output is not quantised", where="main", hint="Quantise the network first.")
    return result.codes


def evaluate_region(graph: Graph, inputs: Mapping[str, Codes], outputs: Sequence[str]) -> tuple[Codes, ...]:
    """Compute ``outputs`` of a quantised graph from ``inputs``, both names of tensors of codes: ``int8[1, C, H, W]``.

    A network that the host has a part in is judged region by region, as the host's floats have no integer meaning.
    Tensors of 16 bits come and go as ``int8[1, 2 C, H, W]``, in byte planes. Raises as :func:`evaluate`.
    """
    known = {
        name: Incoming(
            numerics.from_byte_planes(codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
            if graph.dtype_of(name) == "int16"
            else codes
        )
        for name, codes in inputs.items()
    }
    return tuple(
        numerics.byte_planes(value.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if value.wide else value.codes
        for value in _followed(graph, known, outputs)
    )


def _followed(graph: Graph, known: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
    """``outputs`` from what is ``known``, node by node; nothing else is computed."""
    needed = set(outputs) - known.keys()
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed |= {name for name in node.inputs if name in graph.by_name and name not in known}
    values: dict[str, Any] = {**graph.constants, **known}
    for node in graph.nodes:
        if node.name not in needed:
            continue
        try:
            values[node.name] = _computed(node, [values[name] for name in node.inputs])
        except (NoMeaningError, ValueError) as error:
            raise UnsupportedError(
                f"no integer meaning here ({error})",
                where=f"{node.op} '{node.name}'",
                hint="The referee evaluates what runs on the accelerator.",
            ) from error
    return [values[name] for name in outputs]


def _computed(node: Node, operands: list[Any]) -> Any:
    first = operands[0]
    attributes = node.attributes
    match node.op:
        case "quantize":
            return _rounded(node, first, float(operands[1]), int(operands[2]))
        case "dequantize":
            return _dequantised(node, operands)
        case "nn.conv2d":
            return _convolution(node, first, operands[1], correlated)
        case "nn.conv2d_transpose":
            return _convolution(node, first, operands[1], scattered)
        case "correlation":
            return _cost_volume(_tensor(first), _tensor(operands[1]), int(attributes["reach"]))
        case "all_pairs":
            return _paired(_tensor(operands[1]), _tensor(first), float(attributes["scale"]))
        case "add" | "subtract":
            return _added(first, operands[1], subtract=node.op == "subtract")
        case "multiply":
            return _multiplied(first, operands[1])
        case "nn.avg_pool2d":
            return averaged(node, _tensor(first))
        case "image.resize2d":
            return resized(node, _tensor(first))
        case "warp":
            return warped(node, _tensor(first), _tensor(operands[1]))
        case "window":
            return windowed(node, _tensor(first), _tensor(operands[1]))
        case "instance_norm":
            return _normalised(node, _tensor(first))
        case "nn.relu":
            return _clipped(first, 0.0, math.inf) if isinstance(first, Sum | Normal) else _sloped(first, 0.0)
        case "nn.leakyrelu":
            return _sloped(first, float(attributes["alpha"]))
        case "nn.prelu":
            return _sloped(first, np.asarray(operands[1], np.float64))
        case "clip":
            return _clipped(first, float(attributes["min"]), float(attributes["max"]))
        case "concat":
            return _concatenated(node, operands)
        case "table":
            return Tabled(_tensor(first), tuple(attributes["steps"]))
        case _:
            return _moved(node, _tensor(first))


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise NoMeaningError("its operand has not been rounded to int8")
    return value


def _dequantised(node: Node, operands: list[Any]) -> Tensor | Weight:
    source, scale, zero_point = operands
    if isinstance(source, Incoming):
        return Tensor(source.codes, float(scale), int(zero_point))
    if isinstance(source, Tensor):
        if (source.scale, source.zero_point) != (float(scale), int(zero_point)):
            raise NoMeaningError("codes are read with another scale than they were written with")
        return source
    if np.any(zero_point):
        raise NoMeaningError("weights with a zero point")
    return Weight(source, np.asarray(scale, np.float64).reshape(-1), int(node.attributes["axis"]))


def _rounded(node: Node, value: Any, scale: float, zero_point: int) -> Tensor:
    """To int8, or by the same rules to int16."""
    wide = node.dtype == "int16"
    if isinstance(value, Sum) and (value.first.wide or value.second.wide or wide):
        value = _wide_sum(value)
    if isinstance(value, Tensor) and (value.wide or wide):
        same = value.wide == wide and (value.scale, value.zero_point) == (scale, zero_point)
        value = value if same else _identity(value)
    if wide and isinstance(value, Concat):
        parts = [_rounded(node, part, scale, zero_point).codes for part in value.parts]
        return Tensor(np.concatenate(parts, axis=1), scale, zero_point)
    if not wide:
        return _quantised(value, scale, zero_point)
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Psum) or zero_point or math.isfinite(value.low) or math.isfinite(value.high):
        raise NoMeaningError("what has no 16-bit form")
    multiplier, negative, shifts = (
        factors.reshape(1, -1, 1, 1)
        for factors in numerics.requantise_parameters(value.input_scale, value.scales, scale, value.slope)
    )
    codes = numerics.requantise_wide(value.values, multiplier=multiplier, negative_multiplier=negative, shift=shifts)
    return Tensor(codes, scale, zero_point)


def _wide_sum(value: Sum) -> Psum:
    """A sum of 16 bits in units of the finer scale, of which the other is a whole multiple."""
    first, second = value.first, value.second
    unit = min(first.scale, second.scale)
    factors = (first.scale / unit, second.scale / unit)
    whole = all(factor == round(factor) and factor <= 127 for factor in factors)
    if not (first.wide and second.wide and whole):
        raise NoMeaningError("a sum of 8 and 16 bits, or of scales far apart")
    left, right = (one.centred() * round(factor) for one, factor in zip((first, second), factors, strict=True))
    total = left - right if value.subtract else left + right
    return Psum(total, unit, np.ones(total.shape[1]), low=value.low, high=value.high)


def _quantised(value: Any, scale: float, zero_point: int) -> Tensor:
    if isinstance(value, Incoming):
        # The network's own input arrives as codes.
        return Tensor(value.codes, scale, zero_point)
    if isinstance(value, Tensor):
        return _rescaled(value, scale, zero_point)
    if isinstance(value, Concat):
        parts = [_rescaled(part, scale, zero_point).codes for part in value.parts]
        return Tensor(np.concatenate(parts, axis=1), scale, zero_point)
    if isinstance(value, Tabled):
        source = value.source
        table = numerics.function_table(value.steps, source.scale, source.zero_point, scale, zero_point)
        return Tensor(numerics.apply_table(source.codes, table), scale, zero_point)
    qmin, qmax = numerics.clip_bounds(value.low, value.high, scale, zero_point)
    if isinstance(value, Sum):
        first, second = value.first, value.second
        m, other, shift = numerics.add_parameters(first.scale, second.scale, scale, subtract=value.subtract)

        rule = numerics.AddRule(first.zero_point, second.zero_point, m, other, shift, zero_point, qmin, qmax)

        def summed(left: AnyInts, right: AnyInts) -> Codes:
            return numerics.add_requantised(left, right, rule)

        return Tensor(_by_rows(summed, first.codes, second.codes), scale, zero_point)
    if isinstance(value, Normal):
        return _rounded_norm(value, scale, zero_point, qmin, qmax)
    multiplier, negative, shifts = (
        factors.reshape(1, -1, 1, 1)
        for factors in numerics.requantise_parameters(value.input_scale, value.scales, scale, value.slope)
    )

    def rounded(psum: AnyInts) -> Codes:
        return numerics.requantise(
            psum,
            multiplier=multiplier,
            negative_multiplier=negative,
            shift=shifts,
            zero_point=zero_point,
            qmin=qmin,
            qmax=qmax,
        )

    return Tensor(_by_rows(rounded, value.values), scale, zero_point)


def _rounded_norm(value: Normal, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    codes = value.source.codes
    constants = normalise.normalisation(codes[0, 0].size, value.epsilon, value.source.scale, scale)
    bias, multiplier, shift = (
        factors.reshape(1, -1, 1, 1)
        for factors in normalise.frame_factors(*normalise.sums(codes.transpose(0, 2, 3, 1)), constants)
    )

    def rounded(part: AnyInts) -> Codes:
        psum = (part.astype(np.int64) << normalise.UNIT_BITS) + bias
        return numerics.requantise(
            psum,
            multiplier=multiplier,
            negative_multiplier=multiplier,
            shift=shift,
            zero_point=zero_point,
            qmin=qmin,
            qmax=qmax,
        )

    return Tensor(_by_rows(rounded, codes), scale, zero_point)


def _by_rows(function: Callable[..., Codes], *arrays: AnyInts) -> Codes:
    """``function`` of a few rows of ``[1, C, H, W]`` arrays at a time, which stay in the processor's cache."""
    _, channels, height, width = np.broadcast_shapes(*(array.shape for array in arrays))
    step = max(1, BLOCK // max(1, channels * width))
    blocks = [function(*(array[:, :, row : row + step] for array in arrays)) for row in range(0, height, step)]
    return np.concatenate(blocks, axis=2) if blocks else np.zeros((1, channels, height, width), np.int8)


def _rescaled(tensor: Tensor, scale: float, zero_point: int) -> Tensor:
    if (tensor.scale, tensor.zero_point) == (scale, zero_point):
        return tensor
    return _quantised(_identity(tensor), scale, zero_point)


def _identity(value: Any) -> Psum:
    """A tensor as a psum without weights; a psum as it is."""
    if isinstance(value, Psum):
        return value
    tensor = _tensor(value)
    return Psum(tensor.centred(), tensor.scale, np.ones(tensor.codes.shape[1]))


def _sloped(value: Any, slope: Reals | float) -> Psum:
    psum = _identity(value)
    if np.any(psum.scales < 0):
        raise NoMeaningError("an activation after a negative factor")
    if np.any(np.asarray(psum.slope) != 1.0) or math.isfinite(psum.low) or math.isfinite(psum.high):
        raise NoMeaningError("two activations without rounding between them")
    return replace(psum, slope=slope)


def _normalised(node: Node, tensor: Tensor) -> Normal:
    if tensor.wide:
        raise NoMeaningError("a normalisation of 16 bits")
    return Normal(tensor, float(node.attributes["epsilon"]))


def _clipped(value: Any, low: float, high: float) -> Psum | Sum | Normal:
    pending = value if isinstance(value, Sum | Normal) else _identity(value)
    if math.isfinite(pending.low) or math.isfinite(pending.high):
        raise NoMeaningError("two activations without rounding between them")
    return replace(pending, low=low, high=high)


def _added(first: Any, second: Any, *, subtract: bool) -> Psum | Sum:
    if isinstance(first, Psum) and isinstance(second, np.ndarray) and not subtract:
        if second.shape != (1, first.values.shape[1], 1, 1):
            raise NoMeaningError("a constant that is not one number per channel")
        bias = numerics.bias_integers(second, first.input_scale, first.scales).reshape(second.shape)
        return replace(first, values=_within_int32(first.values + bias))
    return Sum(_tensor(first), _tensor(second), subtract)


def _paired(rows: Tensor, columns: Tensor, scale: float) -> Psum:
    """Products of the pixels of two frames: ``[1, h w, H, W]`` of ``rows [1, C, h, w]``, ``columns [1, C, H, W]``."""
    by_row, by_column = (tensor.centred()[0].reshape(tensor.codes.shape[1], -1) for tensor in (rows, columns))
    exact = by_row.T.astype(np.float64) @ by_column.astype(np.float64)
    psum = _within_int32(exact).reshape(1, -1, *columns.codes.shape[2:])
    return Psum(psum, columns.scale, np.full(len(exact), rows.scale * scale))


def _multiplied(first: Any, second: Any) -> Psum:
    if isinstance(second, np.ndarray):
        if second.size != 1:
            raise NoMeaningError("a factor that is not one number")
        psum = _identity(first)
        return replace(psum, scales=psum.scales * float(second.reshape(-1)[0]))
    left, right = _tensor(first), _tensor(second)
    values = left.centred() * right.centred()
    return Psum(values, left.scale, np.full(values.shape[1], right.scale))


def _cost_volume(first: Tensor, second: Tensor, reach: int) -> Psum:
    """Sums over the channels of ``first`` times ``second`` moved by every displacement; beyond the frame is zero."""
    around = np.pad(second.centred(), ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    own = first.centred()
    channels, rows, columns = own.shape[1:]
    window = range(2 * reach + 1)
    sums = [(own * around[:, :, dy : dy + rows, dx : dx + columns]).sum(axis=1) for dy in window for dx in window]
    return Psum(np.stack(sums, axis=1), first.scale, np.full(len(sums), second.scale / channels))


def _concatenated(node: Node, parts: list[Any]) -> Concat:
    if int(node.attributes["axis"]) != 1:
        raise NoMeaningError("concatenation along another axis than the channels")
    return Concat(tuple(_tensor(part) for part in parts))


def _moved(node: Node, tensor: Tensor) -> Tensor:
    codes, attributes = tensor.codes, node.attributes
    n, c, h, w = codes.shape
    match node.op:
        case "nn.pixel_shuffle":
            r = int(attributes["upscale_factor"])
            split = codes.reshape(n, c // (r * r), r, r, h, w)
            moved = split.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (r * r), h * r, w * r)
        case "pixel_unshuffle":
            r = int(attributes["downscale_factor"])
            split = codes.reshape(n, c, h // r, r, w // r, r)
            moved = split.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * r * r, h // r, w // r)
        case "repeat":
            moved = np.repeat(codes, int(attributes["repeats"]), axis=int(attributes["axis"]))
        case "tile":
            moved = np.tile(codes, tuple(int(times) for times in attributes["repeats"]))
        case "strided_slice":
            index = [slice(None)] * codes.ndim
            strides = attributes.get("strides") or (1,) * len(attributes["axes"])
            spans = zip(attributes["axes"], attributes["begin"], attributes["end"], strides, strict=True)
            for axis, begin, end, stride in spans:
                index[int(axis)] = slice(int(begin), int(end), int(stride))
            moved = codes[tuple(index)]
        case _:
            raise NoMeaningError("an operator of the host")
    return replace(tensor, codes=np.ascontiguousarray(moved))


Kernel = Callable[[Node, Exact, Exact], Exact]
"""Sums over ``x: [Cin, H, W]`` and weights of one group, in a floating type wide enough to be exact."""


def _convolution(node: Node, source: Any, weight: Any, kernel: Kernel) -> Psum:
    tensor = _tensor(source)
    if not isinstance(weight, Weight):
        raise NoMeaningError("weights that are not int8 constants")
    if tensor.wide and weight.codes.dtype == np.int16:
        return _both_wide(node, tensor, weight, kernel)
    groups = int(node.attributes["groups"])
    # Whole numbers below 2**24 are exact in float32, below 2**53 in float64, whatever the order of summation.
    others = tuple(axis for axis in range(4) if axis != weight.axis)
    bound = (65535 if tensor.wide else 255) * int(np.abs(weight.codes.astype(np.int64)).sum(axis=others).max(initial=0))
    exact: type[np.floating[Any]] = np.float32 if bound < 2**24 else np.float64
    x = (
        tensor.centred()[0].astype(exact)
        if tensor.wide
        else (tensor.codes[0].astype(np.int16) - np.int16(tensor.zero_point)).astype(exact)
    )
    w = weight.codes.astype(exact)
    parts = [
        kernel(node, part, kernels) for part, kernels in zip(np.split(x, groups), np.split(w, groups), strict=True)
    ]
    psum = np.concatenate(parts)[None]
    scales = np.tile(weight.scales, psum.shape[1] // len(weight.scales))
    return Psum(_within_int32(psum), tensor.scale, scales)


def _both_wide(node: Node, tensor: Tensor, weight: Weight, kernel: Kernel) -> Psum:
    """In units of 256: high bytes of activations by whole weights, low bytes by high ones, and low by low left out."""
    high, low = np.split(numerics.byte_planes(tensor.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), 2, 1)
    leading = np.split(numerics.byte_planes(np.moveaxis(weight.codes, weight.axis, 3)), 2, 3)[0].astype(np.int16)
    parts = [
        _convolution(node, Tensor(codes, 256.0 * tensor.scale, 0), replace(weight, codes=kernels), kernel)
        for codes, kernels in ((high, weight.codes), (low, np.moveaxis(leading, 3, weight.axis)))
    ]
    return replace(parts[0], values=_within_int32(parts[0].values + parts[1].values))


def _within_int32(psum: NDArray[Any]) -> Wide:
    if psum.size and (psum.max() > numerics.INT32_MAX or psum.min() < numerics.INT32_MIN):
        raise OverflowError(f"a psum of {np.abs(psum).max():.0f} does not fit 32 bits")
    return psum.astype(np.int64)
