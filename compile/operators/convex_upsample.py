"""RAFT's convex up-sampling: every fine pixel a convex combination of the nine coarse pixels around its own.

``convex_upsample`` of a mask ``[1, 9 f^2, H, W]`` and a flow ``[1, 2, H, W]``, attributes ``factor`` and ``scale``, is
``[1, 2, f H, f W]``: the flow, zeros outside, weighted by the softmax over k of the mask's channels ``k f^2 + i f + j``
at fine pixel ``(i, j)``, times ``scale``. Exporters write a hundred operators;
:func:`recognise_convex_upsampling` finds the result by what it computes of the mask that a softmax reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tvm import relax

from codesign.compile.graph.arithmetic import evaluated
from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.operators.host import no_command
from codesign.compile.operators.operator import Bind, Composite, constant
from codesign.kernels import resize
from codesign.kernels.frame_kernel import FrameKernel

CLOSE = 1e-4
"""Tolerance for values of order one, because exporters write constants as float32."""

NEIGHBOURS = 9

CUDA_FACTOR = 8
"""By what the CUDA kernel enlarges."""


class ConvexUpsample(Composite):
    """A flow enlarged by convex combinations of the nine pixels around each, whose weights a mask has: RAFT's."""

    ops = ("convex_upsample",)
    spellings = ("torch and ONNX: a softmax of the mask over nine neighbours, times those of the flow, as RAFT's",)
    size_free = True
    bits = "on the host"
    cuda = "a kernel of its own, by 8"
    rules = (no_command,)

    def begins(self, graph: Graph, node: Node) -> bool:
        return False

    def recognise(self, graph: Graph) -> Graph:
        return recognise_convex_upsampling(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        mask, flow = inputs
        return _combined(mask, flow, int(node.attributes["factor"])) * float(node.attributes["scale"])

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        mask, flow = inputs
        _, _, height, width = (int(extent) for extent in flow.ty.shape.values)
        factor = int(node.attributes["factor"])

        def reshaped(what: str, value: Any, shape: tuple[int, ...]) -> Any:
            return bind(f"{node.name}.{what}", relax.op.reshape(value, shape))

        apart = reshaped("apart", mask, (1, NEIGHBOURS, factor**2, height, width))
        weights = bind(f"{node.name}.weights", relax.op.nn.softmax(apart, 1))
        places = constant(_places() * float(node.attributes["scale"]), node)
        around = bind(f"{node.name}.around", relax.op.nn.conv2d(flow, places, padding=1, groups=2))
        near = reshaped("near", around, (2, NEIGHBOURS, 1, height, width))
        weighted = bind(f"{node.name}.weighted", relax.op.multiply(weights, near))
        phases = bind(f"{node.name}.phases", relax.op.sum(weighted, axis=1))
        fine = bind(f"{node.name}.fine", relax.op.nn.pixel_shuffle(phases, factor))
        return bind(node.name, relax.op.reshape(fine, node.shape))

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        if int(node.attributes["factor"]) != CUDA_FACTOR:
            return ()
        return (resize.ConvexUpsample(float(node.attributes["scale"])),)


OP = ConvexUpsample.ops[0]


def _combined(mask: torch.Tensor, flow: torch.Tensor, factor: int) -> torch.Tensor:
    """The definition, without the scale."""
    _, _, height, width = flow.shape
    weights = mask.reshape(1, NEIGHBOURS, factor**2, height, width).softmax(1)
    near = F.unfold(flow, 3, padding=1).reshape(2, NEIGHBOURS, 1, height, width)
    return F.pixel_shuffle((weights * near).sum(1), factor).transpose(0, 1)


def _places() -> np.ndarray:
    """Kernels ``[18, 1, 3, 3]`` of a convolution of two groups that copies each channel's nine neighbours."""
    return np.tile(np.eye(NEIGHBOURS, dtype=np.float32), (2, 1)).reshape(2 * NEIGHBOURS, 1, 3, 3)


@dataclass(frozen=True)
class _Upsampling:
    """What a result is made of."""

    mask: str
    flow: str
    scale: float
    factor: int


def recognise_convex_upsampling(graph: Graph) -> Graph:
    """``graph`` with ``convex_upsample`` nodes."""
    found: dict[str, _Upsampling] = {}
    for node in graph.nodes:
        if node.op == "nn.softmax" and (mask := _mask_of(graph, node)) is not None:
            found |= _upsampling(graph, mask)
    editor = Editor(graph)
    for node in graph.nodes:
        if (one := found.get(node.name)) is not None:
            attributes = {"factor": one.factor, "scale": one.scale}
            editor.keep(node, op=OP, inputs=(one.mask, one.flow), attributes=attributes)
        else:
            editor.keep(node)
    return editor.graph()


def _mask_of(graph: Graph, softmax: Node) -> str | None:
    """The mask ``[1, 9 f^2, H, W]`` of which ``softmax`` makes weights of nine neighbours."""
    flat = graph.by_name.get(softmax.inputs[0])
    axis = int(softmax.attributes["axis"]) % len(softmax.shape)
    if flat is None or flat.op != "reshape" or math.prod(softmax.shape[: axis + 1]) != NEIGHBOURS:
        return None
    shape = graph.shape_of(flat.inputs[0])
    planes, rest = shape[1] // NEIGHBOURS if len(shape) == 4 else 0, softmax.shape[axis + 1 :]
    whole = shape[:2] == (1, NEIGHBOURS * planes) and math.isqrt(planes) ** 2 == planes > 1
    return flat.inputs[0] if whole and rest[-2:] == shape[2:] and math.prod(rest[:-2]) == planes else None


def _upsampling(graph: Graph, mask: str) -> dict[str, _Upsampling]:
    """The result that ``mask`` weighs, by its name; none if there is no such result."""
    _, channels, height, width = graph.shape_of(mask)
    factor = math.isqrt(channels // NEIGHBOURS)
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=graph.shape_of(mask)))
    flow = torch.from_numpy(rng.normal(size=(1, 2, height, width)))
    wanted = _combined(weights, flow, factor).numpy()
    for node in _downstream(graph, (mask,)):
        if node.shape != (1, 2, factor * height, factor * width):
            continue
        for name in _flows(graph, node, mask):
            known = {mask: weights, name: flow}
            value = evaluated(graph, _downstream(graph, tuple(known)), known, node.name)
            if value is not None and np.allclose(value, wanted, rtol=0.0, atol=CLOSE):
                return {node.name: _Upsampling(mask, *_scaled(graph, name), factor)}
    return {}


