"""Whole networks as launches, every kernel on the emulator: FP16 against float64, INT8 against the integer graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from codesign import networks
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import GpuPlan, plan_launches
from codesign.compile.cuda.layers import Other, from_layers
from codesign.compile.driver import compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.referee.integer import evaluate
from codesign.hw.model import reference
from codesign.hw.spec import BASE
from codesign.kernels.runtime.emulate import Entry, build_emulated_together, run_emulated
from codesign.kernels.runtime.launch import Launch, run_launches
from codesign.networks.nafnet import NafBlock

SIZE = (44, 34)


def emulated(plan: GpuPlan, frame: NDArray[Any], folder: Path) -> NDArray[Any]:
    """The plan's output ``[C, H, W]`` for ``frame [C, H, W]``."""

    kernels = {
        launch.kernel: Entry(launch.source, launch.kernel, launch.pointers, len(launch.integers))
        for launch in plan.launches
    }
    library = build_emulated_together(list(kernels.values()), folder=folder)

    def run(launch: Launch, arrays: list[NDArray[Any]]) -> None:
        run_emulated(
            library,
            arrays,
            launch.integers,
            grid=launch.grid,
            threads=launch.threads,
            shared_bytes=launch.shared_bytes,
            kernel=list(kernels).index(launch.kernel),
        )

    source, result = plan.graph.input, plan.graph.output
    memory = run_launches(plan.launches, plan.stored, {source: plan.stored[source].pack(frame)}, run)
    return plan.stored[result].unpack(memory[result])


class Everything(nn.Module):
    """Every kind of kernel: dense concatenation, stride, normalisation, gates, attention, pooling, up-scaling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.dense1 = nn.Conv2d(16, 12, 3, padding=1)
        self.dense2 = nn.Conv2d(28, 16, 3, padding=1)
        self.block = NafBlock(16)
        self.down = nn.Conv2d(16, 32, 2, stride=2)
        self.wide = nn.Conv2d(32, 32, 3, padding=2, dilation=2)
        self.up = nn.Conv2d(32, 64, 1, bias=False)
        self.near = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.leaky_relu(self.first(x), 0.2)
        d = torch.relu(self.dense1(h))
        h = h + 0.2 * self.dense2(torch.cat((h, d), 1))
        h = self.block(h)
        low = torch.nn.functional.gelu(self.wide(torch.relu(self.down(h))))
        up = torch.nn.functional.pixel_shuffle(self.up(low), 2)
        half = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(h, 2), scale_factor=2, mode="nearest")
        h = torch.sigmoid(up * half) + h
        return self.last(torch.relu(self.near(h))) - x


def test_every_kind_of_kernel(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = Everything().eval()
    for parameter in (module.block.beta, module.block.gamma):
        nn.init.constant_(parameter, 0.5)
    graph = from_graph(from_module(load_model(module, width=28, height=18, channels=3).module))
    assert not any(isinstance(operation, Other) for operation in graph.operations)
    plan = plan_launches(graph, "sm_90a")
    assert {launch.kernel.split("_")[0] for launch in plan.launches} == {"stack", "gemm", "pointwise"}
    frame = np.random.default_rng(6).random((3, 18, 28)).astype(np.float16)
    with torch.no_grad():
        want = module.double()(torch.from_numpy(frame[None].astype(np.float64)))[0].numpy()
    got = emulated(plan, frame, tmp_path).astype(np.float64)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


class Attention(nn.Module):
    """Channels weighted by their own averages over the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.weigh = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.last(h * self.weigh(4.0 * h.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize(("width", "height"), [(28, 18), (5, 9)])
def test_averages_are_over_the_whole_frame(width: int, height: int, tmp_path: Path) -> None:
    torch.manual_seed(4)
    module = Attention().eval()
    graph = from_graph(from_module(load_model(module, width=width, height=height, channels=3).module))
    assert not any(isinstance(operation, Other) for operation in graph.operations)
    frame = np.random.default_rng(7).random((3, height, width)).astype(np.float16)
    with torch.no_grad():
        want = module.double()(torch.from_numpy(frame[None].astype(np.float64)))[0].numpy()
    got = emulated(plan_launches(graph, "sm_90a"), frame, tmp_path).astype(np.float64)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


@pytest.mark.parametrize("name", ["sesr_m5_x2", "fsrcnn_x2", "abpn_x3", "espcn_x3"])
def test_fp16_network(name: str, tmp_path: Path) -> None:
    network, module = networks.get(name), networks.load(name).double().eval()
    model = load_model(networks.load(name), width=SIZE[0], height=SIZE[1], channels=network.channels)
    graph = from_graph(from_module(model.module))
    assert not any(isinstance(operation, Other) for operation in graph.operations)
    plan = plan_launches(graph, "sm_90a")
    rng = np.random.default_rng(1)
    frame = rng.random((network.channels, SIZE[1], SIZE[0])).astype(np.float16)
    with torch.no_grad():
        want = module(torch.from_numpy(frame[None].astype(np.float64)))[0].numpy()
    got = emulated(plan, frame, tmp_path).astype(np.float64)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


@pytest.mark.parametrize("name", ["sesr_m5_x2", "fsrcnn_x2", "abpn_x3"])
def test_int8_network_to_the_bit(name: str, tmp_path: Path) -> None:
    network, module = networks.get(name), networks.load(name)
    model = load_model(module, width=SIZE[0], height=SIZE[1], channels=network.channels)
    rng = np.random.default_rng(2)
    crops = [rng.random((1, network.channels, 34, 44)).astype(np.float32) for _ in range(2)]
    compiled = compile_network(model, BASE, calibration=crops)
    (region,) = compiled.regions
    plan = plan_launches(from_layers(region.graph), "sm_90a")
    source = region.graph.tensors[region.graph.inputs[0]]
    codes = rng.integers(-128, 128, (source.channels, source.height, source.width)).astype(np.int8)
    got = emulated(plan, codes, tmp_path)
    np.testing.assert_array_equal(got, evaluate(compiled.partitioned.graph, codes[None])[0])
    golden = reference.run(region.program, {source.name: np.ascontiguousarray(codes.transpose(1, 2, 0))})
    np.testing.assert_array_equal(got, golden[region.graph.outputs[0]].transpose(2, 0, 1))
