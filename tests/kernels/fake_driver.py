"""A CUDA driver that runs kernels on the emulator, so that callers of the driver are tested without a GPU.

Its "machine code" is text: a line ``kernels``, then per kernel its name, emulated library, counts of pointers and of
integers, and its number there. Device memory is the process's own; a graph is the list of launches that were captured.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from codesign.kernels.runtime.emulate import Entry, build_emulated_together
from codesign.kernels.runtime.launch import Launch

TEXT = r"""
#include <dlfcn.h>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

using Run = void (*)(void**, const int*, const unsigned*, unsigned, unsigned, unsigned long long, int);
struct Function { Run run; int pointers, integers, index, dynamic; };
using Clock = std::chrono::steady_clock;
using Graph = std::vector<std::function<void()>>;
static Graph* capturing = nullptr;

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* device, int) { return *device = 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxSynchronize() { return 0; }
int cuStreamCreate(void** stream, unsigned) { return *stream = (void*)2, 0; }
int cuDeviceGetName(char* name, int size, int) { return std::snprintf(name, size, "Emulated") < 0; }
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = which == 16 ? 2 : which == 38 ? 65536 : which == 75 ? 9 : 0;
  return 0;
}
int cuGetErrorName(int code, const char** name) {
  static char text[64];
  std::snprintf(text, sizeof text, "error %d", code);
  *name = text;
  return 0;
}

int cuMemAlloc_v2(unsigned long long* address, size_t size) {
  void* memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
  return *address = (unsigned long long)memory, 0;
}
int cuMemFree_v2(unsigned long long address) { return std::free((void*)address), 0; }
int cuMemcpyHtoD_v2(unsigned long long to, const void* from, size_t size) {
  return std::memcpy((void*)to, from, size), 0;
}
int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t size) { return std::memcpy(to, (void*)from, size), 0; }

int cuEventCreate(void** event, unsigned) { return *event = new Clock::time_point, 0; }
int cuEventRecord(void* event, void*) { return *static_cast<Clock::time_point*>(event) = Clock::now(), 0; }
int cuEventSynchronize(void*) { return 0; }
int cuEventElapsedTime(float* ms, void* begin, void* end) {
  *ms = std::chrono::duration<float, std::milli>(*(Clock::time_point*)end - *(Clock::time_point*)begin).count();
  return 0;
}

int cuStreamBeginCapture_v2(void*, int) { return capturing = new Graph, 0; }
int cuStreamEndCapture(void*, void** graph) { return *graph = capturing, capturing = nullptr, 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { return *executable = graph, 0; }
int cuGraphLaunch(void* executable, void*) {
  for (auto& launch : *static_cast<Graph*>(executable)) launch();
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  if (std::strncmp((const char*)image, "kernels", 7)) return 209;
  return *module = new std::string((const char*)image), 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  const std::string& table = *static_cast<std::string*>(module);
  for (size_t at = table.find('\n'); at != std::string::npos; at = table.find('\n', at + 1)) {
    char kernel[256], library[1024];
    int pointers, integers, index;
    const char* line = table.c_str() + at + 1;
    if (std::sscanf(line, "%255s %1023s %d %d %d", kernel, library, &pointers, &integers, &index) != 5) continue;
    if (std::strcmp(kernel, name)) continue;
    void* loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!loaded) return 301;
    *function = new Function{(Run)dlsym(loaded, "run_one"), pointers, integers, index, 48 * 1024};
    return 0;
  }
  return 500;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  if (attribute != 8) return 1;
  static_cast<Function*>(function)->dynamic = value;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, void*, void** arguments, void**) {
  auto* self = static_cast<Function*>(function);
  if ((int)shared > self->dynamic) return 701;
  std::vector<void*> pointers;
  std::vector<int> integers;
  for (int i = 0; i < self->pointers; ++i) pointers.push_back(*(void**)arguments[i]);
  for (int i = 0; i < self->integers; ++i) integers.push_back(*(int*)arguments[self->pointers + i]);
  auto launch = [=]() mutable {
    const unsigned grid[3] = {x, y, z};
    self->run(pointers.data(), integers.data(), grid, threads, shared, 1, self->index);
  };
  if (capturing) capturing->push_back(launch);
  else launch();
  return 0;
}

}
"""


def build_driver(folder: Path) -> Path:
    """Compile the driver into ``folder``."""
    (folder / "driver.cpp").write_text(TEXT)
    library = folder / "libdriver.so"
    subprocess.run(["g++", "-w", "-shared", "-fPIC", "-o", str(library), str(folder / "driver.cpp")], check=True)
    return library


def table(kernels: dict[str, tuple[Path, int, int]]) -> bytes:
    """Machine code for :func:`build_driver`'s driver: kernel → emulated library, pointers, integers."""
    return table_of([(name, *kernel, 0) for name, kernel in kernels.items()])


def code_of(launches: Sequence[Launch], folder: Path) -> bytes:
    """The same of all kernels of ``launches``, in one build."""
    kernels = {one.kernel: Entry(one.source, one.kernel, one.pointers, len(one.integers)) for one in launches}
    library = build_emulated_together(list(kernels.values()), folder=folder)
    return table_of([(k.name, library, k.pointers, k.integers, index) for index, k in enumerate(kernels.values())])


def table_of(kernels: Sequence[tuple[str, Path, int, int, int]]) -> bytes:
    """The same of kernels: name, library, pointers, integers, number there."""
    lines = [" ".join(map(str, kernel)) for kernel in kernels]
    return ("\n".join(["kernels", *lines]) + "\n\0").encode()
