"""Arithmetic of a tensor and constants, or of two tensors, as element-wise chains."""

from __future__ import annotations

from typing import cast

from codesign.compile.graph.graph import Graph, Node
from codesign.kernels.chain import Apply, Chain, Kind, PerChannel, each_value, read, scale_channels

KINDS = ("add", "subtract", "multiply", "maximum", "minimum")

Reading = tuple[Chain, tuple[str, ...]]
"""A chain and the tensors that it reads."""


def chain_of(graph: Graph, node: Node) -> Reading | None:
    """The chain that computes ``node``; None for what is no arithmetic. It may read one channel as many equal ones."""
    if node.op not in KINDS:
        return None
    constant = graph.is_constant(node.inputs[1]) and graph.shape_of(node.inputs[0]) == node.shape
    return _of_constant(graph, node) if constant else _of_tensors(graph, node)


def _of_constant(graph: Graph, node: Node) -> Reading | None:
    """One number for all, or one a channel."""
    channels, (source, other) = node.shape[1], node.inputs
    value = graph.constants[other].reshape(-1)
    if value.size != 1 and graph.shape_of(other)[-3:] != (channels, 1, 1):
        return None
    operand = float(value[0]) if value.size == 1 else PerChannel(tuple(float(v) for v in value))
    return each_value(channels, (Apply(cast(Kind, node.op), (0, operand)),)), (source,)


def _of_tensors(graph: Graph, node: Node) -> Reading | None:
    """Both of the result's shape; or one of them of one channel, or of one pixel that it is multiplied by."""
    if not all(map(graph.is_activation, node.inputs)):
        return None
    channels, shapes = node.shape[1], [graph.shape_of(name) for name in node.inputs]
    pixel, plane = (1, channels, 1, 1), (1, 1, *node.shape[2:])
    if node.shape not in shapes:
        return None
    (other,) = [shape for shape in shapes if shape != node.shape] or [node.shape]
    if node.op == "multiply" and other == pixel != node.shape:
        return scale_channels(channels), node.inputs if shapes[0] == node.shape else node.inputs[::-1]
    if other not in (node.shape, plane):
        return None
    steps = (read(channels), read(channels, 1), Apply(cast(Kind, node.op), (0, 1)))
    return Chain(channels, (channels, channels), steps, (2,)), node.inputs
