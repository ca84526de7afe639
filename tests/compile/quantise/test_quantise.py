"""Scales, zero points and the canonical form that the quantiser makes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from tvm import relax

from codesign.compile.graph.graph import Graph
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.ir.runnable import runnable
from codesign.compile.quantise.calibration import PIXELS, Observation, QuantParams, choose, fake_quantised, parameters
from codesign.compile.quantise.quantise import calibrate, quantised_io
from codesign.hw.errors import InputError, UnsupportedError

finite = st.floats(-1e6, 1e6, width=32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.act.weight.data.uniform_(-0.2, 0.5)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(16, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.a(x))
        z = torch.relu(self.b(y) + y) * 0.5
        w = torch.tanh(self.c(torch.cat([y, z], 1))) + x
        return F.pixel_shuffle(w, 2) - torch.clamp(self.up(w), -1, 1)[:, :1]


def _images(count: int = 3, width: int = 13, height: int = 9) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return [rng.random((1, 1, height, width), dtype=np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def module() -> tvm.IRModule:
    return load_model(Net().eval(), width=13, height=9).module


@pytest.fixture(scope="module")
def graph(module: tvm.IRModule) -> Graph:
    return from_module(calibrate(module, _images()).quantised().module)


@given(finite, finite)
def test_parameters_cover_and_hold_zero(first: float, second: float) -> None:
    low, high = min(first, second), max(first, second)
    params = parameters(low, high)
    assert params.low <= 0.0 <= params.high
    if low == high == 0.0:
        assert params == PIXELS
    assert params.high - params.low >= (max(high, 0) - min(low, 0)) * (1 - 1e-6)
    # The zero point is rounded, so either end may lie half a step outside.
    assert params.low <= min(low, 0) + 0.51 * params.scale
    assert params.high >= max(high, 0) - 0.51 * params.scale


def test_pixels_are_codes() -> None:
    pixels = np.arange(256)
    codes = np.rint((pixels / 255).astype(np.float32) / np.float32(PIXELS.scale)) + PIXELS.zero_point
    np.testing.assert_array_equal(codes, pixels - 128)


def test_methods_on_outliers() -> None:
    sample = np.concatenate([np.random.default_rng(1).normal(size=100_000), [50.0]]).astype(np.float32)
    seen = Observation(float(sample.min()), float(sample.max()), sample)
    widths = {method: choose(seen, method).scale for method in ("minmax", "percentile", "mse")}
    assert widths["percentile"] < widths["minmax"] / 4
    assert widths["mse"] < widths["minmax"]
    body = sample[:-1].astype(np.float64)
    errors = {method: np.mean((fake_quantised(body, choose(seen, method)) - body) ** 2) for method in widths}
    assert errors["percentile"] < errors["minmax"]
    with pytest.raises(InputError, match="unknown calibration method"):
        choose(seen, "median")  # type: ignore[arg-type]


def test_invalid_parameters() -> None:
    with pytest.raises(ValueError, match="float32"):
        QuantParams(0.1, 0)
    with pytest.raises(ValueError, match="zero point"):
        QuantParams(0.5, 128)


def test_every_stored_tensor_is_int8(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op == "dequantize":
            source = graph.constants.get(node.inputs[0])
            assert source.dtype == np.int8 if source is not None else graph.by_name[node.inputs[0]].op == "quantize"
        elif node.op == "quantize":
            assert node.dtype == "int8"
    assert graph.nodes[0].op == "quantize" or graph.by_name["x.q"].inputs[0] == graph.input
    assert graph.by_name[graph.output].op == "dequantize"


def test_activations_fuse(graph: Graph) -> None:
    chain = ["a", "a.bias", "act", "act.q"]
    for earlier, later in itertools.pairwise(chain):
        assert graph.by_name[later].inputs[0] == earlier
    tanh = next(node for node in graph.nodes if node.op == "table")
    assert graph.by_name[tanh.inputs[0]].op == "dequantize"


def _params(graph: Graph, name: str) -> tuple[float, int]:
    node = graph.by_name[name]
    return float(graph.constants[node.inputs[1]]), int(graph.constants[node.inputs[2]])


def test_movement_and_concat_share_parameters(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op in ("nn.pixel_shuffle", "strided_slice", "concat"):
            (reader,) = (other for other in graph.nodes if other.inputs[0] == node.name)
            assert {_params(graph, name) for name in node.inputs} == {_params(graph, reader.name)}


def test_weights_and_biases(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op not in ("nn.conv2d", "nn.conv2d_transpose"):
            continue
        weight = graph.by_name[node.inputs[1]]
        axis = 0 if node.op == "nn.conv2d" else 1
        codes, scales, zero = (graph.constants[name] for name in weight.inputs)
        assert weight.attributes["axis"] == axis
        assert codes.dtype == np.int8
        assert zero == 0
        assert scales.shape == (codes.shape[axis],)
        peaks = np.abs(np.moveaxis(codes, axis, 0).reshape(len(scales), -1).astype(int)).max(axis=1)
        np.testing.assert_array_equal(peaks, 127)
        bias = graph.constants[graph.by_name[f"{node.name}.bias"].inputs[1]].reshape(-1).astype(np.float64)
        unit = _params(graph, node.inputs[0])[0] * scales.astype(np.float64)
        np.testing.assert_array_equal((np.rint(bias / unit) * unit).astype(np.float32), bias.astype(np.float32))


def test_input_and_output(module: tvm.IRModule) -> None:
    source, _ = quantised_io(calibrate(module, _images()).quantised().module)
    assert source == PIXELS
    wide = [image * 300 - 20 for image in _images()]
    source, _ = quantised_io(calibrate(module, wide).quantised().module)
    assert source.low < -19
    assert source.high > 279
    _, result = quantised_io(calibrate(module, _images(), output_params=PIXELS).quantised().module)
    assert result == PIXELS
    with pytest.raises(InputError, match="not quantised"):
        quantised_io(module)
    with pytest.raises(UnsupportedError, match="already"):
        calibrate(calibrate(module, _images()).quantised().module, _images())


def test_calibration_images(module: tvm.IRModule) -> None:
    calibrate(module, _images(width=30, height=21))
    with pytest.raises(InputError, match="no calibration images"):
        calibrate(module, [])
    with pytest.raises(InputError, match=r"float32\[1, 3, 9, 13\]"):
        calibrate(module, [np.zeros((1, 3, 9, 13), np.float32)])
    with pytest.raises(InputError, match="not finite"):
        calibrate(module, [np.full((1, 1, 9, 13), np.nan, np.float32)])


def test_equalisation_keeps_the_function_and_helps(module: tvm.IRModule) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 4, 3, padding=1)).eval()
    network[0].weight.data *= torch.logspace(-2, 0, 8).view(8, 1, 1, 1)
    network[0].bias.data *= torch.logspace(-2, 0, 8)
    network[2].weight.data *= torch.logspace(2, 0, 8).view(1, 8, 1, 1)
    image = _images()[0]
    model = load_model(network, width=13, height=9).module
    with torch.no_grad():
        expected = network(torch.from_numpy(image))
        report = calibrate(model, _images()).quantised()
        torch.testing.assert_close(
            run(from_module(report.source), torch.from_numpy(image)), expected, rtol=1e-4, atol=1e-4
        )
        plain = calibrate(model, _images(), equalise=False).quantised().module
        errors = [
            float((run(from_module(each), torch.from_numpy(image)) - expected).square().mean())
            for each in (report.module, plain)
        ]
    assert errors[0] < errors[1] / 4


def test_enough_codes(module: tvm.IRModule) -> None:
    report = calibrate(module, _images(width=48, height=48)).quantised()
    assert set(report.codes) == set(report.params)
    assert min(report.codes.values()) >= 32


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_it_runs_and_is_close(module: tvm.IRModule, method: str) -> None:
    quantised = calibrate(module, _images(), method).quantised().module  # type: ignore[arg-type]
    machine = relax.VirtualMachine(relax.build(runnable(quantised), "llvm"), tvm.cpu())
    image = _images()[0]
    found = machine["main"](tvm.runtime.tensor(image)).numpy()
    expected = Net().eval()(torch.from_numpy(image)).detach().numpy()
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.floats(1e-6, 1e6), st.floats(0, 1e4))
def test_extreme_weights(channels: int, width: int, height: int, size: float, offset: float) -> None:
    network = nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1)).eval()
    network[0].weight.data *= size
    network[0].weight.data[0] = 0.0
    network[0].bias.data += offset
    image = np.random.default_rng(0).random((1, channels, height, width), dtype=np.float32)
    quantised = calibrate(load_model(network, width=width, height=height).module, [image], "minmax").quantised().module
    node = next(node for node in from_module(quantised).nodes if node.op == "nn.conv2d")
    assert node.shape == (1, 3, height, width)
    with torch.no_grad():
        expected = network(torch.from_numpy(image)).numpy()
    _, result = quantised_io(quantised)
    found = run(from_module(quantised), torch.from_numpy(image)).numpy()
    tolerance = 3 * result.scale + 0.1 * size
    assert np.abs(found - expected).max() <= tolerance


class Attention(nn.Module):
    """Operators that no accelerator unit covers: pooling, gates of one pixel, bilinear resize, a condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        small = F.avg_pool2d(y, 2)
        y = torch.where(y > y.mean((2, 3), keepdim=True), y, y * y) + F.interpolate(
            small, size=(8, 12), mode="bilinear"
        )
        return self.b(y)


def test_host_operators_stay_float_between_them() -> None:
    network = Attention().eval()
    module = load_model(network, width=12, height=8).module
    images = _images(width=12, height=8)
    quantised = calibrate(module, images).quantised().module
    graph = from_module(quantised)
    condition = next(node for node in graph.nodes if node.op == "greater")
    assert condition.dtype == "bool"
    assert all(node.op != "quantize" for node in graph.nodes if condition.name in node.inputs)
    machine = relax.VirtualMachine(relax.build(runnable(quantised), "llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(images[0])).numpy()
    with torch.no_grad():
        expected = network(torch.from_numpy(images[0])).numpy()
    assert np.abs(found - expected).max() < 0.1 * np.ptp(expected)
    with pytest.raises(InputError, match="fixed size"):
        calibrate(module, _images(width=20, height=8))
