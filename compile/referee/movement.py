"""Movement: codes go elsewhere, and keep scale and zero point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import AnyInts
from codesign.compile.referee.values import Operand, Rule, Tensor, tensor


def _of_codes(source: Tensor, codes: AnyInts) -> Tensor:
    return replace(source, codes=np.ascontiguousarray(codes))


def shuffled(node: Node, operands: Sequence[Operand]) -> Tensor:
    source, r = tensor(operands[0]), int(node.attributes["upscale_factor"])
    n, c, h, w = source.codes.shape
    split = source.codes.reshape(n, c // (r * r), r, r, h, w)
    return _of_codes(source, split.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (r * r), h * r, w * r))


def unshuffled(node: Node, operands: Sequence[Operand]) -> Tensor:
    source, r = tensor(operands[0]), int(node.attributes["downscale_factor"])
    n, c, h, w = source.codes.shape
    split = source.codes.reshape(n, c, h // r, r, w // r, r)
    return _of_codes(source, split.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * r * r, h // r, w // r))


def repeated(node: Node, operands: Sequence[Operand]) -> Tensor:
    source = tensor(operands[0])
    times, axis = int(node.attributes["repeats"]), int(node.attributes["axis"])
    return _of_codes(source, np.repeat(source.codes, times, axis=axis))


def tiled(node: Node, operands: Sequence[Operand]) -> Tensor:
    source = tensor(operands[0])
    return _of_codes(source, np.tile(source.codes, tuple(int(times) for times in node.attributes["repeats"])))


def sliced(node: Node, operands: Sequence[Operand]) -> Tensor:
    source, attributes = tensor(operands[0]), node.attributes
    index = [slice(None)] * source.codes.ndim
    strides = attributes.get("strides") or (1,) * len(attributes["axes"])
    spans = zip(attributes["axes"], attributes["begin"], attributes["end"], strides, strict=True)
    for axis, begin, end, stride in spans:
        index[int(axis)] = slice(int(begin), int(end), int(stride))
    return _of_codes(source, source.codes[tuple(index)])


RULES: Mapping[str, Rule] = {
    "nn.pixel_shuffle": shuffled,
    "pixel_unshuffle": unshuffled,
    "repeat": repeated,
    "tile": tiled,
    "strided_slice": sliced,
}
