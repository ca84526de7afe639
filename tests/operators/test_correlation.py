"""Local cost volumes from torch to RTL: found as they are exported, multiplied on the array, whatever the reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from whole_networks import POOL

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.referee.integer import evaluate, evaluate_region
from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.hw.model import reference
from codesign.hw.spec import BASE, TINY
from codesign.hw.timing import model as timing
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
    return compile_network(model, spec, calibration=[picture], quantisation=Quantisation("minmax"))


def test_a_cost_volume_is_one_operator() -> None:
    model = load_model(Correlated().eval(), width=WIDTH, height=HEIGHT, channels=3)
    found = [node.op for node in from_module(model.module).nodes]
    assert found.count("correlation") == 1
    assert len(found) < 10
    network = compiled(Correlated())
    assert all(placement.on_accelerator for placement in network.placements)
    assert network.macs == 6 * 27 * 2 * WIDTH * HEIGHT + 25 * 2 * WIDTH * HEIGHT


def test_a_machine_without_a_correlator_says_so() -> None:
    reasons = {p.operator: p.reason for p in compiled(Correlated(), TINY).placements if not p.on_accelerator}
    assert "no correlator" in reasons["correlation"]


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
    np.testing.assert_array_equal(golden, evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0))
    assert len(np.unique(golden)) > 50
    measured = run(region.program, inputs)
    np.testing.assert_array_equal(next(iter(measured.outputs.values())), golden)


class Paired(nn.Module):
    """Features of a picture, every pixel with every pixel of others of it, and of those a pool."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(3, channels, 3, 2, 1)
        self.head = nn.Conv2d(channels + 1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        _, _, height, width = first.shape
        pyramid = all_pairs_of(first, self.second(x), 2)
        likeness = sum((level * level).mean((2, 3)).reshape(1, 1, height, width) for level in pyramid)
        return self.head(torch.cat((first, likeness), 1))


def all_pairs_of(first: torch.Tensor, second: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """RAFT's spelling, of frames of two sizes."""
    _, channels, height, width = first.shape
    product = first.reshape(channels, -1).transpose(0, 1) @ second.reshape(channels, -1)
    pyramid = [(product * channels**-0.5).reshape(height * width, 1, *second.shape[2:])]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


@pytest.mark.parametrize(("channels", "spec"), [(6, NARROW), (37, NARROW), (72, BASE)])
def test_all_pairs_are_a_layer(channels: int, spec) -> None:
    """Region by region, as the host takes the maps apart."""
    network = compiled(Paired(channels), spec)
    placed = {placement.operator for placement in network.placements if placement.on_accelerator}
    assert {"all_pairs", "nn.avg_pool2d"} <= placed
    products = [
        layer for region in network.regions for layer in region.graph.computed if isinstance(layer.kernel, AllPairs)
    ]
    assert len(products) == 2
    codes = np.random.default_rng(2).integers(-128, 128, (1, 3, HEIGHT, WIDTH)).astype(np.int8)
    (region,) = (one for one in network.regions if any(node.op == "all_pairs" for node in one.part.nodes))
    inputs = {slot.name: np.ascontiguousarray(codes[0].transpose(1, 2, 0)) for slot in region.program.inputs}
    expected = evaluate_region(region.part.graph, dict.fromkeys(region.part.inputs, codes), region.part.outputs)
    golden = reference.run(region.program, inputs)
    measured = run(region.program, inputs)
    for slot, wanted in zip(region.program.outputs, expected, strict=True):
        np.testing.assert_array_equal(golden[slot.name], wanted[0].transpose(1, 2, 0))
        np.testing.assert_array_equal(measured.outputs[slot.name], golden[slot.name])
        assert len(np.unique(wanted)) > 50
    predicted = timing.predict(region.program)
    assert abs(predicted.cycles - measured.counters.cycles) <= 0.01 * measured.counters.cycles
