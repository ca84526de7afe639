"""Layer normalisation: every pixel's channels to mean 0 and variance 1, then scaled and shifted by channel.

Exporters normalise the last axis of a tensor whose channels were moved there, by a permutation or as tokens, or write
means and variances out. :func:`recognise_norms` makes one node of it, on ``[1, C, H, W]``, and moves the channels of
its result to where others still want them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tvm import relax

from codesign.compile.graph.graph import Array, Editor, Graph, Node, Shape
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.activation import CLIPS
from codesign.compile.operators.moments import normalised_by
from codesign.compile.operators.operator import Bind, Composite
from codesign.compile.operators.rules import FRAME, out_of_range
from codesign.compile.scanline.kernels.kernel import Int64
from codesign.compile.scanline.kernels.layer_norm import NormalisedPixels
from codesign.compile.scanline.layers import Epilogue, Layer
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.numerics.layer_norm import MAX_CHANNELS, layer_norm, layer_norm_parameters
from codesign.hw.numerics.layer_norm import LayerNorm as Constants
from codesign.hw.spec import Unit
from codesign.kernels import pointwise
from codesign.kernels.frame_kernel import FrameKernel

OP = "layer_norm"


def channels_are_summed(graph: Graph, node: Node) -> bool:
    """A layer normalisation must be over at most 4096 channels."""
    return node.shape[1] <= MAX_CHANNELS


class LayerNorm(Composite):
    """The channels of every pixel less their mean, over the root of their variance plus epsilon; scaled and shifted."""

    ops = (OP,)
    spellings = (
        "torch: LayerNorm over the channels, moved last or as tokens, or written out over any axis of channels",
        "ONNX: LayerNormalization, the same",
    )
    size_free = True
    cuda = "a kernel of its own"
    cuda_reads = 1
    fuses = CLIPS
    rules = (*FRAME, channels_are_summed)
    machine_unit = Unit.LAYER_NORM

    def recognise(self, graph: Graph) -> Graph:
        return recognise_norms(graph)

    def begins(self, graph: Graph, node: Node) -> bool:
        return node.op in self.ops and all(map(graph.is_constant, node.inputs[1:]))

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        x, scale, shift = inputs
        centred = x - x.mean(1, keepdim=True)
        normal = centred * torch.rsqrt((centred * centred).mean(1, keepdim=True) + node.attributes["epsilon"])
        return normal * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        x, scale, shift = inputs
        last = bind(f"{node.name}.last", relax.op.permute_dims(x, [0, 2, 3, 1]))
        epsilon = float(node.attributes["epsilon"])
        normal = bind(f"{node.name}.normal", relax.op.nn.layer_norm(last, scale, shift, axes=-1, epsilon=epsilon))
        return bind(node.name, relax.op.permute_dims(normal, [0, 3, 1, 2]))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        scale, shift = (graph.constants[name] for name in node.inputs[1:])
        return (pointwise.LayerNorm(scale, shift, float(node.attributes["epsilon"])),)

    def refuses(self, unit: RoundedUnit) -> str | None:
        return super().refuses(unit) or out_of_range(_parameters, unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        constants, bias, multiplier, shifts = _parameters(unit)
        low, high = unit.activation.low, unit.activation.high
        bounds = numerics.clip_bounds(low, high, target.scale, target.zero_point)
        epilogue = Epilogue(bias, multiplier, multiplier, shifts, target.zero_point, *bounds)
        lowering.layers.append(Layer(unit.name, (source.name,), target.name, NormalisedPixels(constants), epilogue))


def _parameters(unit: RoundedUnit) -> tuple[Constants, Int64, Int64, Int64]:
    """Constants, bias, multiplier and shift. Raises ``ValueError`` for scales that the machine cannot hold."""
    (source,), (scale, shift) = unit.operands, unit.constants
    constants = layer_norm(source.shape[1], float(unit.head.attributes["epsilon"]), source.scale)
    return constants, *layer_norm_parameters(scale, shift, constants, unit.result.scale)


FIRST, LAST, TOKENS, FLAT = "[1, C, H, W]", "[1, H, W, C]", "[1, H W, C]", "[1, C, H W]"
"""Layouts of a frame's pixels and channels."""

