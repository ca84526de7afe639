"""16 bits for the most harmful tensors: common ranges, bit widths by an error budget, sums within 32 bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.qdq_export import export_qdq
from codesign.compile.quantise.quantise import Calibrated, calibrate, quantised_io
from codesign.compile.quantise.widths import Widths
from codesign.compile.referee.integer import evaluate
from codesign.hw import numerics
from codesign.hw.errors import InputError
from codesign.hw.model import reference
from codesign.hw.spec import BASE

WIDTH, HEIGHT = 13, 10


class Unequal(nn.Module):
    """Large and small values side by side, a residual, a look-up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.large, self.small = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.join, self.body = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.Conv2d(8, 2, 3, padding=1)
        with torch.no_grad():
            self.large.weight *= 40.0
            self.join.weight[:, :2] /= 40.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.join(torch.cat((self.large(x), torch.tanh(self.small(x))), 1)))
        return self.tail(y + self.body(y))


def images(count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.random((1, 3, HEIGHT, WIDTH), dtype=np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> ImportedModel:
    return load_model(Unequal().eval(), width=WIDTH, height=HEIGHT, channels=3)


def error(network: Calibrated, widths: Widths) -> float:
    """Mean distance per pixel to the float network, computed independently."""
    found = []
    for image in images():
        with torch.no_grad():
            wanted = Unequal().eval()(torch.from_numpy(image))
            real = run(from_module(network.quantised(widths).module), torch.from_numpy(image))
        found.append(float((real - wanted).norm(dim=1).mean()))
    return float(np.mean(found))


def test_operands_of_a_concatenation_are_brought_to_one_range(model: ImportedModel) -> None:
    plain, balanced = (calibrate(model.module, images(), "minmax", equalise=each) for each in (False, True))
    image = torch.from_numpy(images()[0])
    torch.testing.assert_close(run(balanced.graph, image), run(plain.graph, image), rtol=1e-4, atol=1e-4)
    assert any(unit.name.endswith(".aligned") for unit in balanced.parts)
    assert error(balanced, balanced.least) < 0.7 * error(plain, plain.least)


def test_a_budget_is_kept_and_paid_for(model: ImportedModel) -> None:
    network = calibrate(model.module, images(), "minmax")
    before = error(network, network.least)
    counts = []
    for share in (2.0, 0.8, 0.45):
        compiled = compile_network(
            model, BASE, calibration=images(), quantisation=Quantisation("minmax", error_budget=share * before)
        )
        mixed = compiled.mixed
        assert mixed is not None
        assert mixed.met
        assert mixed.error_before == pytest.approx(before, rel=1e-3)
        assert mixed.error == pytest.approx(error(network, mixed.widths), rel=1e-3)
        assert mixed.error <= share * before
        assert all(placement.on_accelerator for placement in compiled.placements)
        counts.append(mixed.macs)
    assert counts[0] == mixed.macs_before
    assert counts[0] < counts[1] < counts[2]


def test_a_budget_beyond_16_bits_is_not_kept_and_says_why(model: ImportedModel) -> None:
    mixed = compile_network(
        model, BASE, calibration=images(), quantisation=Quantisation("minmax", error_budget=1e-9)
    ).mixed
    assert mixed is not None
    assert not mixed.met
    assert mixed.error < 0.5 * mixed.error_before
    assert any("table" in refusal.reason for refusal in mixed.refusals)
    assert mixed.to_json()["met"] is False


class Channels(nn.Module):
    """A layer normalisation of the image, and nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "network",
    [Channels(), nn.MaxPool2d(2), nn.PixelUnshuffle(2), nn.PixelUnshuffle(1)],
    ids=lambda each: type(each).__name__,
)
def test_a_network_without_convolutions_may_have_a_budget(network: nn.Module) -> None:
    model = load_model(network.eval(), width=12, height=HEIGHT, channels=3)
    inputs = [image[..., :12] for image in images()]
    mixed = compile_network(
        model, BASE, calibration=inputs, quantisation=Quantisation("minmax", error_budget=1e-9)
    ).mixed
    assert mixed is not None
    assert mixed.error <= mixed.error_before


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_is_positive(model: ImportedModel, budget: float) -> None:
    with pytest.raises(InputError, match="error budget"):
        compile_network(model, BASE, calibration=images(), quantisation=Quantisation(error_budget=budget))


def test_a_quantised_network_has_no_budget(model: ImportedModel) -> None:
    quantised = calibrate(model.module, images()).quantised().module
    came = dataclasses.replace(model, module=quantised, quantised=True)
    with pytest.raises(InputError, match="came quantised"):
        compile_network(came, BASE, quantisation=Quantisation(error_budget=1.0))


def everything(network: Calibrated) -> Widths:
    widths = network.least
    for unit in network.parts:
        widths |= network.with_consequences(Widths(frozenset({unit.name}))) or Widths()
        if unit.operator.weighs:
            widths |= Widths(weights=frozenset({unit.head.name}))
    return widths


class Heavy(nn.Module):
    """Sums of 16-bit activations that 32 bits cannot hold: 7x7 taps of 64 channels, weights alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 3, 7, padding=3)
        with torch.no_grad():
            self.b.weight.copy_(torch.sign(self.b.weight) * 0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("wide_weights", [False, True])
def test_sums_that_leave_32_bits_are_made_to_fit(wide_weights: bool) -> None:
    """Every psum of the loudest pictures fits (the referee raises otherwise), and the result is near."""
    network = Heavy().eval()
    picture = np.random.default_rng(1).random((1, 1, HEIGHT, WIDTH), dtype=np.float32)
    compiled = compile_network(
        load_model(network, width=WIDTH, height=HEIGHT),
        BASE,
        calibration=[picture],
        quantisation=Quantisation(
            "minmax",
            widths=lambda one: dataclasses.replace(
                everything(one), weights=frozenset({"a", "b"} if wide_weights else ())
            ),
        ),
    )
    (region,) = compiled.regions
    _, output = quantised_io(compiled.quantised)
    for codes in (np.full((1, 1, HEIGHT, WIDTH), 127, np.int8), (np.rint(picture * 255) - 128).astype(np.int8)):
        (golden,) = reference.run(region.program, {region.program.inputs[0].name: codes[0].transpose(1, 2, 0)}).values()
        wanted = evaluate(compiled.partitioned.graph, codes)
        np.testing.assert_array_equal(numerics.from_byte_planes(golden), wanted[0].transpose(1, 2, 0))
    with torch.no_grad():
        real = network(torch.from_numpy((codes + 128.0).astype(np.float32) / 255.0)).numpy()
    assert np.abs(wanted * output.scale - real).max() < 0.005 * np.ptp(real)


def test_onnx_has_16_bits_too(model: ImportedModel, tmp_path: Path) -> None:
    """The exported graph, run by ONNX Runtime, is ours to 16-bit rounding."""
    network = calibrate(model.module, images(), "minmax")
    quantised = network.quantised(everything(network)).module
    export_qdq(quantised, tmp_path / "mixed.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "mixed.onnx"), options, providers=["CPUExecutionProvider"])
    codes = np.random.default_rng(3).integers(-128, 128, (1, 3, HEIGHT, WIDTH)).astype(np.int8)
    real = (codes.astype(np.float32) + 128.0) / np.float32(255.0)
    (found,) = session.run(None, {session.get_inputs()[0].name: real})
    _, output = quantised_io(quantised)
    assert np.abs(found / output.scale - evaluate(from_module(quantised), codes)).max() <= 4
