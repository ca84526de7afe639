"""Local cost volumes from torch to RTL: found as they are exported, multiplied on the array, whatever the reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from whole_networks import POOL

from codesign.compile.driver import CompiledNetwork, compile_network
from codesign.compile.frontend import load_model
from codesign.compile.integer import evaluate
from codesign.compile.relax_form import from_module
from codesign.hw import reference
from codesign.hw.spec import BASE, TINY
from codesign.networks.motion import correlate
from codesign.sim.run import run

WIDTH, HEIGHT = 23, 14
NARROW = POOL["narrow"]


class Correlated(nn.Module):
    """Features of a picture, correlated with others of it."""

    def __init__(self, channels: int = 6, reach: int = 2, *, same: bool = False) -> None:
        super().__init__()
        self.reach, self.same = reach, same
        self.first, self.second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(3, channels, 3, padding=1)
        self.head = nn.Conv2d((2 * reach + 1) ** 2, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = first if self.same else self.second(x)
        return self.head(torch.nn.functional.leaky_relu(correlate(first, second, self.reach), 0.1))


def compiled(network: nn.Module, spec=NARROW, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> CompiledNetwork:
    width, height = size
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    picture = np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)
    model = load_model(network.eval(), width=width, height=height, channels=3)
    return compile_network(model, spec, calibration=[picture], method="minmax")


def test_a_cost_volume_is_a_handful_of_operators() -> None:
    model = load_model(Correlated().eval(), width=WIDTH, height=HEIGHT, channels=3)
    found = [node.op for node in from_module(model.module).nodes]
    assert found.count("mean") == found.count("repeat") == 1
    assert len(found) < 16
    network = compiled(Correlated())
    assert all(placement.on_accelerator for placement in network.placements)
    assert network.macs == 6 * 27 * 2 * WIDTH * HEIGHT + 25 * 2 * WIDTH * HEIGHT


def test_a_machine_without_a_correlator_says_so() -> None:
    reasons = {p.operator: p.reason for p in compiled(Correlated(), TINY).placements if not p.on_accelerator}
    assert "no correlator" in reasons["mean"]


@pytest.mark.parametrize(
    ("channels", "reach", "same", "spec"),
    [(6, 2, False, NARROW), (3, 1, False, NARROW), (5, 1, True, NARROW), (11, 4, False, BASE)],
)
def test_quantised_graph_and_machine_agree(channels: int, reach: int, same: bool, spec) -> None:
    network = compiled(Correlated(channels, reach, same=same), spec)
    (region,) = network.regions
    codes = np.random.default_rng(2).integers(-128, 128, (1, 3, HEIGHT, WIDTH)).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(network.quantised, codes)[0].transpose(1, 2, 0))
    assert len(np.unique(golden)) > 50
    measured = run(region.program, inputs)
    np.testing.assert_array_equal(next(iter(measured.outputs.values())), golden)
