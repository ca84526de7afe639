"""Local cost volumes: what exporters spell as hundreds of operators becomes one node.

After :func:`recognise_correlations` a concatenation of ``mean(first * slice(pad(second)))`` for all displacements up to
a reach, rows of displacements first, is ``correlation``: ``first``, ``second``: ``[1, C, H, W]`` to
``[1, (2 reach + 1)^2, H, W]``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.activation import PIECEWISE_LINEAR
from codesign.compile.operators.operator import Bind, Composite, constant
from codesign.compile.operators.rules import FRAME
from codesign.compile.scanline.kernels import correlation as kernels
from codesign.compile.scanline.lowering import Lowering, Psums, identity_of
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.spec import Unit as MachineUnit
from codesign.kernels import correlation
from codesign.kernels.frame_kernel import FrameKernel

MAX_REACH = 15


def reach_fits(graph: Graph, node: Node) -> bool:
    """A cost volume may reach 15 pixels at most."""
    return int(node.attributes["reach"]) <= MAX_REACH


class Correlation(Composite):
    """A local cost volume: means over the channels of one tensor times another, at every displacement up to a reach."""

    ops = ("correlation",)
    spellings = ("torch and ONNX: a concatenation of mean(x * slice(pad(y))) for all displacements",)
    size_free = True
    centred = True
    cuda = "a kernel of its own"
    cuda_fuses = ("nn.leakyrelu",)
    fuses = PIECEWISE_LINEAR
    rules = (*FRAME, reach_fits)
    machine_unit = MachineUnit.CORRELATOR

    def recognise(self, graph: Graph) -> Graph:
        return recognise_correlations(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        first, second = inputs
        reach, (rows, columns) = int(node.attributes["reach"]), first.shape[2:]
        around, window = F.pad(second, (reach,) * 4), range(2 * reach + 1)
        moved = (around[:, :, dy : dy + rows, dx : dx + columns] for dy in window for dx in window)
        return torch.cat([(first * one).mean(1, keepdim=True) for one in moved], 1)

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        first, second = inputs
        _, channels, height, width = (int(extent) for extent in first.ty.shape.values)
        reach, count = int(node.attributes["reach"]), node.shape[1]
        kernels = constant(_displacements(channels, reach), node)
        moved = bind(f"{node.name}.moved", relax.op.nn.conv2d(second, kernels, padding=reach, groups=channels))
        spread = bind(f"{node.name}.first", relax.op.repeat(first, count, axis=1))
        product = bind(f"{node.name}.product", relax.op.multiply(spread, moved))
        by_channel = bind(f"{node.name}.all", relax.op.reshape(product, (1, channels, count, height, width)))
        return bind(node.name, relax.op.mean(by_channel, axis=1))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        slope = 1.0 if activation is None else float(activation.attributes["alpha"])
        channels = graph.shape_of(node.inputs[0])[1]
        return (correlation.Correlation(channels, int(node.attributes["reach"]), slope),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        first, second = lowering.operands(unit)
        if first.name == second.name:
            copy = lowering.make(replace(second, name=lowering.fresh(f"{second.name}.moved")))
            lowering.close(identity_of(copy.name, second), copy)
            second = copy
        kernel = kernels.Correlation(int(unit.head.attributes["reach"]))
        psums = Psums(
            name=unit.name,
            sources=(first.name, second.name),
            kernel=kernel,
            scales=np.full(kernel.channels, second.scale / first.channels),  # the mean over the channels
            height=first.height,
            width=first.width,
        )
        lowering.close(psums.activated(unit), target)


def recognise_correlations(graph: Graph) -> Graph:
    """``graph`` with ``correlation`` nodes, attribute ``reach``."""
    editor = Editor(graph)
    for node in graph.nodes:
        found = _correlation(graph, node) if node.op == "concat" else None
        if found is None:
            editor.keep(node)
        else:
            first, second, reach = found
            editor.keep(node, op="correlation", inputs=(first, second), attributes={"reach": reach})
    return editor.graph()


def _displacements(channels: int, reach: int) -> NDArray[np.float32]:
    """Kernels ``[C d, 1, k, k]`` that move each of ``channels`` by every one of ``d = k^2`` displacements."""
    side = 2 * reach + 1
    return np.tile(np.eye(side * side, dtype=np.float32), (channels, 1)).reshape(-1, 1, side, side)


def _correlation(graph: Graph, node: Node) -> tuple[str, str, int] | None:
    """``(first, second, reach)`` of a cost volume, or None."""
    window = math.isqrt(len(node.inputs))
    if window < 3 or window % 2 == 0 or window**2 != len(node.inputs) or int(node.attributes["axis"]) != 1:
        return None
    operands = set()
    for index, name in enumerate(node.inputs):
        term = _term(graph, name)
        if term is None or term[2:] != divmod(index, window):
            return None
        operands.add(term[:2])
    if len(operands) != 1:
        return None
    first, around = operands.pop()
    pad = graph.by_name.get(around)
    reach = window // 2
    if pad is None or pad.op != "nn.pad" or graph.shape_of(pad.inputs[0]) != graph.shape_of(first):
        return None
    attributes = pad.attributes
    zeros = attributes["pad_mode"] == "constant" and float(attributes["pad_value"]) == 0.0
    if not zeros or tuple(attributes["pad_width"]) != (0, 0, 0, 0, reach, reach, reach, reach):
        return None
    return first, pad.inputs[0], reach


def _term(graph: Graph, name: str) -> tuple[str, str, int, int] | None:
    """``(first, padded second, row, column)`` of one displacement's mean over the channels."""
    mean = graph.by_name.get(name)
    if mean is None or mean.op != "mean" or tuple(mean.attributes["axis"] or ()) not in ((1,), (-3,)):
        return None
    product = graph.by_name.get(mean.inputs[0])
    if product is None or product.op != "multiply" or not mean.attributes["keepdims"]:
        return None
    for first, moved in (product.inputs, product.inputs[::-1]):
        at = {2: 0, 3: 0}
        cut = graph.by_name.get(moved)
        while cut is not None and cut.op == "strided_slice" and _plain(graph, cut):
            for axis, begin in zip(cut.attributes["axes"], cut.attributes["begin"], strict=True):
                at[axis] += begin
            moved = cut.inputs[0]
            cut = graph.by_name.get(moved)
        if cut is not None and cut.op == "nn.pad" and graph.shape_of(first) == product.shape:
            return first, moved, at[2], at[3]
    return None


def _plain(graph: Graph, cut: Node) -> bool:
    """Whether a slice takes rows or columns one by one, from a place inside the frame."""
    attributes = cut.attributes
    strides = attributes.get("strides") or [1] * len(attributes["axes"])
    begins = zip(attributes["axes"], attributes["begin"], strict=True)
    inside = all(axis in (2, 3) and 0 <= begin < graph.shape_of(cut.inputs[0])[axis] for axis, begin in begins)
    return inside and all(int(stride) == 1 for stride in strides)
