"""Sums, differences and products of two tensors: the second operand of the layer that makes the first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.activation import CLIPS
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import batch_is_one
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import SecondOperand
from codesign.compile.scanline.lowering import Lowering, Psums
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.errors import UnsupportedError
from codesign.kernels.chain import simple_gate
from codesign.kernels.chunked import CHUNK
from codesign.kernels.frame_kernel import FrameKernel

GATE = "gate"
"""One half of a tensor's channels times the other half, which one CUDA kernel reads from the whole tensor."""

MOST_APART = 127
"""How many times the finer scale of two 16-bit tensors the other may be: the factor is an 8-bit weight."""


def operands_match(graph: Graph, node: Node) -> bool:
    """Both operands must have the result's shape, or one channel of it; one of two may have one channel."""
    batch, channels, height, width = node.shape
    shapes = [graph.shape_of(name) for name in node.inputs]
    allowed = ((batch, channels, height, width), (batch, 1, height, width))
    return (all(shape in allowed for shape in shapes) and shapes != [allowed[1]] * 2) or channels == 1


class _Pair(Operator):
    fuses = CLIPS
    rules = (batch_is_one, operands_match)

    def begins(self, graph: Graph, node: Node) -> bool:
        if node.op not in self.ops or not all(map(graph.is_activation, node.inputs)):
            return False
        allowed = (node.shape, (node.shape[0], 1, *node.shape[2:]))
        return all(graph.shape_of(name) in allowed for name in node.inputs)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        if any(tensor.bits == 16 for tensor in (*lowering.operands(unit), target)):
            lowering.close(_whole_sum(unit, *lowering.operands(unit)), target)
            return
        # The pair belongs to the layer that makes one operand; that operand must have all channels.
        tensors = lowering.operands(unit)
        order = [which for which in (0, 1) if tensors[which].channels == target.channels]
        makers = [lowering.unjoined(tensor.name) for tensor in tensors]
        joins = [maker is not None and maker.kernel.takes_operand for maker in makers]
        chosen = next((which for which in order if joins[which]), order[0])
        mine, other, maker = tensors[chosen], tensors[1 - chosen], makers[chosen]
        second = SecondOperand(other.name, other.channels == 1, self._rule(unit, mine, other, chosen, target))
        if maker is not None and joins[chosen] and mine.name != other.name:
            lowering.replace_layer(maker, replace(maker, output=target.name).with_second(second))
        else:
            copy = copy_layer(unit.name, mine, replace(mine, name=target.name))
            lowering.layers.append(copy.with_second(second))

    def _rule(
        self, unit: RoundedUnit, mine: Tensor, other: Tensor, chosen: int, target: Tensor
    ) -> numerics.AddRule | numerics.MultiplyRule:
        """How ``other`` joins ``mine``, which is operand ``chosen``."""
        low, high = unit.activation.low, unit.activation.high
        ends = target.zero_point, *numerics.clip_bounds(low, high, target.scale, target.zero_point)
        try:
            return self._joined(unit.head, mine, other, chosen, target.scale, ends)
        except ValueError as error:
            raise UnsupportedError(str(error), where=unit.head.where) from error

    def _joined(
        self, head: Node, mine: Tensor, other: Tensor, chosen: int, scale: float, ends: tuple[int, int, int]
    ) -> numerics.AddRule | numerics.MultiplyRule:
        raise NotImplementedError


