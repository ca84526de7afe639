"""Steps of a plan as launches, with schedules that spill no registers."""

from __future__ import annotations

import hashlib

from codesign.compile.cuda.layers import GpuGraph, Pointwise
from codesign.kernels import implicit_gemm, stack_search
from codesign.kernels.implicit_gemm import GemmConv, GemmSchedule
from codesign.kernels.runtime.launch import Launch
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from codesign.kernels.stack import Schedule, Stack, grid, layout, pack, render

TRIES = 6
"""Schedules compiled in search of one without spills."""


def stack_launch(
    stack: Stack, schedule: Schedule, height: int, width: int, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Launch:
    """A stack on a frame. The kernel's name tells its text, so that equal stacks share one."""
    placed = layout(stack, schedule)
    text = render(stack, schedule, "KERNEL")
    kernel = f"stack_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Launch(
        kernel=kernel,
        source=text.replace("KERNEL", kernel),
        parameters=pack(stack, schedule)[0],
        grid=grid(schedule, height, width),
        threads=placed.warps(stack) * 32,
        shared_bytes=placed.shared_bytes,
        integers=(height, width),
        inputs=inputs,
        outputs=outputs,
        layers=tuple(layer.name for layer in stack.layers),
        macs=sum(layer.macs_per_pixel for layer in stack.layers) * height * width,
    )


def gemm_launch(
    wide: GemmConv, schedule: GemmSchedule, sizes: tuple[int, int, int, int], inputs: tuple[str, ...], output: str
) -> Launch:
    """A convolution on a frame; ``sizes``: height and width of the input, then of the output before any shuffle."""
    text = implicit_gemm.render(wide, schedule, "KERNEL")
    kernel = f"gemm_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Launch(
        kernel=kernel,
        source=text.replace("KERNEL", kernel),
        parameters=implicit_gemm.pack(wide, schedule)[0],
        grid=implicit_gemm.grid(wide, schedule, sizes[2], sizes[3]),
        threads=schedule.threads,
        shared_bytes=implicit_gemm.shared_bytes(wide, schedule),
        integers=sizes,
        inputs=inputs,
        outputs=(output,),
        layers=(wide.conv.name,),
        macs=wide.conv.macs_per_pixel * sizes[2] * sizes[3],
    )


def pointwise_launch(operation: Pointwise, graph: GpuGraph, inputs: tuple[str, ...], output: str) -> Launch:
    """A kernel that is no convolution on a frame."""
    operator = operation.operator
    sizes = [(graph.tensors[name].height, graph.tensors[name].width) for name in (*inputs, output)]
    integers = operator.integers(sizes[:-1], sizes[-1])
    text = operator.text("KERNEL")
    kernel = f"pointwise_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Launch(
        kernel=kernel,
        source=text.replace("KERNEL", kernel),
        parameters=operator.parameters(),
        grid=operator.grid(integers),
        threads=operator.threads,
        shared_bytes=operator.shared_bytes,
        integers=integers,
        inputs=inputs,
        outputs=(output,),
        layers=(operation.output,),
        macs=operator.macs(integers),
    )


def first_gemm_without_spills(wide: GemmConv, arch: str, height: int, width: int, first: GemmSchedule) -> GemmSchedule:
    """As :func:`first_without_spills`, for an implicit GEMM."""
    tried: list[tuple[int, int, GemmSchedule]] = []
    rest = [s for s in implicit_gemm.candidates(wide, arch, height, width, limit=TRIES) if s != first]
    for index, schedule in enumerate([first, *rest][:TRIES]):
        binary = compile_cuda_text(implicit_gemm.render(wide, schedule, "gemm"), arch)
        spilled = sum(kernel.spilled_bytes for kernel in binary.kernels)
        tried.append((spilled, index, schedule))
        if spilled == 0:
            break
    return min(tried, key=lambda item: item[:2])[2]


Tried = tuple[Schedule, int]
"""A schedule and the bytes that its kernel spills."""


def first_without_spills(stack: Stack, arch: str, height: int, width: int, first: Schedule) -> Tried:
    """``first``, or the next candidate that spills no registers; the one that spills least if all do."""
    tried: list[tuple[int, int, Schedule]] = []
    rest = [s for s in stack_search.candidates(stack, arch, height, width, limit=TRIES) if s != first]
    for index, schedule in enumerate([first, *rest][:TRIES]):
        binary = compile_cuda_text(render(stack, schedule, "stack"), arch)
        spilled = sum(kernel.spilled_bytes for kernel in binary.kernels)
        tried.append((spilled, index, schedule))
        if spilled == 0:
            break
    spilled_bytes, _, best = min(tried, key=lambda item: item[:2])
    return best, spilled_bytes
