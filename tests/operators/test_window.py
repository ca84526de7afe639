"""RAFT's look-ups from torch to RTL: found as they are exported, level by level, at a flow of 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run as run_float
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.referee.integer import evaluate
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw.isa import Opcode
from codesign.hw.model import reference
from codesign.hw.spec import BASE, TINY, AccelSpec
from codesign.networks.motion import all_pairs, pixel_places, windows
from codesign.sim.run import run

WIDTH, HEIGHT = 21, 14


class LookedUp(nn.Module):
    """A flow found in two steps, as RAFT does: the first looks up at no flow, the second at what the first found."""

    def __init__(self, levels: int = 2, radius: int = 2, pixels: float = 3.0, channels: int = 6) -> None:
        super().__init__()
        self.levels, self.radius, self.pixels = levels, radius, pixels
        self.first, self.second = (nn.Conv2d(3, channels, 3, padding=1) for _ in range(2))
        costs = levels * (2 * radius + 1) ** 2
        self.flow, self.head = nn.Conv2d(costs, 2, 3, padding=1), nn.Conv2d(costs, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pyramid = all_pairs(self.first(x), self.second(x), self.levels)
        origin = pixel_places(x)
        flow = self.pixels * self.flow(windows(pyramid, origin, self.radius))
        return self.head(windows(pyramid, origin + flow, self.radius))


class Transposed(LookedUp):
    """Windows whose rows come before their columns: not RAFT's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pyramid = all_pairs(self.first(x), self.second(x), self.levels)
        turned = [maps.transpose(2, 3) for maps in pyramid]
        return self.head(windows(turned, pixel_places(x).flip(1), self.radius))


def loaded(network: nn.Module):
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    return load_model(network.eval(), width=WIDTH, height=HEIGHT, channels=3)


def compiled(network: nn.Module, spec: AccelSpec = BASE) -> CompiledNetwork:
    picture = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    return compile_network(loaded(network), spec, calibration=[picture], quantisation=Quantisation("minmax"))


def test_every_level_is_an_operator() -> None:
    """Whose values are torch's, in the graph and in Relax's spelling; which is read back."""
    network = LookedUp(levels=3, radius=1)
    graph = from_module(loaded(network).module)
    found = [node.attributes for node in graph.nodes if node.op == "window"]
    assert [(one["radius"], one["level"], one["map"]) for one in found] == [
        (1, level, (HEIGHT >> level, WIDTH >> level)) for level in range(3)
    ] * 2
    assert sum(node.op == "all_pairs" for node in graph.nodes) == 3
    spelt = to_module(graph)
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = network(picture)
        for one in (graph, from_module(spelt)):
            torch.testing.assert_close(run_float(one, picture), wanted, rtol=1e-4, atol=1e-5)
    again = from_module(spelt)
    assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    assert [node.attributes for node in again.nodes if node.op == "window"] == found


def test_other_windows_stay_on_the_host() -> None:
    hosted = [placement.operator for placement in compiled(Transposed()).placements if not placement.on_accelerator]
    assert "image.grid_sample" in hosted


def test_a_machine_without_windows_says_so() -> None:
    reasons = {p.operator: p.reason for p in compiled(LookedUp(), TINY).placements if not p.on_accelerator}
    assert "no windows" in reasons["window"]


@pytest.mark.parametrize(("levels", "radius", "pixels"), [(1, 1, 0.3), (2, 2, 3.0), (3, 3, 8.0), (4, 4, 60.0)])
def test_quantised_graph_and_machine_agree(levels: int, radius: int, pixels: float) -> None:
    network = compiled(LookedUp(levels, radius, pixels))
    assert all(placement.on_accelerator for placement in network.placements)
    (region,) = network.regions
    layers = [layer for layer in region.graph.computed if isinstance(layer.kernel, Window)]
    assert len(layers) == 2 * levels
    assert sum(cmd.opcode is Opcode.WINDOW for cmd in region.program.commands) >= 2 * levels
    codes = np.random.default_rng(2).integers(-128, 128, (1, 3, HEIGHT, WIDTH)).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0))
    assert len(np.unique(golden)) > (50 if pixels < 10 else 2)
    measured = run(region.program, inputs)
    np.testing.assert_array_equal(next(iter(measured.outputs.values())), golden)


@pytest.mark.parametrize("spec", [BASE, TINY], ids=["base", "tiny"])
def test_the_module_is_close_to_the_float_network(spec: AccelSpec, tmp_path: Path) -> None:
    """Where there are no look-ups, the host runs them in the same form."""
    network = LookedUp()
    made = compiled(network, spec)
    export(made.executable(), tmp_path / "looked.so")
    module = LoadedModule(tmp_path / "looked.so", lambda program, inputs: reference.run(program, inputs))
    picture = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture)).numpy()
    error = np.abs(module.run(picture) - wanted)
    assert error.mean() < 0.03 * (wanted.max() - wanted.min())
