"""What a cascade costs: the planner's estimate of cycles and DRAM bytes, coarse where it may be and cheap everywhere.

``hw/timing/model.py`` predicts a finished program exactly; this ranks thousands of candidates before there is one. What
a cascade asks of the engines (:class:`Demand`) does not depend on the DRAM, so it is priced for many at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.compile.scanline.layers import Conv, LayerGraph
from codesign.compile.scanline.plan.plan import Cascade
from codesign.hw import normalise
from codesign.hw.isa import NORM_BYTES
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, AccelSpec
from codesign.hw.timing.window import Pace, Window, pace_of

LATENCY_CYCLES = 100
"""DRAM latency that the planner assumes: it only weighs the start of a strip."""

DRAM_BYTE_MACS = 160
"""Multiply-accumulates that take as much energy as a byte from DRAM: 64 pJ (LPDDR4, 8 pJ per bit) over 0.4 pJ."""

ENERGY_WEIGHT = 0.5
"""How much DRAM energy counts against time: frames per second first, joules second."""

ROW_CYCLES, EAGER_ROW_CYCLES = 1, 24
"""What the array loses between two rows; eagerly, when a row follows the one it reads."""


@dataclass(frozen=True)
class Demand:
    """What one frame's pass through a cascade asks of each engine of a machine."""

    compute: float  # cycles
    busy: int  # of them, those in which the array issues a step
    load: float  # words; the load engine unpacks one a cycle
    store: float  # words
    dram_bytes: int
    weight_bytes: int
    waits: tuple[tuple[float, float], ...]
    """Bytes and words of what is moved while the array waits: the first rows in, the last ones out, strip by strip;
    and a normalisation's constants, with the cycles that it takes."""
    halo: float  # share of the computing that strips do twice
    read_words: int  # of the scratchpad
    write_words: int
    values: int  # requantised
    commands: int


def byte_cycles(spec: AccelSpec) -> float:
    """What the planner pays for a byte from DRAM, in cycles of a full array."""
    return ENERGY_WEIGHT * DRAM_BYTE_MACS / spec.macs_per_cycle


@dataclass(frozen=True)
class Cost:
    """Cycles by what they are spent on; engines overlap, so a cascade takes the longest of the three, and its start."""

    compute: float
    dram: float
    load: float
    store: float
    start: float  # until the array has its first rows, strip by strip, and the last rows' way out
    halo: float
    dram_bytes: int
    byte_cycles: float  # what a byte from DRAM is priced at

    @property
    def price(self) -> float:
        """What the planner minimises: time and DRAM energy, in cycles of a full array."""
        return self.cycles + self.dram_bytes * self.byte_cycles

    @property
    def cycles(self) -> float:
        return max(self.compute, self.dram, self.load, self.store) + self.start

    @property
    def limit(self) -> str:
        """What the cascade's speed is limited by."""
        parts = {"compute": self.compute, "DRAM": self.dram, "load engine": self.load, "store engine": self.store}
        return max(parts, key=lambda name: parts[name])


def estimate(spec: AccelSpec, graph: LayerGraph, cascade: Cascade, bytes_per_cycle: float) -> Cost:
    """The cost of one frame's pass through ``cascade`` with a DRAM of ``bytes_per_cycle``."""
    asked = demand(spec, graph, cascade)
    start = sum(max(moved / bytes_per_cycle, words) for moved, words in asked.waits)
    start += asked.weight_bytes / min(spec.bus_bytes, bytes_per_cycle) + 3 * LATENCY_CYCLES * len(cascade.strips)
    return Cost(
        compute=asked.compute,
        dram=asked.dram_bytes / bytes_per_cycle,
        load=asked.load,
        store=asked.store,
        start=start,
        halo=asked.halo,
        dram_bytes=asked.dram_bytes,
        byte_cycles=byte_cycles(spec),
    )