_PERMUTED: Mapping[tuple[str, tuple[int, ...]], str] = {
    (FIRST, (0, 2, 3, 1)): LAST,
    (LAST, (0, 3, 1, 2)): FIRST,
    (FLAT, (0, 2, 1)): TOKENS,
    (TOKENS, (0, 2, 1)): FLAT,
}
_RESHAPED: Mapping[str, str] = {FIRST: FLAT, FLAT: FIRST, LAST: TOKENS, TOKENS: LAST}


def _moved(layout: str, node: Node, frame: Shape) -> str | None:
    """The layout that ``node`` makes of one of ``frame``, ``[1, C, H, W]``; None if it is none of these."""
    _, channels, height, width = frame
    shapes = {
        FIRST: frame,
        LAST: (1, height, width, channels),
        TOKENS: (1, height * width, channels),
        FLAT: (1, channels, height * width),
    }
    found = None
    if node.op == "permute_dims":
        found = _PERMUTED.get((layout, tuple(node.attributes["axes"] or ())))
    elif node.op == "reshape":
        found = _RESHAPED[layout]
    return found if found is not None and tuple(node.shape) == shapes[found] else None


def _frame_behind(graph: Graph, name: str) -> tuple[str, str] | None:
    """``(x, layout)`` when ``name`` is the frame ``x: [1, C, H, W]`` with its channels last."""
    moves: list[Node] = []
    while (node := graph.by_name.get(name)) is not None and node.op in ("permute_dims", "reshape"):
        moves.insert(0, node)
        name = node.inputs[0]
        frame = graph.shape_of(name)
        layout: str | None = FIRST if len(frame) == 4 and frame[0] == 1 else None
        for move in moves:
            layout = None if layout is None else _moved(layout, move, frame)
        if layout in (LAST, TOKENS):
            return name, layout
    return None


@dataclass(frozen=True)
class _Norm:
    """A normalisation and the per-channel factors and summands behind it, up to the node ``end``."""

    source: str
    layout: str
    epsilon: float
    scale: Array
    shift: Array
    end: Node


def recognise_norms(graph: Graph) -> Graph:
    """``graph`` with layer normalisations over the channels under their one spelling."""
    editor, readers = Editor(graph), graph.consumers()
    results: dict[str, _Result] = {}  # by the node at which a normalisation ends, and by those that move its channels
    for node in graph.nodes:
        if (norm := _norm(graph, readers, node)) is not None:
            scale = editor.constant(f"{node.name}.scale", norm.scale.astype(np.float32))
            shift = editor.constant(f"{node.name}.shift", norm.shift.astype(np.float32))
            inputs, attributes = (norm.source, scale, shift), {"epsilon": norm.epsilon}
            frame = graph.shape_of(norm.source)
            if norm.end is node and norm.layout == FIRST:
                editor.keep(node, op=OP, inputs=inputs, attributes=attributes)
                continue
            made = editor.add(node.name, OP, inputs, attributes, shape=frame)
            results[norm.end.name] = _Result(made, frame, norm.layout)
        moved = None if node.name in results else _moved_result(results, node)
        if moved is not None:
            results[node.name] = moved
        if (result := results.get(node.name)) is None:
            editor.keep(node)
        elif result.layout == FIRST:
            editor.alias(node.name, result.made)
        elif moved is not None:
            editor.keep(node)
        else:
            _keep_moved(editor, node, result)
    return editor.graph()


@dataclass(frozen=True)
class _Result:
    """A normalised frame ``made: [1, C, H, W]``, in ``layout``."""

    made: str
    frame: Shape
    layout: str


