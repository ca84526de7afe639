"""Warps: an image sampled bilinearly at every pixel's own place plus a flow, in pixels.

Exporters spell a warp as a dozen operators that turn a flow into the grid of ``grid_sample``: from -1 to 1 across the
frame. :func:`recognise_warps` finds the flow behind a grid, whatever the spelling, by what the grid does with it, and
makes ``warp`` of it: a node with the image and the flow as operands. Where there is no flow, as where coarse-to-fine
networks begin, the samples are the image itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.graph.arithmetic import evaluated
from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.grids import CLOSE_PIXELS, grid_of_flow
from codesign.compile.operators.operator import Bind, Composite, constant
from codesign.compile.operators.rules import FRAME
from codesign.compile.scanline.kernels import warp as kernels
from codesign.compile.scanline.lowering import Lowering, Psums
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.spec import Unit as MachineUnit
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.warp import BackwardWarp

PADDINGS = ("zeros", "border")


class AtAFlow(Composite):
    """An operator that samples its first operand, of 8 bits, at its second, a flow of 16."""

    at_a_flow = True
    bits = "8, at a flow of 16"
    cuda = "a kernel of its own"

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return which == 1

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return [codes.bits for codes in (*unit.operands, unit.result)] == [8, 16, 8]


class Warp(AtAFlow):
    """An image sampled bilinearly at every pixel's own place plus a flow, in pixels; beyond it zeros or its border."""

    ops = ("warp",)
    spellings = (
        "torch: grid_sample (bilinear; zeros or border) of a grid that a flow makes",
        "ONNX: GridSample, the same",
    )
    size_free = True
    rules = FRAME
    machine_unit = MachineUnit.SAMPLER

    def recognise(self, graph: Graph) -> Graph:
        return recognise_warps(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        image, flow = inputs
        rows, columns = image.shape[2:]
        across = torch.arange(columns, dtype=image.dtype) + flow[:, 0]
        down = torch.arange(rows, dtype=image.dtype)[:, None] + flow[:, 1]
        grid = torch.stack((2 * across / max(columns - 1, 1) - 1, 2 * down / max(rows - 1, 1) - 1), 3)
        return F.grid_sample(image, grid, "bilinear", node.attributes["padding_mode"], True)

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        image, flow = inputs
        scale, places = (constant(value, node) for value in grid_of_flow(*node.shape[2:]))
        scaled = bind(f"{node.name}.scaled", relax.op.multiply(flow, scale))
        grid = bind(f"{node.name}.grid", relax.op.add(scaled, places))
        how = {"method": "bilinear", "layout": "NCHW", "align_corners": True}
        padding = str(node.attributes["padding_mode"])
        return bind(node.name, relax.op.image.grid_sample(image, grid, padding_mode=padding, **how))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        if not all(map(graph.is_activation, node.inputs)):
            return ()
        return (BackwardWarp(node.shape[1], "fp16", node.attributes["padding_mode"], chunked=True),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        image, flow = lowering.operands(unit)
        edge = str(unit.head.attributes["padding_mode"]) == "border"
        psums = Psums(
            name=unit.name,
            sources=(image.name,),
            kernel=kernels.Warp(flow.name, fraction_bits(unit), image.channels, edge),
            scales=np.full(image.channels, 1.0 / numerics.SAMPLE_UNITS),
            height=image.height,
            width=image.width,
        )
        lowering.close(psums, target)


def fraction_bits(unit: RoundedUnit) -> int:
    """Bits of the fraction of a pixel that the flow of ``unit`` has. Its scale must be a binary fraction."""
    flow = unit.operands[1]
    bits = round(-math.log2(flow.scale))
    if flow.scale != 2.0**-bits or not 0 <= bits <= numerics.FLOW_FRACTION_BITS:
        raise UnsupportedError("samples at a flow that is not in binary fractions of a pixel", where=unit.head.where)
    return bits


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
