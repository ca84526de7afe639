"""A GPU graph is cut into launches: which layers share a kernel, and under which schedule.

Every run of layers that one kernel can hold is priced, by measurements where the tuning database has them and by the
kernels' models elsewhere, and the cheapest way through the network is taken: fewer launches move fewer bytes, deeper
stacks compute more halo.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from codesign.compile.gpu_layers import Convolution, GpuGraph, Operation, Other, Shuffle
from codesign.hw.errors import UnsupportedError
from codesign.kernels import stack_search
from codesign.kernels.launch import Launch, Stored
from codesign.kernels.layers import Format
from codesign.kernels.nvrtc import compile_cuda_text
from codesign.kernels.stack import Input, Output, Schedule, Stack, grid, layout, pack, render, signature
from codesign.kernels.stack_search import GPUS

MAX_LAYERS = 10
"""Of a stack; deeper ones recompute more halo than they save."""

LAUNCH_SECONDS = 3e-6
"""From the end of one kernel to the start of the next inside a CUDA graph, with the tail of a wave."""

TRIES = 6
"""Schedules compiled in search of one without spills."""


@dataclass(frozen=True)
class Unit:
    """A layer and the shuffle after it: what is never cut apart."""

    operations: tuple[Operation, ...]

    @property
    def first(self) -> Operation:
        return self.operations[0]

    @property
    def output(self) -> str:
        return self.operations[-1].output

    @property
    def shuffle(self) -> int:
        last = self.operations[-1]
        return last.factor if isinstance(last, Shuffle) and len(self.operations) > 1 else 1


@dataclass(frozen=True)
class GpuPlan:
    """A network as launches, and what TVM computes between them."""

    graph: GpuGraph
    stored: dict[str, Stored]
    steps: tuple[Launch | Other, ...]
    seconds: float  # by measurement or model
    schedules: tuple[tuple[str, Schedule], ...] = field(repr=False)  # of the stacks, by signature

    @property
    def launches(self) -> list[Launch]:
        return [step for step in self.steps if isinstance(step, Launch)]


Tuned = Callable[[str, int, int], tuple[Schedule, float] | None]
"""The best measured schedule of a stack's signature at a height and width, and its seconds."""


def plan_launches(graph: GpuGraph, arch: str, tuned: Tuned | None = None) -> GpuPlan:
    """Cut ``graph`` for ``arch``. Raises :class:`UnsupportedError` for a layer that no kernel takes."""
    units = _units(graph)
    readers = graph.readers()
    choose = functools.cache(lambda key, height, width: _price(stacks[key], arch, height, width, tuned))
    stacks: dict[str, Stack] = {}
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(units) + 1)
    for begin in range(len(units) - 1, -1, -1):
        options: list[tuple[float, int]] = []
        if not _stackable(units[begin], graph):
            options.append((best[begin + 1][0] + LAUNCH_SECONDS, begin + 1))
        else:
            for end in range(begin + 1, min(begin + MAX_LAYERS, len(units)) + 1):
                segment = units[begin:end]
                if not _one_stack(segment, graph):
                    break
                stack = _stack(segment, graph, readers)
                if stack is None:
                    continue
                key = signature(stack)
                stacks.setdefault(key, stack)
                out = graph.tensors[segment[0].first.output]
                priced = choose(key, out.height, out.width)
                if priced is not None:
                    options.append((priced[1] + best[end][0], end))
        if not options:
            raise UnsupportedError(
                "no CUDA kernel holds this layer", where=units[begin].output, hint="Its weights exceed the registers."
            )
        best[begin] = min(options)
    return _materialise(graph, units, best, arch, choose)


def _units(graph: GpuGraph) -> list[Unit]:
    readers = graph.readers()
    units: list[Unit] = []
    for operation in graph.operations:
        if isinstance(operation, Shuffle) and units and len(units[-1].operations) == 1:
            last = units[-1].first
            sole = len(readers[operation.source]) == 1 and operation.source != graph.output
            if isinstance(last, Convolution) and last.output == operation.source and sole:
                units[-1] = Unit((last, operation))
                continue
        units.append(Unit((operation,)))
    return units


