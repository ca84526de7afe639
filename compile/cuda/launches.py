"""A GPU graph is cut into launches: which layers share a kernel, and under which schedule.

Every run of layers that one kernel can hold is priced, by measurements where the tuning database has them and by the
kernels' models elsewhere, and the cheapest way through the network is taken: fewer launches move fewer bytes, deeper
stacks compute more halo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from codesign.compile.cuda.layers import Convolution, GpuGraph, Operation, Other, Pointwise
from codesign.compile.cuda.steps import (
    Tried,
    first_gemm_without_spills,
    first_without_spills,
    gemm_launch,
    pointwise_launch,
    stack_launch,
)
from codesign.compile.cuda.units import Unit, formats_of, stackable, units_of, with_conversions
from codesign.hw.errors import UnsupportedError
from codesign.kernels import implicit_gemm, stack_search
from codesign.kernels.implicit_gemm import GemmConv, GemmSchedule
from codesign.kernels.layers import CHUNK_CHANNELS, Format
from codesign.kernels.runtime.launch import Launch, Stored
from codesign.kernels.stack import Input, Output, Schedule, Stack, signature
from codesign.kernels.stack_search import GPUS

MAX_LAYERS = 10
"""Of a stack; deeper ones recompute more halo than they save."""

LAUNCH_SECONDS = 3e-6
"""From the end of one kernel to the start of the next inside a CUDA graph, with the tail of a wave."""


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


Tuned = Callable[[str, int, int], tuple[Schedule | GemmSchedule, float] | None]
"""The best measured schedule of a signature at a height and width, and its seconds."""


def plan_launches(graph: GpuGraph, arch: str, tuned: Tuned | None = None) -> GpuPlan:
    """Cut ``graph`` for ``arch``. Raises :class:`UnsupportedError` for a layer that no kernel takes."""
    graph = with_conversions(graph)
    units = units_of(graph)
    segments = _segments(graph, units, arch, tuned)
    tried: dict[str, Tried] = {}
    refused: set[str] = set()
    while True:
        chosen, seconds = _cheapest(segments, refused)
        for segment in chosen:
            if segment.stack is not None and segment.schedule is not None:
                out = graph.tensors[units[segment.begin].first.output]
                key = signature(segment.stack)
                if key not in tried:
                    tried[key] = first_without_spills(segment.stack, arch, out.height, out.width, segment.schedule)
        spilling = {key for key, (_, spilled_bytes) in tried.items() if spilled_bytes} - refused
        if not spilling:  # else another way through the network, if there is one
            return _materialise(graph, units, chosen, arch, seconds, tried)
        refused |= spilling


def _cheapest(segments: list[list[Segment]], refused: set[str]) -> tuple[list[Segment], float]:
    """The way through the units that takes least time, without stacks that are ``refused`` where it can do without."""
    seconds = [0.0] * (len(segments) + 1)
    best: list[Segment] = []
    for begin in range(len(segments) - 1, -1, -1):
        allowed = [one for one in segments[begin] if one.stack is None or signature(one.stack) not in refused]
        best.append(min(allowed or segments[begin], key=lambda segment: segment.seconds + seconds[segment.end]))
        seconds[begin] = best[-1].seconds + seconds[best[-1].end]
    by_begin, chosen, at = best[::-1], [], 0
    while at < len(segments):
        chosen.append(by_begin[at])
        at = by_begin[at].end
    return chosen, seconds[0]


@dataclass(frozen=True)
class NearBest:
    """Kernels that may be on the fastest way: stacks with height and width, implicit GEMMs with both sizes."""

    stacks: list[tuple[Stack, int, int]]
    gemms: list[tuple[GemmConv, tuple[int, int, int, int]]]


def near_best(graph: GpuGraph, arch: str, slack: float = 1.5) -> NearBest:
    """Kernels on any way through the network that the model puts within ``slack`` times the best."""
    graph = with_conversions(graph)
    units = units_of(graph)
    segments = _segments(graph, units, arch, None)
    count = len(units)
    after, before = [0.0] * (count + 1), [0.0] + [float("inf")] * count
    for begin in range(count - 1, -1, -1):
        after[begin] = min(segment.seconds + after[segment.end] for segment in segments[begin])
    for begin in range(count):
        for segment in segments[begin]:
            before[segment.end] = min(before[segment.end], before[begin] + segment.seconds)
    found: dict[tuple[str, int, int], Stack] = {}
    gemms: dict[tuple[str, tuple[int, int, int, int]], GemmConv] = {}
    for begin in range(count):
        for segment in segments[begin]:
            through = before[begin] + segment.seconds + after[segment.end]
            if through > slack * after[0]:
                continue
            first = units[begin].first
            out = graph.tensors[first.output]
            if segment.stack is not None:
                found.setdefault((signature(segment.stack), out.height, out.width), segment.stack)
            elif segment.wide is not None and isinstance(first, Convolution):
                source = graph.tensors[first.conv.source]
                size = source.height, source.width, out.height, out.width
                gemms.setdefault((implicit_gemm.signature(segment.wide), size), segment.wide)
    stacks = [(stack, height, width) for (_, height, width), stack in found.items()]
    return NearBest(stacks, [(wide, size) for (_, size), wide in gemms.items()])


@dataclass(frozen=True)
class Segment:
    """Units ``begin`` to ``end`` as one step: a stack, a convolution, an element-wise kernel or TVM's operator."""

    begin: int
    end: int
    seconds: float
    stack: Stack | None = field(default=None, repr=False)
    schedule: Schedule | None = None
    wide: GemmConv | None = field(default=None, repr=False)
    gemm: GemmSchedule | None = None


