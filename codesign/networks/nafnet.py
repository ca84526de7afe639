"""NAFNet: restoration without activation functions (Chen et al., ECCV 2022, arXiv 2204.04676)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm2d(nn.Module):
    """Normalises the channels of every pixel."""

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x.permute(0, 2, 3, 1)
        normal = F.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.epsilon)
        return normal.permute(0, 3, 1, 2)


def gate(x: torch.Tensor) -> torch.Tensor:
    """SimpleGate: one half of the channels times the other."""
    first, second = x.chunk(2, 1)
    result: torch.Tensor = first * second
    return result


class NafBlock(nn.Module):
    """A gated depthwise stage with simplified channel attention, then a gated feed-forward stage, each with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = LayerNorm2d(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = gate(self.conv2(self.conv1(self.norm1(x))))
        y = y * self.attention(F.adaptive_avg_pool2d(y, 1))
        x = x + self.conv3(y) * self.beta
        result: torch.Tensor = x + self.conv5(gate(self.conv4(self.norm2(x)))) * self.gamma
        return result


class NafNet(nn.Module):
    """A U-net of :class:`NafBlock`: RGB in [0, 1] to RGB; sides are padded to multiples of 16 and cut back.

    The counts of blocks are those of the paper's network for motion blur.
    """

    def __init__(
        self,
        width: int = 32,
        encoders: tuple[int, ...] = (1, 1, 1, 28),
        middle: int = 1,
        decoders: tuple[int, ...] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.ups = nn.ModuleList(), nn.ModuleList()
        channels = width
        for count in encoders:
            self.encoders.append(nn.Sequential(*(NafBlock(channels) for _ in range(count))))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, stride=2))
            channels *= 2
        self.middle = nn.Sequential(*(NafBlock(channels) for _ in range(middle)))
        for count in decoders:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(nn.Sequential(*(NafBlock(channels) for _ in range(count))))
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.grid = 2 ** len(encoders)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        rows, columns = -height % self.grid, -width % self.grid
        padded = F.pad(x, (0, columns, 0, rows)) if rows or columns else x
        h = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            h = encoder(h)
            skips.append(h)
            h = down(h)
        h = self.middle(h)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            h = decoder(up(h) + skip)
        result: torch.Tensor = self.ending(h) + padded
        return result[:, :, :height, :width] if rows or columns else result
