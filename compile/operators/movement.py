"""Data that moves and keeps its values: pixels to channels and back, copies and slices of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.operator import Bind, Composite, Operator
from codesign.compile.operators.rules import FRAME
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Shuffle
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.kernels import resize
from codesign.kernels.frame_kernel import FrameKernel

UNSHUFFLES = (2, 4, 8)

NEAREST = "nearest"
"""Every pixel as a square block of pixels: copies of its channels shuffled, which is one CUDA kernel."""


class _Movement(Operator):
    keeps_scale = True
    bits = "8 or 16"
    carries_flows = True

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return True

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return result_wide

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return True


def shuffle_fits(graph: Graph, node: Node) -> bool:
    """Pixels may be shuffled by a factor of at most 8."""
    return 1 <= int(node.attributes["upscale_factor"]) <= 8


class PixelShuffle(_Movement):
    """Depth to space: channel ``c f^2 + i f + j`` becomes pixel ``(f y + i, f x + j)`` of channel c."""

    ops = ("nn.pixel_shuffle",)
    cuda = "joins the store of a convolution; nearest up-scaling has a kernel of its own"
    cuda_ops = (NEAREST,)
    spellings = ("torch: PixelShuffle, Upsample(mode='nearest')", "ONNX: DepthToSpace (CRD, DCR), Resize (nearest)")
    rules = (*FRAME, shuffle_fits)

    def for_cuda(self, graph: Graph) -> Graph:
        return _nearest(graph)

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        factor = int(node.attributes["upscale_factor"])
        return (resize.Resize(node.shape[1], "nearest", factor),) if node.op == NEAREST else ()

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        factor = int(unit.head.attributes["upscale_factor"])
        lowering.layers.append(Shuffle(unit.name, source.name, target.name, factor))


def _nearest(graph: Graph) -> Graph:
    """``graph`` with ``nearest`` nodes for shuffles of copies."""
    editor = Editor(graph)
    for node in graph.nodes:
        copies = graph.by_name.get(node.inputs[0]) if node.op == "nn.pixel_shuffle" else None
        if copies is not None and _makes_blocks(copies, int(node.attributes["upscale_factor"])):
            editor.keep(node, op=NEAREST, inputs=copies.inputs)
        else:
            editor.keep(node)
    return editor.graph()


def _makes_blocks(copies: Node, factor: int) -> bool:
    """Whether a shuffle of ``copies`` by ``factor`` makes a block of equal pixels of each pixel."""
    attributes = copies.attributes
    return copies.op == "repeat" and attributes["axis"] == 1 and int(attributes["repeats"]) == factor**2


def unshuffles(graph: Graph, node: Node) -> bool:
    """Pixels may be unshuffled by 2, 4 or 8."""
    return int(node.attributes["downscale_factor"]) in UNSHUFFLES


class PixelUnshuffle(_Movement, Composite):
    """Space to depth: pixel ``(f y + i, f x + j)`` of channel c becomes channel ``c f^2 + i f + j``."""

    ops = ("pixel_unshuffle",)
    spellings = ("torch: PixelUnshuffle, or reshape, permute and reshape", "ONNX: SpaceToDepth, or the same")
    size_free = True
    rules = (*FRAME, unshuffles)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        return F.pixel_unshuffle(inputs[0], int(node.attributes["downscale_factor"]))

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        _, channels, height, width = node.shape
        factor = int(node.attributes["downscale_factor"])
        split = relax.op.reshape(inputs[0], (1, channels // factor**2, height, factor, width, factor))
        split = bind(f"{node.name}.split", split)
        turned = bind(f"{node.name}.turn", relax.op.permute_dims(split, (0, 1, 3, 5, 2, 4)))
        return bind(node.name, relax.op.reshape(turned, node.shape))

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        done, factor = 1, int(unit.head.attributes["downscale_factor"])
        while done < factor:
            done *= 2
            last = done == factor
            name = target.name if last else lowering.fresh(f"{target.name}.by{done}")
            height, width, channels = source.height // 2, source.width // 2, source.channels * 4
            made = lowering.make(replace(source, name=name, height=height, width=width, channels=channels))
            copy = copy_layer(unit.name if last else f"{unit.name}.by{done}", made, made)
            kernel = Convolution(_apart(source.channels, done), stride=2)
            lowering.layers.append(replace(copy, sources=(source.name,), kernel=kernel))
            source = made


def _apart(channels: int, done: int) -> NDArray[np.int8]:
    """Weights ``[2, 2, C, 4 C]`` of stride 2 that take blocks of 2 x 2 pixels apart, ``done`` x ``done`` in all.

    Channel (c, a, b) of the source is sub-pixel (a, b) so far; pixel (i, j) of a block makes it (2 i' + a).
    """
    weights = np.zeros((2, 2, channels, 4 * channels), np.int8)
    half = done // 2
    c, a, b = np.unravel_index(np.arange(channels), (channels // half**2, half, half))
    for i in range(2):
        for j in range(2):
            weights[i, j, np.arange(channels), (c * done + half * i + a) * done + half * j + b] = 1
    return weights


def moves_channels(graph: Graph, node: Node) -> bool:
    """Only channels may be repeated, tiled or sliced."""
    match node.op:
        case "repeat":
            return node.attributes["axis"] is not None and int(node.attributes["axis"]) == 1
        case "tile":
            times = [int(t) for t in node.attributes["repeats"]]
            return len(times) == 4 and times[0] == times[2] == times[3] == 1
        case _:
            return [int(axis) for axis in node.attributes["axes"]] == [1]


class Copies(_Movement):
    """Channels repeated, tiled, sliced or split."""

    ops = ("repeat", "tile", "strided_slice")
    cuda = "slices read in place, or a kernel of its own; others by TVM"
    spellings = ("torch: repeat, repeat_interleave, x[:, a:b], chunk, split", "ONNX: Tile, Expand, Slice, Split")
    rules = (moves_channels,)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        planes = np.split(np.arange(source.channels, dtype=np.int64), source.planes)
        picked = np.concatenate([_picked(unit.head, plane) for plane in planes])
        lowering.layers.append(copy_layer(unit.name, source, target).pick(picked.tolist()))


def _picked(head: Node, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The channels that a copy, tiling or slice of ``channels`` has, in order."""
    attributes = head.attributes
    match head.op:
        case "repeat":
            return np.repeat(channels, int(attributes["repeats"]))
        case "tile":
            return np.tile(channels, int(attributes["repeats"][1]))
        case _:
            (step,) = attributes.get("strides") or (1,)
            return channels[int(attributes["begin"][0]) : int(attributes["end"][0]) : int(step)]
