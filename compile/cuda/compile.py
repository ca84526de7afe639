"""Compile a network for a GPU, without one: launches of this project's kernels, and TVM's schedules for the rest.

FP16 takes and returns ``float16[1, C, H, W]``. INT8 takes and returns the machine's codes, ``int8[1, C, H, W]``: it
computes the same integers as Scanline, bit for bit. FP32 is TVM's default schedules alone: correct, slow, a reference.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tvm

from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import GpuPlan, Tuned, plan_launches
from codesign.compile.cuda.layers import GpuGraph, Other, from_layers
from codesign.compile.cuda.module import build, relax_module
from codesign.compile.cuda.tvm_operators import scheduled, target_of
from codesign.compile.graph.graph import Node
from codesign.compile.ir import engine
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.ir.runnable import runnable
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.scanline.layers import LayerGraph
from codesign.hw.errors import CodesignError, InputError, UnsupportedError
from codesign.hw.files import replaced
from codesign.kernels.runtime.nvrtc import Kernel, check_architecture, compile_cuda_text
from codesign.kernels.tuning.traces import Traces

Precision = Literal["fp16", "int8", "fp32"]


@dataclass(frozen=True)
class CudaModule:
    """A network compiled for one GPU architecture."""

    arch: str
    precision: Precision
    kernels: tuple[Kernel, ...]
    plan: GpuPlan | None = field(repr=False)
    """The launches of this project's kernels; None if TVM schedules everything."""
    source: str = field(repr=False)
    executable: Any = field(repr=False)

    def export(self, path: str | Path) -> None:
        """Write a shared library that TVM's runtime loads, whole or not at all."""
        if Path(path).suffix != ".so":
            raise InputError("a module is a shared library", where=str(path), hint="Give a name ending in .so.")
        with replaced(path) as temporary:
            self.executable.export_library(str(temporary), cc="g++", options=["-O1"])


def compile_cuda(
    module: tvm.IRModule,
    *,
    arch: str = "sm_90a",
    precision: Literal["fp16", "fp32"] = "fp16",
    tuned: Tuned | None = None,
    traces: Traces | None = None,
) -> CudaModule:
    """Compile a float Relax ``module`` (canonical, NCHW, static shapes, batch 1) for ``arch``.

    With ``precision`` fp16 products are summed in FP32. ``tuned`` knows the best measured schedules of this project's
    kernels, ``traces`` those of TVM's operators. Raises :class:`InputError` for an unknown architecture,
    :class:`UnsupportedError` for an operator that neither has, and :class:`CodesignError`, naming the kernel, for one
    that does not compile.
    """
    check_architecture(arch)
    for node in from_module(module).nodes:
        if node.op.startswith(engine.PREFIX):
            raise UnsupportedError(
                "is computed by the model's own engine, which the GPU cannot call",
                where=node.where,
                hint="Compile for a machine instead (--accel), or export the network without it.",
            )
    if precision == "fp16":
        graph = from_graph(from_module(module))
        try:
            return _launched(graph, arch, tuned, traces)
        except UnsupportedError:
            pass  # no kernel takes some layer, so TVM schedules the network
    prepared = scheduled(runnable(halved(module) if precision == "fp16" else module), arch, traces)
    executable = build(prepared, target_of(arch), on_gpu=False)
    source = cuda_source(executable)
    return CudaModule(arch, precision, compile_cuda_text(source, arch).kernels, None, source, executable)


def compile_cuda_int8(layers: LayerGraph, *, arch: str = "sm_90a", tuned: Tuned | None = None) -> CudaModule:
    """Compile the machine's integer layers of a whole network: codes in, codes out, equal to Scanline's.

    Raises :class:`UnsupportedError` for a layer that no kernel takes, else as :func:`compile_cuda`.
    """
    check_architecture(arch)
    return _launched(from_layers(layers), arch, tuned, None)


def _launched(graph: GpuGraph, arch: str, tuned: Tuned | None, traces: Traces | None) -> CudaModule:
    plan = plan_launches(graph, arch, tuned)
    text = kernel_text(plan)
    binary = compile_cuda_text(text, arch)
    prefix = f"cuda_{hashlib.sha256(binary.code + repr(plan.schedules).encode()).hexdigest()[:12]}"
    module = relax_module(plan, binary.code, prefix=prefix)
    others = any(isinstance(step, Other) for step in plan.steps)
    module = scheduled(runnable(module), arch, traces) if others else module
    executable = build(module, target_of(arch), on_gpu=True)
    kernels = binary.kernels
    if others:
        rest = cuda_source(executable)
        kernels, text = (*kernels, *compile_cuda_text(rest, arch).kernels), text + rest
    return CudaModule(arch, graph.precision, kernels, plan, text, executable)


def kernel_text(plan: GpuPlan) -> str:
    """The CUDA text of every kernel of a plan, each once."""
    return "\n".join({launch.kernel: launch.source for launch in plan.launches}.values())


def halved(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` with float16 tensors and constants; convolutions accumulate in float32 and round their results."""
    graph = from_module(module)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op in CONVOLUTIONS:
            wide = f"{node.name}.fp32"
            nodes.append(replace(node, name=wide, attributes={**node.attributes, "out_dtype": "float32"}))
            nodes.append(Node(node.name, "astype", (wide,), {"dtype": "float16"}, node.shape, "float16"))
        else:
            nodes.append(replace(node, dtype="float16"))
    constants = {
        name: value.astype("float16") if value.dtype == "float32" else value for name, value in graph.constants.items()
    }
    return to_module(replace(graph, nodes=tuple(nodes), constants=constants, input_dtype="float16"))


def cuda_source(executable: Any) -> str:
    """The CUDA text of an executable. Raises :class:`CodesignError` if it has none."""
    waiting = [executable.mod]
    texts = []
    while waiting:
        part = waiting.pop()
        waiting += list(part.imports)
        if part.kind == "cuda":
            texts.append(str(part.inspect_source()))
    if not texts:
        raise CodesignError("the network became no CUDA kernel", where="cuda", hint="Nothing in it is computed.")
    return "\n".join(texts)
