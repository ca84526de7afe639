"""Light super-resolution networks: bicubic, ESPCN, FSRCNN, ABPN, QuickSRNet."""

from __future__ import annotations

import torch
from torch import nn


def _keys(x: float) -> float:
    """Keys' cubic kernel, a = -0.5."""
    x = abs(x)
    if x <= 1.0:
        return 1.5 * x**3 - 2.5 * x**2 + 1.0
    return -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0 if x < 2.0 else 0.0


class Bicubic(nn.Module):
    """Bicubic up-scaling as one layer of fixed sub-pixel kernels: ``float32[1, 1, H, W]`` to ``[1, 1, s H, s W]``.

    Beyond the frame it sees zeros, where an image editor mirrors: two pixels of border differ.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, scale * scale, 5, padding=2, bias=False)
        with torch.no_grad():
            for i in range(scale):
                for j in range(scale):
                    # Output phase i sits (i + 0.5) / s - 0.5 pixels from its input pixel.
                    rows = torch.tensor([_keys(k - 2 - ((i + 0.5) / scale - 0.5)) for k in range(5)])
                    columns = torch.tensor([_keys(k - 2 - ((j + 0.5) / scale - 0.5)) for k in range(5)])
                    self.conv.weight[i * scale + j, 0] = torch.outer(rows, columns)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.shuffle(self.conv(x))
        return result


class Espcn(nn.Module):
    """ESPCN (Shi et al., CVPR 2016): 5x5x64 and 3x3x32 with tanh, then sub-pixels; luma in, luma out."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 5, padding=2)
        self.conv2 = nn.Conv2d(64, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.conv1(x))
        h = torch.tanh(self.conv2(h))
        result: torch.Tensor = self.shuffle(self.conv3(h))
        return result


class Fsrcnn(nn.Module):
    """FSRCNN(56, 12, 4) (Dong et al., ECCV 2016); the tail is a 9x9 transposed convolution, or 1x1 and sub-pixels."""

    def __init__(self, scale: int, *, subpixel: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 56, 5, padding=2)
        self.shrink = nn.Conv2d(56, 12, 1)
        self.body = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(4))
        self.expand = nn.Conv2d(12, 56, 1)
        self.acts = nn.ModuleList(nn.PReLU(channels) for channels in (56, 12, 12, 12, 12, 12, 56))
        self.tail: nn.Module
        if subpixel:
            self.tail = nn.Conv2d(56, scale * scale, 1, bias=False)
            self.shuffle = nn.PixelShuffle(scale)
            self.tail_bias = nn.Parameter(torch.zeros(1))
        else:
            self.tail = nn.ConvTranspose2d(56, 1, 9, stride=scale, padding=4, output_padding=scale - 1)
        self.subpixel = subpixel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for conv, act in zip((self.first, self.shrink, *self.body, self.expand), self.acts, strict=True):
            h = act(conv(h))
        if self.subpixel:
            shuffled: torch.Tensor = self.shuffle(self.tail(h) + self.tail_bias)
            return shuffled
        result: torch.Tensor = self.tail(h)
        return result


class Abpn(nn.Module):
    """ABPN (Du et al., CVPRW 2021): RGB, 28 features, the input repeated as an anchor before depth to space."""

    def __init__(self, scale: int, features: int = 28, layers: int = 4) -> None:
        super().__init__()
        outputs = 3 * scale * scale
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(features, outputs, 3, padding=1)
        self.mix = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.relu = nn.ReLU()
        self.shuffle = nn.PixelShuffle(scale)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.relu(self.first(x))
        for conv in self.body:
            h = self.relu(conv(h))
        h = self.mix(self.relu(self.last(h)))
        h = h + torch.repeat_interleave(x, self.scale * self.scale, dim=1)
        result: torch.Tensor = self.shuffle(torch.clamp(h, 0.0, 1.0))
        return result


class QuickSrNet(nn.Module):
    """QuickSRNet (Berger et al., CVPRW 2023): RGB, plain 3x3 layers with a ReLU clipped at 1, then depth to space."""

    def __init__(self, features: int, layers: int, scale: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(features, 3 * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.clamp(self.first(x), 0.0, 1.0)
        for conv in self.body:
            h = torch.clamp(conv(h), 0.0, 1.0)
        result: torch.Tensor = self.shuffle(torch.clamp(self.last(h), 0.0, 1.0))
        return result
