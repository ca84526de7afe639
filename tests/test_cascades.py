"""Structures in a cascade besides plain layers, one at a time, from torch to RTL."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find


class Unshuffle(nn.Module):
    """Down to a quarter of the size, a layer, up again: both moves on the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(torch.relu(self.body(nn.functional.pixel_unshuffle(x, 2))), 2)


class WideResidual(nn.Module):
    """A residual around a layer whose weights fit in tiny only in parts: its operand is its own source."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 48, 3, padding=1)
        self.wide = nn.Conv2d(48, 48, 3, padding=1)
        self.tail = nn.Conv2d(48, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)
        return self.tail(torch.relu(y + self.wide(y)))


class Dense(nn.Module):
    """A dense block of seven parts: more than a layer reads at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(6))
        self.tail = nn.Conv2d(27, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x]
        for layer in self.layers:
            parts.append(torch.relu(layer(torch.cat(parts, 1))))
        return self.tail(torch.cat(parts, 1)) + x


class Nested(nn.Module):
    """PWC-Net's decoder: new parts are put before the older ones, up to twelve parts, and all of them are a result."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, 2 + i, 1) for i in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(14 + 3 * i, 3, 3, padding=1) for i in range(8))
        self.tails = nn.ModuleList(nn.Conv2d(38, 2, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([stem(x) for stem in self.stems], 1)
        for layer in self.layers:
            y = torch.cat((torch.relu(layer(y)), y), 1)
        return self.tails[0](y) - self.tails[1](y)


class Distant(nn.Module):
    """Taps as far apart as a window allows, 63 rows, and as PWC-Net's context has them: 33."""

    def __init__(self) -> None:
        super().__init__()
        self.context = nn.Conv2d(3, 6, 3, padding=16, dilation=16)
        self.tallest = nn.Conv2d(6, 3, (3, 2), stride=2, padding=(31, 7), dilation=(31, 14))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tallest(torch.relu(self.context(x)))


@pytest.mark.parametrize("size", [(24, 18), (90, 10)], ids=["24x18", "90x10"])
@pytest.mark.parametrize("module", [Unshuffle, WideResidual, Dense, Nested, Distant])
def test_structures(module: type[nn.Module], size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    compiled = compile_source(find(module()), "tiny", FrameChoice(size))
    result = simulate(compiled)
    assert result.bit_exact is True
    assert result.host_mac_share == 0.0
    assert all(placement.on_accelerator for placement in compiled.network.placements)
    assert result.distinct_output_values >= 32


def test_a_wide_residual_copies_its_operand() -> None:
    torch.manual_seed(1)
    compiled = compile_source(find(WideResidual()), "tiny", FrameChoice((24, 18)))
    (region,) = compiled.network.regions
    names = [layer.output for layer in region.plan.graph.layers]
    assert any(".operand." in name for name in names)
    assert sum(name == "add" or name.startswith("wide") for name in names) > 1


def test_concatenations_share_what_is_joined() -> None:
    """Concatenations of four to twelve parts, each with all of those before it: each value is copied at most twice."""
    torch.manual_seed(1)
    compiled = compile_source(find(Nested()), "base", FrameChoice((24, 18)))
    (region,) = compiled.network.regions
    copies = [layer for layer in region.plan.graph.layers if ".joined" in layer.output]
    assert 1 <= len(copies) <= 3
    assert sum(layer.channels for layer in copies) <= 2 * 38
