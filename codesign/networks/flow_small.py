"""This project's own flow network: small enough to train on a CPU, with operators that the accelerator has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks.motion import correlate, estimated_resized, resized, warp

WIDTHS = (3, 16, 32, 32, 32, 32)
"""Channels of the images and of the pyramid's levels; each level is half as large as the one before."""

FINEST = 2
"""The last level at which flow is estimated: a quarter of the frame."""

REACH = 3
DECODER = (64, 32)


@dataclass(frozen=True)
class Level:
    """A level's initial flow, cost volume and final flow, in its own pixels."""

    before: torch.Tensor = field(repr=False)
    costs: torch.Tensor = field(repr=False)
    flow: torch.Tensor = field(repr=False)


class FlowSmall(nn.Module):
    """Flow from the first image to the second, coarse to fine over four levels with one decoder for all of them.

    The shape of PWC-Net (Sun et al., CVPR 2018), a sixtieth of its weights; levels share the decoder, as in IRR (Hur
    and Roth, CVPR 2019), with flows in the level's pixels. Input: two RGB images in [0, 1] as 6 channels; output
    ``[N, 2, H, W]``, pixels right and down. Sides that are not multiples of 32 are resized to the next multiple.
    """

    append: torch.Tensor
    offset: torch.Tensor
    ones: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(b, b, 3, 1, 1), nn.LeakyReLU(0.1))
            for a, b in itertools.pairwise(WIDTHS)
        )
        widths = ((2 * REACH + 1) ** 2 + WIDTHS[-1] + 2, *DECODER, 2)
        self.decoder = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.peak = nn.Conv2d((2 * REACH + 1) ** 2, 2, 1)
        self.lrelu = nn.LeakyReLU(0.1)
        features = WIDTHS[-1]
        one_more = torch.cat((torch.eye(features), torch.zeros(1, features)))
        self.register_buffer("append", one_more.view(features + 1, features, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor([0.0] * features + [-0.5]), persistent=False)
        self.register_buffer("ones", torch.ones(1, features, 1, 1), persistent=False)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return estimated_resized(pair, 2 ** (len(WIDTHS) - 1), lambda x: enlarged(self.levels(x)[-1].flow))

    def levels(self, pair: torch.Tensor) -> list[Level]:
        """The results of all levels, coarsest first."""
        pair = 2.0 * pair - 1.0
        first, second = self._features(pair[:, :3]), self._features(pair[:, 3:])
        flow = first[-1][:, :2] * 0.0
        found: list[Level] = []
        for level in range(len(WIDTHS) - 1, FINEST - 1, -1):
            one, two = first[level - 1], second[level - 1]
            if found:
                flow = doubled(flow)
                two = warp(two, flow)
            likely = self._likeness(one, two)
            costs = self.lrelu(likely)
            x = torch.cat((costs, one, flow), 1)
            for conv in self.decoder[:-1]:
                x = self.lrelu(conv(x))
            before, flow = flow, flow + (self.peak(costs) + self.decoder[-1](x))
            found.append(Level(before, likely, flow))
        return found

    def _likeness(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """A cost volume that is largest where features are most similar: means of ``a b - b^2 / 2``.

        This is ``a^2 / 2 - (a - b)^2 / 2``; a plain product is largest where the second image's features are large.
        It is a correlation with one more channel, made by 1x1 convolutions, which accelerators support.
        """
        square = F.conv2d(second * second, self.ones)
        return correlate(F.conv2d(first, self.append, self.offset), torch.cat((second, square), 1), REACH)

    def start(self) -> None:
        """Set weights to train from: features that keep their spread (He et al., ICCV 2015), and displacements weighted
        by their costs as a first estimate; otherwise training makes no progress for a long time."""
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, a=0.1)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.decoder[-1].weight, std=1e-3)  # type: ignore[arg-type]
        span = torch.arange(-REACH, REACH + 1.0)
        down, across = torch.meshgrid(span, span, indexing="ij")
        with torch.no_grad():
            self.peak.weight.copy_(0.02 * torch.stack((across, down)).reshape(2, -1, 1, 1))

    def _features(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels: list[torch.Tensor] = []
        for stage in self.pyramid:
            levels.append(stage(levels[-1] if levels else image))
        return levels


def enlarged(flow: torch.Tensor) -> torch.Tensor:
    """The finest level's flow at the frame's size."""
    for _ in range(FINEST):
        flow = doubled(flow)
    return flow


def doubled(flow: torch.Tensor) -> torch.Tensor:
    """A flow for twice the size, in its pixels."""
    height, width = flow.shape[2:]
    return 2.0 * resized(flow, 2 * height, 2 * width)
