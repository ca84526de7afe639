"""Operators of ONNX in plain Relax: those that TVM's importer writes as loops, or of which it leaves something out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from codesign.compile.importing.spelling.resize import Emit, Rule, resized
from codesign.compile.importing.spelling.slices import backwards
from codesign.hw.errors import InputError


def converted(emit: Emit, op_name: str, inputs: Any, attributes: Any, opset: int) -> Any:
    """The operator's result, or None for what TVM's importer does as well. No later pass could recognise its loops."""
    match op_name:
        case "Slice":
            return _slice(emit, inputs, attributes, opset)
        case "Resize" | "Upsample" if _rank(inputs[0]) == 4:
            return _resize(emit, op_name, inputs, attributes, opset)
        case "Clip":
            if opset < 11:
                low, high = attributes.get("min", -math.inf), attributes.get("max", math.inf)
            else:
                low, high = _number(inputs[1], -math.inf), _number(inputs[2], math.inf)
            return None if low is None or high is None else relax.op.clip(inputs[0], float(low), float(high))
        case "Pad":
            return _padded(inputs, attributes, opset)
        case "Gather" if isinstance(inputs[0], relax.Var):
            return _gathered(inputs, attributes)
        case "Tile":
            repeats = _numbers(inputs[1])
            return None if repeats is None else relax.op.tile(inputs[0], repeats)
        case _:
            return None


def _padded(inputs: Any, attributes: Any, opset: int) -> Any:
    """A frame of constants, or a smaller one."""
    rank = len(inputs[0].ty.shape.values)
    axes: list[int] | None = list(range(rank))
    widths: list[int] | None
    if opset < 11:
        widths, value = list(attributes.get("pads", attributes.get("paddings"))), attributes.get("value", 0.0)
    else:
        widths, value = _numbers(inputs[1]), _number(inputs[2], 0.0)
        axes = axes if inputs[3] is None else _numbers(inputs[3])
    if attributes.get("mode", b"constant") != b"constant" or widths is None or value is None or axes is None:
        return None
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis % rank], after[axis % rank] = widths[place], widths[place + len(axes)]
    x = inputs[0]
    if min(*before, *after) < 0:
        begin = [max(0, -width) for width in before]
        ends = zip(x.ty.shape.values, after, strict=True)
        end = [int(extent) - max(0, -width) for extent, width in ends]
        x = relax.op.strided_slice(x, list(range(rank)), begin, end, [1] * rank)
    if max(*before, *after) <= 0:
        return x
    pairs = [max(0, width) for pair in zip(before, after, strict=True) for width in pair]
    return relax.op.nn.pad(x, pairs, "constant", float(value))


def _gathered(inputs: Any, attributes: Any) -> Any:
    """What stands at constant places."""
    if not isinstance(inputs[1], tvm.ir.GenericConst):
        return None
    places, axis = inputs[1].value.numpy(), attributes.get("axis", 0)
    extent = int(inputs[0].ty.shape.values[axis])
    if places.size and not -extent <= places.min() <= places.max() < extent:
        raise InputError(
            f"takes place {places.max()} of {extent}", where="Gather", hint="Export or download the model again."
        )
    wrapped = (places + extent * (places < 0)).astype("int64")
    return relax.op.take(inputs[0], relax.const(wrapped, "int64"), axis % len(inputs[0].ty.shape.values))


def _rank(value: Any) -> int | None:
    """Dimensions of a tensor of static shape, else ``None``."""
    shape = getattr(getattr(value, "ty", None), "shape", None)
    return len(shape.values) if isinstance(shape, relax.ShapeExpr) else None


def _slice(emit: Emit, inputs: Any, attributes: Any, opset: int) -> Any:
    if _rank(inputs[0]) is None or not isinstance(inputs[0], relax.Expr) or opset < 10:  # before, there were no steps
        return None
    starts, ends, axes, steps = (_numbers(one) for one in [*inputs, None, None][1:5])
    if starts is None or ends is None or steps is None:
        return None
    return backwards(emit, inputs[0], starts, ends, list(range(len(starts))) if axes is None else axes, steps)


def _resize(emit: Emit, op_name: str, inputs: Any, attributes: Any, opset: int) -> Any:
    """A resize of height and width by constants; ``None`` for what the standard has besides."""
    x, operands = inputs[0], [*inputs, None, None, None]
    before = [int(extent) for extent in x.ty.shape.values]
    if op_name == "Upsample" or opset < 11:
        scales, sizes = (attributes.get("scales") if op_name == "Upsample" and opset < 9 else _reals(operands[1])), None
    else:
        scales, sizes = _reals(operands[2]), _numbers(operands[3])
    how = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
    if how.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    axes = [int(axis) % 4 for axis in how.get("axes", range(4))]
    if sizes:
        after = dict(zip(axes, sizes, strict=True))
        factor = {axis: size / before[axis] for axis, size in after.items()}
    elif scales:
        factor = {axis: float(np.float32(scale)) for axis, scale in zip(axes, scales, strict=True)}
        after = {axis: math.floor(np.float32(scale) * np.float32(before[axis])) for axis, scale in factor.items()}
    else:
        return None
    coordinates = str(how.get("coordinate_transformation_mode", "half_pixel" if opset >= 11 else "asymmetric"))
    mode = {"bilinear": "linear"}.get(str(how.get("mode", "nearest")), str(how.get("mode", "nearest")))
    if how.get("antialias") and any(one < 1 for one in factor.values()):
        return None  # its filter is not torch's
    if coordinates == "tf_crop_and_resize" or any(after.get(axis, before[axis]) != before[axis] for axis in (0, 1)):
        return None
    if all(after.get(axis, side) == side for axis, side in enumerate(before)):
        return x  # whatever the scale: ONNX Runtime copies
    rules = tuple(
        Rule(
            mode,
            coordinates,
            factor.get(axis, 1.0),
            str(how.get("nearest_mode", "round_prefer_floor")) if opset >= 11 else "simple",
            float(how.get("cubic_coeff_a", -0.75)),
            bool(how.get("exclude_outside", 0)),
        )
        for axis in (2, 3)
    )
    return resized(emit, x, (after.get(2, before[2]), after.get(3, before[3])), (rules[0], rules[1]))


def _reals(value: Any) -> list[float] | None:
    """The numbers of a constant, or ``None``."""
    return [float(item) for item in value.value.numpy().reshape(-1)] if isinstance(value, tvm.ir.GenericConst) else None


def _numbers(value: Any) -> list[int] | None:
    """The integers of a constant, or ``None``."""
    return [int(item) for item in value.value.numpy().reshape(-1)] if isinstance(value, tvm.ir.GenericConst) else None


def _number(value: Any, default: float) -> float | None:
    """A constant scalar; ``default`` where the operand is left out or not a number; ``None`` if not constant."""
    if value is None:
        return default
    if not isinstance(value, tvm.ir.GenericConst):
        return None
    number = float(value.value.numpy().reshape(-1)[0])
    return default if math.isnan(number) else number
