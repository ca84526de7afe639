"""Warps: an image sampled bilinearly at every pixel's own place plus a flow, in pixels.

Exporters spell a warp as a dozen operators that turn a flow into the grid of ``grid_sample``: from -1 to 1 across the
frame. :func:`recognise_warps` finds the flow behind a grid, whatever the spelling, by what the grid does with it, and
makes ``warp`` of it: a node with the image and the flow as operands. Where there is no flow, as where coarse-to-fine
networks begin, the samples are the image itself. Relax has a warp as three operators::

    scaled = multiply(flow, const [1, 2, 1, 1]); grid = add(scaled, const [1, 2, H, W]); grid_sample(image, grid)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.ir.evaluate import apply
from codesign.compile.ir.graph import Editor, Graph, Node
from codesign.compile.operators.grids import CLOSE_PIXELS

PADDINGS = ("zeros", "border")


def recognise_warps(graph: Graph) -> Graph:
    """``graph`` with ``warp`` nodes for every bilinear ``grid_sample`` at a flow's places."""
    editor = Editor(graph)
    for node in graph.nodes:
        if node.op == "image.grid_sample" and _stands_still(graph, node):
            editor.alias(node.name, node.inputs[0])
            continue
        flow = _flow_behind(graph, node) if node.op == "image.grid_sample" else None
        if flow is None:
            editor.keep(node)
        else:
            padding = node.attributes["padding_mode"]
            editor.keep(node, op="warp", inputs=(node.inputs[0], flow), attributes={"padding_mode": padding})
    return editor.graph()


def _stands_still(graph: Graph, node: Node) -> bool:
    """Whether a constant grid samples every pixel at its own place: the image itself, whatever lies beyond it."""
    grid = graph.constants.get(node.inputs[1])
    if grid is None or node.attributes["layout"] != "NCHW" or graph.shape_of(node.inputs[0]) != node.shape:
        return False
    return np.allclose(_places(node, grid.astype(np.float64)), _own_places(node), rtol=0.0, atol=CLOSE_PIXELS)


def _places(node: Node, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where in the frame of ``node`` a grid ``[1, 2, H, W]`` samples, in pixels."""
    height, width = node.shape[2:]
    aligned = node.attributes["align_corners"]
    sizes = np.array([width - 1, height - 1] if aligned else [width, height]).reshape(1, 2, 1, 1)
    return np.asarray((grid + 1.0) / 2.0 * sizes - (0.0 if aligned else 0.5))


def _own_places(node: Node) -> NDArray[np.float64]:
    height, width = node.shape[2:]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)))[None].astype(np.float64)


def _flow_behind(graph: Graph, node: Node) -> str | None:
    """The flow, in pixels right and down, that the grid of ``node`` comes from; None when there is none."""
    attributes = node.attributes
    height, width = node.shape[2:]
    bilinear = attributes["method"] == "bilinear" and attributes["layout"] == "NCHW"
    same = graph.shape_of(node.inputs[0]) == node.shape and min(height, width) > 1
    if not bilinear or not same or attributes["padding_mode"] not in PADDINGS or graph.is_constant(node.inputs[1]):
        return None
    behind: dict[str, Node] = {}
    waiting = [node.inputs[1]]
    while waiting:
        name = waiting.pop()
        if name in graph.by_name and name not in behind:
            behind[name] = graph.by_name[name]
            waiting += graph.by_name[name].inputs
    order = [one for one in graph.nodes if one.name in behind]
    for candidate in [*reversed([one.name for one in order]), graph.input]:
        if graph.shape_of(candidate) == (1, 2, height, width) and _moves_pixels(graph, order, candidate, node):
            return candidate
    return None


def _moves_pixels(graph: Graph, order: list[Node], flow: str, node: Node) -> bool:
    """Whether the grid of ``node`` lies a flow away from every pixel's own place, whatever the flow is."""
    own = _own_places(node)
    rng = np.random.default_rng(0)
    for spread in (0.0, 3.0, 40.0):
        moved = rng.uniform(-spread, spread, own.shape)
        grid = evaluated(graph, order, {flow: torch.from_numpy(moved)}, node.inputs[1])
        if grid is None or grid.shape != own.shape:
            return False
        if not np.allclose(_places(node, grid), own + moved, rtol=0.0, atol=CLOSE_PIXELS):
            return False
    return True


def evaluated(
    graph: Graph, order: list[Node], known: Mapping[str, torch.Tensor], wanted: str
) -> NDArray[np.float64] | None:
    """``wanted`` in float64, from what is ``known`` and constants alone; None when that is not enough."""
    values = dict(known)
    for node in order:
        if node.name in values:
            continue
        operands: list[torch.Tensor] = []
        for name in node.inputs:
            if name in graph.constants:
                constant = torch.from_numpy(np.array(graph.constants[name]))
                operands.append(constant.double() if constant.dtype == torch.float32 else constant)
            elif name in values:
                operands.append(values[name])
        if len(operands) == len(node.inputs) and node.dtype != "tuple":
            values[node.name] = apply(node, operands)
    found = values.get(wanted)
    return None if found is None else np.asarray(found.numpy(), np.float64)