def _segments(graph: GpuGraph, units: list[Unit], arch: str, tuned: Tuned | None) -> list[list[Segment]]:
    """For every unit, the steps that may begin there."""
    readers = graph.readers()
    formats = formats_of(graph)
    prices: dict[tuple[str, int, int], tuple[Schedule, float] | None] = {}
    gemms: dict[tuple[str, int, int], tuple[GemmSchedule, float] | None] = {}
    found: list[list[Segment]] = []
    for begin, unit in enumerate(units):
        options: list[Segment] = []
        if isinstance(unit.first, Other):
            options.append(Segment(begin, begin + 1, LAUNCH_SECONDS))
        elif isinstance(unit.first, Pointwise):
            moved = sum(graph.tensors[name].bytes for name in (*unit.first.inputs, unit.output))
            options.append(Segment(begin, begin + 1, moved / GPUS[arch].bytes_per_second + LAUNCH_SECONDS))
        for end in range(begin + 1, min(begin + MAX_LAYERS, len(units)) + 1):
            if not _one_stack(units[begin:end], graph):
                break
            stack = _stack(units[begin:end], graph, readers, formats)
            if stack is None:
                continue
            out = graph.tensors[unit.first.output]
            key = signature(stack), out.height, out.width
            if key not in prices:
                prices[key] = _price(stack, arch, out.height, out.width, tuned)
            if (priced := prices[key]) is not None:
                options.append(Segment(begin, end, priced[1], stack, priced[0]))
        if (wide := _wide(unit, graph, formats)) is not None:
            out = graph.tensors[unit.first.output]
            key = implicit_gemm.signature(wide), out.height, out.width
            if key not in gemms:
                gemms[key] = _price_wide(wide, arch, out.height, out.width, tuned)
            if (best := gemms[key]) is not None:
                options.append(Segment(begin, begin + 1, best[1], wide=wide, gemm=best[0]))
        if not options:
            raise UnsupportedError("no CUDA kernel takes this layer", where=unit.output)
        found.append(options)
    return found


