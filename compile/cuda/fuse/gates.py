"""Gates: one half of a tensor's channels times the other half, which one kernel reads from the whole tensor.

After :func:`recognise_gates`, ``gate`` of ``x [1, 2 C, H, W]`` is ``[1, C, H, W]``.
"""

from __future__ import annotations

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.kernels.chunked import CHUNK

GATE = "gate"


def recognise_gates(graph: Graph) -> Graph:
    """``graph`` with ``gate`` nodes for products of two slices, where each half is whole chunks of channels."""
    editor = Editor(graph)
    for node in graph.nodes:
        source = _halved(graph, node)
        if source is None:
            editor.keep(node)
        else:
            editor.keep(node, op=GATE, inputs=(source,), attributes={})
    return editor.graph()


def _halved(graph: Graph, node: Node) -> str | None:
    """The tensor whose halves ``node`` multiplies."""
    if node.op != "multiply" or len(node.shape) != 4 or node.shape[0] != 1 or node.shape[1] % CHUNK:
        return None
    half, halves = node.shape[1], [graph.by_name.get(name) for name in node.inputs]
    sources = {one.inputs[0] for one in halves if one is not None and one.op == "strided_slice"}
    cuts = sorted((_taken(graph, one) for one in halves if one is not None and one.op == "strided_slice"), key=list)
    if len(sources) != 1 or cuts != [range(half), range(half, 2 * half)]:
        return None
    (source,) = sources
    return source if graph.shape_of(source) == (1, 2 * half, *node.shape[2:]) else None


def _taken(graph: Graph, cut: Node) -> range:
    """The channels that a slice takes; none if it is not one of channels."""
    channels, attributes = graph.shape_of(cut.inputs[0])[1], cut.attributes
    if [int(axis) % 4 for axis in attributes["axes"]] != [1]:
        return range(0)
    (step,) = attributes.get("strides") or (1,)
    return range(channels)[int(attributes["begin"][0]) : int(attributes["end"][0]) : int(step)]
