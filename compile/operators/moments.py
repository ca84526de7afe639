"""Means and variances as exporters write them out, of tensors that are normalised by them."""

from __future__ import annotations

from codesign.compile.graph.graph import Graph, Node


def normalised_by(graph: Graph, node: Node, axes: tuple[int, ...]) -> tuple[str, float] | None:
    """``(x, epsilon)`` when ``node`` is ``(x - mean x) / sqrt(variance + epsilon)`` over ``axes``, all of them >= 0."""
    if len(node.inputs) != 2:
        return None
    pairs = {"multiply": (node.inputs, node.inputs[::-1]), "divide": (node.inputs,)}.get(node.op, ())
    for centred, deviation in pairs:
        source = _centred(graph, centred, axes)
        root = graph.by_name.get(deviation)
        if source is None or root is None or root.op != ("rsqrt" if node.op == "multiply" else "sqrt"):
            continue
        raised = graph.by_name.get(root.inputs[0])
        epsilon = graph.scalar(raised.inputs[1]) if raised is not None and raised.op == "add" else None
        if (
            raised is not None
            and epsilon is not None
            and epsilon >= 0
            and _variance_of(graph, raised.inputs[0], axes) == source
        ):
            return source, epsilon
    return None


def _centred(graph: Graph, name: str, axes: tuple[int, ...]) -> str | None:
    """``x`` of ``x - mean x``."""
    node = graph.by_name.get(name)
    if node is None or node.op != "subtract":
        return None
    return node.inputs[0] if _mean_of(graph, node.inputs[1], axes) == node.inputs[0] else None


def _mean_of(graph: Graph, name: str, axes: tuple[int, ...], op: str = "mean") -> str | None:
    """The tensor that ``name`` is the mean of, over ``axes``; None if it is no such mean."""
    node = graph.by_name.get(name)
    if node is None or node.op != op or not node.attributes["keepdims"]:
        return None
    rank = len(graph.shape_of(node.inputs[0]))
    return node.inputs[0] if tuple(sorted(axis % rank for axis in node.attributes["axis"] or ())) == axes else None


def _variance_of(graph: Graph, name: str, axes: tuple[int, ...]) -> str | None:
    if (whole := _mean_of(graph, name, axes, "variance")) is not None:
        return whole
    squares = graph.by_name.get(_mean_of(graph, name, axes) or "")
    if squares is None:
        return None
    squared = squares.op == "square" or (squares.op == "power" and graph.scalar(squares.inputs[1]) == 2.0)
    if squared or (squares.op == "multiply" and squares.inputs[0] == squares.inputs[1]):
        return _centred(graph, squares.inputs[0], axes)
    return None
