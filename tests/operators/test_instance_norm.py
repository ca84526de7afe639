"""Instance normalisation from torch to RTL: found in every spelling, its sums gathered by stores, bit by bit alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from whole_networks import POOL

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run as run_float
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.quantise import calibrate, quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw.isa import Opcode, WeightKind
from codesign.hw.model import reference
from codesign.hw.spec import BASE, TINY, AccelSpec
from codesign.hw.timing import model as timing
from codesign.networks.raft import InstanceNorm, Residual
from codesign.sim.run import run

WIDTH, HEIGHT = 21, 13
NARROW = POOL["narrow"]


class Normalised(nn.Module):
    """A convolution normalised, activated and convolved."""

    def __init__(self, norm: nn.Module, channels: int = 6, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 2, 3, padding=1)
        self.norm, self.activation = norm, activation or nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.activation(self.norm(self.first(x))))


class ByHand(nn.Module):
    """Other ways to write it."""

    def __init__(self, variant: int) -> None:
        super().__init__()
        self.variant = variant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = torch.mean(x, (-1, -2), keepdim=True)
        match self.variant:
            case 0:
                return (x - mean) / torch.sqrt(torch.mean((x - mean) ** 2, (2, 3), keepdim=True) + 1e-5)
            case 1:
                return torch.rsqrt(1e-5 + torch.square(x - mean).mean((2, 3), keepdim=True)) * (x - mean)
            case _:
                return (x - mean) / torch.sqrt(torch.var(x, (2, 3), unbiased=False, keepdim=True) + 1e-5)


class Whole(nn.Module):
    """The picture itself normalised, then what is shuffled, then what is concatenated: none is a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.last = InstanceNorm(3), nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up = self.norm(nn.functional.pixel_shuffle(self.wide(self.norm(x)), 2))
        return self.last(self.norm(torch.cat((up, torch.relu(up)), 1)))


def affine(channels: int) -> nn.Module:
    norm = nn.InstanceNorm2d(channels, affine=True)
    norm.weight.data.uniform_(-1.5, 1.5)
    norm.bias.data.uniform_(-1.0, 1.0)
    return norm


SPELLINGS = {
    "raft": InstanceNorm(6),
    "torch": nn.InstanceNorm2d(6),
    "groups": nn.GroupNorm(6, 6),
    "affine": affine(6),
    **{f"by hand {variant}": ByHand(variant) for variant in range(3)},
}


def seeded(network: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.uniform_(-0.4, 0.4)
    return network.eval()


def compiled(network: nn.Module, spec: AccelSpec = NARROW, size: tuple[int, int] = (WIDTH, HEIGHT)) -> CompiledNetwork:
    width, height = size
    model = load_model(seeded(network), width=width, height=height, channels=3)
    picture = np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)
    return compile_network(model, spec, calibration=[picture], quantisation=Quantisation("minmax"))


def agreed(network: CompiledNetwork, seed: int = 3) -> np.ndarray:
    """Codes on which quantised graph, golden model and RTL agree, and cycle model and RTL on cycles: int8[H, W, C]."""
    assert all(placement.on_accelerator for placement in network.placements)
    (region,) = network.regions
    (slot,) = region.program.inputs
    codes = np.random.default_rng(seed).integers(-128, 128, (1, slot.channels, slot.height, slot.width)).astype(np.int8)
    inputs = {slot.name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0))
    result = run(region.program, inputs)
    np.testing.assert_array_equal(next(iter(result.outputs.values())), golden)
    predicted, cycles = timing.predict(region.program).cycles, result.counters.cycles
    assert abs(predicted - cycles) <= 0.01 * cycles + 60
    return golden


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_one_operator(name: str) -> None:
    """The values are torch's; a scale and a shift are a convolution of their own behind it."""
    network = seeded(Normalised(SPELLINGS[name]))
    module = load_model(network, width=WIDTH, height=HEIGHT, channels=3).module
    graph = from_module(module)
    found = [node.op for node in graph.nodes]
    convolutions = 3 if name == "affine" else 2
    assert sorted(found) == sorted(["nn.conv2d", "add"] * convolutions + ["instance_norm", "nn.relu"])
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(run_float(graph, picture), network(picture), rtol=1e-3, atol=1e-4)


class AcrossChannels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean((1, 2, 3), keepdim=True) + 1e-5)


@pytest.mark.parametrize("norm", [AcrossChannels(), nn.GroupNorm(2, 6)], ids=["layer", "groups"])
def test_other_normalisations_are_none(norm: nn.Module) -> None:
    module = load_model(Normalised(norm).eval(), width=WIDTH, height=HEIGHT, channels=3).module
    assert "instance_norm" not in {node.op for node in from_module(module).nodes}


@pytest.mark.parametrize(
    ("spec", "size"),
    [(NARROW, (WIDTH, HEIGHT)), (NARROW, (150, 6)), (BASE, (37, 11))],
    ids=["narrow", "strips", "base"],
)
def test_machine_and_quantised_graph_agree(spec: AccelSpec, size: tuple[int, int]) -> None:
    for norm in (InstanceNorm(6), affine(6)):
        network = compiled(Normalised(norm), spec, size)
        strips = [len(cascade.strips) for cascade in network.regions[0].plan.cascades]
        assert (max(strips) > 1) == (size[0] == 150)
        assert len(np.unique(agreed(network))) > 50


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.Tanh()])
def test_activations(activation: nn.Module) -> None:
    assert len(np.unique(agreed(compiled(Normalised(InstanceNorm(9), 9, activation))))) > 20


