"""Operators that are left to TVM: their search space, its candidates as machine code, and their measured schedules.

The search space is MetaSchedule's, designed by its rules for CUDA. Candidates are drawn by replaying traces with other
decisions; those that fail its checks of threads and shared memory are dropped. None of this needs a GPU or TVM's own
runners: a candidate becomes CUDA text and launches, NVRTC compiles it, and :mod:`codesign.kernels.tuning.search`
measures it on a machine with a driver. The winner's trace is kept
(:mod:`codesign.kernels.tuning.traces`) and replayed by :func:`scheduled`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, s_tir
from tvm.s_tir import dlight, meta_schedule

from codesign.hw.errors import CodesignError, UnsupportedError
from codesign.kernels.runtime.nvrtc import Binary, compile_cuda_text
from codesign.kernels.tuning.search import Build, Say, opened
from codesign.kernels.tuning.traces import KernelCall, Traces

SEED = 1
FLOATS = ("float16", "float32")


@dataclass(frozen=True, eq=False)
class OperatorTask:
    """A function that TVM schedules, with the dtypes and shapes of its tensors; ``outputs`` of them are written."""

    name: str
    arch: str
    function: Any = field(repr=False)
    outputs: int = 1

    @property
    def signature(self) -> str:
        """The structure in one line, for the tuning database: the hash distinguishes functions of the same name."""
        return f"{self.name}; {tvm_ffi.structural_hash(_alone(self.function)) % 2**64:016x}"

    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of every argument, outputs last."""
        return [
            (buffer.name, str(buffer.dtype), tuple(int(extent) for extent in buffer.shape))
            for buffer in self.function.params
        ]


@dataclass(frozen=True)
class OperatorCandidate:
    """A schedule as kernels. ``trace`` is None for TVM's default; ``scratch``: bytes of buffers between kernels."""

    trace: Any = field(repr=False)
    source: str = field(repr=False)
    calls: tuple[KernelCall, ...]
    scratch: dict[str, int]
    binary: Binary = field(repr=False)


def target_of(arch: str) -> Any:
    """TVM's description of a GPU of ``arch``."""
    return tvm.target.Target(
        {
            "kind": "cuda",
            "arch": arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
            "max_num_threads": 1024,
        }
    )


def fused(module: tvm.IRModule, arch: str) -> tvm.IRModule:
    """Relax operators as loop functions, with neighbours fused; none has a schedule yet."""
    passes = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    with target_of(arch):
        return passes(module)


def scheduled(module: tvm.IRModule, arch: str, traces: Traces | None = None) -> tvm.IRModule:
    """``module`` fused; each function is scheduled by its best measured trace, or else by TVM's default rules."""
    module = fused(module, arch)
    for name, function in list(module.functions_items()):
        if not isinstance(function, tvm.tirx.PrimFunc) or traces is None:
            continue
        record = traces.lookup(OperatorTask(name.name_hint, arch, function).signature)
        if record is not None and record.trace is not None:
            with target_of(arch):
                best = _replayed(function, record.trace)["main"]
            module.update_func(
                name, best.with_attr("global_symbol", name.name_hint).with_attr("tirx.is_scheduled", True)
            )
    with target_of(arch):
        return _by_default()(module)


def _by_default() -> Any:
    return dlight.ApplyDefaultSchedule(
        dlight.gpu.Matmul(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()
    )


def _alone(function: Any) -> tvm.IRModule:
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _replayed(function: Any, trace: Any) -> tvm.IRModule:
    schedule = s_tir.Schedule(_alone(function))
    s_tir.schedule.Trace.apply_json_to_schedule(trace, schedule)
    return schedule.mod


def operator_tasks(module: tvm.IRModule, arch: str) -> list[OperatorTask]:
    """The functions of a Relax ``module`` that can be measured, each once: all tensors halves, or all floats."""
    module = fused(module, arch)
    outputs: dict[str, int] = {}

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call) and expression.op == tvm.ir.Op.get("relax.call_tir"):
            name = expression.args[0].name_hint
            outputs[name] = len(module[name].params) - len(expression.args[1].fields)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    found: dict[str, OperatorTask] = {}
    for name, count in sorted(outputs.items()):
        task = OperatorTask(name, arch, module[name], count)
        if len({dtype for _, dtype, _ in task.tensors} & set(FLOATS)) == len({d for _, d, _ in task.tensors}) == 1:
            found.setdefault(task.signature, task)
    return list(found.values())


def prepare(tasks: Sequence[OperatorTask], arch: str, folder: Path, *, limit: int = 12, say: Say = print) -> None:
    """Compile up to ``limit`` candidates of each task into a folder for :mod:`codesign.kernels.tuning.search`."""
    builds = opened(folder, arch)
    for number, task in enumerate(tasks):
        if builds.has(task.signature, 0, 0):
            continue
        say(f"build {number + 1} of {len(tasks)}: {task.signature}")
        first_output = len(task.tensors) - task.outputs
        places, sizes = {}, []
        for index, (name, dtype, shape) in enumerate(task.tensors):
            places[name] = f"input_{index}" if index < first_output else f"output_{index - first_output}"
            sizes.append(math.prod(shape) * np.dtype(dtype).itemsize)
        item = {
            "kind": "operator",
            "signature": task.signature,
            "height": 0,
            "width": 0,
            "dtype": task.tensors[0][1],
            "inputs": sizes[:first_output],
            "outputs": sizes[first_output:],
            "meaningful": [[1, 1, 1]] * task.outputs,
        }
        made = []
        for candidate in candidates(task, limit):
            calls = [
                {
                    "kernel": call.kernel,
                    "arguments": [places.get(name, name) for name in call.arguments],
                    "grid": call.grid,
                    "threads": call.threads,
                    "shared_bytes": 0,
                    "integers": [],
                }
                for call in candidate.calls
            ]
            made.append(Build({"trace": candidate.trace}, candidate.binary, calls, scratch=candidate.scratch))
        builds.add(item, made)


