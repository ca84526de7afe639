"""Operators of an exported torch program, respelled before TVM's importer reads them.

It drops the factor ``alpha`` of additions and subtractions, and takes a number for the type of the tensor beside it, so
that half of an integer was nothing.
"""

from __future__ import annotations

from typing import Any

import torch

_ATEN = torch.ops.aten
_SCALED = frozenset(
    {_ATEN.add.Tensor, _ATEN.add.Scalar, _ATEN.sub.Tensor, _ATEN.sub.Scalar, _ATEN.rsub.Tensor, _ATEN.rsub.Scalar}
)
_PROMOTED = _SCALED | {
    *(_ATEN.mul.Tensor, _ATEN.mul.Scalar, _ATEN.div.Tensor, _ATEN.div.Scalar),
    *(_ATEN.pow.Tensor_Scalar, _ATEN.pow.Tensor_Tensor, _ATEN.pow.Scalar),
}
_PROMOTED |= {
    getattr(_ATEN, name).default
    for name in [
        "reciprocal",
        "sqrt",
        "rsqrt",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "asin",
        "acos",
        "atan",
        "sigmoid",
        "erf",
    ]
}


def respell(program: torch.export.ExportedProgram) -> None:
    """Write factors and conversions of ``program``'s arithmetic as operators of their own."""
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target in _PROMOTED:
            _convert(program.graph, node)
            if node.target in _SCALED:
                _scale(program.graph, node)


def _convert(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Integers that a floating-point result is made of become that type first."""
    made = node.meta["val"].dtype
    if not made.is_floating_point:
        return
    operands = list(node.args)
    for position, operand in enumerate(operands[:2]):
        if isinstance(operand, torch.fx.Node) and not _dtype(operand).is_floating_point:
            with graph.inserting_before(node):
                cast = graph.call_function(_ATEN._to_copy.default, (operand,), {"dtype": made})
            cast.meta = {**node.meta, "val": operand.meta["val"].to(made)}
            operands[position] = cast
    node.args = tuple(operands)


def _scale(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    given: dict[str, Any] = dict(node.kwargs)
    first, second, *more = node.args
    alpha: Any = more[0] if more else given.pop("alpha", 1)
    if alpha != 1:
        if isinstance(second, torch.fx.Node):
            with graph.inserting_before(node):
                scaled = graph.call_function(_ATEN.mul.Tensor, (second, alpha))
            scaled.meta = {**node.meta, "val": second.meta["val"] * alpha}
            second = scaled
        else:
            second = second * alpha
    node.args, node.kwargs = (first, second), given


def _dtype(node: torch.fx.Node) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype
