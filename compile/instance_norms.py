"""Instance normalisation: what exporters spell as two means and the arithmetic between them becomes one node.

After :func:`recognise_instance_norms`, ``instance_norm`` with attribute ``epsilon`` is every channel of a frame less
its mean, over the root of its variance plus epsilon. Relax's own operator has other attributes, so this is for targets
that have a kernel.
"""

from __future__ import annotations

import numpy as np

from codesign.compile.graph import Editor, Graph, Node


def recognise_instance_norms(graph: Graph) -> Graph:
    """``graph`` with ``instance_norm`` nodes."""
    editor = Editor(graph)
    for node in graph.nodes:
        found = _normalised(graph, node) if node.op == "multiply" else None
        if found is None:
            editor.keep(node)
        else:
            editor.keep(node, op="instance_norm", inputs=found[:1], attributes={"epsilon": found[1]})
    return editor.graph()


def _normalised(graph: Graph, node: Node) -> tuple[str, float] | None:
    """What ``node`` normalises, and epsilon."""
    for name, factor in (node.inputs, node.inputs[::-1]):
        centred, root = graph.by_name.get(name), graph.by_name.get(factor)
        if centred is None or root is None or centred.op != "subtract" or root.op != "rsqrt":
            continue
        offset = _offset(graph, root.inputs[0])
        if offset is None:
            continue
        variance, epsilon = offset
        square = graph.by_name.get(_averaged(graph, variance) or "")
        if square is None or square.op != "multiply" or set(square.inputs) != {name}:
            continue
        source, mean = centred.inputs
        if _averaged(graph, mean) == source and len(node.shape) == 4 and node.shape[0] == 1:
            return source, epsilon
    return None


def _offset(graph: Graph, name: str) -> tuple[str, float] | None:
    """What a positive number is added to, and the number; canonical graphs may say it by an identical convolution."""
    node = graph.by_name.get(name)
    values = graph.constants.get(node.inputs[1]) if node is not None and node.op == "add" else None
    if node is None or values is None or not np.all(values == values.reshape(-1)[0]) or not np.all(values > 0):
        return None
    source = node.inputs[0]
    conv = graph.by_name.get(source)
    weights = graph.constants.get(conv.inputs[1]) if conv is not None and conv.op == "nn.conv2d" else None
    if conv is not None and weights is not None:
        if conv.attributes["groups"] != 1 or weights.shape[2:] != (1, 1) or conv.shape[2:] != (1, 1):
            return None
        if not np.array_equal(weights[:, :, 0, 0], np.eye(len(weights))):
            return None
        source = conv.inputs[0]
    return source, float(values.reshape(-1)[0])


def _averaged(graph: Graph, name: str) -> str | None:
    """What ``name`` is the mean over the frame of, kept as one pixel."""
    node = graph.by_name.get(name)
    if node is None or node.op != "mean" or not node.attributes["keepdims"]:
        return None
    axes = sorted(int(axis) % 4 for axis in node.attributes["axis"] or ())
    return node.inputs[0] if axes == [2, 3] and len(node.shape) == 4 else None
