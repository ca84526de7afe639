"""Recurrent networks: modules with states carried from frame to frame, and networks of image pairs made recurrent."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

StateShapes = list[tuple[int, int, int]]


@runtime_checkable
class Recurrent(Protocol):
    """A module that takes a frame and ``states``, and returns its result and as many states for the next frame."""

    def state_shapes(self, width: int, height: int) -> StateShapes:
        """(C, H, W) of each state for frames of that size. States are zero before the first frame."""
        ...


class Following(nn.Module):
    """A network of two images run on a clip: its first image is the frame before, kept as a state."""

    def __init__(self, pairs: nn.Module) -> None:
        super().__init__()
        self.pairs = pairs

    def state_shapes(self, width: int, height: int) -> StateShapes:
        return [(3, height, width)]

    def forward(self, frame: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pairs(torch.cat((before, frame), 1)), frame
