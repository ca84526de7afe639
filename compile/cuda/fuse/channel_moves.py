"""Slices and concatenations along the channels, composed: where each channel comes from, past all that only moves it.

After :func:`arrange_channels` a concatenation is one of whole tensors that are no concatenations themselves, and any
other order of channels is ``channels`` with attribute ``chosen``: of every output channel the operand and its channel.
What moves nothing is gone. Relax has no such operator, so this is for targets that have a kernel.
"""

from __future__ import annotations

import itertools

import numpy as np

from codesign.compile.graph.graph import Editor, Graph, Node

Origin = tuple[str, int]
"""A tensor and one of its channels."""

MAX_OPERANDS = 12


def arrange_channels(graph: Graph) -> Graph:
    """``graph`` with slices and concatenations of feature maps composed, and constant fills as constants."""
    editor = Editor(graph)
    origins: dict[str, tuple[Origin, ...]] = {}
    for node in _without_fills(editor, graph):
        channels = _origins(graph, node, origins)
        if channels is None:
            editor.keep(node)
            continue
        names = tuple(dict.fromkeys(name for name, _ in channels))
        if len(names) > MAX_OPERANDS:
            editor.keep(node)
            continue
        origins[node.name] = channels
        runs = [(name, [channel for _, channel in run]) for name, run in itertools.groupby(channels, lambda o: o[0])]
        whole = all(run == list(range(_channels_of(graph, name))) for name, run in runs)
        if whole and len(runs) == 1:
            editor.alias(node.name, runs[0][0])
        elif whole:
            editor.keep(node, op="concat", inputs=tuple(name for name, _ in runs), attributes={"axis": 1})
        else:
            chosen = tuple((names.index(name), channel) for name, channel in channels)
            editor.keep(node, op="channels", inputs=names, attributes={"chosen": chosen})
    return editor.graph()


def _without_fills(editor: Editor, graph: Graph) -> list[Node]:
    """The nodes that compute something; constants in the place of the others."""
    kept = []
    for node in graph.nodes:
        value = editor.constants.get(node.inputs[1]) if node.op == "full_like" else None
        filled = editor.constants.get(node.inputs[0]) if node.op == "repeat" and node.inputs else None
        axis = node.attributes.get("axis")
        if value is not None:
            editor.constants[node.name] = np.full(node.shape, value.reshape(-1)[0], np.float32)
        elif filled is not None and axis is not None:
            editor.constants[node.name] = filled.repeat(int(node.attributes["repeats"]), int(axis))
        else:
            kept.append(node)
    return kept


def _origins(graph: Graph, node: Node, known: dict[str, tuple[Origin, ...]]) -> tuple[Origin, ...] | None:
    """Where the channels of ``node`` come from, if it only moves channels."""
    if len(node.shape) != 4 or node.shape[0] != 1 or node.dtype != "float32":
        return None

    def of(name: str) -> tuple[Origin, ...]:
        return known.get(name, tuple((name, channel) for channel in range(_channels_of(graph, name))))

    attributes = node.attributes
    if node.op == "concat" and int(attributes["axis"]) in (1, -3):
        return tuple(origin for name in node.inputs for origin in of(name))
    if node.op == "strided_slice" and tuple(int(axis) for axis in attributes["axes"]) in ((1,), (-3,)):
        strides = attributes.get("strides") or (1,)
        begin, end = int(attributes["begin"][0]), int(attributes["end"][0])
        taken = of(node.inputs[0])[begin : end : int(strides[0])]
        return taken if len(taken) == node.shape[1] else None
    return None


def _channels_of(graph: Graph, name: str) -> int:
    return graph.shape_of(name)[1]
