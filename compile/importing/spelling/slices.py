"""Slices that run backwards, as a turned axis and a slice that runs forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from codesign.compile.importing.spelling.resize import Emit


def backwards(
    emit: Emit, x: Any, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Any | None:
    """``x`` sliced as the ONNX standard says; None where no step is negative, or nothing would be left."""
    if min(steps, default=1) > 0:
        return None
    shape = [int(extent) for extent in x.ty.shape]
    forwards: list[tuple[int, int, int, int]] = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = shape[axis]
        kept = range(*slice(start, end, step).indices(extent))
        if not kept:
            return None
        first, stride = (extent - 1 - kept[0], -step) if step < 0 else (kept[0], step)
        forwards.append((axis % len(shape), first, first + (len(kept) - 1) * stride + 1, stride))
        if step < 0:
            x = emit(relax.op.flip(x, axis % len(shape)))
    whole = all((first, end, stride) == (0, shape[axis], 1) for axis, first, end, stride in forwards)
    if whole:
        return x
    turned = [list(one) for one in zip(*forwards, strict=True)]
    return emit(relax.op.strided_slice(x, *turned))
