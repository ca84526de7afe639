"""BasicVSR: features propagated both ways through a clip along the flow (Chan et al., CVPR 2021), SpyNet inside."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks.deep import ResidualBlock
from codesign.networks.flow import SpyNet
from codesign.networks.motion import warp

SCALE = 4
FEATURES, BLOCKS = 64, 30


class Propagation(nn.Module):
    """A frame and the features of the frame before (in the direction of travel) to the features of this frame."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 + features, features, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)
        self.blocks = nn.Sequential(*(ResidualBlock(features) for _ in range(blocks)))

    def forward(self, frame: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.blocks(self.lrelu(self.first(torch.cat((frame, before), 1))))
        return result


class BasicVsr(nn.Module):
    """A clip of ``frames`` RGB images up-scaled by 4.

    Input: the frames as ``3 frames`` channels in [0, 1]; output: the same at four times the size. A residual on the
    bilinear enlargement of every frame.
    """

    def __init__(self, frames: int = 3, features: int = FEATURES, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.frames, self.features = frames, features
        self.flow = SpyNet()
        self.backward_pass = Propagation(features, blocks)
        self.forward_pass = Propagation(features, blocks)
        self.fusion = nn.Conv2d(2 * features, features, 1)
        self.up1 = nn.Conv2d(features, 4 * features, 3, padding=1)
        self.up2 = nn.Conv2d(features, 256, 3, padding=1)
        self.hr = nn.Conv2d(64, 64, 3, padding=1)
        self.last = nn.Conv2d(64, 3, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        frames = [clip[:, 3 * t : 3 * t + 3] for t in range(self.frames)]
        nothing = torch.zeros_like(frames[0][:, :1]).repeat(1, self.features, 1, 1)
        later: list[torch.Tensor] = []
        state = nothing
        for t in reversed(range(self.frames)):
            if t + 1 < self.frames:
                state = warp(state, self.flow(torch.cat((frames[t], frames[t + 1]), 1)), "zeros")
            state = self.backward_pass(frames[t], state)
            later.insert(0, state)
        made = []
        state = nothing
        for t, frame in enumerate(frames):
            if t:
                state = warp(state, self.flow(torch.cat((frame, frames[t - 1]), 1)), "zeros")
            state = self.forward_pass(frame, state)
            made.append(self._enlarged(frame, later[t], state))
        return torch.cat(made, 1)

    def _enlarged(self, frame: torch.Tensor, later: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        x = self.lrelu(self.fusion(torch.cat((later, earlier), 1)))
        x = self.lrelu(F.pixel_shuffle(self.up1(x), 2))
        x = self.lrelu(F.pixel_shuffle(self.up2(x), 2))
        x = self.last(self.lrelu(self.hr(x)))
        result: torch.Tensor = x + F.interpolate(frame, scale_factor=SCALE, mode="bilinear", align_corners=False)
        return result
