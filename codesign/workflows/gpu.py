"""A network compiled for a GPU, with the registers and memory of its kernels; and the kernels worth tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from codesign.compile.cuda.compile import CudaModule, compile_cuda, compile_cuda_int8
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import near_best, plan_launches
from codesign.compile.cuda.layers import Other, from_layers
from codesign.compile.cuda.module import relax_module
from codesign.compile.cuda.tvm_operators import OperatorTask, operator_tasks
from codesign.compile.driver import CompiledNetwork, Quantisation
from codesign.compile.importing.check.result import NOT_WANTED, ImportCheck
from codesign.compile.ir.relax import from_module
from codesign.compile.ir.runnable import runnable
from codesign.compile.scanline.layers import LayerGraph
from codesign.hw.errors import InputError, UnsupportedError
from codesign.kernels.runtime.launch import Launch
from codesign.kernels.runtime.nvrtc import check_architecture
from codesign.kernels.tuning.search import GemmTask, Task
from codesign.kernels.tuning.traces import traces
from codesign.kernels.tuning.tuned import database
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import Size, Source, import_source
from codesign.workflows.watch import Say, silent

Precision = Literal["fp16", "int8"]


@dataclass(frozen=True)
class CompiledCuda:
    """A network for a GPU, and the frame size it is for."""

    network: str
    size: tuple[int, int]
    module: CudaModule = field(repr=False)
    check: ImportCheck = NOT_WANTED

    def to_json(self) -> dict[str, Any]:
        """The data of `compile --json`: one entry per launch of this project's kernels."""
        plan = self.module.plan
        report = {kernel.name: kernel for kernel in self.module.kernels}
        launches, others = [], []
        for step in plan.steps if plan is not None else ():
            if not isinstance(step, Launch):
                others.append(step.node.op.removeprefix("nn."))
                continue
            kernel = report[step.kernel]
            launches.append(
                {
                    "kernel": step.kernel,
                    "layers": list(step.layers),
                    "macs": step.macs,
                    "blocks": step.grid[0] * step.grid[1] * step.grid[2],
                    "threads": step.threads,
                    "shared_bytes": step.shared_bytes,
                    "registers": kernel.registers,
                    "spilled_bytes": kernel.spilled_bytes,
                }
            )
        return {
            "network": self.network,
            "target": "cuda",
            "arch": self.module.arch,
            "precision": self.module.precision,
            "input_size": f"{self.size[0]}x{self.size[1]}",
            "kernels": len(self.module.kernels),
            "launches": launches,
            "others": others,
            "modelled_seconds": plan.seconds if plan is not None else None,
            "import": self.check.to_json(),
        }


def check_precision(text: str) -> Precision:
    """``text`` as a precision. Raises :class:`InputError` for any but fp16 and int8."""
    if text not in ("fp16", "int8"):
        raise InputError(f"unknown precision {text!r}", where="--precision", hint="Choose fp16 or int8.")
    return cast(Precision, text)


def compile_for_gpu(
    source: Source,
    size: Size,
    *,
    arch: str = "sm_90a",
    precision: Precision = "fp16",
    quantisation: Quantisation = Quantisation(),
    images: Path | None = None,
    say: Say = silent,
) -> CompiledCuda:
    """Compile for frames of ``size`` (width, height) with the best schedules known for ``arch``.

    INT8 quantises as for Scanline. Raises :class:`UnsupportedError` for an INT8 network of which a part would run
    elsewhere.
    """
    check_architecture(arch)
    tuned, known = database(arch).lookup, traces(arch)
    if precision == "fp16":
        say("import")
        model = import_source(source, size)
        say("choose and compile kernels")
        module = compile_cuda(model.module, arch=arch, tuned=tuned, traces=known)
        return CompiledCuda(source.name, size, module, model.check)
    network = _quantised(source, size, quantisation, images, say)
    say("choose and compile kernels")
    module = compile_cuda_int8(whole(network), arch=arch, tuned=tuned)
    return CompiledCuda(source.name, size, module, network.source.check)


def integer_layers(
    source: Source,
    size: Size,
    quantisation: Quantisation = Quantisation(),
    images: Path | None = None,
    say: Say = silent,
) -> LayerGraph:
    """The network quantised as for Scanline. Raises :class:`UnsupportedError` where a part would run elsewhere."""
    return whole(_quantised(source, size, quantisation, images, say))


def _quantised(
    source: Source, size: Size, quantisation: Quantisation, images: Path | None, say: Say
) -> CompiledNetwork:
    choice = FrameChoice(size)
    return compile_source(source, choice=choice, quantisation=quantisation, images=images, say=say).network


def whole(network: CompiledNetwork) -> LayerGraph:
    """The integer layers of a network that is one region. Raises :class:`UnsupportedError` where it is not."""
    if len(network.regions) != 1 or any(not placement.on_accelerator for placement in network.placements):
        left = next((p for p in network.placements if not p.on_accelerator), None)
        raise UnsupportedError(
            "not every operator has integer kernels",
            where=f"{left.operator} '{left.name}'" if left else network.name,
            hint="Compile with --precision fp16.",
        )
    return network.regions[0].graph


@dataclass(frozen=True)
class TuningTasks:
    """Kernels of a network to measure: this project's stacks and wide convolutions, and operators left to TVM."""

    stacks: list[Task]
    gemms: list[GemmTask]
    operators: list[OperatorTask]
    check: ImportCheck = NOT_WANTED


def tuning_tasks(source: Source, size: Size, *, arch: str, precision: Precision, slack: float = 1.5) -> TuningTasks:
    """Kernels of every plan modelled within ``slack`` times the best, and every operator left to TVM."""
    check_architecture(arch)
    if precision == "int8":
        network = _quantised(source, size, Quantisation(), None, silent)
        graph, check = from_layers(whole(network)), network.source.check
    else:
        model = import_source(source, size)
        graph, check = from_graph(from_module(model.module)), model.check
    operators: list[OperatorTask] = []
    if any(isinstance(operation, Other) for operation in graph.operations):
        plan = plan_launches(graph, arch, database(arch).lookup)
        operators = operator_tasks(runnable(relax_module(plan, b"", prefix="tune")), arch)
    found = near_best(graph, arch, slack)
    return TuningTasks([Task(*one) for one in found.stacks], [GemmTask(*one) for one in found.gemms], operators, check)
