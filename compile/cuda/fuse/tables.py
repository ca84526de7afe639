"""Functions of one value in element-wise chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from codesign.hw.numerics import evaluate_steps
from codesign.kernels.chain import Apply, Kind

_FAST: Mapping[str, Kind] = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "gelu": "gelu_erf",
    "silu": "silu",
    "gelu_tanh": "gelu_tanh",
}
"""Functions that chains compute in one step, whatever they were written as."""

_STEPS: Mapping[str, Kind] = {
    **_FAST,
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "maximum": "maximum",
    "minimum": "minimum",
    "clip": "clip",
    "leakyrelu": "leaky_relu",
}

_PLACES = np.linspace(-9.0, 9.0, 181)
_CLOSE = 1e-5


@lru_cache(maxsize=256)
def fast_kind(steps: tuple[str, ...]) -> Kind | None:
    """The one step that computes the function of ``steps``; None if there is none. Found by what it computes."""
    values = np.array([evaluate_steps(steps, float(x)) for x in _PLACES])
    for name, kind in _FAST.items():
        wanted = np.array([evaluate_steps((f"{name} x",), float(x)) for x in _PLACES])
        if np.allclose(values, wanted, rtol=0.0, atol=_CLOSE):
            return kind
    return None


def chain_steps(steps: Sequence[str], first: int) -> tuple[Apply, ...] | None:
    """``steps`` of value ``first`` of a chain, as the chain's steps after it; None for a function without a kernel."""
    if (kind := fast_kind(tuple(steps))) is not None:
        return (Apply(kind, (first,)),)
    found = []
    for name, *operands in map(str.split, steps):
        if name == "negative":
            name, operands = "multiply", [*operands, "-1.0"]
        if name == "divide" and not operands[1].isdigit() and operands[1] != "x" and float(operands[1]) != 0.0:
            name, operands = "multiply", [operands[0], repr(1.0 / float(operands[1]))]
        if name not in _STEPS:
            return None
        found.append(Apply(_STEPS[name], tuple(_operand(operand, first) for operand in operands)))
    return tuple(found)


def _operand(operand: str, first: int) -> int | float:
    if operand == "x":
        return first
    return int(operand) + first + 1 if operand.isdigit() else float(operand)
