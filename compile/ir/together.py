"""Several images of one size through a float graph at once, with the very values that each gives alone.

Calibration runs a network on eight small crops. Torch prepares a convolution's weights at every call, which costs more
than a crop's arithmetic, so the crops share the call. Only operators whose values do not depend on what else is in the
batch run so; the others run image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.ir.evaluate import apply, trace

PIXELS_TOGETHER = 1 << 15
"""Images of more pixels in all run one after another: they fill the calls by themselves, and the memory."""

ALONE_BELOW = 20480
"""Torch convolves a single image of at most so many values by another algorithm, with other roundings, unless the
convolution is grouped or its kernel larger than 3x3 (``use_mkldnn`` in its Convolution.cpp)."""

_EXACT = frozenset(
    {"add", "subtract", "multiply", "divide", "maximum", "minimum", "abs", "negative", "square"}
    | {"clip", "nn.relu", "nn.leakyrelu", "nn.prelu"}
)
"""Operators on single values that round at most as IEEE prescribes: the same bits, vectorised or not."""


def traced_images(graph: Graph, images: Sequence[NDArray[np.float32]]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield ``(name, its value for each image)`` of the input and of every node in turn.

    ``images``: float32[1, C, H, W] each, already checked. Images that do not run together come one after another: then
    a name comes as often as there are images, with one value each.
    """
    pixels = sum(image[0, 0].size for image in images)
    if len(images) > 1 and len({image.shape for image in images}) == 1 and pixels <= PIXELS_TOGETHER:
        yield from _Together(graph, images).values()
        return
    for image in images:
        for name, value in trace(graph, torch.from_numpy(np.ascontiguousarray(image))):
            yield name, [value]


class _Together:
    """Values as one tensor, whose first axis has the images one after another, or as a tensor for each image."""

    def __init__(self, graph: Graph, images: Sequence[NDArray[np.float32]]) -> None:
        self.graph, self.count = graph, len(images)
        self.constants = {name: torch.from_numpy(value.copy()) for name, value in graph.constants.items()}
        self.joined: dict[str, Tensor] = {graph.input: torch.from_numpy(np.concatenate(images))}
        self.apart: dict[str, list[Tensor]] = {}

    def values(self) -> Iterator[tuple[str, list[Tensor]]]:
        remaining = {name: len(nodes) for name, nodes in self.graph.consumers().items()}
        yield self.graph.input, self._parts(self.graph.input)
        for node in self.graph.nodes:
            if self._shares(node):
                self.joined[node.name] = apply(node, [self._whole(name) for name in node.inputs])
            else:
                operands = [self._parts(name) for name in node.inputs]
                self.apart[node.name] = [apply(node, [one[at] for one in operands]) for at in range(self.count)]
            yield node.name, self._parts(node.name)
            for name in node.inputs:
                remaining[name] -= 1
                if remaining[name] == 0:
                    for kept in (self.constants, self.joined, self.apart):
                        kept.pop(name, None)

    def _parts(self, name: str) -> list[Tensor]:
        """The value of ``name`` for each image."""
        if name in self.constants:
            return [self.constants[name]] * self.count
        return list(self.joined[name].chunk(self.count)) if name in self.joined else self.apart[name]

    def _whole(self, name: str) -> Tensor:
        """A constant, or the value of ``name`` for all images in one tensor."""
        if name in self.constants:
            return self.constants[name]
        if name not in self.joined:
            self.joined[name] = torch.cat(self.apart.pop(name))
        return self.joined[name]

    def _shares(self, node: Node) -> bool:
        """Whether the images may share one call of ``node``."""
        moving = [name for name in node.inputs if name not in self.constants]
        if not moving or not all(map(self._joins, moving)):
            return False
        match node.op:
            case "nn.conv2d":
                return moving == [node.inputs[0]] and self._convolves_alike(node)
            case "concat":
                return len(moving) == len(node.inputs) and int(node.attributes["axis"]) > 0
            case "nn.pixel_shuffle":
                return True
            case "nn.prelu":
                return len(moving) == 1 and int(node.attributes["axis"]) > 0
            case op if op in _EXACT:
                ranks = {len(self._shape(name)) for name in moving}
                fixed = [self.constants[name] for name in node.inputs if name in self.constants]
                return len(ranks) == 1 and all(one.dim() < min(ranks) or one.shape[0] == 1 for one in fixed)
            case _:
                return False

    def _shape(self, name: str) -> torch.Size:
        """The shape of ``name`` for one image."""
        return self._parts(name)[0].shape

    def _joins(self, name: str) -> bool:
        """Whether the images' values of ``name`` lie one after another when joined, as each lies alone."""
        if name in self.joined:
            return True
        first = self.apart[name][0]
        return isinstance(first, Tensor) and first.dim() > 1 and first.shape[0] == 1 and first.is_contiguous()

    def _convolves_alike(self, node: Node) -> bool:
        weight, shape = self.constants[node.inputs[1]], self._shape(node.inputs[0])
        if len(shape) != 4 or weight.dim() != 4:
            return False
        by_same_algorithm = int(node.attributes["groups"]) > 1 or min(weight.shape[2:]) > 3
        top, left, bottom, right = node.attributes["padding"]
        if (top, left) == (bottom, right):
            top = left = bottom = right = 0  # torch pads by itself
        height, width = shape[2] + top + bottom, shape[3] + left + right
        return by_same_algorithm or shape[1] * height * width > ALONE_BELOW
