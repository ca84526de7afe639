"""Every reference network from torch to RTL: referee, golden model and RTL agree on every value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.referee.integer import evaluate_region
from codesign.hw.timing import model as timing
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import simulate
from codesign.workflows.sources import find

NETWORKS = (
    "bicubic_x2",
    "espcn_x3",
    "fsrcnn_x2",
    "sesr_m5_x2",
    "abpn_x3",
    "quicksrnet_m_x3",
    "edsr_f32b5_x2",
    "srvgg16_x4",
    "dncnn17",
)
CASES = (("base", (64, 64)), ("base", (61, 47)), ("tiny", (23, 17)))


@pytest.mark.parametrize(
    ("accel", "size"), CASES, ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value))
)
@pytest.mark.parametrize("name", NETWORKS)
def test_rtl_is_bit_exact(name, accel, size):
    compiled = compile_source(find(name), accel, FrameChoice(size))
    result = simulate(compiled)
    assert result.bit_exact is True
    assert result.mismatches == 0
    # A constant output would prove nothing.
    assert result.distinct_output_values >= 32
    assert min(compiled.network.codes.values()) >= 32
    assert result.host_mac_share == 0.0
    counters = result.counters
    assert counters.busy_cycles + sum(counters.stalls.values()) == counters.cycles
    assert 0.0 < result.mac_utilization <= 1.0
    assert (result.quality_db is not None) == compiled.source.trained
    # The cycle model: one percent of a network, a little more where a frame is all start and end.
    predicted = sum(timing.predict(region.program).cycles for region in compiled.network.regions)
    assert abs(predicted - counters.cycles) <= 0.01 * counters.cycles + 20


@pytest.mark.parametrize("size", [(64, 32), (61, 47)], ids=["64x32", "61x47"])
def test_spynet(size):
    """The network runs on the machine as a whole; at sizes that are not multiples of 32 the host resizes."""
    compiled = compile_source(find("spynet"), "base", FrameChoice(size))
    result = simulate(compiled)
    assert result.bit_exact is True
    assert result.distinct_output_values >= 32
    assert result.host_mac_share == 0.0
    hosted = {placement.operator for placement in compiled.network.placements if not placement.on_accelerator}
    assert bool(hosted) == (size == (61, 47))
    assert "image.grid_sample" not in hosted


class Attention(nn.Module):
    """A network of operators that reference networks lack, half of them on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.dilated = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.tail = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)
        y = y + self.depthwise(y * torch.sigmoid(nn.functional.adaptive_avg_pool2d(y, 1)))
        return self.tail(self.dilated(y) + y)


def test_a_mixed_network_is_judged_region_by_region(monkeypatch):
    torch.manual_seed(0)
    compiled = compile_source(find(Attention()), "tiny", FrameChoice((23, 17)))
    assert len(compiled.network.regions) > 1
    assert simulate(compiled).bit_exact is True

    def off_by_one(graph, inputs, outputs):
        first, *others = evaluate_region(graph, inputs, outputs)
        return (np.where(first < 127, first + 1, -128), *others)

    # A difference from the referee must be reported.
    monkeypatch.setattr("codesign.workflows.judge.evaluate_region", off_by_one)
    assert simulate(compiled).bit_exact is False
