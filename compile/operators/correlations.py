"""Local cost volumes: what exporters spell as hundreds of operators becomes one node.

After :func:`recognise_correlations` a concatenation of ``mean(first * slice(pad(second)))`` for all displacements up to
a reach, rows of displacements first, is ``correlation``: ``first``, ``second``: ``[1, C, H, W]`` to
``[1, (2 reach + 1)^2, H, W]``. Relax has no such operator; there it is five, the first a convolution that moves::

    moved = nn.conv2d(second, const [C d, 1, k, k], groups=C)        d = k^2 displacements, k = 2 reach + 1
    all = reshape(multiply(repeat(first, d), moved), [1, C, d, H, W]); mean(all, axis=1)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codesign.compile.ir.graph import Editor, Graph, Node


def recognise_correlations(graph: Graph) -> Graph:
    """``graph`` with ``correlation`` nodes, attribute ``reach``."""
    editor = Editor(graph)
    for node in graph.nodes:
        match node.op:
            case "concat":
                found = _correlation(graph, node)
            case "mean":
                found = _respelt(graph, node)
            case _:
                found = None
        if found is None:
            editor.keep(node)
        else:
            first, second, reach = found
            editor.keep(node, op="correlation", inputs=(first, second), attributes={"reach": reach})
    return editor.graph()


def displacements(channels: int, reach: int) -> NDArray[np.float32]:
    """Kernels ``[C d, 1, k, k]`` that move each of ``channels`` by every displacement."""
    side = 2 * reach + 1
    return np.tile(np.eye(side * side, dtype=np.float32), (channels, 1)).reshape(-1, 1, side, side)


def reach_of(kernels: NDArray[np.float32], channels: int) -> int | None:
    """The reach of :func:`displacements`, or None for other kernels."""
    reach = kernels.shape[2] // 2
    expected = (channels * (2 * reach + 1) ** 2, 1, 2 * reach + 1, 2 * reach + 1)
    same = kernels.shape == expected and np.array_equal(kernels, displacements(channels, reach))
    return reach if same and reach else None


def _respelt(graph: Graph, node: Node) -> tuple[str, str, int] | None:
    """``(first, second, reach)`` of Relax's spelling of a cost volume, or None."""
    spread = graph.by_name.get(node.inputs[0])
    product = graph.by_name.get(spread.inputs[0]) if spread is not None and spread.op == "reshape" else None
    if spread is None or product is None or product.op != "multiply" or len(spread.shape) != 5:
        return None
    repeated, moved = (graph.by_name.get(name) for name in product.inputs)
    if repeated is None or repeated.op != "repeat" or moved is None or moved.op != "nn.conv2d":
        return None
    first, second = repeated.inputs[0], moved.inputs[0]
    channels, kernels = graph.shape_of(second)[1], graph.constants.get(moved.inputs[1])
    reach = None if kernels is None else reach_of(kernels, channels)
    mean = tuple(node.attributes["axis"] or ()) == (1,) and not node.attributes["keepdims"]
    same = graph.shape_of(first) == graph.shape_of(second) and moved.attributes["groups"] == channels
    return (first, second, reach) if reach and mean and same and repeated.attributes["axis"] == 1 else None


def _correlation(graph: Graph, node: Node) -> tuple[str, str, int] | None:
    """``(first, second, reach)`` of a cost volume, or None."""
    window = math.isqrt(len(node.inputs))
    if window < 3 or window % 2 == 0 or window**2 != len(node.inputs) or int(node.attributes["axis"]) != 1:
        return None
    operands = set()
    for index, name in enumerate(node.inputs):
        term = _term(graph, name)
        if term is None or term[2:] != divmod(index, window):
            return None
        operands.add(term[:2])
    if len(operands) != 1:
        return None
    first, around = operands.pop()
    pad = graph.by_name.get(around)
    reach = window // 2
    if pad is None or pad.op != "nn.pad" or graph.shape_of(pad.inputs[0]) != graph.shape_of(first):
        return None
    attributes = pad.attributes
    zeros = attributes["pad_mode"] == "constant" and float(attributes["pad_value"]) == 0.0
    if not zeros or tuple(attributes["pad_width"]) != (0, 0, 0, 0, reach, reach, reach, reach):
        return None
    return first, pad.inputs[0], reach


def _term(graph: Graph, name: str) -> tuple[str, str, int, int] | None:
    """``(first, padded second, row, column)`` of one displacement's mean over the channels."""
    mean = graph.by_name.get(name)
    if mean is None or mean.op != "mean" or tuple(mean.attributes["axis"] or ()) not in ((1,), (-3,)):
        return None
    product = graph.by_name.get(mean.inputs[0])
    if product is None or product.op != "multiply" or not mean.attributes["keepdims"]:
        return None
    for first, moved in (product.inputs, product.inputs[::-1]):
        at = {2: 0, 3: 0}
        cut = graph.by_name.get(moved)
        while cut is not None and cut.op == "strided_slice" and _plain(graph, cut):
            for axis, begin in zip(cut.attributes["axes"], cut.attributes["begin"], strict=True):
                at[axis] += begin
            moved = cut.inputs[0]
            cut = graph.by_name.get(moved)
        if cut is not None and cut.op == "nn.pad" and graph.shape_of(first) == product.shape:
            return first, moved, at[2], at[3]
    return None


def _plain(graph: Graph, cut: Node) -> bool:
    """Whether a slice takes rows or columns one by one, from a place inside the frame."""
    attributes = cut.attributes
    strides = attributes.get("strides") or [1] * len(attributes["axes"])
    begins = zip(attributes["axes"], attributes["begin"], strict=True)
    inside = all(axis in (2, 3) and 0 <= begin < graph.shape_of(cut.inputs[0])[axis] for axis, begin in begins)
    return inside and all(int(stride) == 1 for stride in strides)