def _moved_result(results: Mapping[str, _Result], node: Node) -> _Result | None:
    """What ``node`` makes of a result, if it moves one."""
    before = results.get(node.inputs[0]) if node.op in ("permute_dims", "reshape") else None
    layout = None if before is None else _moved(before.layout, node, before.frame)
    return None if before is None or layout is None else replace(before, layout=layout)


def _keep_moved(editor: Editor, node: Node, result: _Result) -> None:
    """``node`` as the result in its layout."""
    if result.layout == LAST:
        editor.keep(node, op="permute_dims", inputs=(result.made,), attributes={"axes": [0, 2, 3, 1]})
        return
    _, pixels, channels = node.shape
    shape = (1, channels, pixels)
    flat = editor.add(f"{node.name}.flat", "reshape", (result.made,), {"shape": list(shape)}, shape=shape)
    editor.keep(node, op="permute_dims", inputs=(flat,), attributes={"axes": [0, 2, 1]})


def _norm(graph: Graph, readers: Mapping[str, list[Node]], node: Node) -> _Norm | None:
    """The normalisation that begins at ``node``; None for one that stands in its one spelling, all joined."""
    head = _head(graph, node)
    if head is None:
        return None
    source, layout, epsilon, scale, shift = head
    end = node
    for follower, value in _affine(graph, readers, node, layout, len(scale)):
        scale, shift = (scale * value, shift * value) if follower.op == "multiply" else (scale, shift + value)
        end = follower
    if node.op == OP and end is node:
        return None
    return _Norm(source, layout, epsilon, scale, shift, end)


def _head(graph: Graph, node: Node) -> tuple[str, str, float, Array, Array] | None:
    """Source, layout, epsilon, scale and shift of ``node``, if it normalises over channels."""
    rank = len(node.shape)
    if node.op == OP:
        scale, shift = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
        return node.inputs[0], FIRST, node.attributes["epsilon"], scale, shift
    if node.op == "nn.layer_norm" and [axis % rank for axis in node.attributes["axes"]] == [rank - 1]:
        if not all(graph.is_constant(name) for name in node.inputs[1:]):
            return None
        frame = _frame_behind(graph, node.inputs[0])
        scale, shift = (graph.constants[name].astype(np.float64).reshape(-1) for name in node.inputs[1:])
        scale = scale if node.attributes["scale"] else np.ones_like(scale)
        shift = shift if node.attributes["center"] else np.zeros_like(shift)
        return None if frame is None else (*frame, float(node.attributes["epsilon"]), scale, shift)
    if rank == 4 and node.shape[0] == 1 and (found := normalised_by(graph, node, (1,))) is not None:
        ones = np.ones(node.shape[1])
        return found[0], FIRST, found[1], ones, 0.0 * ones
    if rank > 1 and (found := normalised_by(graph, node, (rank - 1,))) is not None:
        frame = _frame_behind(graph, found[0])
        ones = np.ones(node.shape[-1])
        return None if frame is None else (*frame, found[1], ones, 0.0 * ones)
    return None


def _affine(
    graph: Graph, readers: Mapping[str, list[Node]], node: Node, layout: str, channels: int
) -> Iterator[tuple[Node, Array]]:
    """Multiplications and additions of a constant a channel behind ``node``, as long as nobody else reads between."""
    shape = (channels, 1, 1) if layout == FIRST else (channels,)
    while len(readers[node.name]) == 1 and node.name != graph.output:
        (reader,) = readers[node.name]
        if reader.op not in ("add", "multiply") or not graph.is_constant(reader.inputs[1]):
            return
        if tuple(reader.shape) != tuple(node.shape):  # a constant of more axes
            return
        value = graph.constants[reader.inputs[1]].astype(np.float64)
        whole = value.shape[max(value.ndim - len(shape), 0) :]
        if value.size != 1 and (value.size != channels or whole != shape):
            return
        yield reader, np.broadcast_to(value.reshape(-1), (channels,))
        node = reader
