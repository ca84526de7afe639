"""Tables of 256 entries: any function of one int8 value.

A function is a sequence of steps, ``"NAME OPERAND ..."`` each. An operand is ``x``, the value itself; a number, the
result of that earlier step, counted from 0; or a constant, which is written with a point or an exponent, or is ``inf``.
Hardswish is ``("add x 3.0", "clip 0 0.0 6.0", "multiply x 1", "divide 2 6.0")``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from codesign.hw.numerics.integers import INT8_MAX, INT8_MIN


def apply_table(q: NDArray[np.int8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """``table[q + 128]``; ``table: int8[256]``."""
    return np.asarray(table[q.astype(np.int64) + 128], dtype=np.int8)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _divide(a: float, b: float) -> float:
    if b != 0.0:
        return a / b
    return math.nan if a == 0.0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


TABLE_FUNCTIONS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "multiply": lambda a, b: a * b,
        "divide": _divide,
        "power": math.pow,
        "maximum": max,
        "minimum": min,
        "greater": lambda a, b: float(a > b),
        "greater_equal": lambda a, b: float(a >= b),
        "less": lambda a, b: float(a < b),
        "less_equal": lambda a, b: float(a <= b),
        "where": lambda condition, a, b: a if condition else b,
        "clip": lambda x, low, high: min(max(x, low), high),
        "relu": lambda x: max(x, 0.0),
        "leakyrelu": lambda x, slope: x if x >= 0 else slope * x,
        "negative": lambda x: -x,
        "tanh": math.tanh,
        "sigmoid": _sigmoid,
        "gelu": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
        "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x * _sigmoid(x),
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
"""The functions that steps are made of, by name."""


def evaluate_steps(steps: Sequence[str], x: float) -> float:
    """The result of the last of ``steps`` in float64; not a number where a function is not defined.

    Raises ``KeyError`` for an unknown function.
    """
    results: list[float] = []
    for step in steps:
        name, *operands = step.split()
        values = [x if one == "x" else results[int(one)] if one.isdigit() else float(one) for one in operands]
        try:
            results.append(float(TABLE_FUNCTIONS[name](*values)))
        except OverflowError:
            results.append(math.inf)
        except ValueError:
            results.append(math.nan)
    return results[-1]


def function_table(
    steps: Sequence[str], input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> NDArray[np.int8]:
    """``int8[256]``: entry ``q + 128`` is the code of the function at ``s_in (q - z_in)``.

    Computed in float64, rounded half to even; where the function is not a number, the entry stands for 0. Raises
    ``KeyError`` for an unknown function.
    """
    x = (np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.float64) - input_zero_point) * float(input_scale)
    y = np.array([evaluate_steps(steps, float(value)) for value in x], np.float64) / float(output_scale)
    return np.asarray(np.clip(np.rint(np.nan_to_num(y, nan=0.0)) + output_zero_point, INT8_MIN, INT8_MAX), np.int8)
