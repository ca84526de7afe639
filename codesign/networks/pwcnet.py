"""PWC-Net: pyramid, warping, cost volume (Sun et al., CVPR 2018), with densely connected decoders."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from codesign.networks.motion import correlate, estimated_resized, resized, warp

FEATURES = (3, 16, 32, 64, 96, 128, 196)
"""Channels of the images and of the pyramid's levels; each level is half as large as the one before."""

DECODER = (128, 128, 96, 64, 32)
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1), (2, 1))
"""Channels and dilation of the context network's layers."""

REACH = 4
COARSEST, FINEST = 6, 2
UNIT = 20.0
"""Factor from the output of a level's network to a flow in pixels, as in training."""


class Decoder(nn.Module):
    """One level: cost volume (and, but for the coarsest, features, flow and up-sampled features) to a flow.

    Every convolution sees the results of all before it.
    """

    def __init__(self, inputs: int, *, up: bool) -> None:
        super().__init__()
        widths = list(itertools.accumulate((inputs, *DECODER)))
        self.convs = nn.ModuleList(nn.Conv2d(w, c, 3, padding=1) for w, c in zip(widths, DECODER, strict=False))
        self.flow = nn.Conv2d(widths[-1], 2, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)
        self.up_flow = nn.ConvTranspose2d(2, 2, 4, 2, 1) if up else None
        self.up_features = nn.ConvTranspose2d(widths[-1], 2, 4, 2, 1) if up else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for conv in self.convs:
            x = torch.cat((self.lrelu(conv(x)), x), 1)
        return self.flow(x), x

    def enlarged(self, flow: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow and features for the next level, twice as large."""
        assert self.up_flow is not None
        assert self.up_features is not None
        return self.up_flow(flow), self.up_features(x)


class PwcNet(nn.Module):
    """Flow from the first image to the second. Input: two RGB images in [0, 1] as 6 channels; output ``[N, 2, H, W]``.

    Flow is estimated at a quarter of the size and enlarged. Sides that are not multiples of 64 are resized to the next
    multiple.
    """

    def __init__(self, reach: int = REACH) -> None:
        super().__init__()
        self.reach = reach
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, 2, 1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(b, b, 3, 1, 1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(b, b, 3, 1, 1),
                nn.LeakyReLU(0.1),
            )
            for a, b in itertools.pairwise(FEATURES)
        )
        volume = (2 * reach + 1) ** 2
        self.decoders = nn.ModuleList(
            Decoder(volume if level == COARSEST else volume + FEATURES[level] + 4, up=level > FINEST)
            for level in range(COARSEST, FINEST - 1, -1)
        )
        last = volume + FEATURES[FINEST] + 4 + sum(DECODER)
        widths = (last, *(channels for channels, _ in CONTEXT))
        self.context = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=dilation, dilation=dilation)
            for (a, b), (_, dilation) in zip(itertools.pairwise(widths), CONTEXT, strict=True)
        )
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return estimated_resized(pair, 2**COARSEST, self.estimate)

    def estimate(self, pair: torch.Tensor) -> torch.Tensor:
        """The flow of a pair whose sides are multiples of 64."""
        first, second = self._features(pair[:, :3]), self._features(pair[:, 3:])
        flow = features = None
        x = pair
        for level, decoder in zip(range(COARSEST, FINEST - 1, -1), self.decoders, strict=True):
            assert isinstance(decoder, Decoder)
            one, two = first[level], second[level]
            if flow is None or features is None:
                x = self.lrelu(correlate(one, two, self.reach))
            else:
                moved = warp(two, flow * (UNIT / 2**level), "zeros")
                x = torch.cat((self.lrelu(correlate(one, moved, self.reach)), one, flow, features), 1)
            flow, x = decoder(x)
            if level > FINEST:
                flow, features = decoder.enlarged(flow, x)
        assert flow is not None
        for conv in self.context[:-1]:
            x = self.lrelu(conv(x))
        flow = flow + self.context[-1](x)
        return resized(flow, *pair.shape[2:]) * UNIT

    def _features(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels = [image]
        for stage in self.pyramid:
            levels.append(stage(levels[-1]))
        return levels
