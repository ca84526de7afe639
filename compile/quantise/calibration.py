"""Observe the values of a network's tensors on real images, and choose the int8 scale that suits them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.ir.evaluate import size_free, trace
from codesign.compile.ir.together import traced_images
from codesign.hw.errors import InputError
from codesign.hw.numerics import INT8_MAX, INT8_MIN

Method = Literal["minmax", "percentile", "mse"]
Floats = NDArray[np.float32]

SAMPLES_PER_IMAGE = 1 << 16
EMPTY = 1e-12
"""A tensor whose values span less counts as zero and gets the scale of pixels, which suits any neighbour."""


@dataclass(frozen=True)
class QuantParams:
    """``real = scale * (q - zero_point)``; ``scale`` is exactly a float32, ``zero_point`` in -128..127."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0 and float(np.float32(self.scale)) == self.scale):
            raise ValueError(f"scale {self.scale!r} is not a positive float32")
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise ValueError(f"zero point {self.zero_point} is outside int8")

    def centred(self) -> QuantParams:
        """Parameters that cover the same range with a zero point of 0."""
        return QuantParams(float(np.float32(max(-self.low, self.high) / INT8_MAX)), 0)

    @property
    def low(self) -> float:
        return self.scale * (INT8_MIN - self.zero_point)

    @property
    def high(self) -> float:
        return self.scale * (INT8_MAX - self.zero_point)


PIXELS = QuantParams(float(np.float32(1 / 255)), -128)
"""Images in [0, 1]: the code of a pixel is its 8-bit value minus 128."""


@dataclass(frozen=True)
class Observation:
    """Values of one tensor over all calibration images: exact extremes and a regular sample."""

    low: float
    high: float
    sample: Floats

    @staticmethod
    def joined(parts: Sequence[Observation]) -> Observation:
        """All of ``parts`` (one at least) as one tensor's; the samples are copied once, however many there are."""
        if len(parts) == 1:
            return parts[0]
        low, high = min(one.low for one in parts), max(one.high for one in parts)
        return Observation(low, high, np.concatenate([one.sample for one in parts]))

    def scaled(self, factor: float) -> Observation:
        """The values of the tensor times a positive ``factor``."""
        if factor == 1.0:
            return self
        return Observation(self.low * factor, self.high * factor, self.sample * np.float32(factor))


def observe(graph: Graph, images: Sequence[Floats], names: Collection[str]) -> dict[str, Observation]:
    """Run ``graph`` (float) on ``images`` and observe the tensors ``names``.

    ``images``: float32[1, C, H, W] each, of any size when the graph allows it. A recurrent network sees them one after
    another; the first of several only fills its state, because nothing came before it. Raises
    :class:`InputError` for no images, wrong shapes or values that are not finite.
    """
    check_images(graph, images)
    seen: dict[str, list[Observation]] = {}
    with torch.no_grad():
        found = _remembering(graph, images) if graph.carried else traced_images(graph, images)
        for name, values in found:
            if name in names:
                one = Observation.joined([_observation(value.numpy(), name) for value in values])
                seen.setdefault(name, []).append(one)
    return {name: Observation.joined(seen.pop(name)) for name in [*seen]}  # the samples are large: not kept twice


