"""Products of every pixel of one tensor with every pixel of another: a 1x1 convolution whose weights are pixels.

``all_pairs`` of ``first [1, C, H, W]`` and ``second [1, C, h, w]`` is ``[1, h w, H, W]``, times ``scale``.
:func:`recognise_all_pairs` also finds RAFT's spelling, where the first tensor's pixels are a batch of maps, which
average pools make smaller: the maps follow from ``all_pairs`` by a transposition, and those of a pool are the pooled
tensor's, as products are linear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tvm import relax

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.operator import Bind, Composite
from codesign.compile.operators.rules import FRAME
from codesign.compile.scanline.kernels import all_pairs as kernels
from codesign.compile.scanline.lowering import Lowering, Psums, identity_of
from codesign.compile.scanline.tensors import Tensor
from codesign.kernels import correlation
from codesign.kernels.frame_kernel import FrameKernel

ALL_PAIRS = "all_pairs"

PAIR_MAPS = "pair_maps"
"""``[1, H W, h, w]``: a map of its own for each pixel of the first tensor, in the order that a CUDA kernel writes."""


class AllPairs(Composite):
    """Products of every pixel of one tensor with every pixel of another, whose pixels become channels."""

    ops = (ALL_PAIRS,)
    cuda_ops = (PAIR_MAPS,)  # made under windows
    spellings = ("torch and ONNX: a matrix product of two tensors' pixels, as RAFT's volumes",)
    centred = True
    cuda = "a kernel of its own, under windows"
    rules = FRAME

    def macs(self, graph: Graph, node: Node) -> int:
        return node.shape[1] * node.shape[2] * node.shape[3] * graph.shape_of(node.inputs[0])[1]

    def recognise(self, graph: Graph) -> Graph:
        return recognise_all_pairs(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        first, second = (value.flatten(2)[0] for value in inputs)
        product: torch.Tensor = (second.T @ first) * node.attributes["scale"]
        return product.reshape(1, -1, *inputs[0].shape[2:])

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        frames = [[int(extent) for extent in value.ty.shape.values] for value in inputs]
        first, second = (
            bind(f"{node.name}.{which}", relax.op.reshape(value, (frame[1], frame[2] * frame[3])))
            for which, value, frame in zip(("first", "second"), inputs, frames, strict=True)
        )
        turned = bind(f"{node.name}.turned", relax.op.permute_dims(second, (1, 0)))
        product = bind(f"{node.name}.product", relax.op.matmul(turned, first))
        spread = bind(f"{node.name}.all", relax.op.reshape(product, node.shape))
        return bind(node.name, relax.op.multiply(spread, relax.const(float(node.attributes["scale"]), node.dtype)))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        if node.op != PAIR_MAPS:
            return ()
        return (correlation.AllPairs(graph.shape_of(node.inputs[0])[1], float(node.attributes["scale"])),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        first, second = lowering.operands(unit)
        # The second tensor's pixels are the weights, and lie in memory as such.
        words = lowering.make(replace(second, name=lowering.fresh(f"{second.name}.weights"), as_weights=True))
        lowering.close(identity_of(words.name, second), words)
        pixels = second.height * second.width
        psums = Psums(
            name=unit.name,
            sources=(first.name,),
            kernel=kernels.AllPairs(words.name, pixels),
            scales=np.full(pixels, second.scale * float(unit.head.attributes["scale"])),
            height=first.height,
            width=first.width,
            macs=first.height * first.width * first.channels * pixels,
        )
        lowering.close(psums, target)


@dataclass(frozen=True)
class _Maps:
    """``[H W, 1, h, w]`` (or flat, ``[H W, h w]``): the second tensor's pixels times each of the first's."""

    first: str
    second: str
    scale: float


def recognise_all_pairs(graph: Graph) -> Graph:
    """``graph`` with ``all_pairs`` nodes for products of two frames' pixels."""
    editor = Editor(graph)
    known: dict[str, _Maps] = {}
    for node in graph.nodes:
        maps = _maps(editor, node, known)
        if maps is None:
            editor.keep(node)
            continue
        known[node.name] = maps
        _, _, height, width = graph.shape_of(maps.first)
        pixels = node.shape[-2] * node.shape[-1] if len(node.shape) == 4 else node.shape[1]
        inputs, attributes = (maps.first, maps.second), {"scale": maps.scale}
        made = editor.add(f"{node.name}.pairs", ALL_PAIRS, inputs, attributes, shape=(1, pixels, height, width))
        flat = (pixels, height * width)
        made = editor.add(f"{node.name}.flat", "reshape", (made,), {"shape": flat}, shape=flat)
        turned = f"{node.name}.turned"
        made = editor.add(turned, "permute_dims", (made,), {"axes": (1, 0)}, shape=flat[::-1])
        editor.keep(node, op="reshape", inputs=(made,), attributes={"shape": node.shape})
    return editor.graph()


def _maps(editor: Editor, node: Node, known: dict[str, _Maps]) -> _Maps | None:
    """The maps that ``node`` computes, if it computes maps of all pairs; appends a pool of the second tensor to
    ``editor``."""
    graph = editor.source
    maps = known.get(node.inputs[0]) if node.inputs else None
    match node.op:
        case "matmul":
            found = _operands(graph, node)
            return None if found is None else _Maps(*found, 1.0)
        case "multiply" if maps is not None and (factor := graph.scalar(node.inputs[1])) is not None:
            return _Maps(maps.first, maps.second, maps.scale * factor)
        case "reshape" if maps is not None:
            rows, columns = graph.shape_of(node.inputs[0])[0], graph.shape_of(maps.second)[2:]
            return maps if node.shape == (rows, 1, *columns) else None
        case "nn.avg_pool2d" if maps is not None and len(node.shape) == 4:
            attributes = {key: value for key, value in node.attributes.items() if key != "call"}
            shape = (1, graph.shape_of(maps.first)[1], *node.shape[2:])
            pooled = editor.add(f"{node.name}.second", "nn.avg_pool2d", (maps.second,), attributes, shape=shape)
            return _Maps(maps.first, pooled, maps.scale)
    return None


def _operands(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The frames whose pixels ``node`` multiplies: those that are its rows, those that are its columns."""
    if node.op != "matmul" or len(node.shape) != 2:
        return None
    turned, columns = (graph.by_name.get(operand) for operand in node.inputs)
    if turned is None or turned.op != "permute_dims" or tuple(turned.attributes["axes"] or (1, 0)) != (1, 0):
        return None
    rows = graph.by_name.get(turned.inputs[0])
    if rows is None or columns is None or {rows.op, columns.op} != {"reshape"}:
        return None
    for flat in (rows, columns):
        frame = graph.shape_of(flat.inputs[0])
        if len(frame) != 4 or frame[0] != 1 or flat.shape != (frame[1], frame[2] * frame[3]):
            return None
    return rows.inputs[0], columns.inputs[0]
