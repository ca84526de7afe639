"""Size arithmetic: sympy's and Python's spellings are evaluated correctly, and no text runs or takes long."""

from __future__ import annotations

import math

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._sympy.functions import FloorDiv, Mod

from codesign.compile.importing import pt2_sizes


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "Pow(9, Pow(9, Pow(9, 9)))",
        "Pow(Integer(2), Integer(63))",
        "2**-99999999999",
        "1" * 40 + "!",
        "(" * 20000 + "1" + ")" * 20000,
        "9" * 5_000_000,
        "",
        "Float(nan)",
        "oo",
        "x",
        "[1]*10**9",
        "'a'*10**9",
        "f'{1}'",
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "1/0",
        "Mod(3, 0)",
        "1 if 1 else 2",
        "Mul(" + "Integer(4611686018427387904), " * 9 + ")",
        "Add(1, 2",
        "L['x'].size()[9]",
        "L['x'].stride()[0]",
        "-" * 3000 + "1",
        "Max()",
        "Integer('9999999999999999999999')",
        "math.factorial(99999)",
        "1e999",
        "RoundToInt(5, -1000000000)",
        "None",
        "...",
    ],
)
def test_expressions_that_are_no_bounded_arithmetic(text: str) -> None:
    with pytest.raises(pt2_sizes.SizeError):
        pt2_sizes.evaluate(text, {"s0": 16}, (1, 3, 16, 16))


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789*+-/%()[],.'\"PowMulAddSymbolL xsize"), max_size=60))
def test_any_text_ends(text: str) -> None:
    try:
        value = pt2_sizes.evaluate(text, {"s0": 16}, (1, 3, 16, 16))
    except pt2_sizes.SizeError:
        return
    assert math.isfinite(value)


_S0, _S1 = sympy.Symbol("s0", positive=True, integer=True), sympy.Symbol("s1", positive=True, integer=True)
_EXPRESSIONS = st.recursive(
    st.sampled_from([_S0, _S1]) | st.integers(0, 64).map(sympy.Integer),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda ab: ab[0] + ab[1]),
        st.tuples(inner, inner).map(lambda ab: ab[0] * ab[1]),
        st.tuples(inner, st.integers(1, 16)).map(lambda ab: Mod(ab[0], sympy.Integer(ab[1]))),
        st.tuples(inner, st.integers(1, 16)).map(lambda ab: FloorDiv(ab[0], sympy.Integer(ab[1]))),
        st.tuples(inner, inner).map(lambda ab: sympy.Max(*ab)),
        inner.map(lambda a: a**2),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_EXPRESSIONS, st.integers(1, 200), st.integers(1, 200))
def test_arithmetic_is_sympys(expression: sympy.Expr, s0: int, s1: int) -> None:
    expected = expression.subs({_S0: s0, _S1: s1})
    if abs(expected) > 2**40:
        return
    assert pt2_sizes.evaluate(sympy.srepr(expression), {"s0": s0, "s1": s1}) == expected
