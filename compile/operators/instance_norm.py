"""Instance normalisation: every channel of a frame to mean 0 and variance 1, whatever the exporter wrote.

The node ``instance_norm`` has one operand and the attribute ``epsilon``; scale and shift are a product and a sum behind
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tvm import relax

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.activation import CLIPS
from codesign.compile.operators.moments import normalised_by
from codesign.compile.operators.operator import Bind, Composite, constant
from codesign.compile.operators.rules import FRAME, out_of_range
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.layers import Epilogue, Layer
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import normalise, numerics
from codesign.hw.normalise import COUNT_BITS
from codesign.hw.spec import AccelSpec, Unit
from codesign.kernels import pointwise
from codesign.kernels.frame_kernel import FrameKernel


def frame_is_counted(graph: Graph, node: Node) -> bool:
    """An instance normalisation must be of frames of less than 2^24 pixels."""
    height, width = node.shape[2:]
    return height * width < 1 << COUNT_BITS


class InstanceNorm(Composite):
    """Every channel of a frame less its mean, over the root of its variance plus epsilon."""

    ops = ("instance_norm",)
    spellings = (
        "torch: InstanceNorm2d, GroupNorm with a group a channel, or written out",
        "ONNX: InstanceNormalization",
    )
    size_free = True
    cuda = "two kernels of its own"
    cuda_fuses = ("nn.relu",)
    fuses = CLIPS
    rules = (*FRAME, frame_is_counted)

    machine_unit = Unit.NORMALISER

    def unsupported(self, graph: Graph, node: Node, spec: AccelSpec) -> str | None:
        if 0 < spec.statistic_channels < node.shape[1]:
            return f"This machine keeps the sums of {spec.statistic_channels} channels (statistic_channels)."
        return super().unsupported(graph, node, spec)

    def recognise(self, graph: Graph) -> Graph:
        return recognise_norms(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        (x,) = inputs
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + node.attributes["epsilon"])

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        ones, zeros = (constant(np.full(node.shape[1], value, np.float32), node) for value in (1, 0))
        how = {"channel_axis": 1, "axes": [2, 3], "epsilon": float(node.attributes["epsilon"])}
        return bind(node.name, relax.op.nn.instance_norm(inputs[0], ones, zeros, **how))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        channels, epsilon = node.shape[1], float(node.attributes["epsilon"])
        return pointwise.SegmentMoments(channels), pointwise.InstanceNorm(channels, epsilon, activation is not None)

    def refuses(self, unit: RoundedUnit) -> str | None:
        return super().refuses(unit) or out_of_range(_constants, unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        low, high = unit.activation.low, unit.activation.high
        bounds = numerics.clip_bounds(low, high, target.scale, target.zero_point)
        none = np.zeros(source.channels, np.int64)  # the machine computes bias, multipliers and shifts of the sums
        epilogue = Epilogue(none, none, none, none, target.zero_point, *bounds)
        kernel = Normalise(_constants(unit), source.channels)
        lowering.layers.append(Layer(unit.name, (source.name,), target.name, kernel, epilogue))


def _constants(unit: RoundedUnit) -> normalise.Normalisation:
    """Raises ``ValueError`` for scales that the machine cannot hold."""
    (source,), epsilon = unit.operands, float(unit.head.attributes["epsilon"])
    return normalise.normalisation(source.shape[2] * source.shape[3], epsilon, source.scale, unit.result.scale)


OP, _RELAX = InstanceNorm.ops[0], "nn.instance_norm"


def recognise_norms(graph: Graph) -> Graph:
    """``graph`` with instance normalisations under their one spelling."""
    editor = Editor(graph)
    for node in graph.nodes:
        if node.op in (_RELAX, "nn.group_norm") and len(node.inputs) == 3 and _is_operator(graph, node):
            _keep_operator(editor, node)
        elif _is_frame(node) and (found := normalised_by(graph, node, (2, 3))) is not None:
            source, epsilon = found
            editor.keep(node, op=OP, inputs=(source,), attributes={"epsilon": epsilon})
        else:
            editor.keep(node)
    return editor.graph()


def _is_operator(graph: Graph, node: Node) -> bool:
    """Whether an operator of Relax normalises every channel by itself, by constants."""
    attributes = node.attributes
    if len(node.shape) != 4 or not all(graph.is_constant(name) for name in node.inputs[1:]):
        return False
    alone = node.op == _RELAX or attributes["num_groups"] == node.shape[1]
    axes = sorted(axis % 4 for axis in attributes["axes"])
    return node.shape[0] == 1 and alone and attributes["channel_axis"] % 4 == 1 and axes in ([2, 3], [0, 2, 3])


def _keep_operator(editor: Editor, node: Node) -> None:
    shape = (1, -1, 1, 1)
    scale, shift = (editor.source.constants[name].astype(np.float32).reshape(shape) for name in node.inputs[1:])
    scale = scale if node.attributes["scale"] else np.ones_like(scale)
    shift = shift if node.attributes["center"] else np.zeros_like(shift)
    attributes = {"epsilon": float(node.attributes["epsilon"])}
    if np.all(scale == 1.0) and np.all(shift == 0.0):
        editor.keep(node, op=OP, inputs=node.inputs[:1], attributes=attributes)
        return
    plain = editor.add(f"{node.name}.normalised", OP, node.inputs[:1], attributes, shape=node.shape)
    factor, summand = editor.constant(f"{node.name}.scale", scale), editor.constant(f"{node.name}.shift", shift)
    scaled = editor.add(f"{node.name}.scaled", "multiply", (plain, factor), shape=node.shape)
    editor.keep(node, op="add", inputs=(scaled, summand), attributes={})


def _is_frame(node: Node) -> bool:
    return len(node.shape) == 4 and node.shape[0] == 1
