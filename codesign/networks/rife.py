"""RIFE: the frame between two, by intermediate flow (Huang et al., ECCV 2022): IFNet, context and fusion networks."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from codesign.networks.motion import grown, resized, warp

BLOCKS = ((240, 4), (150, 2), (90, 1))
"""Channels of each block, and the factor by which it sees the frame smaller."""

CONTEXT = 16
MULTIPLE = 32


def activated(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution and a PReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class Block(nn.Module):
    """A change of both flows and of the mask, at an eighth of the block's input, enlarged by two."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Sequential(activated(inputs, channels // 2, 2), activated(channels // 2, channels, 2))
        self.body = nn.Sequential(*(activated(channels, channels) for _ in range(8)))
        self.up = nn.ConvTranspose2d(channels, 5, 4, 2, 1)

    def forward(self, x: torch.Tensor, flow: torch.Tensor | None, shrink: int) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape[2:]
        x = resized(x, height // shrink, width // shrink)
        if flow is not None:
            x = torch.cat((x, resized(flow, height // shrink, width // shrink) * (1.0 / shrink)), 1)
        x = self.down(x)
        out = resized(self.up(self.body(x) + x), height, width)
        return out[:, :4] * (2.0 * shrink), out[:, 4:5]


class Context(nn.Module):
    """Features of one image at a half, quarter, eighth and sixteenth, each warped by the flow."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, CONTEXT, 2 * CONTEXT, 4 * CONTEXT, 8 * CONTEXT)
        self.stages = nn.ModuleList(
            nn.Sequential(activated(a, b, 2), activated(b, b)) for a, b in itertools.pairwise(widths)
        )

    def forward(self, image: torch.Tensor, flow: torch.Tensor) -> list[torch.Tensor]:
        found, x = [], image
        for stage in self.stages:
            x = stage(x)
            flow = resized(flow, *x.shape[2:]) * 0.5
            found.append(warp(x, flow))
        return found


class Fusion(nn.Module):
    """A U-net on both warped images and their features: a correction of the blended frame, in (-1, 1)."""

    def __init__(self, channels: int = CONTEXT) -> None:
        super().__init__()
        c = channels
        self.down = nn.ModuleList(
            nn.Sequential(activated(a, b, 2), activated(b, b))
            for a, b in ((17, 2 * c), (4 * c, 4 * c), (8 * c, 8 * c), (16 * c, 16 * c))
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.PReLU(b))
            for a, b in ((32 * c, 8 * c), (16 * c, 4 * c), (8 * c, 2 * c), (4 * c, c))
        )
        self.last = nn.Conv2d(c, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor, first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
        skips = []
        for stage, one, two in zip(self.down, first, second, strict=True):
            x = stage(x)
            skips.append(x)
            x = torch.cat((x, one, two), 1)
        x = self.up[0](x)
        for stage, skip in zip(self.up[1:], reversed(skips[:-1]), strict=True):
            x = stage(torch.cat((x, skip), 1))
        return torch.sigmoid(self.last(x)) * 2.0 - 1.0


class Rife(nn.Module):
    """The frame half way between two. Input: two RGB images in [0, 1] as 6 channels; output ``[N, 3, H, W]`` in [0, 1].

    The block that teaches the others in training is left out. Borders are repeated outwards to multiples of 32, and
    cut off again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(6 if i == 0 else 17, channels) for i, (channels, _) in enumerate(BLOCKS))
        self.context = Context()
        self.fusion = Fusion()

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        height, width = pair.shape[2:]
        pair = grown(pair, MULTIPLE)
        first, second = pair[:, :3], pair[:, 3:]
        flow = mask = None
        one, two = first, second
        for block, (_, shrink) in zip(self.blocks, BLOCKS, strict=True):
            if flow is None or mask is None:
                flow, mask = block(pair, None, shrink)
            else:
                change, more = block(torch.cat((first, second, one, two, mask), 1), flow, shrink)
                flow, mask = flow + change, mask + more
            one, two = warp(first, flow[:, :2]), warp(second, flow[:, 2:4])
        assert flow is not None
        assert mask is not None
        features = self.context(first, flow[:, :2]), self.context(second, flow[:, 2:4])
        correction = self.fusion(torch.cat((first, second, one, two, mask, flow), 1), *features)
        blend = torch.sigmoid(mask)
        merged = two + blend * (one - two)
        return torch.clamp(merged + correction, 0.0, 1.0)[:, :, :height, :width]
