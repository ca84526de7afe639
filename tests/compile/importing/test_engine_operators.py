"""Operators that TVM cannot import run on the host by the model's own engine, down to the exported module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from test_onnx_normalise import CHANNELS, imported, saved, weights
from torch import nn

from codesign.compile.cuda.compile import compile_cuda
from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir import aten, engine
from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.model.reference import run
from codesign.hw.spec import TINY


class Around(nn.Module):
    """A function of tensors between convolutions."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def pooled(x: torch.Tensor) -> torch.Tensor:
    return x + F.interpolate(F.adaptive_max_pool2d(x, (3, 4)), size=x.shape[2:], mode="nearest")


def unfolded(x: torch.Tensor) -> torch.Tensor:
    return F.fold(F.unfold(x, 3, padding=1) * 0.1, x.shape[2:], 3, padding=1)


def second(x: torch.Tensor) -> torch.Tensor:
    values, places = torch.kthvalue(x, 2, 1, keepdim=True)
    return x - values + 0.01 * places


def compiled(model: ImportedModel) -> CompiledNetwork:
    frame = np.random.default_rng(2).random(model.input_shape, np.float32)
    return compile_network(model, TINY, calibration=[frame], quantisation=Quantisation("minmax"))


def host(network: CompiledNetwork) -> set[str]:
    return {placement.operator for placement in network.placements if not placement.on_accelerator}


@pytest.mark.parametrize("function", [pooled, unfolded, second], ids=lambda function: str(function.__name__))
def test_operators_of_torch(function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Around(function).eval()
    model = load_model(net, width=15, height=11, channels=3)
    assert model.check.decibels is not None
    network = compiled(model)
    assert any(operator.startswith(engine.PREFIX) for operator in host(network))
    export(network.executable(), tmp_path / "network.so")
    frame = np.random.default_rng(2).random((1, 3, 11, 15), np.float32)
    found = LoadedModule(tmp_path / "network.so", run).run(frame)
    with torch.no_grad():
        wanted = net(torch.from_numpy(frame)).numpy()
    assert np.square(found - wanted).mean() < 0.01 * wanted.var()


def test_operators_of_onnx_runtime(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("DeformConv", ["a", "v", "o"], ["d"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    constants = {
        "w": weights(CHANNELS, CHANNELS, 1, 1),
        "v": weights(CHANNELS, CHANNELS, 3, 3),
        "o": np.random.default_rng(1).normal(size=(1, 18, 7, 9)).astype(np.float32),
    }
    path = saved(tmp_path, nodes, constants, opset=19)
    network = compiled(imported(path))
    assert host(network) == {"engine.DeformConv"}
    export(network.executable(), tmp_path / "network.so")
    frame = np.random.default_rng(2).random((1, CHANNELS, 9, 11), np.float32)
    wanted = onnxruntime.InferenceSession(str(path)).run(None, {"x": frame})[0]
    found = LoadedModule(tmp_path / "network.so", run).run(frame)
    assert np.square(found - wanted).mean() < 0.01 * wanted.var()


def test_what_is_no_operator_of_networks_is_refused_by_name() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + torch.linalg.matrix_exp(x[0, :, :4, :4]).mean()

    with pytest.raises(UnsupportedError, match="matrix_exp"):
        load_model(Around(function).eval(), width=15, height=11, channels=3)


def test_data_names_nothing_but_operators_of_networks() -> None:
    for target in ("torch.ops.aten.from_file.default", "torch.ops.prim.Print.default", "os.system"):
        assert aten.find_operator(target) is None
        header = engine.torch_operator(f"a.b.c.d.{target}", {}).replace(b"a.b.c.d.", b"")
        with pytest.raises(ValueError, match="is not one"):
            engine.computed(header, [])


def test_the_gpu_has_no_way_to_an_engine() -> None:
    model = load_model(Around(pooled).eval(), width=15, height=11, channels=3)
    with pytest.raises(UnsupportedError, match="own engine"):
        compile_cuda(model.module)


def test_a_missing_engine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    engine._session.cache_clear()
    with pytest.raises(InputError, match="onnxruntime, which is not installed"):
        engine.computed(engine.onnx_operator("DeformConv", b""), [])
