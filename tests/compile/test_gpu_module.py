"""The launching code for real, on a driver that runs kernels on the emulator: arguments, order, memory, errors."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm.runtime import vm

from codesign import networks
from codesign.compile.frontend import load_model
from codesign.compile.gpu import compile_cuda
from codesign.compile.gpu_launches import GpuPlan, plan_launches
from codesign.compile.gpu_layers import from_graph
from codesign.compile.gpu_module import build, relax_module
from codesign.compile.relax_form import from_module
from codesign.kernels.emulate import build_emulated
from tests.compile.test_gpu_launches import emulated

DRIVER = r"""
#include <dlfcn.h>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>
// The "machine code" is lines: kernel, library, how many pointers, how many integers.
using Run = void (*)(void**, const int*, const unsigned*, unsigned, unsigned, unsigned long long);
struct Function { Run run; int pointers, integers, dynamic; };
static std::string table;
extern "C" int cuModuleLoadData(void** module, const void* image) {
  if (std::strncmp((const char*)image, "kernels", 7)) return 209;
  table = (const char*)image;
  *module = (void*)&table;
  return 0;
}
extern "C" int cuModuleGetFunction(void** function, void*, const char* name) {
  for (size_t at = table.find('\n'); at != std::string::npos; at = table.find('\n', at + 1)) {
    char kernel[256], library[1024];
    int pointers, integers;
    if (std::sscanf(table.c_str() + at + 1, "%255s %1023s %d %d", kernel, library, &pointers, &integers) != 4) continue;
    if (std::strcmp(kernel, name)) continue;
    void* loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!loaded) return 301;
    auto* result = new Function{nullptr, pointers, integers, 48 * 1024};
    *(void**)&result->run = dlsym(loaded, "run");
    *function = result;
    return 0;
  }
  return 500;
}
extern "C" int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8) return 1;
  static_cast<Function*>(function)->dynamic = value;
  return 0;
}
extern "C" int cuGetErrorName(int code, const char** name) {
  static char text[64];
  std::snprintf(text, sizeof text, "error %d", code);
  *name = text;
  return 0;
}
extern "C" int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                              unsigned shared, void*, void** arguments, void**) {
  auto* self = static_cast<Function*>(function);
  if ((int)shared > self->dynamic) return 701;
  std::vector<void*> pointers;
  std::vector<int> integers;
  for (int i = 0; i < self->pointers; ++i) pointers.push_back(*(void**)arguments[i]);
  for (int i = 0; i < self->integers; ++i) integers.push_back(*(int*)arguments[self->pointers + i]);
  const unsigned grid[3] = {x, y, z};
  self->run(pointers.data(), integers.data(), grid, threads, shared, 1);
  return 0;
}
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(DRIVER)
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-o", str(folder / "libdriver.so"), str(folder / "driver.cpp")], check=True
    )
    return folder / "libdriver.so"


@pytest.fixture(scope="module")
def plan() -> GpuPlan:
    model = load_model(networks.load("sesr_m5_x2"), width=44, height=34, channels=1)
    return plan_launches(from_graph(from_module(model.module)), "sm_90a")


def machine(plan: GpuPlan, table: str, driver: Path, folder: Path) -> Any:
    """A virtual machine on the exported and loaded module."""
    module = relax_module(plan, table.encode(), prefix="cuda_test", driver=str(driver))
    build(module, tvm.target.Target("llvm"), on_gpu=False).export_library(str(folder / "net.so"), cc="g++")
    return vm.VirtualMachine(tvm.runtime.load_module(str(folder / "net.so")), tvm.cpu())


def table_of(plan: GpuPlan, folder: Path) -> str:
    lines = ["kernels"]
    for launch in plan.launches:
        pointers = len(launch.inputs) + len(launch.outputs) + 1
        library = build_emulated(launch.source, launch.kernel, pointers, len(launch.integers), folder=folder)
        lines.append(f"{launch.kernel} {library} {pointers} {len(launch.integers)}")
    return "\n".join(lines) + "\n"


def test_module_equals_its_launches(plan: GpuPlan, driver: Path, tmp_path: Path) -> None:
    runner = machine(plan, table_of(plan, tmp_path), driver, tmp_path)
    frame = np.random.default_rng(4).random((1, 34, 44)).astype(np.float16)
    want = emulated(plan, frame, tmp_path)
    for _ in range(2):
        got = runner["main"](tvm.runtime.tensor(frame[None])).numpy()[0]
        np.testing.assert_array_equal(got, want)
    with torch.no_grad():
        exact = networks.load("sesr_m5_x2")(torch.from_numpy(frame[None].astype(np.float32)))[0].numpy()
    assert np.linalg.norm(got - exact) / np.linalg.norm(exact) < 1e-2


def test_wrong_machine_code_is_refused_in_words(plan: GpuPlan, driver: Path, tmp_path: Path) -> None:
    runner = machine(plan, "other", driver, tmp_path)
    with pytest.raises(Exception, match="compiled for another GPU architecture"):
        runner["main"](tvm.runtime.tensor(np.zeros((1, 1, 34, 44), np.float16)))


def test_without_a_driver_it_says_so(plan: GpuPlan, tmp_path: Path) -> None:
    runner = machine(plan, "kernels", tmp_path / "nowhere.so", tmp_path)
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
