"""Exported and imported QDQ models: ONNX Runtime and our integers agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import tvm
from hypothesis import assume, given, settings
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.qdq_export import export_qdq
from codesign.compile.quantise.quantise import calibrate, quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.hw.errors import InputError, UnsupportedError
from tests.compile.random_networks import OPERATIONS, Draw, draws, quantised


def _by_onnx_runtime(path: Path, module: tvm.IRModule, codes: np.ndarray) -> np.ndarray:
    """Codes of the output as ONNX Runtime computes them, its own fusions switched off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source, result = quantised_io(module)
    image = (codes.astype(np.float32) - source.zero_point) * np.float32(source.scale)
    real = session.run(None, {session.get_inputs()[0].name: image})[0]
    return np.rint(real / np.float32(result.scale)) + result.zero_point


def _codes(module: tvm.IRModule, seed: int) -> np.ndarray:
    shape = tuple(int(extent) for extent in module["main"].params[0].ty.shape.values)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


@settings(max_examples=30, deadline=None)
@given(draws)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, draw: Draw) -> None:
    module = quantised(draw)
    assume(module is not None)
    path = tmp_path_factory.mktemp("qdq") / "net.onnx"
    export_qdq(module, path)
    codes = _codes(module, draw.seed)
    own = evaluate(from_module(module), codes)
    differences = np.abs(_by_onnx_runtime(path, module, codes) - own)
    assert differences.max() <= 1
    again = load_model(path, width=draw.width, height=draw.height)
    assert again.quantised
    np.testing.assert_array_equal(evaluate(from_module(again.module), codes), own)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_per_operator(tmp_path: Path, operation: str) -> None:
    """Enough values of each operator to see that hardly any is off: at most one in a thousand, by one."""
    draw = Draw(operation, 4, 4, 3, 1, 1, 1, "none", 96, 64, 11)
    module = quantised(draw)
    export_qdq(module, tmp_path / "net.onnx")
    codes = _codes(module, 1)
    own = evaluate(from_module(module), codes)
    differences = np.abs(_by_onnx_runtime(tmp_path / "net.onnx", module, codes) - own)
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 1e-3
    assert np.unique(own).size >= 32


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.act = nn.PReLU(8)
        self.act.weight.data.uniform_(-0.2, 0.5)
        self.c = nn.Conv2d(16, 12, 3, padding=1)
        self.up = nn.ConvTranspose2d(3, 3, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.a(x))
        z = self.act(self.b(y)) + y
        shuffled = F.pixel_shuffle(torch.tanh(self.c(torch.cat([z, y], 1))), 2)
        return torch.clamp(self.up(shuffled), 0, 1)


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        rng = np.random.default_rng(6)
        self.images = iter([{"x": rng.random((1, 3, 16, 18), dtype=np.float32)} for _ in range(3)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.images, None)


@pytest.fixture(scope="module")
def float_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "mixed.onnx"
    torch.onnx.export(
        Mixed().eval(), (torch.rand(1, 3, 16, 18),), str(path), dynamo=False, opset_version=17, input_names=["x"]
    )
    return path


def _static(float_onnx: Path, path: Path, activations: QuantType, weights: QuantType, **options: Any) -> Path:
    quantize_static(
        str(float_onnx),
        str(path),
        _Images(),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        weight_type=weights,
        **options,
    )
    return path


def _variants() -> Iterator[Any]:
    for activations in (QuantType.QUInt8, QuantType.QInt8):
        for per_channel in (True, False):
            yield pytest.param(activations, per_channel, id=f"{activations}-{'channel' if per_channel else 'tensor'}")


@pytest.mark.parametrize(("activations", "per_channel"), _variants())
def test_models_of_onnx_runtime(float_onnx: Path, tmp_path: Path, activations: QuantType, per_channel: bool) -> None:
    path = _static(float_onnx, tmp_path / "q.onnx", activations, QuantType.QInt8, per_channel=per_channel)
    model = load_model(path, width=18, height=16)
    assert model.quantised
    codes = _codes(model.module, 2)
    own = evaluate(from_module(model.module), codes)
    differences = np.abs(_by_onnx_runtime(path, model.module, codes) - own)
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 1e-3
    assert np.unique(own).size >= 32


def test_symmetric_activations(float_onnx: Path, tmp_path: Path) -> None:
    """Symmetric activations keep their ReLU as an operator of its own."""
    options = {"ActivationSymmetric": True, "QDQKeepRemovableActivations": True}
    path = _static(float_onnx, tmp_path / "q.onnx", QuantType.QInt8, QuantType.QInt8, extra_options=options)
    model = load_model(path, width=18, height=16)
    codes = _codes(model.module, 2)
    differences = np.abs(_by_onnx_runtime(path, model.module, codes) - evaluate(from_module(model.module), codes))
    assert differences.max() <= 1
    assert (differences > 0).mean() <= 1e-3


def test_asymmetric_weights_keep_their_values(float_onnx: Path, tmp_path: Path) -> None:
    options = {"WeightSymmetric": False}
    path = _static(float_onnx, tmp_path / "q.onnx", QuantType.QUInt8, QuantType.QUInt8, extra_options=options)
    assert load_model(path, width=18, height=16).check.decibels is not None


def test_unquantised_nodes_stay_float(float_onnx: Path, tmp_path: Path) -> None:
    path = _static(float_onnx, tmp_path / "q.onnx", QuantType.QInt8, QuantType.QInt8, nodes_to_exclude=["/b/Conv"])
    model = load_model(path, width=18, height=16)
    assert model.check.decibels is not None
    graph = from_module(model.module)
    node = next(node for node in graph.nodes if node.name.startswith("/b/Conv"))
    assert graph.is_constant(node.inputs[1])


def test_the_file_is_standard(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 3, 16, 18), dtype=np.float32)
    module = calibrate(load_model(Mixed().eval(), width=18, height=16).module, [image]).quantised().module
    export_qdq(module, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version >= 17
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "ConvTranspose", "DepthToSpace"} <= kinds
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = next(other for other in model.graph.node if other.output[0] == node.input[1])
            assert stored[weight.input[0]].data_type == onnx.TensorProto.INT8
            assert weight.attribute[0].i == (0 if node.op_type == "Conv" else 1)


