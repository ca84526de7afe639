"""SESR: super-efficient super-resolution by collapsed linear blocks (Bhardwaj et al., MLSys 2022)."""

from __future__ import annotations

import torch
from torch import nn


class Sesr(nn.Module):
    """The collapsed network: ``float32[1, 1, H, W]`` luma in [0, 1] to ``[1, 1, s H, s W]``.

    A 5x5 layer, ``layers`` 3x3 layers with a skip around them, a 5x5 layer, the input added to every sub-pixel, and
    depth to space. PReLU follows every layer but the last.
    """

    def __init__(self, layers: int, scale: int, features: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, features, 5, padding=2)
        self.first_act = nn.PReLU(features)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.body_act = nn.ModuleList(nn.PReLU(features) for _ in range(layers))
        self.last = nn.Conv2d(features, scale * scale, 5, padding=2)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip: torch.Tensor = self.first_act(self.first(x))
        h = skip
        for conv, act in zip(self.body, self.body_act, strict=True):
            h = act(conv(h))
        result: torch.Tensor = self.shuffle(self.last(h + skip) + x)
        return result

    def start(self) -> None:
        """Set weights to train from: the body near identity, the output near the input's nearest neighbours.

        The identity taps are the short skips of the paper's linear blocks, which collapse into the kernels.
        """
        with torch.no_grad():
            for conv in (self.first, *self.body, self.last):
                assert isinstance(conv, nn.Conv2d)
                assert conv.bias is not None
                nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
                conv.bias.zero_()
            for conv in self.body:
                assert isinstance(conv, nn.Conv2d)
                index = torch.arange(conv.out_channels)
                conv.weight.mul_(0.7)
                conv.weight[index, index, 1, 1] += 1.0
            self.last.weight.mul_(0.05)
            for act in (self.first_act, *self.body_act):
                assert isinstance(act, nn.PReLU)
                act.weight.fill_(0.1)
