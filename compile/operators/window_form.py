"""Windows of every pixel's own map around a flow's places: RAFT's look-up, level by level, as the machine does it.

``windows`` of a ``volume [1, h w, H, W]``, whose channels are a map of ``h x w`` for each pixel (``pairs``), and a
``flow [1, 2, H, W]``, attributes ``radius``, ``level`` and ``map`` (``h, w``), is ``[1, (2 radius + 1)^2, H, W]``:
bilinear samples around ``(place + flow) / 2^level``, columns slower than rows, zeros outside. Relax has it as::

    grid = add(multiply(flow, const [1, 2, 1, 1]), const [1, 2, H, W])
    around = add(reshape(permute_dims(reshape(grid, [2, H W])), [H W, 2, 1, 1]), const [1, 2, k, k])
    maps = reshape(permute_dims(reshape(volume, [h w, H W])), [H W, 1, h, w])
    sampled = grid_sample(maps, around)
    reshape(permute_dims(reshape(sampled, [H W, k k])), [1, k k, H, W])                          k = 2 radius + 1

:func:`read_windows` finds that form, :func:`recognise_windows` RAFT's, of all levels at once.
"""

from __future__ import annotations

import numpy as np

from codesign.compile.ir.graph import Editor, Graph, Node
from codesign.compile.operators.grids import windows_of_grid
from codesign.compile.operators.lookups import POOL, find_lookup
from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES
from codesign.hw.windows import MAX_RADIUS


def recognise_windows(graph: Graph) -> Graph:
    """``graph`` with ``pairs`` and ``windows``, level by level, for RAFT's look-ups."""
    editor = Editor(graph)
    volumes: dict[tuple[object, int], str] = {}
    still: dict[str, str] = {}
    for node in graph.nodes:
        found = find_lookup(graph, node) if node.op == "permute_dims" else None
        if found is None or found.radius > MAX_RADIUS or found.levels > MAX_LEVEL + 1:
            editor.keep(node)
            continue
        first, second = found.volume.first, found.volume.second
        size, maps = graph.shape_of(first)[2:], graph.shape_of(second)[2:]
        if maps[0] * maps[1] > MAX_MAP_BYTES:
            editor.keep(node)
            continue
        flow = found.flow
        if flow is None:
            if first not in still:
                still[first] = _still(editor, first)
            flow = still[first]
        levels = []
        for level in range(found.levels):
            here = (maps[0] >> level, maps[1] >> level)
            if level:
                shape = (*graph.shape_of(first)[:2], *here)
                second = _pooled(editor, second, level, found.volume.second, shape)
            key = (found.volume, level)
            if key not in volumes:
                factor = {"factor": found.volume.scale}
                shape = (1, here[0] * here[1], *size)
                volumes[key] = editor.add(f"{first}.pairs{level}", "pairs", (first, second), factor, shape=shape)
            attributes = {"radius": found.radius, "level": level, "map": here}
            shape = (1, (2 * found.radius + 1) ** 2, *size)
            inputs = (volumes[key], flow)
            levels.append(editor.add(f"{node.name}.level{level}", "windows", inputs, attributes, shape=shape))
        if len(levels) == 1:
            editor.alias(node.name, levels[0])
        else:
            editor.keep(node, op="concat", inputs=tuple(levels), attributes={"axis": 1})
    return editor.graph()


def read_windows(graph: Graph) -> Graph:
    """``graph`` with ``windows`` nodes for Relax's spelling of them."""
    editor = Editor(graph)
    for node in graph.nodes:
        found = _spelt(graph, node) if node.op == "reshape" else None
        if found is None:
            editor.keep(node)
        else:
            inputs, attributes = found
            editor.keep(node, op="windows", inputs=inputs, attributes=attributes)
    return editor.graph()


def _pooled(editor: Editor, source: str, level: int, second: str, shape: tuple[int, ...]) -> str:
    """The second tensor averaged once more, made once."""
    known = f"{second}.half{level}"
    taken = any(node.name == known for node in editor.nodes)
    return known if taken else editor.add(known, "nn.avg_pool2d", (source,), POOL, shape=shape)


def _still(editor: Editor, like: str) -> str:
    """A flow of zeros of the size of ``like``, of which it is made: what a machine computes begins with a tensor."""
    _, channels, height, width = editor.source.shape_of(like)
    weight = editor.constant(f"{like}.still.weight", np.zeros((2, channels, 1, 1), np.float32))
    attributes = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    return editor.add(f"{like}.still", "nn.conv2d", (like, weight), attributes, shape=(1, 2, height, width))


def _spelt(graph: Graph, node: Node) -> tuple[tuple[str, str], dict[str, object]] | None:
    sampled = _turned(graph, node.name)
    sample = graph.by_name.get(sampled) if sampled is not None else None
    if sample is None or sample.op != "image.grid_sample" or sample.attributes["align_corners"]:
        return None
    how = tuple(sample.attributes[key] for key in ("method", "layout", "padding_mode"))
    volume, around = _turned(graph, sample.inputs[0]), graph.by_name.get(sample.inputs[1])
    if how != ("bilinear", "NCHW", "zeros") or volume is None or around is None or around.op != "add":
        return None
    grid = _turned(graph, around.inputs[0])
    placed = graph.by_name.get(grid) if grid is not None else None
    scaled = graph.by_name.get(placed.inputs[0]) if placed is not None and placed.op == "add" else None
    if placed is None or scaled is None or scaled.op != "multiply":
        return None
    scale, places, window = (graph.constants.get(one.inputs[1]) for one in (scaled, placed, around))
    if scale is None or places is None or window is None:
        return None
    maps = graph.shape_of(sample.inputs[0])[2:]
    found = windows_of_grid(scale, places, window, (maps[0], maps[1]))
    if found is None or graph.shape_of(volume)[2:] != node.shape[2:]:
        return None
    return (volume, scaled.inputs[0]), {"radius": found[0], "level": found[1], "map": maps}


def _turned(graph: Graph, name: str) -> str | None:
    """What a frame's pixels, or rows of pixels, are, that were brought from columns to rows or back."""
    spread = graph.by_name.get(name)
    turn = graph.by_name.get(spread.inputs[0]) if spread is not None and spread.op == "reshape" else None
    if turn is None or turn.op != "permute_dims" or tuple(turn.attributes["axes"] or (1, 0)) != (1, 0):
        return None
    flat = graph.by_name.get(turn.inputs[0])
    return flat.inputs[0] if flat is not None and flat.op == "reshape" else None
