"""RAFT's look-up as exporters spell it: ``grid_sample`` of every pixel's own map, level by level.

Its nodes are :mod:`codesign.compile.operators.window`'s. RAFT's volume of a level is the average of the one before over
2x2 pixels of the second tensor: the volume of that tensor averaged, by linearity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codesign.compile.graph.arithmetic import evaluated
from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.operators.all_pairs import ALL_PAIRS
from codesign.compile.operators.grids import CLOSE_PIXELS
from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES
from codesign.hw.windows import MAX_RADIUS

WINDOW = "window"

POOL = {
    "pool_size": (2, 2),
    "strides": (2, 2),
    "padding": (0, 0, 0, 0),
    "dilation": (1, 1),
    "ceil_mode": False,
    "layout": "NCHW",
    "count_include_pad": True,
    "out_layout": "NCHW",
}
_ARITHMETIC = (
    *("add", "subtract", "multiply", "divide"),
    *("reshape", "strided_slice", "expand_dims", "concat", "permute_dims"),
)
"""Operators that a grid is computed with; the search for its flow stops at any other operator."""


@dataclass(frozen=True)
class _Volume:
    """Products of all pairs of pixels, times ``scale``."""

    first: str
    second: str
    scale: float


@dataclass(frozen=True)
class _Lookup:
    """Windows of so many levels of a volume, each averaged from the one before."""

    volume: _Volume
    levels: int
    radius: int
    flow: str | None  # None: zeros


def recognise_windows(graph: Graph) -> Graph:
    """``graph`` with ``all_pairs`` and ``window``, level by level, for RAFT's look-ups."""
    editor = Editor(graph)
    volumes: dict[tuple[object, int], str] = {}
    for node in graph.nodes:
        found = _lookup(graph, node) if node.op == "permute_dims" else None
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
            flow = editor.constant(f"{node.name}.flow", np.zeros((1, 2, *size), np.float32))
        levels = []
        for level in range(found.levels):
            here = (maps[0] >> level, maps[1] >> level)
            if level:
                shape = (*graph.shape_of(first)[:2], *here)
                second = _pooled(editor, second, level, found.volume.second, shape)
            key = (found.volume, level)
            if key not in volumes:
                scale = {"scale": found.volume.scale}
                shape = (1, here[0] * here[1], *size)
                volumes[key] = editor.add(f"{first}.pairs{level}", ALL_PAIRS, (first, second), scale, shape=shape)
            attributes = {"radius": found.radius, "level": level, "map": here}
            shape = (1, (2 * found.radius + 1) ** 2, *size)
            inputs = (volumes[key], flow)
            levels.append(editor.add(f"{node.name}.level{level}", WINDOW, inputs, attributes, shape=shape))
        if len(levels) == 1:
            editor.alias(node.name, levels[0])
        else:
            editor.keep(node, op="concat", inputs=tuple(levels), attributes={"axis": 1})
    return editor.graph()


def _pooled(editor: Editor, source: str, level: int, second: str, shape: tuple[int, ...]) -> str:
    """The second tensor averaged once more, made once."""
    known = f"{second}.half{level}"
    taken = any(node.name == known for node in editor.nodes)
    return known if taken else editor.add(known, "nn.avg_pool2d", (source,), POOL, shape=shape)


