"""Architectures known from their weights: a state dictionary becomes a torch module and a card that describes it.

spandrel recognises the architecture by the names and shapes of the weights. It is imported when the first such file is
opened, as it takes seconds.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.hw.errors import InputError, UnsupportedError

COLOURS = {1: "grey", 3: "RGB", 4: "RGBA"}

_PURPOSES = {"SR": "super-resolution", "FaceSR": "faces", "Restoration": "restoration", "Inpainting": "inpainting"}
_TILING = {
    "SUPPORTED": "tiles allowed",
    "DISCOURAGED": "tiles show, as it looks at the whole image",
    "INTERNAL": "it cuts tiles itself",
}


@dataclass(frozen=True)
class SizeRule:
    """Sides of an image that a network takes; others are padded at the right and at the bottom."""

    multiple: int = 1
    minimum: int = 0
    square: bool = False

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The least (width, height) that is no smaller than ``size`` and obeys the rule."""
        width, height = (-(-max(side, self.minimum) // self.multiple) * self.multiple for side in size)
        return (max(width, height),) * 2 if self.square else (width, height)

    def pad(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """``planes`` (..., H, W) mirrored outwards as far as they reach, then continued by their last pixel.

        As spandrel's own call pads, which is how these networks are used elsewhere.
        """
        height, width = planes.shape[-2:]
        wanted, beyond = self.padded((width, height)), [(0, 0)] * (planes.ndim - 2)
        right, down = wanted[0] - width, wanted[1] - height
        mirrored = (0, min(down, height - 1)), (0, min(right, width - 1))
        rest = (0, down - mirrored[0][1]), (0, right - mirrored[1][1])
        return np.pad(np.pad(planes, [*beyond, *mirrored], mode="reflect"), [*beyond, *rest], mode="edge")

    def __str__(self) -> str:
        parts = [f"multiples of {self.multiple}"] if self.multiple > 1 else []
        parts += [f"at least {self.minimum}"] if self.minimum > 1 else []
        sides = f"sides {' and '.join(parts)}" if parts else "any size"
        return f"{sides}, square" if self.square else sides


@dataclass(frozen=True)
class ModelCard:
    """A description of a network that was recognised by its weights.

    ``tags``: what spandrel tells architectures of one name apart by. ``half``: the half precisions that it is known to
    bear, a statement of spandrel's, not a measurement.
    """

    architecture: str
    tags: tuple[str, ...]
    scale: int
    channels: tuple[int, int]  # of input and output
    sides: SizeRule
    tiling: str
    purpose: str
    half: tuple[str, ...]
    weights: int

    def __str__(self) -> str:
        tags = f" ({', '.join(self.tags)})" if self.tags else ""
        colours = " to ".join(COLOURS.get(count, f"{count} channels") for count in self.channels)
        half = f"half precision {' and '.join(self.half)}" if self.half else "no half precision"
        return (
            f"{self.architecture}{tags}, scale {self.scale}, {colours}, {self.sides}, {self.tiling}, {self.purpose}, "
            f"{half}, {self.weights:,} weights"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "tags": list(self.tags),
            "scale": self.scale,
            "input_channels": self.channels[0],
            "output_channels": self.channels[1],
            "size_multiple": self.sides.multiple,
            "size_minimum": self.sides.minimum,
            "size_square": self.sides.square,
            "tiling": self.tiling,
            "purpose": self.purpose,
            "half_precision": list(self.half),
            "weights": self.weights,
        }


class Restorer(torch.nn.Module):
    """A recognised network as a function of one image, as spandrel calls it."""

    def __init__(self, net: torch.nn.Module, call: Any) -> None:
        super().__init__()
        self.net = net
        self._call = call

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._call(self.net, image)
        return result


def recognised(state: Mapping[str, Any], where: str) -> tuple[Restorer, ModelCard]:
    """The network, in evaluation mode and FP32, and its card.

    Raises :class:`InputError` for weights of no architecture that spandrel knows, and for weights that contradict it;
    :class:`UnsupportedError` for a network that takes more than one image.
    """
    library = spandrel()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # architectures use what torch deprecates
            found = library.ModelLoader().load_from_state_dict(dict(state))
    except library.UnsupportedModelError as error:
        raise InputError(
            "holds weights of no architecture that spandrel knows",
            where=where,
            hint="Weights of a network that `networks` lists go through --weights; export others as .pt2 or .onnx.",
        ) from error
    except Exception as error:  # some of forty architectures, each with its own way to fail
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"holds weights that contradict each other ({type(error).__name__}: {reason})",
            where=where,
            hint="Download the file again, or export the network as .pt2 or .onnx.",
        ) from error
    if not isinstance(found, library.ImageModelDescriptor):
        raise UnsupportedError(
            f"is a network for {_PURPOSES.get(found.purpose, found.purpose)}, which takes a mask beside the image",
            where=where,
            hint="Networks of one image are supported.",
        )
    rule = found.size_requirements
    net = _settled(found.model.float().eval())
    card = ModelCard(
        str(found.architecture.name),
        tuple(map(str, found.tags)),
        int(found.scale),
        (int(found.input_channels), int(found.output_channels)),
        SizeRule(int(rule.multiple_of), int(rule.minimum), bool(rule.square)),
        _TILING.get(found.tiling.name, found.tiling.name.lower()),
        _PURPOSES.get(found.purpose, str(found.purpose)),
        tuple(n for n, held in (("fp16", found.supports_half), ("bf16", found.supports_bfloat16)) if held),
        sum(weight.numel() for weight in net.parameters()),
    )
    return Restorer(net, found._call_fn).eval(), card


def _settled(net: torch.nn.Module) -> torch.nn.Module:
    """``net`` with constant weights: SPAN's layers merge their branches anew in every call, which has no export."""
    for layer in net.modules():
        merge = getattr(layer, "update_params", None)
        if callable(merge):
            merge()
            layer.update_params = _nothing  # type: ignore[assignment]
    for weight in net.parameters():
        weight.requires_grad_(False)
    return net


def _nothing() -> None:
    """Stand in for the merging of branches that are merged already."""


def spandrel() -> types.ModuleType:
    """The library. Raises :class:`InputError` where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _import_torchvision()
            return importlib.import_module("spandrel")
    except Exception as error:  # a library that does not fit the torch beside it raises anything
        raise InputError(
            f"spandrel, which opens weights files, cannot be imported ({' '.join(str(error).split())[:200]})",
            where="installation",
            hint="Install spandrel and the torchvision made for the torch that is installed.",
        ) from error


_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor",
)
"""torchvision's operators that its Python declares gradients and shapes for when it is imported."""

_declared: list[torch.library.Library] = []


def _import_torchvision() -> None:
    """Import torchvision, whose wheel for GPUs does not load beside a torch for CPUs.

    Its compiled operators are missing there, and its import stops at the first that it describes. No architecture of
    spandrel calls one, so they are declared, without a body, and their descriptions are left out.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    for name in [one for one in sys.modules if one == "torchvision" or one.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in _OPERATORS:
        library.define(operator)  # type: ignore[no-untyped-call]
    _declared.append(library)  # the declarations end with the object
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    importlib.import_module("torchvision")
