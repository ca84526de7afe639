"""Deeper restoration networks: EDSR, SRVGG, RRDBNet, DnCNN."""

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
    """EDSR (Lim et al., CVPRW 2017), RGB; F32B5 x2 is the model of MLPerf Mobile. The mean shift is folded away.

    ``stages``: the factors of the up-scaling convolutions, one after another; the paper's x4 is (2, 2).
    """

    def __init__(self, features: int, blocks: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(ResidualBlock(features) for _ in range(blocks))
        self.body_end = nn.Conv2d(features, features, 3, padding=1)
        self.ups = nn.ModuleList(nn.Conv2d(features, features * f * f, 3, padding=1) for f in stages)
        self.shuffles = nn.ModuleList(nn.PixelShuffle(f) for f in stages)
        self.tail = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.head(x)
        h = skip
        for block in self.body:
            h = block(h)
        h = self.body_end(h) + skip
        for up, shuffle in zip(self.ups, self.shuffles, strict=True):
            h = shuffle(up(h))
        result: torch.Tensor = self.tail(h)
        return result


class DenseBlock(nn.Module):
    """Five convolutions, each on everything before it; a fifth of the result is added (Wang et al., ECCVW 2018)."""

    def __init__(self, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = self.lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = self.lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        result: torch.Tensor = x + 0.2 * self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return result


class Rrdb(nn.Module):
    """Residual in residual: three dense blocks, a fifth of whose result is added."""

    def __init__(self) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = DenseBlock(), DenseBlock(), DenseBlock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))
        return result


class RrdbNet(nn.Module):
    """ESRGAN's generator x4, RGB (Wang et al., ECCVW 2018), layers named as Real-ESRGAN publishes them.

    Nearest-neighbour up-scaling is written as a pixel shuffle of repeated channels: the same function.
    """

    def __init__(self, blocks: int = 23) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.ModuleList(Rrdb() for _ in range(blocks))
        self.conv_body = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_up1 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_up2 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_hr = nn.Conv2d(64, 64, 3, padding=1)
        self.conv_last = nn.Conv2d(64, 3, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2)
        self.enlarge = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(x)
        h = first
        for block in self.body:
            h = block(h)
        h = first + self.conv_body(h)
        for conv in (self.conv_up1, self.conv_up2):
            h = self.lrelu(conv(self.enlarge(torch.repeat_interleave(h, 4, dim=1))))
        result: torch.Tensor = self.conv_last(self.lrelu(self.conv_hr(h)))
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
