"""Size arithmetic of ``.pt2`` archives: expressions over a frame's extents, evaluated without running their text.

torch writes two spellings: sympy's (``Add(Integer(8), Mul(Integer(-1), Symbol('s0', integer=True)))``) for extents, and
Python's (``2*L['x'].size()[2] < 64``) for guards. Both are parsed to a syntax tree, of which a few kinds of node are
evaluated over integers. Length, depth and the size of every intermediate number are bounded, so evaluation takes
milliseconds whatever the text says.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 4096
MAX_NUMBER = 2**62
MAX_EXPONENT = 62

Number = int | float | bool


class SizeError(ValueError):
    """An expression that is not bounded arithmetic; the message says why."""


def bounded(value: Any) -> Number:
    """``value`` if it is a finite number of at most 2**62. Raises :class:`SizeError` otherwise."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise SizeError("a size beyond 2**62, or none at all")
    return value


def power(base: Number, exponent: Number) -> Number:
    """``base ** exponent``, of which every step stays below 2**62. Raises :class:`SizeError` otherwise."""
    if abs(exponent) > MAX_EXPONENT or (abs(base) > 1 and abs(exponent) * math.log2(abs(base)) > MAX_EXPONENT):
        raise SizeError("a power beyond 2**62")
    result = bounded(base) ** exponent
    return bounded(result)


def _ceil_div(a: Number, b: Number) -> Number:
    return -((-a) // b)


SYMBOLIC: Mapping[str, Callable[..., Any]] = {
    "Add": lambda *values: sum(values),
    "Mul": lambda *values: bounded_product(values),
    "Pow": power,
    "Min": min,
    "Max": max,
    "Integer": lambda value: value,
    "Float": lambda value, **_: float(value),
    "Rational": operator.truediv,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "CeilDiv": _ceil_div,
    "IntTrueDiv": operator.truediv,
    "FloatTrueDiv": operator.truediv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "ModularIndexing": lambda a, b, c: a // b % c,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "TruncToInt": math.trunc,
    "RoundToInt": lambda value: round(value),
    "ToFloat": float,
    "Eq": operator.eq,
    "Ne": operator.ne,
    "Le": operator.le,
    "Lt": operator.lt,
    "Ge": operator.ge,
    "Gt": operator.gt,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "LessThan": operator.le,
    "StrictLessThan": operator.lt,
    "GreaterThan": operator.ge,
    "StrictGreaterThan": operator.gt,
    "And": lambda *values: all(values),
    "Or": lambda *values: any(values),
    "Not": operator.not_,
    "max": max,
    "min": min,
}
"""Functions of both spellings."""

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Pow: power,
}
_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def bounded_product(values: Sequence[Number]) -> Number:
    """Product of which every step stays below 2**62. Raises :class:`SizeError` otherwise."""
    result: Number = 1
    for value in values:
        result = bounded(result * value)
    return result


def evaluate(text: str, symbols: Mapping[str, int], extents: Sequence[int] = ()) -> Number:
    """Value of ``text``: ``symbols`` are sympy's, ``extents`` the image's (what guards call ``L['x'].size()[i]``).

    Raises :class:`SizeError` for anything but arithmetic that stays below 2**62, for an unknown symbol, and for a
    division by zero.
    """
    try:
        return _Evaluation(symbols, extents).value(_parsed(text))
    except (ArithmeticError, TypeError, IndexError, RecursionError, ValueError) as error:
        raise error if isinstance(error, SizeError) else SizeError(f"{type(error).__name__}") from error


def symbol_of(text: str) -> str | None:
    """Name of the symbol that ``text`` is, if it is nothing but one. Raises :class:`SizeError` as :func:`evaluate`."""
    node = _parsed(text)
    return _symbol(node) if isinstance(node, ast.Call) and _called(node) == "Symbol" else None


def symbols_in(text: str) -> set[str]:
    """Names of all symbols in ``text``. Raises :class:`SizeError` as :func:`evaluate`."""
    calls = [node for node in ast.walk(_parsed(text)) if isinstance(node, ast.Call)]
    return {_symbol(call) for call in calls if _called(call) == "Symbol"}


def _parsed(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise SizeError(f"{len(text)} characters, more than {MAX_CHARACTERS}")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise SizeError("no expression") from error


def _called(call: ast.Call) -> str | None:
    """Name of the function that is called, where it is a plain name."""
    return call.func.id if isinstance(call.func, ast.Name) else None


def _symbol(call: ast.Call) -> str:
    match call.args:
        case [ast.Constant(value=str(name))]:
            return name
    raise SizeError("a symbol without a name")


class _Evaluation:
    def __init__(self, symbols: Mapping[str, int], extents: Sequence[int]) -> None:
        self.symbols, self.extents = symbols, extents

    def value(self, node: ast.expr) -> Number:
        return bounded(self._value(node))

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=(int() | float()) as number):
                return number
            case ast.Call(func=ast.Name(id="Symbol")):
                name = _symbol(node)
                if name not in self.symbols:
                    raise SizeError(f"'{name[:40]}' stands for no extent of the image")
                return self.symbols[name]
            case ast.Call(func=ast.Name(id=("Float" | "Integer") as kind), args=[ast.Constant(value=str(digits)), *_]):
                return float(digits) if kind == "Float" else int(digits)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in SYMBOLIC:
                return SYMBOLIC[name](*map(self.value, arguments))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=("floor" | "ceil" | "trunc") as name)):
                return getattr(math, name)(*map(self.value, node.args))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.value(operand)
            case ast.BoolOp(op=op, values=values):
                return (all if isinstance(op, ast.And) else any)(self.value(one) for one in values)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARED for op in ops):
                found = [self.value(one) for one in (left, *others)]
                return all(_COMPARED[type(op)](a, b) for op, a, b in zip(ops, found, found[1:], strict=False))
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(value=ast.Subscript(value=ast.Name(id="L")), attr="size"), args=[]),
                slice=ast.Constant(value=int(index)),
            ):
                return self.extents[index]
        raise SizeError(f"{type(node).__name__} is not arithmetic")


def affine(text: str, symbol: str) -> tuple[int, int]:
    """Slope and offset of ``text``, an affine function of ``symbol`` alone, as derived extents are (``2*s0 + 1``).

    Raises :class:`SizeError` where it is no such function.
    """
    at = [evaluate(text, {symbol: value}) for value in (0, 1, 2, 7)]
    slope, offset = at[1] - at[0], at[0]
    if any(not isinstance(value, int) for value in at) or at[2:] != [offset + 2 * slope, offset + 7 * slope]:
        raise SizeError("an extent that is not a multiple of another and an offset")
    return int(slope), int(offset)