def _stackable(unit: Unit, graph: GpuGraph) -> bool:
    operation = unit.first
    if not isinstance(operation, Convolution) or operation.more or operation.stride != 1 or operation.dilation != 1:
        return False
    ky, kx = operation.conv.weights.shape[:2]
    source, out = graph.tensors[operation.conv.source], graph.tensors[operation.output]
    same = (source.height, source.width) == (out.height, out.width)
    return ky % 2 == 1 and kx % 2 == 1 and operation.padding == (ky // 2, kx // 2) and same


def _one_stack(segment: Sequence[Unit], graph: GpuGraph) -> bool:
    """Whether the units may share a kernel: one frame size, a shuffle only at the end."""
    if not all(_stackable(unit, graph) for unit in segment):
        return False
    if any(unit.shuffle > 1 for unit in segment[:-1]):
        return False
    return len({(graph.tensors[u.first.output].height, graph.tensors[u.first.output].width) for u in segment}) == 1


def _format(name: str, graph: GpuGraph) -> Format:
    """How a tensor lies between launches: planar at the network's ends and next to TVM's operators."""
    readers = graph.readers()[name]
    maker = next((operation for operation in graph.operations if operation.output == name), None)
    foreign = isinstance(maker, Other) or any(isinstance(reader, Other) for reader in readers)
    return "planar" if name in (graph.input, graph.output) or foreign else "chunked"


def _stack(segment: Sequence[Unit], graph: GpuGraph, readers: dict[str, list[Operation]]) -> Stack | None:
    """The units as a stack, or None where their inputs lie in a form that it does not read."""
    convs = [unit.first.conv for unit in segment if isinstance(unit.first, Convolution)]
    inside = {operation for unit in segment for operation in unit.operations}
    made = {conv.output for conv in convs}
    inputs: dict[str, Input] = {}
    for conv in convs:
        for name in (conv.source, conv.add):
            if name is not None and name not in made and name not in inputs:
                tensor = graph.tensors[name]
                inputs[name] = Input(name, tensor.channels, _format(name, graph), tensor.zero_point)
    outputs = []
    for unit in segment:
        name = unit.output
        outside = name == graph.output or any(reader not in inside for reader in readers[name])
        if outside:
            conv = unit.first
            assert isinstance(conv, Convolution)
            outputs.append(Output(conv.output, _format(name, graph), unit.shuffle))
    stack = Stack(graph.precision, tuple(inputs.values()), tuple(convs), tuple(outputs))
    for item in stack.inputs:
        taps = {conv.weights.shape[1] for conv in convs if conv.source == item.name}
        if item.format == "planar" and (len(taps) > 1 or item.channels * max(taps, default=1) > 2 * stack.chunk):
            return None
    return stack


def _price(stack: Stack, arch: str, height: int, width: int, tuned: Tuned | None) -> tuple[Schedule, float] | None:
    """The schedule to use and its seconds, or None if the stack does not fit."""
    if tuned is not None and (known := tuned(signature(stack), height, width)) is not None:
        return known
    gpu = GPUS[arch]
    schedule = stack_search.best(stack, arch, height, width)
    if schedule is None:
        return None
    cycles = stack_search.estimate(stack, schedule, arch, height, width).cycles
    moved = sum(stack.channels(item.name) for item in (*stack.inputs, *stack.outputs))
    memory = moved * stack.element_bytes * height * width / gpu.bytes_per_second
    return schedule, max(cycles / gpu.clock_hz, memory) + LAUNCH_SECONDS


def _materialise(
    graph: GpuGraph,
    units: list[Unit],
    best: list[tuple[float, int]],
    arch: str,
    choose: Callable[[str, int, int], tuple[Schedule, float] | None],
) -> GpuPlan:
    readers = graph.readers()
    steps: list[Launch | Other] = []
    schedules: list[tuple[str, Schedule]] = []
    stored: dict[str, Stored] = {}
    settled: dict[str, Schedule] = {}

    def store(name: str) -> str:
        tensor = graph.tensors[name]
        stored[name] = Stored(name, graph.precision, _format(name, graph), tensor.channels, tensor.height, tensor.width)
        return name

    begin = 0
    while begin < len(units):
        end = best[begin][1]
        first = units[begin].first
        if isinstance(first, Other):
            for name in (*first.inputs, first.output):
                if name in graph.tensors:
                    store(name)
            steps.append(first)
            begin = end
            continue
        segment = units[begin:end]
        stack = _stack(segment, graph, readers)
        if stack is None or not _stackable(units[begin], graph):
            raise UnsupportedError("no CUDA kernel takes this layer yet", where=units[begin].output)
        out = graph.tensors[first.output]
        key = signature(stack)
        priced = choose(key, out.height, out.width)
        assert priced is not None
        if key not in settled:
            settled[key] = settle(stack, arch, out.height, out.width, priced[0])
        schedule = settled[key]
        schedules.append((key, schedule))
        text = render(stack, schedule, "KERNEL")
        kernel = f"stack_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        placed = layout(stack, schedule)
        blob, _, _ = pack(stack, schedule)
        results = {unit.first.output: unit.output for unit in segment}
        steps.append(
            Launch(
                kernel, text.replace("KERNEL", kernel), blob, grid(schedule, out.height, out.width),
                placed.warps(stack) * 32, placed.shared_bytes, (out.height, out.width),
                tuple(store(item.name) for item in stack.inputs),
                tuple(store(results[item.name]) for item in stack.outputs),
                tuple(layer.name for layer in stack.layers),
                sum(layer.macs_per_pixel for layer in stack.layers) * out.height * out.width,
            )
        )  # fmt: skip
        begin = end
    return GpuPlan(graph, stored, tuple(steps), best[0][0], tuple(schedules))


def settle(stack: Stack, arch: str, height: int, width: int, first: Schedule) -> Schedule:
    """``first``, or the next candidate that spills no registers; the one that spills least if all do."""
    tried: list[tuple[int, int, Schedule]] = []
    rest = [s for s in stack_search.candidates(stack, arch, height, width, limit=TRIES) if s != first]
    for index, schedule in enumerate([first, *rest][:TRIES]):
        binary = compile_cuda_text(render(stack, schedule, "stack"), arch)
        spilled = sum(kernel.spilled_bytes for kernel in binary.kernels)
        tried.append((spilled, index, schedule))
        if spilled == 0:
            break
    return min(tried, key=lambda item: item[:2])[2]
