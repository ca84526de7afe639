"""Perceptual distance with the user's weights (LPIPS; Zhang et al., CVPR 2018), on AlexNet's features.

The ``.npz`` holds, under these names, AlexNet's five convolutions as torchvision has them and the five linear layers of
LPIPS (version 0.1)::

    conv1.weight [64, 3, 11, 11]    conv2.weight [192, 64, 5, 5]     conv3.weight [384, 192, 3, 3]
    conv4.weight [256, 384, 3, 3]   conv5.weight [256, 256, 3, 3]    convN.bias [outputs]
    linN.weight [1, outputs of convN, 1, 1]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from codesign.hw.errors import InputError
from codesign.pictures.images import Reals

_SHAPES = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
_STRIDES, _PADDINGS, _POOLED = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (False, True, True, False, False)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LEAST = 63
"""Smallest side in pixels; AlexNet's last layer then sees three."""


@dataclass(frozen=True)
class Lpips:
    """The distance between two images; 0 for equal ones."""

    weights: dict[str, torch.Tensor] = field(repr=False)

    @staticmethod
    def load(path: str | Path) -> Lpips:
        """Raises :class:`InputError` for a file that is missing, unreadable, or not laid out as above."""
        hint = "It holds convN.weight, convN.bias and linN.weight, N from 1 to 5: see codesign.metrics.lpips."
        try:
            with np.load(path, allow_pickle=False) as archive:
                found = {name: torch.from_numpy(np.asarray(archive[name], np.float32)) for name in archive.files}
        except FileNotFoundError as error:
            raise InputError("no such weights file", where=str(path), hint=hint) from error
        except Exception as error:  # readers of foreign files raise anything
            raise InputError("is not a readable weights file", where=str(path), hint=hint) from error
        for index, (outputs, inputs, side) in enumerate(_SHAPES, start=1):
            wanted = {
                f"conv{index}.weight": (outputs, inputs, side, side),
                f"conv{index}.bias": (outputs,),
                f"lin{index}.weight": (1, outputs, 1, 1),
            }
            for name, shape in wanted.items():
                if name not in found or tuple(found[name].shape) != shape:
                    have = list(found[name].shape) if name in found else "missing"
                    raise InputError(f"tensor {name!r} is {have}, not {list(shape)}", where=str(path), hint=hint)
        return Lpips(found)

    def __call__(self, image: Reals, truth: Reals) -> float:
        """The distance of two images ``[H, W, 3]`` in [0, 1]. Raises :class:`InputError` for shapes that differ and
        images too small."""
        if image.shape != truth.shape or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < LEAST:
            raise InputError(
                f"cannot compare {image.shape} with {truth.shape}",
                where="lpips",
                hint=f"Give two RGB images of one size, at least {LEAST} pixels a side.",
            )
        with torch.no_grad():
            ours, theirs = self._features(image), self._features(truth)
            total = 0.0
            for index, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
                total += float(F.conv2d((a - b) ** 2, self.weights[f"lin{index}.weight"].clamp_min(0.0)).mean())
        return total

    def _features(self, image: Reals) -> list[torch.Tensor]:
        """Features after each ReLU, normalised to unit length at every pixel."""
        x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)) * 2.0 - 1.0
        x = (x - torch.tensor(_SHIFT).view(1, 3, 1, 1)) / torch.tensor(_SCALE).view(1, 3, 1, 1)
        found = []
        for index in range(5):
            if _POOLED[index]:
                x = F.max_pool2d(x, 3, 2)
            kernel, bias = self.weights[f"conv{index + 1}.weight"], self.weights[f"conv{index + 1}.bias"]
            x = torch.relu(F.conv2d(x, kernel, bias, _STRIDES[index], _PADDINGS[index]))
            found.append(x / (torch.sqrt((x * x).sum(1, keepdim=True)) + 1e-10))
        return found
