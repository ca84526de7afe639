"""RAFT and RAFT-small: all pairs correlated once, read by a recurrent unit (Teed and Deng, ECCV 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks.motion import all_pairs, grown, pixel_places, windows

ITERATIONS = 12
STRIDE = 8
LEVELS = 4
LEAST = STRIDE << (LEVELS - 1)
"""Smallest side in pixels; the coarsest level of the pyramid then has one pixel."""

Norm = Callable[[int], nn.Module]


class InstanceNorm(nn.Module):
    """Instance normalisation: every channel of a frame to mean 0 and variance 1 (Ulyanov et al., 2016), without scale
    and shift."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        del channels
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + self.epsilon)


class _Nothing(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        del channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Residual(nn.Module):
    """Two 3x3 convolutions (``slim``: between 1x1 ones, a quarter as wide), each normalised, and the input added."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, stride: int, *, slim: bool) -> None:
        super().__init__()
        inner = outputs // 4
        convs: tuple[nn.Conv2d, ...]
        if slim:
            convs = (nn.Conv2d(inputs, inner, 1), nn.Conv2d(inner, inner, 3, stride, 1), nn.Conv2d(inner, outputs, 1))
        else:
            convs = (nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(norm(conv.out_channels) for conv in convs)
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), norm(outputs)) if stride != 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = torch.relu(norm(conv(y)))
        return torch.relu((x if self.skip is None else self.skip(x)) + y)


class Encoder(nn.Module):
    """An image to features at an eighth of its size."""

    def __init__(self, widths: tuple[int, int, int], outputs: int, norm: Norm, *, slim: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, widths[0], 7, 2, 3)
        self.norm = norm(widths[0])
        blocks: list[nn.Module] = []
        before = widths[0]
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            blocks += [Residual(before, width, norm, stride, slim=slim), Residual(width, width, norm, 1, slim=slim)]
            before = width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(before, outputs, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.blocks(torch.relu(self.norm(self.first(image)))))
        return result


class ConvGru(nn.Module):
    """A gated recurrent unit of convolutions (Cho et al., 2014): ``h' = (1 - z) h + z q``."""

    def __init__(self, hidden: int, inputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.update, self.reset, self.candidate = (
            nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding) for _ in range(3)
        )

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat((h, x), 1)
        z, r = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
        q = torch.tanh(self.candidate(torch.cat((r * h, x), 1)))
        return h + z * (q - h)


@dataclass(frozen=True)
class Form:
    """Sizes in which RAFT and RAFT-small differ."""

    slim: bool
    widths: tuple[int, int, int]  # channels of the encoders
    features: int  # channels that are correlated
    hidden: int
    context: int
    radius: int
    costs: tuple[int, ...]  # channels of the convolutions on the windows
    flows: tuple[int, int]  # channels of those on the flow
    motion: int  # channels of both together, without the flow itself
    kernels: tuple[tuple[int, int], ...]  # channels of the recurrent units
    head: int
    mask: bool  # convex up-sampling

    @property
    def context_norm(self) -> Norm:
        return _Nothing if self.slim else nn.BatchNorm2d


RAFT = Form(False, (64, 96, 128), 256, 128, 128, 4, (256, 192), (128, 64), 126, ((1, 5), (5, 1)), 256, True)
RAFT_SMALL = Form(True, (32, 64, 96), 128, 96, 64, 3, (96,), (64, 32), 80, ((3, 3),), 128, False)


class Motion(nn.Module):
    """Windows of the volumes and the flow as features for the recurrent unit."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        looked_up = LEVELS * (2 * form.radius + 1) ** 2
        self.cost1 = nn.Conv2d(looked_up, form.costs[0], 1)
        self.cost2 = nn.Conv2d(form.costs[0], form.costs[1], 3, padding=1) if len(form.costs) > 1 else None
        self.flow1 = nn.Conv2d(2, form.flows[0], 7, padding=3)
        self.flow2 = nn.Conv2d(form.flows[0], form.flows[1], 3, padding=1)
        self.both = nn.Conv2d(form.costs[-1] + form.flows[1], form.motion, 3, padding=1)

    def forward(self, costs: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        costs = torch.relu(self.cost1(costs))
        if self.cost2 is not None:
            costs = torch.relu(self.cost2(costs))
        moved = torch.relu(self.flow2(torch.relu(self.flow1(flow))))
        return torch.cat((torch.relu(self.both(torch.cat((costs, moved), 1))), flow), 1)


class Raft(nn.Module):
    """Flow from the first image to the second, refined ``iterations`` times at an eighth of the size.

    Input: two RGB images in [0, 1] as 6 channels; output ``[1, 2, H, W]``, pixels right and down. The border is
    repeated outwards to sides of multiples of 8, 64 at least. The mask of the convex up-sampling is computed once, at
    the end; published counts include it in every iteration.
    """

    def __init__(self, form: Form = RAFT, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.form, self.iterations = form, iterations
        self.feature_encoder = Encoder(form.widths, form.features, InstanceNorm, slim=form.slim)
        self.context_encoder = Encoder(form.widths, form.hidden + form.context, form.context_norm, slim=form.slim)
        self.motion = Motion(form)
        inputs = form.context + form.motion + 2
        self.units = nn.ModuleList(ConvGru(form.hidden, inputs, kernel) for kernel in form.kernels)
        self.head1 = nn.Conv2d(form.hidden, form.head, 3, padding=1)
        self.head2 = nn.Conv2d(form.head, 2, 3, padding=1)
        if form.mask:
            self.mask1 = nn.Conv2d(form.hidden, 2 * form.hidden, 3, padding=1)
            self.mask2 = nn.Conv2d(2 * form.hidden, 9 * STRIDE**2, 1)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        height, width = pair.shape[2:]
        pair = 2.0 * grown(pair, STRIDE, LEAST) - 1.0
        first, second = pair[:, :3], pair[:, 3:]
        pyramid = all_pairs(self.feature_encoder(first), self.feature_encoder(second), LEVELS)
        both = self.context_encoder(first)
        hidden, context = torch.tanh(both[:, : self.form.hidden]), torch.relu(both[:, self.form.hidden :])
        origin = pixel_places(hidden)
        flow = torch.zeros_like(origin)
        for _ in range(self.iterations):
            costs = windows(pyramid, origin + flow, self.form.radius)
            x = torch.cat((context, self.motion(costs, flow)), 1)
            for unit in self.units:
                hidden = unit(hidden, x)
            flow = flow + self.head2(torch.relu(self.head1(hidden)))
        return self._enlarged(flow, hidden)[:, :, :height, :width]

    def _enlarged(self, flow: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if not self.form.mask:
            return float(STRIDE) * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
        _, _, rows, columns = flow.shape
        mask = 0.25 * self.mask2(torch.relu(self.mask1(hidden)))
        weights = torch.softmax(mask.reshape(9, STRIDE * STRIDE, rows, columns), 0)
        around = F.pad(float(STRIDE) * flow, (1, 1, 1, 1))
        near = [around[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        planes = []
        for channel in range(2):  # a convex combination of the nine coarse neighbours of every fine pixel
            summed = sum(weights[k][None] * near[k][:, channel : channel + 1] for k in range(9))
            planes.append(F.pixel_shuffle(summed, STRIDE))  # type: ignore[arg-type]
        return torch.cat(planes, 1)
