"""The values between which a network wants its images: 0..1, 0..255 or -1..1, told from the network itself.

A network that wants 0..255 and is fed 0..1 sees a black image. Whoever quantised it wrote its range down; most others
begin with an affine function of the image, whose zero or factor gives the range away. The rest is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.graph.graph import Array, Graph, Node
from codesign.compile.ir.evaluate import run
from codesign.hw.errors import InputError

_Real = TypeVar("_Real", bound=np.floating[Any])


@dataclass(frozen=True)
class ValueRange:
    """Values of black and of white."""

    low: float = 0.0
    high: float = 1.0

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    @property
    def span(self) -> float:
        return self.high - self.low

    def encode(self, image: NDArray[_Real]) -> NDArray[_Real]:
        """An image in [0, 1] in these values."""
        return image if self == UNIT else np.asarray(image * self.span + self.low, image.dtype)

    def decode(self, image: NDArray[_Real]) -> NDArray[_Real]:
        """An image in these values in [0, 1]."""
        return image if self == UNIT else np.asarray((image - self.low) / self.span, image.dtype)


UNIT, BYTES, SIGNED = ValueRange(), ValueRange(0.0, 255.0), ValueRange(-1.0, 1.0)
RANGES = {str(one): one for one in (UNIT, BYTES, SIGNED)}


@dataclass(frozen=True)
class Values:
    """The values of a network's images, and where they are known from."""

    range: ValueRange = UNIT
    reason: str = "assumed"


def parse_range(text: str) -> ValueRange:
    """``0..255`` as a range. Raises :class:`InputError` for anything but the three that networks use."""
    if text not in RANGES:
        raise InputError(f"{text!r} is no range of values", where="--range", hint=f"Choose {', '.join(RANGES)}.")
    return RANGES[text]


def told_values(graph: Graph) -> Values | None:
    """The values that an imported network's first operators give away; None if they do not."""
    readers = graph.consumers()
    name, factor, offset = graph.input, 1.0, 0.0
    while len(readers[name]) == 1:
        node = readers[name][0]
        if node.op == "quantize":
            return None if (factor, offset) != (1.0, 0.0) else _of_codes(graph, node)
        step = _affine(graph, node, name)
        if step is None:
            break
        factor, offset = factor * step[0], offset * step[0] + step[1]
        name = node.name
    return _of_affine(factor, offset)


def _of_affine(factor: float, offset: float) -> Values | None:
    """``factor * image + offset`` is what the first convolution sees, about zero and about one in size."""
    if factor == 0.0:
        return None
    if abs(offset) > 1e-6:
        zero = -offset / factor
        known = BYTES if 16.0 < zero < 240.0 else UNIT if 0.2 < zero < 0.8 else SIGNED if zero == -1.0 else None
        return None if known is None else Values(known, f"its first operators make {zero:.3g} zero")
    if 0.0 < factor <= 1 / 64:
        return Values(BYTES, f"it divides by {1 / factor:.3g} first")
    return Values(UNIT, f"it multiplies by {factor:.3g} first") if factor >= 64.0 else None


def _of_codes(graph: Graph, node: Node) -> Values | None:
    scale, zero = (_constant(graph, name) for name in node.inputs[1:3])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or node.dtype not in ("int8", "uint8"):
        return None
    codes = np.iinfo(node.dtype)
    low, high = ((code - float(zero.reshape(-1)[0])) * float(scale.reshape(-1)[0]) for code in (codes.min, codes.max))
    said = f"its input is quantised from {low:.3g} to {high:.3g}"
    if high >= 32.0:
        return Values(BYTES, said)
    # Symmetric codes reach as far below zero as above it, whatever the image's values are.
    symmetric = low < 0.0 and abs(low + high) <= 2 * float(scale.reshape(-1)[0])
    if symmetric or not 0.5 <= high <= 2.0:
        return None
    return Values(UNIT, said) if low > -0.25 else Values(SIGNED, said) if -2.0 <= low <= -0.5 else None


