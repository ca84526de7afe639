"""Parts shared by flow and video networks: warp, cost volumes, and resizing to the sizes that a pyramid needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

Estimate = Callable[[torch.Tensor], torch.Tensor]


def warp(image: torch.Tensor, flow: torch.Tensor, padding: str = "border") -> torch.Tensor:
    """``image[N, C, H, W]`` sampled bilinearly at every pixel's place plus its ``flow[N, 2, H, W]``, right and down.

    ``padding``: beyond the border lie its own values (``border``) or ``zeros``.
    """
    _, _, height, width = image.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    across = 2.0 * (x + flow[:, 0]) / max(width - 1, 1) - 1.0
    down = 2.0 * (y + flow[:, 1]) / max(height - 1, 1) - 1.0
    return F.grid_sample(
        image, torch.stack((across, down), dim=3), mode="bilinear", padding_mode=padding, align_corners=True
    )


def correlate(first: torch.Tensor, second: torch.Tensor, reach: int) -> torch.Tensor:
    """Local cost volume ``[N, (2 reach + 1)^2, H, W]``: means over channels of ``first(x, y) second(x + dx, y + dy)``.

    The row of the displacement varies slowest, as in PWC-Net: channel ``(dy + reach) (2 reach + 1) + dx + reach``.
    Zeros lie beyond the border.
    """
    _, _, height, width = first.shape
    around = F.pad(second, (reach, reach, reach, reach))
    window = range(2 * reach + 1)
    costs = [
        (first * around[:, :, y : y + height, x : x + width]).mean(1, keepdim=True) for y in window for x in window
    ]
    return torch.cat(costs, 1)


def all_pairs(first: torch.Tensor, second: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """RAFT's correlation pyramid of ``[1, C, H, W]``: level ``l`` is ``[H W, 1, H >> l, W >> l]``.

    Products of every pixel of ``first`` with every pixel of ``second`` over the root of the channels, then averaged
    over 2x2 pixels of ``second``.
    """
    _, channels, height, width = first.shape
    product = first.reshape(channels, height * width).transpose(0, 1) @ second.reshape(channels, height * width)
    pyramid = [(product * channels**-0.5).reshape(height * width, 1, height, width)]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def windows(pyramid: list[torch.Tensor], place: torch.Tensor, radius: int) -> torch.Tensor:
    """Windows of ``(2 radius + 1)^2`` around ``place[1, 2, H, W]`` (pixels, x first) in each level: ``[1, C, H, W]``.

    Channel ``l (2 radius + 1)^2 + (dx + radius) (2 radius + 1) + dy + radius``, which is RAFT's order; zeros outside.
    """
    _, _, height, width = place.shape
    side = 2 * radius + 1
    span = torch.arange(-radius, radius + 1, dtype=place.dtype, device=place.device)
    dx, dy = torch.meshgrid(span, span, indexing="ij")
    x, y = place[:, :1].reshape(height * width, 1, 1), place[:, 1:].reshape(height * width, 1, 1)
    found = []
    for level, volume in enumerate(pyramid):
        rows, columns = volume.shape[2:]
        # Pixel centres, not corners, at half-integers, so that a level of one pixel is defined too.
        across = (2.0 * (x * 0.5**level + dx) + 1.0) / columns - 1.0
        down = (2.0 * (y * 0.5**level + dy) + 1.0) / rows - 1.0
        grid = torch.stack((across, down), dim=3)
        window = F.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        found.append(window.reshape(1, height, width, side * side))
    return torch.cat(found, 3).permute(0, 3, 1, 2)


def pixel_places(like: torch.Tensor) -> torch.Tensor:
    """Every pixel's own place ``[1, 2, H, W]``, x first."""
    height, width = like.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack((x, y), dim=0)[None]


def resized(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear, corners not aligned; ``x`` itself where it has that size."""
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def estimated_resized(pair: torch.Tensor, multiple: int, estimate: Estimate) -> torch.Tensor:
    """The flow of a pair of any size by ``estimate``, which needs sides that are multiples of ``multiple``.

    Other sides are resized to the next multiples, and the flow is resized and scaled back, as the published
    evaluations of coarse-to-fine networks do.
    """
    height, width = pair.shape[2:]
    rows, columns = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    if (rows, columns) == (height, width):
        return estimate(pair)
    flow = resized(estimate(resized(pair, rows, columns)), height, width)
    return torch.cat((flow[:, :1] * (width / columns), flow[:, 1:] * (height / rows)), 1)


def grown(x: torch.Tensor, multiple: int, least: int = 1) -> torch.Tensor:
    """``x`` with its right and bottom border repeated outwards to sides that are multiples of ``multiple``."""
    height, width = x.shape[2:]
    rows, columns = (max(least, math.ceil(side / multiple) * multiple) for side in (height, width))
    if columns > width:
        edge = x[:, :, :, width - 1 : width]
        x = torch.cat((x, edge.expand(-1, -1, -1, columns - width)), 3)
    if rows > height:
        edge = x[:, :, height - 1 : height, :]
        x = torch.cat((x, edge.expand(-1, -1, rows - height, -1)), 2)
    return x
