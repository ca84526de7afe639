"""Optical flow: SpyNet."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks.motion import estimated_resized, warp

LEVELS = 6
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SpyNetLevel(nn.Module):
    """One level's network: first image, warped second image and up-sampled flow (8 channels) to a change of flow."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 32, 64, 32, 16, 2)
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 7, padding=3) for a, b in itertools.pairwise(widths))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.conv[:-1]:
            x = self.relu(conv(x))
        result: torch.Tensor = self.conv[-1](x)
        return result


class SpyNet(nn.Module):
    """Flow from the first image to the second, coarse to fine over six levels (Ranjan and Black, CVPR 2017).

    Input: two RGB images in [0, 1] as 6 channels. Output: ``[N, 2, H, W]``, pixels right and down. Five halvings need
    sides that are multiples of 32; others are resized to the next ones and the flow is scaled back.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(SpyNetLevel() for _ in range(LEVELS))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return estimated_resized(pair, 2 ** (LEVELS - 1), self.estimate)

    def estimate(self, pair: torch.Tensor) -> torch.Tensor:
        """The flow of a pair whose sides are multiples of 32."""
        first = [(pair[:, :3] - self.mean) / self.std]
        second = [(pair[:, 3:] - self.mean) / self.std]
        for pyramid in (first, second):
            for _ in range(LEVELS - 1):
                pyramid.insert(0, F.avg_pool2d(pyramid[0], 2))
        batch, _, height, width = first[0].shape
        flow = first[0].new_zeros(batch, 2, height, width)
        for index, level in enumerate(self.levels):
            if index:
                flow = 2.0 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = flow + level(torch.cat((first[index], warp(second[index], flow), flow), 1))
        return flow
