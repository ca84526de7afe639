"""The operators that a ``.pt2`` archive may call: arithmetic on sizes, and those of :mod:`codesign.compile.ir.aten`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from codesign.compile.importing.pt2_sizes import bounded, power
from codesign.compile.ir import aten

_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.truediv": operator.truediv,
    "_operator.mod": operator.mod,
    "_operator.pow": power,
    "_operator.neg": operator.neg,
    "_operator.pos": operator.pos,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.le": operator.le,
    "_operator.lt": operator.lt,
    "_operator.ge": operator.ge,
    "_operator.gt": operator.gt,
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sum": lambda *values: sum(values),
    "torch.sym_ite": lambda condition, yes, no: yes if condition else no,
    "torch._sym_sqrt": math.sqrt,
    "torch.sym_sqrt": math.sqrt,
}
"""Operators on sizes. They work on numbers alone, and what they make is bounded."""

_ITEM = "_operator.getitem"


def called(target: str, named: list[tuple[str, Any]]) -> Any:
    """Result of ``target`` on arguments with their names."""
    values = [value for _, value in named]
    if target == _ITEM:
        sequence, index = values
        return sequence[index]
    if target in _ARITHMETIC:
        numbers = values[0] if target == "torch.sym_sum" else values
        return bounded(_ARITHMETIC[target](*map(bounded, numbers)))
    return aten.called(target, named)


def is_known(target: str) -> bool:
    """Whether :func:`called` knows the operator."""
    return target in _ARITHMETIC or target == _ITEM or aten.find_operator(target) is not None
