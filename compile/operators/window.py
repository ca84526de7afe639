"""Windows of every pixel's own map around a flow's places: RAFT's look-up, level by level.

``window`` of a ``volume [1, h w, H, W]``, whose channels are a map of ``h x w`` for each pixel (``all_pairs``), and a
``flow [1, 2, H, W]``, attributes ``radius``, ``level`` and ``map`` (``h, w``), is ``[1, (2 radius + 1)^2, H, W]``:
bilinear samples around ``(place + flow) / 2^level``, columns slower than rows, zeros outside. RAFT's volume of a level
is the average of the one before over 2x2 pixels of the second tensor: the volume of that tensor averaged, by linearity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tvm import relax

from codesign.compile.graph.arithmetic import evaluated
from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.all_pairs import ALL_PAIRS
from codesign.compile.operators.grids import CLOSE_PIXELS, grid_of_windows
from codesign.compile.operators.operator import Bind, constant
from codesign.compile.operators.rules import FRAME
from codesign.compile.operators.warp import AtAFlow, fraction_bits
from codesign.compile.scanline.kernels import window as kernels
from codesign.compile.scanline.lowering import Lowering, Psums
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES
from codesign.hw.spec import Unit as MachineUnit
from codesign.hw.windows import MAX_RADIUS

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


WINDOW = "window"


def window_fits(graph: Graph, node: Node) -> bool:
    """A window may reach 4 pixels, on levels 0 to 7, in maps of less than 65536 pixels."""
    rows, columns = node.attributes["map"]
    radius, level = int(node.attributes["radius"]), int(node.attributes["level"])
    return 1 <= radius <= MAX_RADIUS and 0 <= level <= MAX_LEVEL and rows * columns <= MAX_MAP_BYTES


class Window(AtAFlow):
    """Bilinear windows of every pixel's own map around its place plus a flow: RAFT's look-up, level by level."""

    ops = (WINDOW,)
    rank = -1  # before the products that its volume is made of
    spellings = ("torch and ONNX: grid_sample (bilinear, zeros) of all pairs' maps, as RAFT spells it",)
    rules = (*FRAME, window_fits)
    machine_unit = MachineUnit.WINDOWS

    def recognise(self, graph: Graph) -> Graph:
        return recognise_windows(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        volume, flow = inputs
        (rows, columns), radius = node.attributes["map"], int(node.attributes["radius"])
        _, _, height, width = volume.shape
        maps = volume.flatten(2)[0].T.reshape(height * width, 1, rows, columns)
        own = (torch.arange(extent, dtype=flow.dtype) for extent in (height, width))
        y, x = torch.meshgrid(*own, indexing="ij")
        places = ((torch.stack((x, y)) + flow[0]) / 2.0 ** node.attributes["level"]).reshape(2, -1, 1, 1)
        span = torch.arange(-radius, radius + 1, dtype=flow.dtype)
        across, down = torch.meshgrid(span, span, indexing="ij")
        grid = torch.stack(((2 * (places[0] + across) + 1) / columns - 1, (2 * (places[1] + down) + 1) / rows - 1), 3)
        sampled = F.grid_sample(maps, grid, "bilinear", "zeros", False)
        return sampled.reshape(height * width, -1).T.reshape(1, -1, height, width)

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        volume, flow = inputs
        (rows, columns), radius = node.attributes["map"], int(node.attributes["radius"])
        _, count, height, width = node.shape
        pixels, side = height * width, 2 * radius + 1

        def turned(what: str, value: Any, flat: tuple[int, int], shape: tuple[int, ...]) -> Any:
            value = bind(f"{node.name}.{what}.flat", relax.op.reshape(value, flat))
            value = bind(f"{node.name}.{what}.turned", relax.op.permute_dims(value, (1, 0)))
            return bind(f"{node.name}.{what}", relax.op.reshape(value, shape))

        constants = grid_of_windows((height, width), (rows, columns), radius, int(node.attributes["level"]))
        scale, places, window = (constant(value, node) for value in constants)
        scaled = bind(f"{node.name}.scaled", relax.op.multiply(flow, scale))
        grid = bind(f"{node.name}.grid", relax.op.add(scaled, places))
        middles = turned("middles", grid, (2, pixels), (pixels, 2, 1, 1))
        around = bind(f"{node.name}.around", relax.op.add(middles, window))
        maps = turned("maps", volume, (rows * columns, pixels), (pixels, 1, rows, columns))
        how = {"method": "bilinear", "layout": "NCHW", "padding_mode": "zeros", "align_corners": False}
        sampled = bind(f"{node.name}.sampled", relax.op.image.grid_sample(maps, around, **how))
        flat = bind(f"{node.name}.flat", relax.op.reshape(sampled, (pixels, side * side)))
        by_window = bind(f"{node.name}.turned", relax.op.permute_dims(flat, (1, 0)))
        return bind(node.name, relax.op.reshape(by_window, (1, count, height, width)))

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        volume, flow = lowering.operands(unit)
        attributes = unit.head.attributes
        (rows, columns), radius, level = attributes["map"], int(attributes["radius"]), int(attributes["level"])
        psums = Psums(
            name=unit.name,
            sources=(flow.name,),
            kernel=kernels.Window(volume.name, rows, columns, radius, level, fraction_bits(unit)),
            scales=np.full(unit.head.shape[1], 1.0 / numerics.SAMPLE_UNITS),
            height=flow.height,
            width=flow.width,
        )
        lowering.close(psums, target)


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


def compute_flows(graph: Graph) -> Graph:
    """``graph`` with a 1x1 convolution of zeros in place of a window's constant flow of zeros.

    The machine reads flows from memory, where only what it computes is put.
    """
    editor = Editor(graph)
    made: dict[str, str] = {}
    for node in graph.nodes:
        if node.op != WINDOW or not graph.is_constant(node.inputs[1]) or graph.constants[node.inputs[1]].any():
            editor.keep(node)
            continue
        volume = graph.by_name.get(node.inputs[0])
        source = volume.inputs[0] if volume is not None and volume.op == ALL_PAIRS else node.inputs[0]
        if source not in made:
            made[source] = _zeros(editor, source)
        editor.keep(node, inputs=(node.inputs[0], made[source]))
    return editor.graph()


def _zeros(editor: Editor, like: str) -> str:
    """A flow of zeros of the size of ``like``, which it is computed from."""
    _, channels, height, width = editor.source.shape_of(like)
    weight = editor.constant(f"{like}.still.weight", np.zeros((2, channels, 1, 1), np.float32))
    attributes = {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    return editor.add(f"{like}.still", "nn.conv2d", (like, weight), attributes, shape=(1, 2, height, width))


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
