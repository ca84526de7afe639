"""The referee: what a quantised network computes, in integers, the whole frame at once.

This is an evaluation of the quantised Relax function (the form that :mod:`codesign.compile.quantize` documents) that
shares nothing with the lowering but :mod:`codesign.hw.numerics` and :mod:`codesign.hw.normalise`. It says exactly how
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
look-up
    ``look_up(q, lut_table(name, s_in, z_in, s_out, z_out))``.
movement, concat
    codes are moved; where scale or zero point change on the way, that operand is first requantised as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.grids import is_grid_of_flow, windows_of_grid
from codesign.compile.integer_sums import BLOCK, Exact, correlated, looked_up, scattered
from codesign.hw import normalise, numerics
from codesign.hw.errors import InputError, UnsupportedError

_SAMPLE_SHARE = 1.0 / numerics.SAMPLE_UNITS

Codes = NDArray[np.int8]
Wide = NDArray[np.int64]
Reals = NDArray[np.float64]
AnyInts = NDArray[Any]


@dataclass(frozen=True)
class _Codes:
    """What comes in from outside: ``int8[1, C, H, W]`` (a flow: int16), whose scale its first reader tells."""

    codes: AnyInts


@dataclass(frozen=True)
class _Tensor:
    """Codes that stand for ``scale * (codes - zero_point)``; ``codes: int8[1, C, H, W]``, or int16."""

    codes: AnyInts
    scale: float
    zero_point: int

    @property
    def wide(self) -> bool:
        return self.codes.dtype == np.int16

    def centred(self) -> Wide:
        return self.codes.astype(np.int64) - self.zero_point


@dataclass(frozen=True)
class _Weight:
    """``int8`` or ``int16`` kernel with one scale per output channel along ``axis``."""

    codes: AnyInts
    scales: Reals
    axis: int


@dataclass(frozen=True)
class _Psum:
    """An exact sum before its only rounding: worth ``input_scale * scales[c]`` a unit, ``slope[c]`` of it below 0."""

    values: Wide
    input_scale: float
    scales: Reals
    slope: Reals | float = 1.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class _Sum:
    """Two tensors to be added (or subtracted) and rounded once."""

    first: _Tensor
    second: _Tensor
    subtract: bool
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class _Normal:
    """A tensor's channels, each to mean 0 and variance 1."""

    source: _Tensor
    epsilon: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class _LookUp:
    source: _Tensor
    function: str


@dataclass(frozen=True)
class _Grid:
    """A flow on its way to a grid: what it is multiplied with, and what has been added to it so far."""

    flow: _Tensor
    scale: AnyInts
    added: tuple[AnyInts, ...] = ()

    @property
    def bits(self) -> int:
        """Of the flow's fraction."""
        bits = round(-math.log2(self.flow.scale))
        if self.flow.scale != 2.0**-bits or self.flow.zero_point or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
            raise _NoMeaningError("a flow that is not in binary fractions of a pixel")
        return bits


@dataclass(frozen=True)
class _Concat:
    parts: tuple[_Tensor, ...]


def evaluate(module: tvm.IRModule, x: Codes) -> Codes:
    """Run the quantised ``main`` of ``module`` on codes.

    ``x: int8[1, C, H, W]`` are codes of the network's input; the result is ``int8[1, C', H', W']``, the codes of its
    output. Raises :class:`InputError` for a wrong input, :class:`UnsupportedError`, naming operator and variable, for
    what has no integer meaning, and ``OverflowError`` for a psum beyond 32 bits.
    """
    function = module["main"]
    expected = tuple(int(extent) for extent in function.params[0].ty.shape.values)
    if x.dtype != np.int8 or tuple(x.shape) != expected:
        raise InputError(
            f"the input is {x.dtype}{list(x.shape)}", where="main", hint=f"This network takes int8{list(expected)}."
        )
    result = _followed(function, [_Codes(x)])
    if not isinstance(result, _Tensor):
        raise InputError("the network's output is not quantised", where="main", hint="Quantise the network first.")
    return result.codes


