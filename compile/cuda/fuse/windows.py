"""Windows of all levels read at once, which is one kernel.

After :func:`merge_windows`

- ``pair_maps`` of ``first [1, C, H, W]`` and ``second [1, C, h, w]``, attribute ``scale``, is ``[1, H W, h, w]``: the
  volume with a map of its own for each pixel of the first tensor, in the order in which the kernel writes it;
- ``windows`` of such volumes, level by level, and a ``flow [1, 2, H, W]``, attribute ``radius``, is
  ``[1, levels (2 radius + 1)^2, H, W]``.
"""

from __future__ import annotations

import numpy as np

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.operators.all_pairs import ALL_PAIRS
from codesign.compile.operators.window import POOL, WINDOW

PAIR_MAPS, WINDOWS = "pair_maps", "windows"


def merge_windows(graph: Graph) -> Graph:
    """``graph`` with ``windows`` in place of windows of consecutive levels, from level 0, of one volume."""
    editor = Editor(graph)
    merged = {node.name: levels for node in graph.nodes if (levels := _levels(graph, node))}
    within = {level.name for levels in merged.values() for level in levels}
    volumes = {level.inputs[0] for levels in merged.values() for level in levels}
    maps: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in volumes:
            maps[node.name] = _keep_maps(editor, node)
        levels = merged.get(node.name, ())
        if not levels or node.name in within - merged.keys():
            editor.keep(node)
            continue
        inputs = (*(maps[level.inputs[0]] for level in levels), levels[0].inputs[1])
        editor.keep(node, op=WINDOWS, inputs=inputs, attributes={"radius": levels[0].attributes["radius"]})
    return editor.graph()


def _keep_maps(editor: Editor, volume: Node) -> str:
    pixels = volume.shape[2] * volume.shape[3]
    rows, columns = editor.source.shape_of(volume.inputs[1])[2:]
    return editor.add(
        f"{volume.name}.maps", PAIR_MAPS, volume.inputs, volume.attributes, shape=(1, pixels, rows, columns)
    )


def _levels(graph: Graph, node: Node) -> tuple[Node, ...]:
    """The windows, level by level, that ``node`` is: itself, or those that it concatenates."""
    if node.op == WINDOW:
        readers = graph.consumers()[node.name]
        joined = any(reader.op == "concat" and len(_levels(graph, reader)) > 1 for reader in readers)
        return () if joined or not _consecutive(graph, (node,)) else (node,)
    if node.op != "concat" or int(node.attributes["axis"]) not in (1, -3):
        return ()
    parts = tuple(graph.by_name.get(name) for name in node.inputs)
    levels = tuple(part for part in parts if part is not None and part.op == WINDOW)
    return levels if len(levels) == len(parts) and _consecutive(graph, levels) else ()


def _consecutive(graph: Graph, levels: tuple[Node, ...]) -> bool:
    """Whether ``levels`` are windows of levels 0, 1, ... of the products of one pair of tensors, at one flow."""
    volumes = [graph.by_name.get(level.inputs[0]) for level in levels]
    first = volumes[0]
    if first is None or first.op != ALL_PAIRS:
        return False
    second = first.inputs[1]
    for depth, (level, volume) in enumerate(zip(levels, volumes, strict=True)):
        if volume is None or volume.op != ALL_PAIRS or level.attributes["level"] != depth:
            return False
        alike = level.attributes["radius"] == levels[0].attributes["radius"]
        alike = alike and _same(graph, level.inputs[1], levels[0].inputs[1])
        same = (volume.inputs[0], volume.attributes["scale"]) == (first.inputs[0], first.attributes["scale"])
        if not alike or not same or _pooled_from(graph, volume.inputs[1], depth) != second:
            return False
    return True


def _same(graph: Graph, one: str, other: str) -> bool:
    """Whether two names are of one tensor, or of equal constants: every reader has constants of its own."""
    first, second = graph.constants.get(one), graph.constants.get(other)
    return one == other or (first is not None and second is not None and np.array_equal(first, second))


def _pooled_from(graph: Graph, name: str, times: int) -> str | None:
    """The tensor that ``name`` averages over 2x2 pixels ``times`` times."""
    for _ in range(times):
        pool = graph.by_name.get(name)
        if pool is None or pool.op != "nn.avg_pool2d":
            return None
        if any(tuple(pool.attributes[key]) != POOL[key] for key in ("pool_size", "strides", "padding")):
            return None
        name = pool.inputs[0]
    return name