def _lookup(graph: Graph, node: Node) -> _Lookup | None:
    """The look-up whose last operator is ``node``, a ``permute_dims``."""
    joined = graph.by_name.get(node.inputs[0])
    if tuple(node.attributes["axes"] or ()) != (0, 3, 1, 2) or joined is None or len(node.shape) != 4:
        return None
    if joined.op == "concat" and int(joined.attributes["axis"]) in (3, -1):
        parts = joined.inputs
    elif joined.op == "reshape":  # a single level
        parts = (joined.name,)
    else:
        return None
    height, width = node.shape[2:]
    volume: _Volume | None = None
    samples: list[Node] = []
    for depth, name in enumerate(parts):
        flat = graph.by_name.get(name)
        sample = graph.by_name.get(flat.inputs[0]) if flat is not None and flat.op == "reshape" else None
        if sample is None or not _samples_windows(graph, sample, height * width):
            return None
        found = _volume(graph, sample.inputs[0], depth, (height, width))
        if found is None or volume not in (None, found) or sample.shape != (samples or [sample])[0].shape:
            return None
        volume = found
        samples.append(sample)
    side = samples[0].shape[2]
    if volume is None or side % 2 == 0 or node.shape[1] != len(samples) * side**2:
        return None
    for flow in _flows(graph, samples[0].inputs[1], (1, 2, height, width)):
        if all(_reads_at(graph, sample, flow, level, (height, width)) for level, sample in enumerate(samples)):
            return _Lookup(volume, len(samples), side // 2, flow)
    return None


def _samples_windows(graph: Graph, node: Node, pixels: int) -> bool:
    """Whether ``node`` samples square windows, one for each of ``pixels`` maps of one channel."""
    attributes = node.attributes
    return (
        node.op == "image.grid_sample"
        and (attributes["method"], attributes["layout"], attributes["padding_mode"]) == ("bilinear", "NCHW", "zeros")
        and not attributes["align_corners"]
        and node.shape[:2] == (pixels, 1)
        and node.shape[2] == node.shape[3]
        and graph.shape_of(node.inputs[0])[:2] == (pixels, 1)
    )


def _volume(graph: Graph, name: str, depth: int, size: tuple[int, int]) -> _Volume | None:
    """The product that ``name`` averages ``depth`` times."""
    node = graph.by_name.get(name)
    for _ in range(depth):
        if (
            node is None
            or node.op != "nn.avg_pool2d"
            or any(node.attributes[key] != POOL[key] for key in ("pool_size", "strides", "padding", "ceil_mode"))
        ):
            return None
        node = graph.by_name.get(node.inputs[0])
    if node is None or node.op != "reshape" or node.shape[0] != size[0] * size[1]:
        return None
    scale = 1.0
    node = graph.by_name.get(node.inputs[0])
    while node is not None and node.op == "multiply" and (factor := graph.scalar(node.inputs[1])) is not None:
        scale *= factor
        node = graph.by_name.get(node.inputs[0])
    if node is None or node.op != "matmul" or len(node.shape) != 2:
        return None
    turned, second = (graph.by_name.get(operand) for operand in node.inputs)
    if turned is None or turned.op != "permute_dims" or tuple(turned.attributes["axes"] or ()) not in ((1, 0), ()):
        return None
    first = graph.by_name.get(turned.inputs[0])
    if first is None or second is None or {first.op, second.op} != {"reshape"}:
        return None
    shapes = [graph.shape_of(flat.inputs[0]) for flat in (first, second)]
    for flat, shape in zip((first, second), shapes, strict=True):
        if len(shape) != 4 or shape[0] != 1 or flat.shape != (shape[1], shape[2] * shape[3]):
            return None
    if shapes[0][2:] != size or graph.shape_of(name)[2:] != tuple(side >> depth for side in shapes[1][2:]):
        return None
    return _Volume(first.inputs[0], second.inputs[0], scale)


def _flows(graph: Graph, grid: str, shape: tuple[int, ...]) -> list[str | None]:
    """Tensors that may be the flow of a grid, the nearest first; None stands for zeros if the grid is constant."""
    if graph.is_constant(grid):
        return [None]
    found: list[str | None] = []
    waiting, seen = [grid], {grid}
    while waiting:
        name = waiting.pop(0)
        if graph.is_constant(name):
            continue
        if graph.shape_of(name) == shape:
            found.append(name)
        node = graph.by_name.get(name)
        if node is not None and node.op in _ARITHMETIC:
            waiting += [one for one in node.inputs if one not in seen]
            seen.update(node.inputs)
    return found


def _reads_at(graph: Graph, sample: Node, flow: str | None, level: int, size: tuple[int, int]) -> bool:
    """Whether ``sample`` reads windows, columns slower, around every pixel's place plus its flow on ``level``."""
    height, width = size
    side = sample.shape[2]
    moved = np.zeros((2, height, width))
    if flow is not None:
        moved = np.random.default_rng(0).uniform(-9.0, 9.0, moved.shape)
    grid = _grid(graph, sample.inputs[1], flow, moved)
    if grid is None or grid.shape != (height * width, 2, side, side):
        return False
    places = moved + np.stack(np.meshgrid(np.arange(width), np.arange(height)))
    span = np.arange(-(side // 2), side // 2 + 1)
    around = np.stack(np.meshgrid(span, span, indexing="ij"))
    wanted = places.reshape(2, -1).T[:, :, None, None] / 2**level + around
    extent = np.array(graph.shape_of(sample.inputs[0])[:1:-1]).reshape(1, 2, 1, 1)
    return bool(np.allclose(((grid + 1.0) * extent - 1.0) / 2.0, wanted, rtol=0.0, atol=CLOSE_PIXELS))


def _grid(graph: Graph, name: str, flow: str | None, moved: np.ndarray) -> np.ndarray | None:
    if flow is None:
        return np.asarray(graph.constants[name], np.float64)
    behind: set[str] = set()
    waiting: list[str] = [name]
    while waiting:
        one = waiting.pop()
        if one in graph.by_name and one not in behind and one != flow:
            behind.add(one)
            if graph.by_name[one].op in _ARITHMETIC:
                waiting += graph.by_name[one].inputs
    order: Sequence[Node] = [node for node in graph.nodes if node.name in behind and node.op in _ARITHMETIC]
    return evaluated(graph, list(order), {flow: torch.from_numpy(moved[None])}, name)
