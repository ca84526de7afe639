"""Factors and offsets by constants.

factor
    ``s_w`` times the scalar constant; of a tensor in codes ``psum = q - z_in`` and ``s_w`` is the constant.
offset
    ``psum + bias_integers(bias, s_in, s_w)``, one number per channel: a convolution's bias. ``|psum| >= 2**31`` raises.
"""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.referee.arrays import AnyInts, within_int32
from codesign.compile.referee.values import NoMeaningError, Psum, Value
from codesign.hw import numerics


def scaled(source: Value, factor: AnyInts) -> Psum:
    if factor.size != 1:
        raise NoMeaningError("a factor that is not one number")
    psum = source.psum()
    return replace(psum, scales=psum.scales * float(factor.reshape(-1)[0]))


def offset(psum: Psum, bias: AnyInts) -> Psum:
    if bias.shape != (1, psum.values.shape[1], 1, 1):
        raise NoMeaningError("a constant that is not one number per channel")
    units = numerics.bias_integers(bias, psum.input_scale, psum.scales).reshape(bias.shape)
    return replace(psum, values=within_int32(psum.values + units))
