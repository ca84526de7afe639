"""Small networks in which each operator occurs, in every spelling that exporters have for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from codesign.networks.motion import all_pairs, correlate, pixel_places, warp, windows
from codesign.networks.raft import InstanceNorm

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of two tensors ``[1, 6, H, W]`` that convolutions have made."""


class Between(nn.Module):
    """Two convolutions of an image, ``function`` of both, and a convolution after it."""

    def __init__(self, function: Function, channels: int = 6, flow: float = 0.0, *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.flow = function, flow
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(3, 2 if flow else 6, 3, padding=1)
        self.parts = nn.ModuleList(parts)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.8 - 0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        second = self.second(x)
        return self.last(self.function(self.first(x), second * self.flow if self.flow else second))


@dataclass(frozen=True)
class Case:
    """A network, the operator's nodes that it has, and whether all of it runs on a machine with every unit."""

    network: Callable[[], nn.Module]
    count: int = 1
    whole: bool = True


def one(function: Callable[[torch.Tensor], torch.Tensor], channels: int = 6) -> Callable[[], nn.Module]:
    return lambda: Between(lambda x, _: function(x), channels)


def two(function: Function, channels: int = 6, flow: float = 0.0) -> Callable[[], nn.Module]:
    return lambda: Between(function, channels, flow)


def part(module: Callable[[], nn.Module], channels: int = 6) -> Callable[[], nn.Module]:
    """``module`` between the convolutions."""

    def made() -> nn.Module:
        inner = module()
        return Between(lambda x, _: inner(x), channels, 0.0, inner)

    return made


def _windows(x: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return windows(all_pairs(x, x, 2), pixel_places(flow) + flow, 1)


def _written_norm(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean((2, 3), keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + 1e-5)


_SCALE = torch.tensor([1.0, -0.7, 0.0, 1.3, 1e-7, 0.4])
_SHIFT = torch.tensor([0.1, 0.0, 0.3, -0.4, 0.2, -0.1])


def _last(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (6,), _SCALE, _SHIFT).permute(0, 3, 1, 2)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    tokens = F.layer_norm(x.flatten(2).transpose(1, 2), (6,), _SCALE, _SHIFT, 1e-3)
    return tokens.transpose(1, 2).reshape(x.shape)


def _written_tokens(x: torch.Tensor) -> torch.Tensor:
    """As Restormer writes it."""
    tokens = x.permute(0, 2, 3, 1).reshape(1, -1, 6)
    mean, variance = tokens.mean(-1, keepdim=True), tokens.var(-1, keepdim=True, unbiased=False)
    normal = (tokens - mean) / torch.sqrt(variance + 1e-5) * _SCALE + _SHIFT
    return normal.reshape(1, *x.shape[2:], 6).permute(0, 3, 1, 2)


def _written_first(x: torch.Tensor) -> torch.Tensor:
    """As ConvNeXt and NAFNet write it."""
    mean = x.mean(1, keepdim=True)
    normal = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    return normal * _SCALE[:, None, None] + _SHIFT.view(1, 6, 1, 1)


def _interleaved(x: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = x.shape
    return x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(1, 2 * channels, height, width)


def _unshuffled(x: torch.Tensor) -> torch.Tensor:
    _, channels, height, width = x.shape
    apart = x.reshape(1, channels, height // 2, 2, width // 2, 2)
    return apart.permute(0, 1, 3, 5, 2, 4).reshape(1, 4 * channels, height // 2, width // 2)


def _convex(mask: torch.Tensor, flow: torch.Tensor, factor: int) -> torch.Tensor:
    """RAFT's up-sampling, neighbour by neighbour."""
    _, _, rows, columns = flow.shape
    weights = torch.softmax(mask.reshape(9, factor**2, rows, columns), 0)
    around = F.pad(factor * flow, (1, 1, 1, 1))
    near = [around[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    planes = []
    for channel in range(2):
        summed = torch.stack([weights[k] * near[k][0, channel] for k in range(9)]).sum(0)
        planes.append(F.pixel_shuffle(summed[None], factor))
    return torch.cat(planes, 1)


def _convex_views(mask: torch.Tensor, flow: torch.Tensor, factor: int) -> torch.Tensor:
    """The same, as RAFT's authors write it: views of six and seven dimensions."""
    _, _, rows, columns = flow.shape
    mask = torch.softmax(mask.view(1, 1, 9, factor, factor, rows, columns), 2)
    around = F.pad(factor * flow, (1, 1, 1, 1))
    near = [around[:, :, y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    fine = (mask * torch.stack(near, 2).view(1, 2, 9, 1, 1, rows, columns)).sum(2)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(1, 2, factor * rows, factor * columns)


def enlarged(function: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor], factor: int, less: int = 1) -> Case:
    """A flow of frames ``less`` times smaller enlarged by a mask that a convolution makes."""

    def made() -> nn.Module:
        mask = nn.Conv2d(6, 9 * factor**2, 1)
        pool = nn.Sequential(*(nn.AvgPool2d(2) for _ in range(less.bit_length() - 1)))
        return Between(lambda x, flow: function(mask(pool(x)), pool(flow), factor), 2, 5.0, mask)

    return Case(made, whole=False)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "snake": lambda x: x + torch.sin(3.0 * x) ** 2 / 3.0,
    "polynomial": lambda x: x**3 - 0.5 * x * x + x,
    "bell": lambda x: torch.exp(-x * x),
    "reciprocal": lambda x: 1.0 / (x * x + 1.0),
    "bent": lambda x: torch.where(x > 0.1, x * 2.0, x * x),
    "root": lambda x: torch.sqrt(torch.abs(x) + 0.1),
    "folded": lambda x: torch.maximum(x * 0.3, torch.sin(x)),
}
"""Functions of one value: one table each."""

CASES: dict[str, dict[str, Case]] = {
    "Convolution": {
        "plain": Case(part(lambda: nn.Conv2d(6, 6, 3, padding=1)), 3),
        "stride 2": Case(part(lambda: nn.Conv2d(6, 6, 3, 2, 1)), 3),
        "dilated": Case(part(lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2)), 3),
        "depthwise": Case(part(lambda: nn.Conv2d(6, 6, (3, 5), padding=(1, 2), groups=6)), 3),
        "normalised": Case(part(lambda: nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))), 3),
        "padded": Case(part(lambda: nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(6, 6, 3))), 3),
        "scale a channel": Case(one(lambda x: F.relu(x) * torch.linspace(0.5, 2.0, 6).view(1, 6, 1, 1)), 3),
    },
    "TransposedConvolution": {
        "by 2": Case(part(lambda: nn.ConvTranspose2d(6, 3, 4, 2, 1), 3)),
        "by 3": Case(part(lambda: nn.ConvTranspose2d(6, 3, 5, 3, 1), 3)),
    },
    "Sum": {
        "added": Case(two(lambda x, y: x + y)),
        "subtracted": Case(two(lambda x, y: F.relu(x - y))),
        "one channel": Case(two(lambda x, y: x + y[:, :1])),
    },
    "Product": {
        "multiplied": Case(two(lambda x, y: x * y)),
        "one channel": Case(two(lambda x, y: torch.clamp(x * y[:, :1], -0.3, 0.4))),
    },
    "Scale": {
        "of a product": Case(two(lambda x, y: (x * y) * 0.3)),
        "divided": Case(two(lambda x, y: F.leaky_relu(F.relu(x + y) / 3.0, 0.1))),
    },
    "Clamp": {
        "of a slice": Case(one(lambda x: F.leaky_relu(x[:, :4], 0.2), 4)),
        "of copies": Case(one(lambda x: torch.clamp(torch.cat((x, x), 1), -0.2, 0.5), 12)),
        "slopes": Case(part(lambda: nn.Sequential(nn.PixelShuffle(1), nn.AvgPool2d(2), nn.PReLU(6)))),
    },
    "LayerNorm": {
        "channels last": Case(one(_last)),
        "tokens": Case(one(_tokens)),
        "written out": Case(one(lambda x: F.relu(_written_first(x)))),
        "written out on tokens": Case(one(_written_tokens)),
    },
    "PixelShuffle": {
        "shuffled": Case(part(lambda: nn.Sequential(nn.Conv2d(6, 8, 1), nn.PixelShuffle(2)), 2)),
        "nearest": Case(part(lambda: nn.Upsample(scale_factor=3)), 1),
    },
    "PixelUnshuffle": {
        "unshuffled": Case(part(lambda: nn.PixelUnshuffle(2), 24)),
        "written out": Case(one(_unshuffled, 24)),
        "by 4": Case(part(lambda: nn.Sequential(nn.Conv2d(6, 1, 1), nn.PixelUnshuffle(4)), 16)),
    },
    "Copies": {
        "sliced": Case(one(lambda x: x[:, 1:5:2], 2)),
        "tiled": Case(one(lambda x: x.repeat(1, 2, 1, 1), 12)),
        "interleaved": Case(one(_interleaved, 12)),
        "split": Case(one(lambda x: x.chunk(2, 1)[1], 3)),
        "split unevenly": Case(one(lambda x: torch.cat(torch.split(x, [1, 3, 2], -3)[::2], 1), 3), 2),
    },
    "Concat": {
        "two": Case(two(lambda x, y: torch.cat((x, y), 1), 12)),
        "thrice": Case(two(lambda x, y: torch.cat((x, y, F.relu(x)), 1), 18)),
    },
    "AveragePool": {
        "halved": Case(part(lambda: nn.AvgPool2d(2))),
        "padded": Case(part(lambda: nn.AvgPool2d(3, 1, 1))),
    },
    "Resize": {
        "doubled": Case(one(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"))),
        "halved": Case(one(lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"))),
        "by corners": Case(one(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))),
    },
    "Warp": {
        "border": Case(two(lambda x, flow: warp(x, flow, "border"), flow=5.0)),
        "zeros": Case(two(lambda x, flow: warp(x, flow, "zeros"), flow=5.0)),
    },
    "Correlation": {
        "reach 1": Case(two(lambda x, y: correlate(x, y, 1), 9)),
        "of itself": Case(two(lambda x, y: F.leaky_relu(correlate(x, x, 2), 0.1), 25)),
    },
    "Window": {"two levels": Case(two(_windows, 18, 3.0), 2)},
    "AllPairs": {"two levels": Case(two(_windows, 18, 3.0), 2)},
    "InstanceNorm": {
        "operator": Case(part(lambda: InstanceNorm(6))),
        "written out": Case(one(_written_norm)),
        "with a scale": Case(part(lambda: nn.InstanceNorm2d(6, affine=True))),
        "a group a channel": Case(part(lambda: nn.GroupNorm(6, 6))),
    },
    "GlobalMean": {
        "attention": Case(one(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))), whole=False),
        "pooled": Case(two(lambda x, y: x + F.adaptive_avg_pool2d(y, 1)), whole=False),
    },
    "ConvexUpsample": {
        "by 8": enlarged(_convex, 8, less=4),
        "by 2": enlarged(_convex, 2),
        "in views": enlarged(_convex_views, 2),
    },
    "Table": {name: Case(one(function)) for name, function in ACTIVATIONS.items()},
}
"""By class of the operator: networks by what is special about them."""