def _flows(graph: Graph, node: Node, mask: str) -> Iterator[str]:
    """The tensors that may be the flow of ``node``, the latest first: it depends on one of them and on ``mask``."""
    shape = (1, 2, *graph.shape_of(mask)[2:])
    for name in reversed((graph.input, *graph.by_name)):
        if graph.shape_of(name) == shape and _depends_on(graph, node, {mask, name}):
            yield name


def _depends_on(graph: Graph, node: Node, known: set[str]) -> bool:
    """Whether ``node`` depends on tensors that are ``known``, and on no others."""
    waiting, seen = [node.name], {node.name}
    while waiting:
        name = waiting.pop()
        if name in known or name in graph.constants:
            continue
        if name not in graph.by_name:
            return False
        waiting += [one for one in graph.by_name[name].inputs if one not in seen]
        seen.update(waiting)
    return known <= seen


def _downstream(graph: Graph, roots: tuple[str, ...]) -> list[Node]:
    reached = set(roots)
    order = []
    for node in graph.nodes:
        if node.name not in reached and any(name in reached for name in node.inputs):
            reached.add(node.name)
            order.append(node)
    return order


def _scaled(graph: Graph, name: str) -> tuple[str, float]:
    """The tensor that ``name`` is a multiple of, and the factor."""
    node = graph.by_name.get(name)
    if node is not None and node.op == "multiply" and (factor := graph.scalar(node.inputs[1])) is not None:
        return node.inputs[0], factor
    return name, 1.0