def candidates(task: OperatorTask, limit: int) -> list[OperatorCandidate]:
    """TVM's default and up to ``limit - 1`` members of MetaSchedule's space that compile, all with different texts."""
    found: dict[str, OperatorCandidate] = {}
    with target_of(task.arch):
        default = _by_default()(_alone(task.function))
    for trace, module in ((None, default), *_drawn(task, 4 * limit)):
        if len(found) == limit:
            break
        try:
            source, calls, scratch = _lowered(task, module)
            if source not in found:
                binary = compile_cuda_text(source, task.arch)
                found[source] = OperatorCandidate(trace, source, calls, scratch, binary)
        except (CodesignError, tvm.error.InternalError):
            continue  # some members of a space do not lower or compile
    return list(found.values())


def _drawn(task: OperatorTask, count: int) -> Iterator[tuple[Any, tvm.IRModule]]:
    """Traces and scheduled modules of the design spaces in turn, with decisions drawn from a seed.

    MetaSchedule's own replaying does the same, but draws a whole batch before it returns the first.
    """
    function = _alone(task.function)
    context = meta_schedule.TuneContext(
        mod=function,
        target=target_of(task.arch),
        space_generator="post-order-apply",
        task_name=task.name,
        rand_state=SEED,
        num_threads=1,
    )
    spaces = context.generate_design_space()
    for draw in range(count):
        space, schedule = spaces[draw % len(spaces)], s_tir.Schedule(function, seed=SEED + draw)
        try:
            s_tir.schedule.Trace(space.trace.insts, {}).apply_to_schedule(schedule, remove_postproc=True)
            schedule.enter_postproc()
            allowed = all(check.apply(schedule) for check in context.space_generator.postprocs)
        except (s_tir.ScheduleError, tvm.error.InternalError):
            continue
        if allowed:
            yield _plain(schedule.trace.as_json()), schedule.mod


def _plain(value: Any) -> Any:
    """JSON values of Python's own types, without TVM's numbers and arrays."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if isinstance(value, str | int | float | bool) or value is None:
        return str(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _lowered(task: OperatorTask, module: tvm.IRModule) -> tuple[str, tuple[KernelCall, ...], dict[str, int]]:
    """A scheduled module's CUDA text, the calls of its kernels, and the bytes of the buffers between them.

    Raises :class:`UnsupportedError` if a kernel takes anything but tensors of its function.
    """
    from tvm.tirx.build import codegen_build, split_host_device_mods

    target = target_of(task.arch)
    pipeline, _, finalise = tvm.tirx.get_default_tir_pipeline(target)
    lowered = pipeline(tvm.tirx.transform.BindTarget(target.with_host("llvm"))(module))
    host, devices = split_host_device_mods(lowered)
    (device,) = devices.values()
    source = str(codegen_build(finalise()(device), target).inspect_source())
    calls: list[KernelCall] = []
    scratch: dict[str, int] = {}
    for statement in _statements(host["main"].body):
        kind = type(statement).__name__
        if kind == "AllocBuffer":
            buffer = statement.buffer
            size = math.prod(int(extent) for extent in buffer.shape)
            scratch[buffer.name] = size * np.dtype(str(buffer.dtype)).itemsize
        elif kind == "Evaluate" and getattr(getattr(statement.value, "op", None), "name", "") == "tirx.call_ffi_kernel":
            calls.append(_call(statement.value))
    names = {name for name, _, _ in task.tensors} | set(scratch)
    if not calls or any(argument not in names for call in calls for argument in call.arguments):
        raise UnsupportedError("a kernel takes an argument that is not a tensor of its function", where=task.name)
    return source, tuple(calls), scratch


def _call(call: Any) -> KernelCall:
    axes = [str(axis) for axis in call.attrs.launch_params]
    arguments = list(call.args)[1:]
    tensors, extents = arguments[: len(arguments) - len(axes)], arguments[len(arguments) - len(axes) :]
    sizes = dict(zip(axes, (int(extent) for extent in extents), strict=True))
    if not set(axes) <= {f"{index}.{axis}" for index in ("blockIdx", "threadIdx") for axis in "xyz"}:
        raise UnsupportedError(f"a launch with {', '.join(axes)}", where=call.args[0].value)
    return KernelCall(
        call.args[0].value,
        tuple(tensor.args[0].name for tensor in tensors),
        (sizes.get("blockIdx.x", 1), sizes.get("blockIdx.y", 1), sizes.get("blockIdx.z", 1)),
        (sizes.get("threadIdx.x", 1), sizes.get("threadIdx.y", 1), sizes.get("threadIdx.z", 1)),
    )


def _statements(statement: Any) -> Iterator[Any]:
    if type(statement).__name__ == "SeqStmt":
        for part in statement.seq:
            yield from _statements(part)
        return
    yield statement
    for name in ("body", "then_case", "else_case"):
        inner = getattr(statement, name, None)
        if inner is not None:
            yield from _statements(inner)