def _remembering(graph: Graph, images: Sequence[Floats]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """The values of a recurrent network from the second of ``images`` on, each with the state that the last one left.

    Of a single image, its values.
    """
    states: dict[str, torch.Tensor] = {}

    def remembered(node: Node, _: list[torch.Tensor]) -> torch.Tensor | None:
        return states.get(node.name)

    for number, image in enumerate(images):
        left: dict[str, torch.Tensor] = {}
        for name, value in trace(graph, torch.from_numpy(np.ascontiguousarray(image)), remembered):
            left |= {state: value for after, state in graph.carried if after == name}
            if number > 0 or len(images) == 1:
                yield name, [value]
        states = left


def check_images(graph: Graph, images: Sequence[Floats]) -> None:
    """Raise :class:`InputError` unless ``images`` can calibrate ``graph``."""
    if not images:
        raise InputError("no calibration images", where="calibration", hint="Give at least one image.")
    for image in images:
        _check_image(graph, image)


def _check_image(graph: Graph, image: Floats) -> None:
    _, channels, height, width = graph.input_shape
    where = "calibration"
    if image.dtype != np.float32 or image.ndim != 4 or image.shape[:2] != (1, channels):
        raise InputError(
            f"a calibration image is {image.dtype}{list(image.shape)}",
            where=where,
            hint=f"This network takes float32[1, {channels}, H, W].",
        )
    if image.shape[2:] != (height, width) and not size_free(graph):
        raise InputError(
            f"a calibration image has {image.shape[3]}x{image.shape[2]} pixels",
            where=where,
            hint=f"This network has operators of fixed size: use images of {width}x{height}.",
        )
    if not np.isfinite(image).all():
        raise InputError("a calibration image holds values that are not finite", where=where, hint="Check the image.")


def _observation(value: NDArray[Any], name: str) -> Observation:
    low, high = float(value.min()), float(value.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            "the network's values are not finite on a calibration image",
            where=f"tensor '{name}'",
            hint="Check the weights, and that images are scaled as the network expects.",
        )
    flat = value.reshape(-1)
    step = max(1, flat.size // SAMPLES_PER_IMAGE)
    # A step that shares no factor with the row length would be better still; an odd step is enough for even widths.
    return Observation(low, high, flat[:: step | 1].astype(np.float32))


def parameters(low: float, high: float) -> QuantParams:
    """The int8 scale and zero point that cover ``[low, high]`` and represent 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < EMPTY:
        return PIXELS
    scale = float(np.float32((high - low) / (INT8_MAX - INT8_MIN)))
    zero_point = int(np.clip(np.rint(INT8_MIN - low / scale), INT8_MIN, INT8_MAX))
    return QuantParams(scale, zero_point)


def choose(observation: Observation, method: Method, percentile: float = 99.99) -> QuantParams:
    """Scale and zero point by ``method``.

    ``minmax`` covers every value; ``percentile`` cuts the tails beyond ``percentile`` per cent of the values (half of
    them a side); ``mse`` takes the cut with the least mean square error on the sample.
    """
    match method:
        case "minmax":
            return parameters(observation.low, observation.high)
        case "percentile":
            tail = (100.0 - percentile) / 2
            low, high = np.percentile(observation.sample, [tail, 100.0 - tail])
            return parameters(float(low), float(high))
        case "mse":
            return _least_square_error(observation)
        case _:
            raise InputError(
                f"unknown calibration method '{method}'", where="--calibration", hint="minmax, percentile or mse."
            )


def _least_square_error(observation: Observation) -> QuantParams:
    step = max(1, observation.sample.size >> 16)
    sample = observation.sample[::step].astype(np.float64)
    candidates = [parameters(observation.low * cut, observation.high * cut) for cut in np.linspace(1.0, 0.4, 31)]
    errors = [float(np.mean((fake_quantised(sample, candidate) - sample) ** 2)) for candidate in candidates]
    return candidates[int(np.argmin(errors))]


def fake_quantised(values: NDArray[np.float64], params: QuantParams) -> NDArray[np.float64]:
    """``values`` after int8 and back."""
    codes = np.clip(np.rint(values / params.scale) + params.zero_point, INT8_MIN, INT8_MAX)
    return np.asarray((codes - params.zero_point) * params.scale, np.float64)


def distinct_codes(observations: Mapping[str, Observation], chosen: Mapping[str, QuantParams]) -> dict[str, int]:
    """The number of different int8 codes in each tensor's sample: few codes prove little about the arithmetic."""
    counts: dict[str, int] = {}
    for name, observation in observations.items():
        params = chosen[name]
        codes = np.clip(np.rint(observation.sample / params.scale) + params.zero_point, INT8_MIN, INT8_MAX)
        met = np.zeros(INT8_MAX - INT8_MIN + 1, bool)  # a table: sorting the sample would take most of the time
        met[codes.astype(np.int8).view(np.uint8)] = True
        counts[name] = int(np.count_nonzero(met))
    return counts
