"""RAFT's convex up-sampling: a softmax over nine neighbours and a hundred operators become one node.

After :func:`recognise_convex_upsampling`, ``convex_upsample`` of a mask ``[1, 9 f^2, H, W]`` and a flow
``[1, 2, H, W]``, attributes ``factor`` and ``scale``, is ``[1, 2, f H, f W]``: of every fine pixel the combination of
the nine coarse pixels around its own, times ``scale``, by the softmax of the mask's channels ``k f^2 + i f + j``. It is
found by what it computes, whatever the spelling. Relax has no such operator, so this is for targets that have a kernel.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from codesign.compile.graph.arithmetic import evaluated
from codesign.compile.graph.graph import Editor, Graph, Node

CLOSE = 1e-4
"""Tolerance for values of order one, because exporters write constants as float32."""


def recognise_convex_upsampling(graph: Graph) -> Graph:
    """``graph`` with ``convex_upsample`` nodes."""
    found: dict[str, tuple[str, str, int, float]] = {}
    for node in graph.nodes:
        if node.op == "nn.softmax" and len(node.shape) == 4 and node.shape[0] == 9:
            found |= _upsampling(graph, node)
    editor = Editor(graph)
    for node in graph.nodes:
        if node.name in found:
            mask, flow, factor, scale = found[node.name]
            attributes = {"factor": factor, "scale": scale}
            editor.keep(node, op="convex_upsample", inputs=(mask, flow), attributes=attributes)
        else:
            editor.keep(node)
    return editor.graph()


def _upsampling(graph: Graph, softmax: Node) -> dict[str, tuple[str, str, int, float]]:
    """The result that ``softmax`` weighs: its name to mask, flow, factor and scale."""
    _, square, height, width = softmax.shape
    factor = math.isqrt(square)
    flat = graph.by_name.get(softmax.inputs[0])
    if int(softmax.attributes["axis"]) not in (0, -4) or factor**2 != square or flat is None or flat.op != "reshape":
        return {}
    mask = flat.inputs[0]
    if graph.shape_of(mask) != (1, 9 * square, height, width):
        return {}
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=graph.shape_of(mask)))
    flow = torch.from_numpy(rng.normal(size=(1, 2, height, width)))
    wanted = _combined(weights, flow, factor)
    for pad in graph.nodes:
        if pad.op != "nn.pad" or graph.shape_of(pad.inputs[0]) != (1, 2, height, width):
            continue
        known = {mask: weights, pad.inputs[0]: flow}
        order = _downstream(graph, tuple(known))
        for node in order:
            if node.shape != (1, 2, factor * height, factor * width):
                continue
            value = evaluated(graph, order, known, node.name)
            if value is not None and np.allclose(value, wanted.numpy(), rtol=0.0, atol=CLOSE):
                source, scale = _scaled(graph, pad.inputs[0])
                return {node.name: (mask, source, factor, scale)}
    return {}


def _combined(mask: torch.Tensor, flow: torch.Tensor, factor: int) -> torch.Tensor:
    """The definition."""
    _, _, height, width = flow.shape
    weights = mask.reshape(1, 9, factor**2, height, width).softmax(1)
    near = F.unfold(flow, 3, padding=1).reshape(2, 9, 1, height, width)
    return F.pixel_shuffle((weights * near).sum(1), factor).transpose(0, 1)


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
