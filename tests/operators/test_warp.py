"""Warps from torch to RTL: found in whatever spelling, sampled on the machine, the flow from the host in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from whole_networks import POOL

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run as run_float
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.compile.scanline.kernels.resize import Resize
from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw import numerics
from codesign.hw.model import reference
from codesign.hw.spec import TINY
from codesign.networks.motion import warp
from codesign.sim.run import run

WIDTH, HEIGHT = 23, 14
NARROW = POOL["narrow"]


class Warped(nn.Module):
    """Features of a picture, warped by a flow that a layer makes of it."""

    def __init__(self, padding: str = "border", channels: int = 3, pixels: float = 6.0) -> None:
        super().__init__()
        self.padding, self.pixels = padding, pixels
        self.flow, self.features = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, channels, 3, padding=1)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(warp(self.features(x), self.pixels * self.flow(x), self.padding))


class HalfPixels(Warped):
    """The same by the other convention of ``grid_sample``, with a grid that is made last axis first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, height, width = x.shape
        own = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")[::-1], 2)
        places = own + self.flow(x).permute(0, 2, 3, 1)
        grid = (2.0 * places + 1.0) / torch.tensor([width, height]) - 1.0
        return self.head(F.grid_sample(self.features(x), grid, "bilinear", self.padding, False))


class Zoomed(Warped):
    """A grid that is no flow's: every pixel from half as far."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = F.affine_grid(torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]]), [1, 3, HEIGHT, WIDTH], False)
        return self.head(F.grid_sample(self.features(x), grid + 0 * self.flow(x).permute(0, 2, 3, 1)))


class FromNothing(Warped):
    """The coarsest level of a pyramid, whose flow before it is zero: the warp moves nothing, the flow says nothing."""

    def __init__(self, padding: str = "border", *, aligned: bool = True, grouped: bool = False) -> None:
        super().__init__(padding)
        self.aligned = aligned
        self.head = nn.Conv2d(8, 2, 3, padding=1, groups=2 if grouped else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features, flow = self.features(x), x.new_zeros(1, 2, *x.shape[2:])
        grid = F.affine_grid(torch.eye(2, 3)[None], list(features.shape), self.aligned)
        still = F.grid_sample(features, grid, "bilinear", self.padding, self.aligned)
        return self.head(torch.cat((flow, warp(still, flow, self.padding), x), 1))


def compiled(network: nn.Module, spec=NARROW, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> CompiledNetwork:
    width, height = size
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    picture = np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)
    model = load_model(network.eval(), width=width, height=height, channels=3)
    return compile_network(model, spec, calibration=[picture], quantisation=Quantisation("minmax"))


def operators(network: nn.Module) -> list[str]:
    model = load_model(network.eval(), width=WIDTH, height=HEIGHT, channels=3)
    return [node.op for node in from_module(model.module).nodes]


@pytest.mark.parametrize("network", [Warped(), Warped("zeros"), HalfPixels(), HalfPixels("zeros")])
def test_every_spelling_is_one_operator(network: nn.Module) -> None:
    """From the flow on, whatever there was; the values are torch's."""
    found = operators(network)
    assert found.count("warp") == 1
    assert {"warp", "add", "nn.conv2d"} == set(found)
    hosted = [placement for placement in compiled(network).placements if not placement.on_accelerator]
    assert not hosted


