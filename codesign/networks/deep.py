"""Deeper restoration networks: EDSR for phones, SRVGG, DnCNN."""

from __future__ import annotations

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, and the input added (Lim et al., CVPRW 2017: without batch norm)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.conv2(self.relu(self.conv1(x)))
        return result


class Edsr(nn.Module):
    """EDSR (Lim et al., CVPRW 2017), RGB; F32B5 x2 is the model of MLPerf Mobile. The mean shift is folded away."""

    def __init__(self, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(features) for _ in range(blocks))
        self.body_end = nn.Conv2d(features, features, 3, padding=1)
        self.up = nn.Conv2d(features, features * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.head(x)
        h = skip
        for block in self.body:
            h = block(h)
        h = self.body_end(h) + skip
        result: torch.Tensor = self.tail(self.shuffle(self.up(h)))
        return result


class Srvgg(nn.Module):
    """Real-ESRGAN's compact network (Wang et al., ICCVW 2021): RGB, 64 features, PReLU, a nearest-neighbour skip.

    The skip is added before depth to space, where it is the input repeated: the same function, and no resize.
    """

    def __init__(self, layers: int, scale: int, features: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.acts = nn.ModuleList(nn.PReLU(features) for _ in range(layers + 1))
        self.last = nn.Conv2d(features, 3 * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for conv, act in zip((self.first, *self.body), self.acts, strict=True):
            h = act(conv(h))
        h = self.last(h) + torch.repeat_interleave(x, self.scale * self.scale, dim=1)
        result: torch.Tensor = self.shuffle(h)
        return result


class DnCnn(nn.Module):
    """DnCNN (Zhang et al., IEEE TIP 2017): predicts the noise and subtracts it; batch norm folded, luma in and out."""

    def __init__(self, layers: int = 17, features: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, features, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers - 2))
        self.last = nn.Conv2d(features, 1, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.relu(self.first(x))
        for conv in self.body:
            h = self.relu(conv(h))
        result: torch.Tensor = x - self.last(h)
        return result
