"""Tables of 256 entries: pointwise functions of an int8 tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import INT8_MAX, INT8_MIN


def apply_table(q: NDArray[np.int8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """``table[q + 128]``; ``table: int8[256]``."""
    return np.asarray(table[q.astype(np.int64) + 128], dtype=np.int8)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


TABLE_FUNCTIONS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "tanh": math.tanh,
        "sigmoid": _sigmoid,
        "gelu": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
        "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x * _sigmoid(x),
        "hardswish": lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0,
        "hardsigmoid": lambda x: min(max(x + 3.0, 0.0), 6.0) / 6.0,
        "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
        "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
        "exp": lambda x: math.exp(min(x, 700.0)),
        "erf": math.erf,
        "abs": abs,
        "sqrt": lambda x: math.sqrt(x) if x > 0 else 0.0,
        "rsqrt": lambda x: 1.0 / math.sqrt(x) if x > 0 else math.inf,
        "square": lambda x: x * x,
        "sin": math.sin,
        "cos": math.cos,
        "log": lambda x: math.log(x) if x > 0 else -math.inf,
        "sign": lambda x: float((x > 0) - (x < 0)),
    }
)
"""The functions that a 256-entry table can stand for, by name."""


def function_table(
    name: str, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> NDArray[np.int8]:
    """``int8[256]``: entry ``q + 128`` is the code of ``TABLE_FUNCTIONS[name]`` at ``s_in (q - z_in)``.

    Computed in float64, rounded half to even. Raises ``KeyError`` for an unknown function.
    """
    function = TABLE_FUNCTIONS[name]
    x = (np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.float64) - input_zero_point) * float(input_scale)
    y = np.array([function(float(value)) for value in x], np.float64) / float(output_scale)
    return np.asarray(np.clip(np.rint(y) + output_zero_point, INT8_MIN, INT8_MAX), np.int8)