class Sum(_Pair):
    """Two tensors added or subtracted, pixel by pixel; one may have a single channel."""

    ops = ("add", "subtract")
    spellings = ("torch: x + y, x - y", "ONNX: Add, Sub")
    adds = True
    bits = "8, or 16 alike"
    cuda = "joins a convolution, or an element-wise chain"
    carries_flows = True

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        alike = graph is None or len({graph.shape_of(name) for name in unit.head.inputs}) == 1
        return len(unit.nodes) == 1 and alike

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return result_wide

    def bits_fit(self, unit: RoundedUnit) -> bool:
        if unit.narrow:
            return True
        followers = {node.op for node in unit.nodes[1:]} - ({"clip"} if unit.result.bits == 8 else set())
        alike = len({operand.shape for operand in unit.operands}) == 1
        return alike and not followers and all(operand.bits == 16 for operand in unit.operands)

    def _joined(
        self, head: Node, mine: Tensor, other: Tensor, chosen: int, scale: float, ends: tuple[int, int, int]
    ) -> numerics.AddRule:
        signs = (1, -1 if head.op == "subtract" else 1)
        factors = numerics.quantise_pair(signs[chosen] * mine.scale / scale, signs[1 - chosen] * other.scale / scale)
        return numerics.AddRule(mine.zero_point, other.zero_point, *factors, *ends)


class Product(_Pair):
    """Two tensors multiplied, pixel by pixel; one may have a single channel."""

    ops = ("multiply",)
    cuda = "an element-wise chain, or, one half of the channels times the other, joins a depthwise convolution"
    cuda_ops = (GATE,)
    spellings = ("torch: x * y", "ONNX: Mul")

    def for_cuda(self, graph: Graph) -> Graph:
        return merge_gates(graph)

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        return (simple_gate(2 * node.shape[1]),) if node.op == GATE else ()

    def _joined(
        self, head: Node, mine: Tensor, other: Tensor, chosen: int, scale: float, ends: tuple[int, int, int]
    ) -> numerics.MultiplyRule:
        product = numerics.product_parameters(mine.scale, other.scale, scale)
        return numerics.MultiplyRule(mine.zero_point, other.zero_point, *product, *ends)


def _whole_sum(unit: RoundedUnit, first: Tensor, second: Tensor) -> Psums:
    """A sum of 16 bits: both tensors in units of the finer scale, which are whole."""
    scale = min(first.scale, second.scale)
    factors = np.array([first.scale / scale, second.scale / scale * (-1 if unit.head.op == "subtract" else 1)])
    if np.abs(factors).max() > MOST_APART:
        raise UnsupportedError("adds tensors of 16 bits whose scales are too far apart", where=unit.head.where)
    eye = np.eye(first.values)[None, None]
    weights = np.concatenate([eye * factor for factor in factors], 2).astype(np.int8)
    return Psums(
        name=unit.name,
        sources=(first.name, second.name),
        kernel=Convolution(weights),
        scales=np.full(first.values, scale / first.scale),
        height=first.height,
        width=first.width,
        activation=unit.activation,
    )


def merge_gates(graph: Graph) -> Graph:
    """``graph`` with ``gate`` nodes for products of two slices, where each half is whole chunks of channels."""
    editor = Editor(graph)
    for node in graph.nodes:
        source = _halved(graph, node)
        if source is None:
            editor.keep(node)
        else:
            editor.keep(node, op=GATE, inputs=(source,), attributes={})
    return editor.graph()


def _halved(graph: Graph, node: Node) -> str | None:
    """The tensor whose halves ``node`` multiplies."""
    if node.op != "multiply" or len(node.shape) != 4 or node.shape[0] != 1 or node.shape[1] % CHUNK:
        return None
    half, halves = node.shape[1], [graph.by_name.get(name) for name in node.inputs]
    sources = {one.inputs[0] for one in halves if one is not None and one.op == "strided_slice"}
    cuts = sorted((_taken(graph, one) for one in halves if one is not None and one.op == "strided_slice"), key=list)
    if len(sources) != 1 or cuts != [range(half), range(half, 2 * half)]:
        return None
    (source,) = sources
    return source if graph.shape_of(source) == (1, 2 * half, *node.shape[2:]) else None


def _taken(graph: Graph, cut: Node) -> range:
    """The channels that a slice takes; none if it is not one of channels."""
    channels, attributes = graph.shape_of(cut.inputs[0])[1], cut.attributes
    if [int(axis) % 4 for axis in attributes["axes"]] != [1]:
        return range(0)
    (step,) = attributes.get("strides") or (1,)
    return range(channels)[int(attributes["begin"][0]) : int(attributes["end"][0]) : int(step)]