def demand(spec: AccelSpec, graph: LayerGraph, cascade: Cascade) -> Demand:
    """What one frame's pass through ``cascade`` asks of the engines of ``spec``."""
    compute = whole = 0.0
    busy = read = write = load = store = commands = 0
    moved = weights = _weight_bytes(spec, cascade)
    waits: list[tuple[float, float]] = []
    repeats = dict(cascade.loads)
    row_cycles = EAGER_ROW_CYCLES if cascade.eager and len(cascade.convs) > 1 else ROW_CYCLES
    for plan in cascade.convs:
        if plan.layer.norm is not None:
            records = plan.layer.channels * NORM_BYTES
            moved += records
            waits.append((records, plan.layer.channels * normalise.CYCLES))
    for strip in cascade.strips:
        for plan in cascade.convs:
            layer, mapping = plan.layer, plan.mapping
            rows = graph.tensors[layer.output].height
            width = strip.computed_width(layer.output)
            groups = -(-width // spec.pixel_lanes)
            compute += rows * (groups * plan.group_cycles + row_cycles)
            whole += (
                rows * graph.tensors[layer.output].width / spec.pixel_lanes * plan.group_cycles / len(cascade.strips)
            )
            busy += rows * groups * len(mapping.steps)
            # A segment of every fill is as wide as the lanes and the reach of the window, but for the row's ends.
            reach = spec.pixel_lanes if layer.stride == 2 else spec.segment_pixels
            read += rows * len(mapping.fills) * mapping.passes * groups * reach
            write += rows * width * mapping.output_words
            if layer.add is not None:
                read += rows * width * mapping.output_words
            if layer.windows is not None:
                moved += round(rows * width * look_up_pace(spec, graph, layer).beats) * spec.bus_bytes
        for buffer in cascade.buffers:
            if not buffer.loaded:
                continue
            tensor, width = graph.tensors[buffer.tensor], strip.width(buffer.tensor)
            row_bytes = width if buffer.conversion.unfold else width * tensor.channels
            moved += tensor.height * _up(row_bytes, spec.bus_bytes)
            load += tensor.height * width * buffer.groups
            rows = min(buffer.rows, tensor.height) * repeats[buffer.tensor]
            waits.append((rows * row_bytes, rows * width * buffer.groups))
        for kept in cascade.kept:
            tensor, count = graph.tensors[kept.tensor], strip.halos.get(kept.tensor, 0)
            first, end = strip.tails.get(kept.tensor, (0, 0))
            groups = -(-kept.channels // spec.ci_lanes)
            load += tensor.height * count * groups
            store += tensor.height * (end - first) * groups
            moved += tensor.height * (_up(count * kept.channels, spec.bus_bytes) if count else 0)
            moved += tensor.height * (_up((end - first) * kept.channels, spec.bus_bytes) if end > first else 0)
        for target in cascade.stores:
            tensor = graph.tensors[target.target]
            first, end = strip.stored[target.tensor]
            row_bytes = (end - first) * target.factor * tensor.channels
            moved += graph.tensors[target.tensor].height * target.factor * _up(row_bytes, spec.bus_bytes)
            words = (end - first) * target.factor * (-(-target.factor * tensor.channels // spec.ci_lanes))
            store += graph.tensors[target.tensor].height * words
            waits.append((row_bytes * target.factor, words))
        issued = len(cascade.buffers) + len(cascade.convs) + len(cascade.loads) + len(cascade.stores) + 4
        moved += issued * COMMAND_BYTES
        commands += issued + cascade.iterations * (issued - len(cascade.buffers))
    return Demand(
        compute=compute,
        busy=busy,
        load=load,
        store=store,
        dram_bytes=moved,
        weight_bytes=weights,
        waits=tuple(waits),
        halo=compute / whole - 1.0 if whole and len(cascade.strips) > 1 else 0.0,
        read_words=read + store,
        write_words=write + load,
        values=write * spec.ci_lanes,
        commands=commands,
    )


def look_up_pace(spec: AccelSpec, graph: LayerGraph, layer: Conv) -> Pace:
    """What the windows of a layer that looks them up take."""
    windows, frame = layer.windows, graph.tensors[layer.output]
    assert windows is not None
    maps = windows.map_height, windows.map_width
    window = Window(windows.radius, windows.level, *maps, frame.height, frame.width)
    return pace_of(spec, window, LATENCY_CYCLES)


def _weight_bytes(spec: AccelSpec, cascade: Cascade) -> int:
    return (
        cascade.weight_words * (spec.weight_word_bytes + STEP_BYTES)
        + cascade.fill_words * FILL_BYTES
        + cascade.parameter_words * spec.ci_lanes * PARAMETER_BYTES
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
