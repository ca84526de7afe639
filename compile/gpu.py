"""The same network on a GPU: TVM schedules it for CUDA, NVRTC really compiles every kernel, no GPU needed.

The schedules are TVM's defaults: correct and slow. What matters here is that the module is whole: it exports, loads
with TVM's runtime, and a kernel that does not compile fails the build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tvm
from tvm import relax
from tvm.s_tir import dlight

from codesign.compile.affine import CONVOLUTIONS
from codesign.compile.graph import Node
from codesign.compile.relax_form import from_module, to_module
from codesign.compile.runnable import runnable
from codesign.hw.errors import CodesignError, InputError
from codesign.hw.files import replaced

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a")
Precision = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class Kernel:
    """What the compiler said of one kernel."""

    name: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True)
class CudaModule:
    """A network compiled for one GPU architecture."""

    arch: str
    precision: Precision
    kernels: tuple[Kernel, ...]
    source: str = field(repr=False)
    executable: Any = field(repr=False)

    def export(self, path: str | Path) -> None:
        """Write a shared library that TVM's runtime loads, whole or not at all."""
        if Path(path).suffix != ".so":
            raise InputError("a module is a shared library", where=str(path), hint="Give a name ending in .so.")
        with replaced(path) as temporary:
            self.executable.export_library(str(temporary), cc="g++")


def compile_cuda(module: tvm.IRModule, *, arch: str = "sm_90a", precision: Precision = "fp16") -> CudaModule:
    """Compile a float Relax ``module`` (NCHW, static shapes, batch 1) for ``arch``.

    With ``precision`` fp16 the module takes and returns float16, and sums its products in FP32. Raises
    :class:`InputError` for an unknown architecture and :class:`CodesignError`, naming the kernel, for one that does not
    compile.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"unknown GPU architecture {arch!r}", where="--arch", hint=", ".join(ARCHITECTURES))
    target = tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
            "max_num_threads": 1024,
        }
    )
    prepared = runnable(halved(module) if precision == "fp16" else module)
    passes = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
            dlight.ApplyDefaultSchedule(
                dlight.gpu.Matmul(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()
            ),
        ]
    )
    with target:
        executable = relax.build(passes(prepared), target=target)
    source = cuda_source(executable)
    return CudaModule(arch, precision, compile_kernels(source, arch), source, executable)


def halved(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` with float16 tensors and constants; convolutions accumulate in float32 and are rounded after."""
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
    """The CUDA text of an executable. Raises :class:`CodesignError` when it has none."""
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


def compile_kernels(source: str, arch: str) -> tuple[Kernel, ...]:
    """Compile CUDA ``source`` to machine code for ``arch`` with NVRTC and throw the code away.

    Returns the kernels with their registers and spills. Raises :class:`CodesignError`, naming the kernel, when one does
    not compile.
    """
    from cuda.bindings import nvrtc

    def checked(result: tuple[Any, ...]) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CodesignError(f"NVRTC failed: {result[0].name}", where="cuda")
        return result[1] if len(result) > 1 else None

    program = checked(nvrtc.nvrtcCreateProgram(source.encode(), b"network.cu", 0, [], []))
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--ptxas-options=-v", *_includes()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
    log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    text = log.decode(errors="replace")
    nvrtc.nvrtcDestroyProgram(program)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise _broken(source, text)
    return tuple(
        Kernel(name, int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in re.findall(
            r"Function properties for (\w+)\s.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*?Used (\d+) registers",
            text,
            re.DOTALL,
        )
    )


def _broken(source: str, log: str) -> CodesignError:
    """The first error, and the kernel around it."""
    match = re.search(r"network\.cu\((\d+)\): (?:catastrophic )?error: (.*)", log)
    if match is None:
        return CodesignError(f"CUDA kernels do not compile: {log.strip()[:400]}", where="cuda")
    before = "\n".join(source.splitlines()[: int(match[1])])
    names = re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(", before)
    kernel = names[-1] if names else "before the first kernel"
    return CodesignError(f"does not compile: {match[2]}", where=f"CUDA kernel {kernel}")


def _includes() -> list[str]:
    """Header folders of the CUDA wheels."""
    import nvidia

    folders = [folder for base in nvidia.__path__ for folder in Path(base).glob("*/include") if folder.is_dir()]
    return [f"--include-path={path}" for folder in folders for path in (folder, folder / "cccl") if path.is_dir()]