def test_nothing_is_written_on_failure(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    float_module = load_model(nn.Conv2d(1, 1, 3).eval(), width=8, height=8).module
    path = tmp_path / "net.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(InputError, match="not quantised"):
        export_qdq(float_module, path)
    pooled = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2)).eval()
    with pytest.raises(UnsupportedError, match="avg_pool2d"):
        export_qdq(calibrate(load_model(pooled, width=8, height=8).module, [image]).quantised().module, path)
    with pytest.raises(InputError):
        export_qdq(calibrate(float_module, [image]).quantised().module, tmp_path / "absent" / "net.onnx")
    assert path.read_bytes() == b"earlier"


NETWORKS = (
    *("bicubic_x2", "espcn_x3", "fsrcnn_x2", "sesr_m5_x2", "abpn_x3"),
    *("quicksrnet_m_x3", "edsr_f32b5_x2", "srvgg16_x4", "dncnn17"),
)


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks(name: str, tmp_path: Path) -> None:
    """Every reference network goes all the way: imported, quantised, evaluated, exported, imported again."""
    network = networks.load(name)
    channels = networks.get(name).channels
    model = load_model(network, width=23, height=17)
    rng = np.random.default_rng(9)
    coarse = torch.from_numpy(rng.random((4, channels, 6, 6), dtype=np.float32))
    images = F.interpolate(coarse, size=(48, 48), mode="bicubic").clamp(0, 1).numpy()
    report = calibrate(model.module, [image[None] for image in images]).quantised()
    assert min(report.codes.values()) >= 32
    codes = np.rint(images[:1, :, :17, :23] * 255 - 128).astype(np.int8)
    own = evaluate(from_module(report.module), codes)
    assert np.unique(own).size >= 32
    _, result = quantised_io(report.module)
    with torch.no_grad():
        expected = network(torch.from_numpy((codes.astype(np.float32) + 128) / 255)).numpy()
    error = (own.astype(np.float32) - result.zero_point) * result.scale - expected
    # Untrained layers may cancel what is large in their input and leave the rounding; nothing about quality here.
    assert np.sqrt(np.mean(error**2)) < 0.5 * expected.std()
    export_qdq(report.module, tmp_path / "net.onnx")
    again = load_model(tmp_path / "net.onnx", width=23, height=17)
    np.testing.assert_array_equal(evaluate(from_module(again.module), codes), own)
