"""The launching code for real, on a driver that runs kernels on the emulator: arguments, order, memory, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm.runtime import vm

from codesign import networks
from codesign.compile.cuda.compile import compile_cuda
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import GpuPlan, plan_launches
from codesign.compile.cuda.layers import Other
from codesign.compile.cuda.module import build, relax_module
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.kernels.runtime.bundle import Bundle, Loaded
from codesign.kernels.runtime.driver import Driver
from tests.compile.cuda.test_gpu_launches import emulated
from tests.kernels.fake_driver import build_driver, code_of


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="module")
def plan() -> GpuPlan:
    model = load_model(networks.load("sesr_m5_x2"), width=44, height=34, channels=1)
    return plan_launches(from_graph(from_module(model.module)), "sm_90a")


def machine(plan: GpuPlan, code: bytes, driver: Path, folder: Path) -> Any:
    """A virtual machine on the exported and loaded module."""
    module = relax_module(plan, code, prefix="cuda_test", driver=str(driver))
    build(module, tvm.target.Target("llvm"), on_gpu=False).export_library(str(folder / "net.so"), cc="g++")
    return vm.VirtualMachine(tvm.runtime.load_module(str(folder / "net.so")), tvm.cpu())


def test_module_equals_its_launches(plan: GpuPlan, driver: Path, builds: Path, tmp_path: Path) -> None:
    runner = machine(plan, code_of(plan.launches, builds), driver, tmp_path)
    frame = np.random.default_rng(4).random((1, 34, 44)).astype(np.float16)
    want = emulated(plan, frame, builds)
    for _ in range(2):
        got = runner["main"](tvm.runtime.tensor(frame[None])).numpy()[0]
        np.testing.assert_array_equal(got, want)
    with torch.no_grad():
        exact = networks.load("sesr_m5_x2")(torch.from_numpy(frame[None].astype(np.float32)))[0].numpy()
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 1e-2


class Mixed(torch.nn.Module):
    """A grouped convolution, which TVM schedules, between convolutions of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 24, 3, padding=1)
        self.grouped = torch.nn.Conv2d(24, 24, 3, padding=1, groups=2)
        self.last = torch.nn.Conv2d(24, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.grouped(h)) + h)


def test_with_operators_of_tvm_between(driver: Path, builds: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = Mixed().eval()
    graph = from_graph(from_module(load_model(module, width=20, height=12, channels=3).module))
    made = plan_launches(graph, "sm_90a")
    assert [step.node.op for step in made.steps if isinstance(step, Other)] == ["nn.conv2d"]
    runner = machine(made, code_of(made.launches, builds), driver, tmp_path)
    frame = np.random.default_rng(8).random((1, 3, 12, 20)).astype(np.float16)
    got = runner["main"](tvm.runtime.tensor(frame)).numpy()
    with torch.no_grad():
        want = module(torch.from_numpy(frame.astype(np.float32))).numpy()
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


def test_bundle_equals_its_launches(plan: GpuPlan, driver: Path, builds: Path, tmp_path: Path) -> None:
    made = Bundle(
        tuple(plan.launches), plan.stored, plan.graph.input, plan.graph.output, code_of(plan.launches, builds)
    )
    made.save(tmp_path / "bundle")
    gpu = Driver(str(driver))
    loaded = Loaded(Bundle.load(tmp_path / "bundle"), gpu)
    frame = np.random.default_rng(5).random((1, 34, 44)).astype(np.float16)
    want = emulated(plan, frame, builds)
    np.testing.assert_array_equal(loaded.run(frame[None])[0], want)
    out = plan.stored[plan.graph.output]
    source, result = gpu.allocate(frame), gpu.allocate(out.bytes)
    (graph,) = loaded.graphs([(source, result)])
    graph()
    np.testing.assert_array_equal(gpu.download(result, out.shape, out.dtype)[0], want)


def test_wrong_machine_code_is_refused_in_words(plan: GpuPlan, driver: Path, tmp_path: Path) -> None:
    runner = machine(plan, b"other", driver, tmp_path)
    with pytest.raises(Exception, match="compiled for another GPU architecture"):
        runner["main"](tvm.runtime.tensor(np.zeros((1, 1, 34, 44), np.float16)))


def test_without_a_driver_it_says_so(plan: GpuPlan, tmp_path: Path) -> None:
    runner = machine(plan, b"kernels", tmp_path / "nowhere.so", tmp_path)
    with pytest.raises(Exception, match="cannot be opened"):
        runner["main"](tvm.runtime.tensor(np.zeros((1, 1, 34, 44), np.float16)))


def test_exported_library_carries_machine_code(tmp_path: Path) -> None:
    model = load_model(networks.load("sesr_m5_x2"), width=64, height=48, channels=1)
    compiled = compile_cuda(model.module, arch="sm_80")
    assert compiled.plan is not None
    assert all(kernel.spilled_bytes == 0 for kernel in compiled.kernels)
    compiled.export(tmp_path / "net.so")
    data = (tmp_path / "net.so").read_bytes()
    assert data.count(b"\x7fELF") >= 2  # the library itself, and the kernels in it
    assert all(launch.kernel.encode() in data for launch in compiled.plan.launches)