def evaluate_region(function: relax.Function, inputs: Sequence[Codes]) -> tuple[Codes, ...]:
    """Run one accelerator region, whose parameters and results are codes: ``int8[1, C, H, W]`` each.

    A network that the host has a part in is judged region by region, as the host's floats have no integer meaning.
    What the region takes or gives as int16 is ``int8[1, 2 C, H, W]``, in byte planes. Raises as :func:`evaluate`.
    """
    wide = [str(parameter.ty.dtype.dtype) == "int16" for parameter in function.params]
    joined = [
        numerics.from_byte_planes(codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if is_wide else codes
        for codes, is_wide in zip(inputs, wide, strict=True)
    ]
    result = _followed(function, [_Codes(codes) for codes in joined])
    return tuple(
        numerics.byte_planes(value.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if value.wide else value.codes
        for value in (result if isinstance(result, tuple) else (result,))
    )


def _followed(function: relax.Function, arguments: Sequence[Any]) -> Any:
    """The function's result, binding by binding; the composite functions of a region are followed."""
    values: dict[Any, Any] = dict(zip(function.params, arguments, strict=True))
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Function):
                values[binding.var] = value
            elif isinstance(value, relax.Call):
                operands = [_operand(values, argument) for argument in value.args]
                if value.op in values:
                    values[binding.var] = _followed(values[value.op], operands)
                    continue
                try:
                    values[binding.var] = _call(value, operands)
                except (_NoMeaningError, ValueError) as error:
                    name = value.op.name.removeprefix("relax.")
                    raise UnsupportedError(
                        f"no integer meaning here ({error})",
                        where=f"{name} '{binding.var.name}'",
                        hint="The referee evaluates what runs on the accelerator.",
                    ) from error
            else:
                values[binding.var] = _operand(values, value)
    return _operand(values, function.body.body)


class _NoMeaningError(Exception):
    """An operator on operands that the machine has no integer rule for."""


def _operand(values: dict[Any, Any], argument: Any) -> Any:
    if isinstance(argument, tvm.ir.GenericConst):
        return argument.value.numpy()
    if isinstance(argument, relax.Tuple):
        return tuple(_operand(values, item) for item in argument.fields)
    if isinstance(argument, relax.ShapeExpr):
        return tuple(int(extent) for extent in argument.values)
    if isinstance(argument, tvm.tirx.IntImm | tvm.tirx.FloatImm):
        return argument.value
    if isinstance(argument, relax.TupleGetItem):
        return values[argument.tuple_value][argument.index]
    return values[argument]


def _call(call: relax.Call, operands: list[Any]) -> Any:
    op = call.op.name.removeprefix("relax.")
    first = operands[0]
    rules: dict[str, Callable[[], Any]] = {
        "quantize": lambda: _rounded(call, first, float(operands[1]), int(operands[2])),
        "dequantize": lambda: _dequantised(call, operands),
        "nn.conv2d": lambda: (
            _displaced(call, _tensor(first), operands[1])
            if isinstance(operands[1], np.ndarray)
            else _convolution(call, first, operands[1], correlated)
        ),
        "mean": lambda: _meant(call, first),
        "matmul": lambda: _paired(_tensor(first), _tensor(operands[1])),
        "nn.conv2d_transpose": lambda: _convolution(call, first, operands[1], scattered),
        "add": lambda: _added(first, operands[1], subtract=False),
        "subtract": lambda: _added(first, operands[1], subtract=True),
        "multiply": lambda: _multiplied(first, operands[1]),
        "nn.avg_pool2d": lambda: _averaged(call, _tensor(first)),
        "image.grid_sample": lambda: _sampled(call, _tensor(first), operands[1]),
        "image.resize2d": lambda: _resized(call, _tensor(first), operands[1]),
        "nn.instance_norm": lambda: _normalised(call, _tensor(first), *operands[1:]),
        "nn.relu": lambda: _clipped(first, 0.0, math.inf) if isinstance(first, _Sum | _Normal) else _sloped(first, 0.0),
        "nn.leakyrelu": lambda: _sloped(first, float(call.attrs.alpha)),
        "nn.prelu": lambda: _sloped(first, np.asarray(operands[1], np.float64)),
        "clip": lambda: _clipped(first, float(operands[1]), float(operands[2])),
        "concat": lambda: _concatenated(call, first),
    }
    if op in rules:
        return rules[op]()
    if op.removeprefix("nn.") in numerics.LOOK_UPS:
        return _LookUp(_tensor(first), op.removeprefix("nn."))
    if op == "reshape" and isinstance(first, _Psum):  # a correlation's products, by channel and displacement
        values = first.values.reshape(operands[1])
        channels = values.shape[1] if values.ndim == 4 else len(first.scales)
        return replace(first, values=values, scales=np.broadcast_to(first.scales[:1], channels))
    if op == "permute_dims" and isinstance(first, _Psum) and first.values.ndim == 2:  # windows, one under the other
        return replace(first, values=first.values.T)
    if isinstance(first, _Grid) and op in ("reshape", "permute_dims"):  # places, pixel by pixel
        return first
    return _moved(op, call, _tensor(first), operands)


def _tensor(value: Any) -> _Tensor:
    if not isinstance(value, _Tensor):
        raise _NoMeaningError("its operand has not been rounded to int8")
    return value


def _dequantised(call: relax.Call, operands: list[Any]) -> _Tensor | _Weight:
    source, scale, zero_point = operands
    if isinstance(source, _Codes):
        return _Tensor(source.codes, float(scale), int(zero_point))
    if isinstance(source, _Tensor):
        if (source.scale, source.zero_point) != (float(scale), int(zero_point)):
            raise _NoMeaningError("codes are read with another scale than they were written with")
        return source
    if np.any(zero_point):
        raise _NoMeaningError("weights with a zero point")
    return _Weight(source, np.asarray(scale, np.float64).reshape(-1), int(call.attrs.axis))


def _rounded(call: relax.Call, value: Any, scale: float, zero_point: int) -> _Tensor:
    """To int8, or by the same rules to int16."""
    wide = str(call.attrs.out_dtype) == "int16"
    if isinstance(value, _Sum) and (value.first.wide or value.second.wide or wide):
        value = _wide_sum(value)
    if isinstance(value, _Tensor) and (value.wide or wide):
        same = value.wide == wide and (value.scale, value.zero_point) == (scale, zero_point)
        value = value if same else _identity(value)
    if wide and isinstance(value, _Concat):
        parts = [_rounded(call, part, scale, zero_point).codes for part in value.parts]
        return _Tensor(np.concatenate(parts, axis=1), scale, zero_point)
    if not wide:
        return _quantised(value, scale, zero_point)
    if isinstance(value, _Tensor):
        return value
    if not isinstance(value, _Psum) or zero_point or math.isfinite(value.low) or math.isfinite(value.high):
        raise _NoMeaningError("what has no 16-bit form")
    multiplier, negative, shifts = (
        factors.reshape(1, -1, 1, 1)
        for factors in numerics.requantise_parameters(value.input_scale, value.scales, scale, value.slope)
    )
    codes = numerics.requantise_wide(value.values, multiplier=multiplier, negative_multiplier=negative, shift=shifts)
    return _Tensor(codes, scale, zero_point)


def _wide_sum(value: _Sum) -> _Psum:
    """A sum of 16 bits in units of the finer scale, of which the other is a whole multiple."""
    first, second = value.first, value.second
    unit = min(first.scale, second.scale)
    factors = (first.scale / unit, second.scale / unit)
    whole = all(factor == round(factor) and factor <= 127 for factor in factors)
    if not (first.wide and second.wide and whole):
        raise _NoMeaningError("a sum of 8 and 16 bits, or of scales far apart")
    left, right = (one.centred() * round(factor) for one, factor in zip((first, second), factors, strict=True))
    total = left - right if value.subtract else left + right
    return _Psum(total, unit, np.ones(total.shape[1]), low=value.low, high=value.high)


def _quantised(value: Any, scale: float, zero_point: int) -> _Tensor:
    if isinstance(value, _Codes):
        # The network's own input arrives as codes.
        return _Tensor(value.codes, scale, zero_point)
    if isinstance(value, _Tensor):
        return _rescaled(value, scale, zero_point)
    if isinstance(value, _Concat):
        parts = [_rescaled(part, scale, zero_point).codes for part in value.parts]
        return _Tensor(np.concatenate(parts, axis=1), scale, zero_point)
    if isinstance(value, _LookUp):
        source = value.source
        table = numerics.lut_table(value.function, source.scale, source.zero_point, scale, zero_point)
        return _Tensor(numerics.look_up(source.codes, table), scale, zero_point)
    qmin, qmax = numerics.clip_bounds(value.low, value.high, scale, zero_point)
    if isinstance(value, _Sum):
        first, second = value.first, value.second
        m, other, shift = numerics.add_parameters(first.scale, second.scale, scale, subtract=value.subtract)

        def summed(left: AnyInts, right: AnyInts) -> Codes:
            return numerics.add_requantised(
                left,
                right,
                zero_point=first.zero_point,
                other_zero_point=second.zero_point,
                multiplier=m,
                other_multiplier=other,
                shift=shift,
                output_zero_point=zero_point,
                qmin=qmin,
                qmax=qmax,
            )

        return _Tensor(_by_rows(summed, first.codes, second.codes), scale, zero_point)
    if isinstance(value, _Normal):
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

    return _Tensor(_by_rows(rounded, value.values), scale, zero_point)


def _rounded_norm(value: _Normal, scale: float, zero_point: int, qmin: int, qmax: int) -> _Tensor:
    codes = value.source.codes
    constants = normalise.normalisation(codes[0, 0].size, value.epsilon, value.source.scale, scale)
    bias, multiplier, shift = (
        factors.reshape(1, -1, 1, 1)
        for factors in normalise.frame_factors(*normalise.sums(codes.transpose(0, 2, 3, 1)), constants)
    )

    def rounded(part: AnyInts) -> Codes:
        psum = (part.astype(np.int64) << normalise.UNIT_BITS) + bias
        return numerics.requantise(psum, multiplier=multiplier, negative_multiplier=multiplier, shift=shift,
                                   zero_point=zero_point, qmin=qmin, qmax=qmax)  # fmt: skip

    return _Tensor(_by_rows(rounded, codes), scale, zero_point)


def _by_rows(function: Callable[..., Codes], *arrays: AnyInts) -> Codes:
    """``function`` of a few rows of ``[1, C, H, W]`` arrays at a time, which stay in the processor's cache."""
    _, channels, height, width = np.broadcast_shapes(*(array.shape for array in arrays))
    step = max(1, BLOCK // max(1, channels * width))
    blocks = [function(*(array[:, :, row : row + step] for array in arrays)) for row in range(0, height, step)]
    return np.concatenate(blocks, axis=2) if blocks else np.zeros((1, channels, height, width), np.int8)


def _rescaled(tensor: _Tensor, scale: float, zero_point: int) -> _Tensor:
    if (tensor.scale, tensor.zero_point) == (scale, zero_point):
        return tensor
    return _quantised(_identity(tensor), scale, zero_point)


def _identity(value: Any) -> _Psum:
    """A tensor as a psum without weights; a psum as it is."""
    if isinstance(value, _Psum):
        return value
    tensor = _tensor(value)
    return _Psum(tensor.centred(), tensor.scale, np.ones(tensor.codes.shape[1]))


def _sloped(value: Any, slope: Reals | float) -> _Psum:
    psum = _identity(value)
    if np.any(psum.scales < 0):
        raise _NoMeaningError("an activation after a negative factor")
    if np.any(np.asarray(psum.slope) != 1.0) or math.isfinite(psum.low) or math.isfinite(psum.high):
        raise _NoMeaningError("two activations without rounding between them")
    return replace(psum, slope=slope)


def _normalised(call: relax.Call, tensor: _Tensor, scale: AnyInts, shift: AnyInts) -> _Normal:
    axes = sorted(int(axis) % 4 for axis in call.attrs.axes)
    if tensor.wide or np.any(scale != 1) or np.any(shift) or axes not in ([2, 3], [0, 2, 3]):
        raise _NoMeaningError("a normalisation with scales of its own, of 16 bits, or over other axes")
    return _Normal(tensor, float(call.attrs.epsilon))


def _clipped(value: Any, low: float, high: float) -> _Psum | _Sum | _Normal:
    pending = value if isinstance(value, _Sum | _Normal) else _identity(value)
    if math.isfinite(pending.low) or math.isfinite(pending.high):
        raise _NoMeaningError("two activations without rounding between them")
    return replace(pending, low=low, high=high)


def _added(first: Any, second: Any, *, subtract: bool) -> _Psum | _Sum | _Grid:
    if isinstance(first, _Grid):
        return replace(first, added=(*first.added, second))
    if isinstance(first, _Psum) and isinstance(second, np.ndarray) and not subtract:
        if second.shape != (1, first.values.shape[1], 1, 1):
            raise _NoMeaningError("a constant that is not one number per channel")
        bias = numerics.bias_integers(second, first.input_scale, first.scales).reshape(second.shape)
        return replace(first, values=_within_int32(first.values + bias))
    return _Sum(_tensor(first), _tensor(second), subtract)


def _paired(rows: _Tensor, columns: _Tensor) -> _Psum:
    """The product of two matrices of pixels, ``[h w, C]`` and ``[C, H W]``."""
    exact = rows.centred().astype(np.float64) @ columns.centred().astype(np.float64)
    return _Psum(_within_int32(exact), columns.scale, np.full(len(exact), rows.scale))


def _multiplied(first: Any, second: Any) -> _Psum | _Grid:
    if isinstance(second, np.ndarray) and second.size == 1:
        psum = _identity(first)
        return replace(psum, scales=psum.scales * float(second.reshape(-1)[0]))
    if isinstance(second, np.ndarray):
        return _Grid(_tensor(first), second)
    left, right = _tensor(first), _tensor(second)
    values = left.centred() * right.centred()
    return _Psum(values, left.scale, np.full(values.shape[1], right.scale))


def _displaced(call: relax.Call, tensor: _Tensor, kernels: AnyInts) -> _Tensor:
    """A convolution in float that only moves: every kernel has one 1. Beyond the frame is zero."""
    groups, (top, left, bottom, right) = int(call.attrs.groups), (int(p) for p in call.attrs.padding)
    count = len(kernels) // groups
    if kernels.shape[1] != 1 or groups != tensor.codes.shape[1] or not np.all(kernels.sum(axis=(1, 2, 3)) == 1.0):
        raise _NoMeaningError("weights that are not int8 constants")
    padded = np.pad(tensor.codes, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=tensor.zero_point)
    rows, columns = (int(extent) for extent in call.ty.shape.values[2:])
    places = np.argwhere(kernels[:, 0] == 1.0)
    if len(places) != len(kernels):
        raise _NoMeaningError("weights that are not int8 constants")
    moved = [padded[:, which // count, y : y + rows, x : x + columns] for which, y, x in places.tolist()]
    return replace(tensor, codes=np.stack(moved, axis=1))


def _meant(call: relax.Call, psum: Any) -> _Psum:
    """The mean over the channels of a correlation's products ``[1, C, D, H, W]``."""
    if not isinstance(psum, _Psum) or psum.values.ndim != 5 or [int(axis) for axis in call.attrs.axis] != [1]:
        raise _NoMeaningError("a mean that is not a correlation's")
    total = psum.values.sum(axis=1)
    return replace(psum, values=total, scales=np.full(total.shape[1], psum.scales[0] / psum.values.shape[1]))


def _sampled(call: relax.Call, tensor: _Tensor, grid: Any) -> _Psum:
    if not isinstance(grid, _Grid) or grid.flow.codes.dtype != np.int16 or not 1 <= len(grid.added) <= 2:
        raise _NoMeaningError("a grid that is not a flow's")
    return _warped(call, tensor, grid) if len(grid.added) == 1 else _windowed(call, tensor, grid)


def _windowed(call: relax.Call, maps: _Tensor, grid: _Grid) -> _Psum:
    """Windows of ``maps [H W, 1, h, w]``, as ``[H W, 1, k, k]``."""
    rows, columns = maps.codes.shape[2:]
    places, around = grid.added
    found = windows_of_grid(grid.scale, places, around, (rows, columns))
    how = str(call.attrs.method), str(call.attrs.padding_mode), bool(call.attrs.align_corners)
    if found is None or how != ("bilinear", "zeros", False) or len(maps.codes) != grid.flow.codes[0, 0].size:
        raise _NoMeaningError("a grid that is not that of windows around a flow")
    samples = looked_up(maps.centred()[:, 0], grid.flow.codes[0], grid.bits, *found)
    return _Psum(samples[:, None], maps.scale, np.full(1, _SAMPLE_SHARE))


def _warped(call: relax.Call, tensor: _Tensor, grid: _Grid) -> _Psum:
    if not is_grid_of_flow(grid.scale, grid.added[0]):
        raise _NoMeaningError("a grid that is not a flow's")
    padding = str(call.attrs.padding_mode)
    if str(call.attrs.method) != "bilinear" or not call.attrs.align_corners or padding not in ("zeros", "border"):
        raise _NoMeaningError("sampling that is not bilinear")
    bits = grid.bits
    values = tensor.centred()[0]
    height, width = values.shape[1:]
    codes = np.clip(grid.flow.codes[0], numerics.INT16_MIN, numerics.INT16_MAX)
    (across, right), (down, below) = (numerics.sample_places(one, bits) for one in codes)
    x, y = np.arange(width) + across, np.arange(height)[:, None] + down

    def pixels(rows: Wide, columns: Wide) -> Wide:
        found: Wide = values[:, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return found if padding == "border" else np.where(inside, found, 0)

    upper, lower = (numerics.interpolate(pixels(rows, x), pixels(rows, x + 1), right) for rows in (y, y + 1))
    scales = np.full(len(values), _SAMPLE_SHARE)
    return _Psum(numerics.interpolate(upper, lower, below)[None], tensor.scale, scales)


def _averaged(call: relax.Call, tensor: _Tensor) -> _Psum:
    rows, columns = (int(extent) for extent in call.attrs.pool_size)
    stride_y, stride_x = (int(s) for s in call.attrs.strides)
    top, left, bottom, right = (int(p) for p in call.attrs.padding)
    counted = bool(call.attrs.count_include_pad) or not any((top, left, bottom, right))
    if not counted or call.attrs.ceil_mode or any(int(d) != 1 for d in call.attrs.dilation):
        raise _NoMeaningError("an average over windows of unlike sizes")
    padded = np.pad(tensor.centred(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))
    values = windows[:, :, ::stride_y, ::stride_x].sum(axis=(4, 5))
    return _Psum(values, tensor.scale, np.full(values.shape[1], 1.0 / (rows * columns)))


def _resized(call: relax.Call, tensor: _Tensor, size: tuple[int, ...]) -> _Psum:
    """Along each direction, pixel ``x`` lies at ``(x + 1/2) before / after - 1/2``: a whole number of its units."""
    how = str(call.attrs.method), str(call.attrs.coordinate_transformation_mode)
    if how == ("linear", "align_corners"):
        return _resized_by_corners(tensor, size)
    if how not in (("linear", "half_pixel"), ("linear", "pytorch_half_pixel")):
        raise _NoMeaningError("a resize that is not bilinear with half-pixel centres")
    values, unit = tensor.centred(), 1
    for axis, after in zip((2, 3), size, strict=True):
        before = values.shape[axis]
        common = math.gcd(before, after)
        up, down = after // common, before // common
        place = (2 * np.arange(after) + 1) * down - up  # in units of 1 / (2 up)
        first, share = np.divmod(place, 2 * up)
        near, far = (np.take(values, np.clip(first + step, 0, before - 1), axis) for step in (0, 1))
        shape = [1, 1, 1, 1]
        shape[axis] = after
        values = near * (2 * up - share).reshape(shape) + far * share.reshape(shape)
        unit *= 2 * up
    return _Psum(values, tensor.scale, np.full(values.shape[1], 1.0 / unit))


def _resized_by_corners(tensor: _Tensor, size: tuple[int, ...]) -> _Psum:
    values = tensor.centred()
    for axis, after in zip((2, 3), size, strict=True):
        before = values.shape[axis]
        if after < 2 * before:
            raise _NoMeaningError("a resize with aligned corners to less than twice the size")
        first, share = numerics.corner_places(np.arange(after), numerics.corner_step(before, after))
        near, far = (np.take(values, np.minimum(first + step, before - 1), axis) for step in (0, 1))
        values = numerics.interpolate(near, far, share[:, None] if axis == 2 else share)
    return _Psum(values, tensor.scale, np.full(values.shape[1], _SAMPLE_SHARE))


def _concatenated(call: relax.Call, parts: tuple[Any, ...]) -> _Concat:
    if int(call.attrs.axis) != 1:
        raise _NoMeaningError("concatenation along another axis than the channels")
    return _Concat(tuple(_tensor(part) for part in parts))


def _moved(op: str, call: relax.Call, tensor: _Tensor, operands: list[Any]) -> _Tensor:
    codes = tensor.codes
    match op:
        case "nn.pixel_shuffle":
            r = int(call.attrs.upscale_factor)
            n, c, h, w = codes.shape
            split = codes.reshape(n, c // (r * r), r, r, h, w)
            moved = split.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (r * r), h * r, w * r)
        case "repeat":
            moved = np.repeat(codes, int(call.attrs.repeats), axis=int(call.attrs.axis))
        case "tile":
            moved = np.tile(codes, tuple(int(times) for times in call.attrs.repeats))
        case "reshape":
            moved = codes.reshape(operands[1])
        case "permute_dims":
            moved = codes.transpose(tuple(int(axis) for axis in call.attrs.axes))
        case "strided_slice":
            axes, begins, ends = operands[1:4]
            strides = operands[4] if len(operands) > 4 else (1,) * len(axes)
            index = [slice(None)] * codes.ndim
            for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
                index[int(axis)] = slice(int(begin), int(end), int(stride))
            moved = codes[tuple(index)]
        case _:
            raise _NoMeaningError("an operator of the host")
    return replace(tensor, codes=np.ascontiguousarray(moved))


Kernel = Callable[[relax.Call, Exact, Exact], Exact]
"""Sums over ``x: [Cin, H, W]`` and weights of one group, in a floating type wide enough to be exact."""


def _convolution(call: relax.Call, source: Any, weight: Any, kernel: Kernel) -> _Psum:
    tensor = _tensor(source)
    if not isinstance(weight, _Weight):
        raise _NoMeaningError("weights that are not int8 constants")
    if tensor.wide and weight.codes.dtype == np.int16:
        return _both_wide(call, tensor, weight, kernel)
    groups = int(call.attrs.groups)
    # Whole numbers below 2**24 are exact in float32, below 2**53 in float64, whatever the order of summation.
    others = tuple(axis for axis in range(4) if axis != weight.axis)
    bound = (65535 if tensor.wide else 255) * int(np.abs(weight.codes.astype(np.int64)).sum(axis=others).max(initial=0))
    exact: type[np.floating[Any]] = np.float32 if bound < 2**24 else np.float64
    x = tensor.centred()[0].astype(exact) if tensor.wide else (
        tensor.codes[0].astype(np.int16) - np.int16(tensor.zero_point)
    ).astype(exact)  # fmt: skip
    w = weight.codes.astype(exact)
    parts = [
        kernel(call, part, kernels) for part, kernels in zip(np.split(x, groups), np.split(w, groups), strict=True)
    ]
    psum = np.concatenate(parts)[None]
    scales = np.tile(weight.scales, psum.shape[1] // len(weight.scales))
    return _Psum(_within_int32(psum), tensor.scale, scales)


def _both_wide(call: relax.Call, tensor: _Tensor, weight: _Weight, kernel: Kernel) -> _Psum:
    """In units of 256: high bytes of activations by whole weights, low bytes by high ones, and low by low left out."""
    high, low = np.split(numerics.byte_planes(tensor.codes.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), 2, 1)
    leading = np.split(numerics.byte_planes(np.moveaxis(weight.codes, weight.axis, 3)), 2, 3)[0].astype(np.int16)
    parts = [
        _convolution(call, _Tensor(codes, 256.0 * tensor.scale, 0), replace(weight, codes=kernels), kernel)
        for codes, kernels in ((high, weight.codes), (low, np.moveaxis(leading, 3, weight.axis)))
    ]
    return replace(parts[0], values=_within_int32(parts[0].values + parts[1].values))


def _within_int32(psum: NDArray[Any]) -> Wide:
    if psum.size and (psum.max() > numerics.INT32_MAX or psum.min() < numerics.INT32_MIN):
        raise OverflowError(f"a psum of {np.abs(psum).max():.0f} does not fit 32 bits")
    return psum.astype(np.int64)