_MOVING = {"flip", "strided_slice", "permute_dims", "reshape", "expand_dims", "squeeze", "nn.pad", "astype", "take"}


def _affine(graph: Graph, node: Node, name: str) -> tuple[float, float] | None:
    """Mean factor and offset of an operator that is affine in its operand ``name``; None for any other."""
    if node.op in _MOVING and node.inputs[0] == name:
        return 1.0, 0.0
    if node.op == "nn.conv2d" and node.inputs[0] == name:
        return _of_convolution(graph, node)
    others = [one for one in node.inputs if one != name]
    value = _constant(graph, others[0]) if len(node.inputs) == 2 and len(others) == 1 else None
    if value is None or value.size not in (1, 3) or not np.all(np.isfinite(value)):
        return None
    mean, first = float(value.mean()), node.inputs[0] == name
    match node.op:
        case "add":
            return 1.0, mean
        case "subtract":
            return (1.0, -mean) if first else (-1.0, mean)
        case "multiply":
            return mean, 0.0
        case "divide" if first and mean != 0.0:
            return 1.0 / mean, 0.0
    return None


def _of_convolution(graph: Graph, node: Node) -> tuple[float, float] | None:
    """The factor of a 1x1 convolution that hands every colour on, as some networks subtract their means."""
    kernel = _constant(graph, node.inputs[1])
    if kernel is None or kernel.shape[1:] != (3, 1, 1) or kernel.shape[0] != 3:
        return None
    taken = kernel[:, :, 0, 0]
    return (float(taken.sum() / 3), 0.0) if np.all(np.count_nonzero(taken, axis=1) == 1) else None


def _constant(graph: Graph, name: str) -> Array | None:
    node = graph.by_name.get(name)
    if node is not None and node.op == "reshape":
        name = node.inputs[0]
    value = graph.constants.get(name)
    return value if value is None or np.issubdtype(value.dtype, np.number) else None


MAX_PIXELS = 512 * 512
"""Pixels of the largest image that a network of unknown values is tried on."""

_SPOILED_DB, _KEPT_DB = 6.0, 10.0
"""Likeness of output and input below which an image is spoiled, and above which it is kept.

A network of 0..1 that is fed 0..255 may keep its image as well, as its biases vanish; so 0..1 is asked first.
"""


def tried_values(graph: Graph, image: NDArray[np.float32]) -> Values:
    """0..255 if the network keeps a photograph of that range and spoils one of 0..1."""
    scale = graph.output_shape[3] // max(1, graph.input_shape[3])
    if graph.output_shape[:2] != graph.input_shape[:2] or scale < 1 or graph.carried:
        return Values(UNIT, "assumed: its output is not an image like its input")
    if image.shape[2] * image.shape[3] > MAX_PIXELS:
        return Values(UNIT, "assumed: too large to try")
    with torch.no_grad():
        unit, bytes_ = (_likeness(graph, image, one, scale) for one in (UNIT, BYTES))
    said = f"on a photograph its output follows its input to {bytes_:.0f} dB in 0..255, to {unit:.0f} dB in 0..1"
    if unit >= _SPOILED_DB:
        return Values(UNIT, f"on a photograph its output follows its input to {unit:.0f} dB in 0..1")
    return Values(BYTES, said) if bytes_ > _KEPT_DB else Values(UNIT, f"assumed: {said}")


def _likeness(graph: Graph, image: NDArray[np.float32], values: ValueRange, scale: int) -> float:
    """Signal over difference, in decibels, of the network's output beside its input."""
    output = values.decode(run(graph, torch.from_numpy(values.encode(image))).numpy().astype(np.float64))
    like = np.repeat(np.repeat(image.astype(np.float64), scale, axis=2), scale, axis=3)
    if output.shape != like.shape or not np.all(np.isfinite(output)):
        return -99.0
    noise = float(np.mean((output - like) ** 2))
    return float(np.clip(10 * np.log10(max(float(like.var()), 1e-12) / max(noise, 1e-12)), -99.0, 99.0))