def _wide(unit: Unit, graph: GpuGraph, formats: dict[str, Format]) -> GemmConv | None:
    """The unit as an implicit GEMM, or None where a tensor lies in a form that it does not read."""
    first = unit.first
    if not isinstance(first, Convolution) or any(formats[name] != "chunked" for name in first.inputs):
        return None
    if len(first.sources) > implicit_gemm.MAX_SOURCES:
        return None
    sources = tuple((graph.tensors[name].channels, graph.tensors[name].zero_point) for name in first.sources)
    planes = 0
    if first.conv.add is not None:
        planes = -(-graph.tensors[first.conv.add].channels // CHUNK_CHANNELS[graph.precision])
    return GemmConv(
        graph.precision,
        first.conv,
        sources,
        first.stride,
        first.dilation,
        first.padding,
        formats[unit.output],
        unit.shuffle,
        planes,
    )


def _price_wide(
    wide: GemmConv, arch: str, height: int, width: int, tuned: Tuned | None
) -> tuple[GemmSchedule, float] | None:
    known = None if tuned is None else tuned(implicit_gemm.signature(wide), height, width)
    if known is not None and isinstance(known[0], GemmSchedule):
        return known[0], known[1]
    gpu = GPUS[arch]
    best = next(iter(implicit_gemm.candidates(wide, arch, height, width, limit=1)), None)
    if best is None:
        return None
    cycles = implicit_gemm.estimate(wide, best, arch, height, width)
    moved = (sum(wide.planes) + wide.add_planes) * 16 * wide.stride**2 * height * width
    moved += wide.conv.channels * 16 // wide.chunk * height * width
    return best, max(cycles / gpu.clock_hz, moved / gpu.bytes_per_second) + LAUNCH_SECONDS


def _one_stack(segment: Sequence[Unit], graph: GpuGraph) -> bool:
    """Whether the units may share a kernel: one frame size, a shuffle only at the end."""
    if not all(stackable(unit, graph) for unit in segment):
        return False
    if any(unit.shuffle > 1 for unit in segment[:-1]):
        return False
    return len({(graph.tensors[u.first.output].height, graph.tensors[u.first.output].width) for u in segment}) == 1


def _stack(
    segment: Sequence[Unit], graph: GpuGraph, readers: dict[str, list[Operation]], formats: dict[str, Format]
) -> Stack | None:
    """The units as a stack, or None where their inputs lie in a form that it does not read."""
    convs = [unit.first.conv for unit in segment if isinstance(unit.first, Convolution)]
    inside = {operation for unit in segment for operation in unit.operations}
    made = {conv.output for conv in convs}
    inputs: dict[str, Input] = {}
    for conv in convs:
        for name in (conv.source, conv.add):
            if name is not None and name not in made and name not in inputs:
                tensor = graph.tensors[name]
                inputs[name] = Input(name, tensor.channels, formats[name], tensor.zero_point)
    outputs: list[Output] = []
    for unit in segment:
        name = unit.output
        outside = name == graph.output or any(reader not in inside for reader in readers[name])
        if outside:
            outputs.append(Output(unit.first.output, formats[name], unit.shuffle))
    stack = Stack(graph.precision, tuple(inputs.values()), tuple(convs), tuple(outputs))
    for item in stack.inputs:
        taps = {conv.weights.shape[1] for conv in convs if conv.source == item.name}
        if item.format == "planar" and (len(taps) > 1 or item.channels * max(taps, default=1) > 2 * stack.chunk):
            return None
    return stack


def _price(stack: Stack, arch: str, height: int, width: int, tuned: Tuned | None) -> tuple[Schedule, float] | None:
    """The schedule to use and its seconds, or None if the stack does not fit."""
    known = None if tuned is None else tuned(signature(stack), height, width)
    if known is not None and isinstance(known[0], Schedule):
        return known[0], known[1]
    gpu = GPUS[arch]
    schedule = stack_search.best(stack, arch, height, width)
    if schedule is None:
        return None
    cycles = stack_search.estimate(stack, schedule, arch, height, width).cycles
    names = [item.name for item in stack.inputs] + [out.name for out in stack.outputs]
    moved = sum(stack.channels(name) for name in names)
    memory = moved * stack.element_bytes * height * width / gpu.bytes_per_second
    return schedule, max(cycles / gpu.clock_hz, memory) + LAUNCH_SECONDS


def _materialise(
    graph: GpuGraph, units: list[Unit], chosen: list[Segment], arch: str, seconds: float, tried: dict[str, Tried]
) -> GpuPlan:
    steps: list[Launch | Other] = []
    schedules: list[tuple[str, Schedule]] = []
    stored: dict[str, Stored] = {}
    gemms: dict[str, GemmSchedule] = {}
    formats = formats_of(graph)

    def store(name: str) -> str:
        tensor = graph.tensors[name]
        stored[name] = Stored(name, graph.precision, formats[name], tensor.channels, tensor.height, tensor.width)
        return name

    for segment in chosen:
        begin = segment.begin
        first = units[begin].first
        if isinstance(first, Other):
            for name in (*first.inputs, first.output):
                if name in graph.tensors:
                    store(name)
            steps.append(first)
        elif isinstance(first, Pointwise):
            steps.append(pointwise_launch(first, graph, tuple(map(store, first.inputs)), store(first.output)))
        elif segment.wide is not None and segment.gemm is not None:
            assert isinstance(first, Convolution)
            source, out = graph.tensors[first.conv.source], graph.tensors[first.output]
            key = implicit_gemm.signature(segment.wide)
            if key not in gemms:
                gemms[key] = first_gemm_without_spills(segment.wide, arch, out.height, out.width, segment.gemm)
            sizes = source.height, source.width, out.height, out.width
            inputs = tuple(map(store, first.inputs))
            steps.append(gemm_launch(segment.wide, gemms[key], sizes, inputs, store(units[begin].output)))
        else:
            stack = segment.stack
            assert stack is not None
            out = graph.tensors[first.output]
            key = signature(stack)
            schedule = tried[key][0]
            schedules.append((key, schedule))
            results = {unit.first.output: unit.output for unit in units[begin : segment.end]}
            inputs = tuple(store(item.name) for item in stack.inputs)
            outputs = tuple(store(results[item.name]) for item in stack.outputs)
            steps.append(stack_launch(stack, schedule, out.height, out.width, inputs, outputs))
    return GpuPlan(graph, stored, tuple(steps), seconds, tuple(schedules))