@pytest.mark.parametrize("padding", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("aligned", [True, False])
def test_a_warp_by_no_flow_is_none(padding: str, aligned: bool) -> None:
    """Convolutions remain, and the last of them without the flow's channels; the values are torch's."""
    network = FromNothing(padding, aligned=aligned)
    model = load_model(network.eval(), width=WIDTH, height=HEIGHT, channels=3)
    graph = from_module(model.module)
    assert {node.op for node in graph.nodes} == {"nn.conv2d", "add", "concat"}
    assert sorted(graph.shape_of(node.inputs[1])[1] for node in graph.nodes if node.op == "nn.conv2d") == [3, 6]
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(run_float(graph, picture), network(picture), rtol=1e-4, atol=1e-5)


def test_zeros_of_a_grouped_convolution_stay() -> None:
    """Without them its groups would not be alike."""
    model = load_model(FromNothing(grouped=True).eval(), width=WIDTH, height=HEIGHT, channels=3)
    graph = from_module(model.module)
    (joined,) = (node for node in graph.nodes if node.op == "concat")
    assert joined.shape[1] == 8


def test_other_grids_stay_on_the_host() -> None:
    hosted = [placement.operator for placement in compiled(Zoomed()).placements if not placement.on_accelerator]
    assert "image.grid_sample" in hosted


def test_a_machine_without_a_sampler_says_so() -> None:
    reasons = {p.operator: p.reason for p in compiled(Warped(), TINY).placements if not p.on_accelerator}
    assert "no sampler" in reasons["warp"]


@pytest.mark.parametrize("pixels", [0.3, 6.0, 90.0])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_quantised_graph_and_machine_agree(padding: str, pixels: float) -> None:
    network = compiled(Warped(padding, channels=6, pixels=pixels))
    (region,) = network.regions
    codes = np.random.default_rng(2).integers(-128, 128, (1, 3, HEIGHT, WIDTH)).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0))
    assert len(np.unique(golden)) > (50 if pixels < 10 else 1)
    measured = run(region.program, inputs)
    np.testing.assert_array_equal(next(iter(measured.outputs.values())), golden)
    if pixels < 3 or padding == "border":  # where beyond the frame are zeros, there is nothing to gather
        assert (measured.counters.gathered_reads > 0) == (pixels > 3)


class Refined(Warped):
    """Coarse to fine: a flow found small, enlarged, doubled, corrected by what a warp shows, the result."""

    def __init__(self, *, corners: bool = False) -> None:
        super().__init__()
        self.corners = corners
        self.correct = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.features(x)
        coarse = 4.0 * self.flow(F.avg_pool2d(x, 2))
        flow = 2.0 * F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=self.corners)
        return flow + self.correct(torch.cat((features, warp(features, flow), flow), 1))


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("accel", ["narrow", "base"])
def test_a_flow_network_needs_no_host(accel: str, corners: bool) -> None:
    """Its flows have 16 bits from the layer that makes them to the result."""
    network = Refined(corners=corners)
    made = compiled(network, POOL[accel], size=(24, 14))
    assert all(placement.on_accelerator for placement in made.placements)
    (region,) = made.regions
    resizes = [layer for layer in region.graph.computed if isinstance(layer.kernel, Resize)]
    assert any(region.graph.tensors[layer.sources[0]].bits == 16 for layer in resizes) == corners
    codes = np.random.default_rng(3).integers(-128, 128, (1, 3, 14, 24)).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    wanted = evaluate(made.partitioned.graph, codes)
    assert wanted.dtype == np.int16
    np.testing.assert_array_equal(numerics.from_byte_planes(golden), wanted[0].transpose(1, 2, 0))
    assert len(np.unique(wanted)) > 300
    (measured,) = run(region.program, inputs).outputs.values()
    np.testing.assert_array_equal(measured, golden)
    with torch.no_grad():
        real = network(torch.from_numpy((codes.astype(np.float32) + 128.0) / 255.0)).numpy()
    _, output = quantised_io(made.quantised)
    assert np.abs(wanted * output.scale - real).mean() < 0.05


def test_the_module_is_close_to_the_float_network(tmp_path: Path) -> None:
    network = Warped()
    made = compiled(network)
    export(made.executable(), tmp_path / "warped.so")
    module = LoadedModule(tmp_path / "warped.so", lambda program, inputs: reference.run(program, inputs))
    picture = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture)).numpy()
    error = np.abs(module.run(picture) - wanted)
    assert error.mean() < 0.03 * (wanted.max() - wanted.min())