@pytest.mark.parametrize("spec", [NARROW, BASE], ids=["narrow", "base"])
def test_what_is_no_convolutions_output(spec: AccelSpec) -> None:
    assert len(np.unique(agreed(compiled(Whole(), spec, (14, 10))))) > 20


@pytest.mark.parametrize("slim", [True, False])
def test_a_block_of_raft(slim: bool) -> None:
    """Every convolution is normalised, and a cascade's stores begin sums where its sources' lay."""
    network = compiled(Residual(3, 16, InstanceNorm, 2, slim=slim), BASE, (26, 18))
    assert len(np.unique(agreed(network))) > 50
    commands = network.regions[0].program.commands
    norms = [cmd for cmd in commands if cmd.opcode is Opcode.LOADW and cmd["kind"] == WeightKind.NORM]
    assert len(norms) == (4 if slim else 3)
    assert places(network) == {0}


def places(network: CompiledNetwork) -> set[int]:
    commands = network.regions[0].program.commands
    return {cmd["statistics_base"] for cmd in commands if cmd.opcode is Opcode.STORE and cmd["statistics"]}


class TwoPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skip, self.first, self.second = (nn.Conv2d(inputs, 9, 3, padding=1) for inputs in (3, 3, 9))
        self.norm = InstanceNorm(9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.skip(x)
        return torch.relu(self.norm(self.second(torch.relu(self.norm(self.first(x))))) + self.norm(skip))


def test_sums_wait_while_others_come_and_go() -> None:
    network = compiled(TwoPaths())
    agreed(network)
    assert places(network) == {0, 3}


def test_the_result_is_torchs() -> None:
    """8 bits before and after it: within the steps of either, where nothing saturates."""
    network = seeded(Normalised(InstanceNorm(6)))
    model = load_model(network, width=WIDTH, height=HEIGHT, channels=3)
    picture = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    found = compile_network(model, NARROW, calibration=[picture], quantisation=Quantisation("minmax"))
    (region,) = found.regions
    codes = np.rint(picture[0].transpose(1, 2, 0) * 255 - 128).astype(np.int8)
    (result,) = reference.run(region.program, {region.program.inputs[0].name: codes}).values()
    _, params = quantised_io(found.quantised)
    real = (result.astype(np.float64) - params.zero_point) * params.scale
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture))[0].permute(1, 2, 0).numpy()
    assert np.sqrt(np.mean((real - wanted) ** 2)) < 0.02 * wanted.std()


def test_every_channel_fills_its_codes() -> None:
    """What is normalised may be moved and scaled by channel: the float function stays, the quantised one is nearer."""
    network = seeded(Normalised(InstanceNorm(6)))
    network.first.weight.data *= torch.logspace(-1.5, 0, 6).view(6, 1, 1, 1)
    network.first.bias.data = torch.linspace(-1.0, 1.0, 6)
    module = load_model(network, width=WIDTH, height=HEIGHT, channels=3).module
    pictures = [np.random.default_rng(k).random((1, 3, HEIGHT, WIDTH), dtype=np.float32) for k in range(4)]
    balanced, plain = (calibrate(module, pictures, equalise=equalise).quantised() for equalise in (True, False))
    assert balanced.codes["first.bias"] > 200
    picture = torch.from_numpy(np.random.default_rng(9).random((1, 3, HEIGHT, WIDTH), dtype=np.float32))
    with torch.no_grad():
        wanted = network(picture)
        torch.testing.assert_close(run_float(from_module(balanced.source), picture), wanted, rtol=1e-2, atol=1e-2)
        errors = [(run_float(from_module(each.module), picture) - wanted).square().mean() for each in (balanced, plain)]
    assert errors[0] < errors[1] / 2


def test_a_channel_of_little_variance_is_not_scaled() -> None:
    """Epsilon would count for less, and the function change."""
    network = seeded(Normalised(InstanceNorm(6)))
    network.first.weight.data[2] *= 1e-4
    module = load_model(network, width=WIDTH, height=HEIGHT, channels=3).module
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    source = calibrate(module, [picture.numpy()]).quantised().source
    with torch.no_grad():
        torch.testing.assert_close(run_float(from_module(source), picture), network(picture), rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("spec", [TINY, NARROW], ids=["on the host", "too many channels"])
def test_a_machine_without_sums_leaves_it_to_the_host(spec: AccelSpec, tmp_path: Path) -> None:
    channels = 6 if spec is TINY else 40
    network = compiled(Normalised(InstanceNorm(channels), channels), spec)
    hosted = {placement.operator: placement.reason for placement in network.placements if not placement.on_accelerator}
    assert set(hosted) == {"instance_norm", "nn.relu"}
    reason = "no normaliser" if spec is TINY else f"sums of {spec.statistic_channels} channels"
    assert reason in hosted["instance_norm"]
    if spec is TINY:
        export(network.executable(), tmp_path / "network.so")
        module = LoadedModule(tmp_path / "network.so", lambda program, inputs: reference.run(program, inputs))
        picture = np.random.default_rng(1).random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
        with torch.no_grad():
            wanted = seeded(Normalised(InstanceNorm(channels), channels))(torch.from_numpy(picture)).numpy()
        assert np.sqrt(np.mean((module.run(picture) - wanted) ** 2)) < 0.02 * wanted.std()


def test_scales_that_do_not_fit_leave_it_to_the_host() -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6, eps=1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(1e-6 * self.first(x))

    network = compiled(Faint(), NARROW)
    reasons = {placement.operator: placement.reason for placement in network.placements}
    assert "cannot hold its scales: epsilon 1.0 is too large" in reasons["instance_norm"]
