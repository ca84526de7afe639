"""Windows of every pixel's own map around a flow's places: RAFT's look-up, level by level.

``window`` of a ``volume [1, h w, H, W]``, whose channels are a map of ``h x w`` for each pixel (``all_pairs``), and a
``flow [1, 2, H, W]``, attributes ``radius``, ``level`` and ``map`` (``h, w``), is ``[1, (2 radius + 1)^2, H, W]``:
bilinear samples around ``(place + flow) / 2^level``, columns slower than rows, zeros outside.

One CUDA kernel reads the windows of all levels. For it :func:`merge_windows` makes ``windows`` of maps of pairs
(``pair_maps``), level by level, and a flow, attribute ``radius``: ``[1, levels (2 radius + 1)^2, H, W]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tvm import relax

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.all_pairs import ALL_PAIRS, PAIR_MAPS
from codesign.compile.operators.grids import grid_of_windows
from codesign.compile.operators.lookups import POOL, WINDOW, recognise_windows
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
from codesign.kernels import correlation
from codesign.kernels.frame_kernel import FrameKernel

WINDOWS = "windows"


def window_fits(graph: Graph, node: Node) -> bool:
    """A window may reach 4 pixels, on levels 0 to 7, in maps of less than 65536 pixels."""
    rows, columns = node.attributes["map"]
    radius, level = int(node.attributes["radius"]), int(node.attributes["level"])
    return 1 <= radius <= MAX_RADIUS and 0 <= level <= MAX_LEVEL and rows * columns <= MAX_MAP_BYTES


class Window(AtAFlow):
    """Bilinear windows of every pixel's own map around its place plus a flow: RAFT's look-up, level by level."""

    ops = (WINDOW,)
    cuda_ops = (WINDOWS,)
    rank = -1  # before the products that its volume is made of
    spellings = ("torch and ONNX: grid_sample (bilinear, zeros) of all pairs' maps, as RAFT spells it",)
    rules = (*FRAME, window_fits)
    machine_unit = MachineUnit.WINDOWS

    def recognise(self, graph: Graph) -> Graph:
        return recognise_windows(graph)

    def for_cuda(self, graph: Graph) -> Graph:
        return merge_windows(graph)

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        if node.op != WINDOWS:
            return ()
        levels, radius = len(node.inputs) - 1, int(node.attributes["radius"])
        return (correlation.Window(levels, radius, "fp16", absolute=False, chunked=True),)

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
