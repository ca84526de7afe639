"""The planner's estimate of a cascade's cycles and DRAM bytes, coarse where it may be and cheap everywhere.

``hw/timing/model.py`` predicts a finished program exactly; this ranks thousands of candidates before there is one. The
demand of a cascade on the engines (:class:`Demand`) does not depend on the DRAM, so it is priced for many at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.compile.scanline.kernels.kernel import LATENCY_CYCLES
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.plan.plan import Cascade, RowOrder, Strip
from codesign.hw.numerics import ceil_div, round_up
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, AccelSpec

DRAM_BYTE_MACS = 160
"""Multiply-accumulates that take as much energy as a byte from DRAM: 64 pJ (LPDDR4, 8 pJ per bit) over 0.4 pJ."""

ENERGY_WEIGHT = 0.5
"""Weight of DRAM energy against time: frames per second first, joules second."""

ROW_CYCLES, EAGER_ROW_CYCLES = 1, 24
"""Cycles that the array loses between two rows; more eagerly, where a row follows the one that it reads."""


@dataclass(frozen=True)
class Demand:
    """Work of each engine of a machine for one frame's pass through a cascade."""

    compute: float  # cycles
    busy: int  # of them, those in which the array issues a step
    load: float  # words; the load engine unpacks one a cycle
    store: float  # words
    dram_bytes: int
    weight_bytes: int
    waits: tuple[tuple[float, float], ...]
    """Bytes and words moved while the array waits: the first rows in, the last ones out, strip by strip; and
    bytes and cycles that layers take before their first row."""
    halo: float  # share of the computing that strips do twice
    read_words: int  # of the scratchpad
    write_words: int
    values: int  # requantised
    commands: int


def byte_cycles(spec: AccelSpec) -> float:
    """The planner's price of a byte from DRAM, in cycles of a full array."""
    return ENERGY_WEIGHT * DRAM_BYTE_MACS / spec.macs_per_cycle


@dataclass(frozen=True)
class Cost:
    """Cycles of each engine; they overlap, so a cascade takes as long as the slowest, and its start."""

    compute: float
    dram: float
    load: float
    store: float
    start: float  # until the array has its first rows, strip by strip, and the last rows' way out
    halo: float
    dram_bytes: int
    byte_cycles: float  # price of a byte from DRAM

    @property
    def price(self) -> float:
        """The planner's goal, to be minimised: time and DRAM energy, in cycles of a full array."""
        return self.cycles + self.dram_bytes * self.byte_cycles

    @property
    def cycles(self) -> float:
        return max(self.compute, self.dram, self.load, self.store) + self.start

    @property
    def limit(self) -> str:
        """The engine that limits the cascade's speed."""
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
    """Work of the engines of ``spec`` for one frame's pass through ``cascade``."""
    total = _Sum(spec, graph, cascade)
    weights = _weight_bytes(spec, cascade)
    total.moved += weights
    for plan in cascade.layers:
        setup = plan.layer.kernel.setup
        total.moved += round(setup[0])
        total.waits.append(setup)
    for strip in cascade.strips:
        total.compute_strip(strip)
        total.load_strip(strip)
        total.keep_halos(strip)
        total.store_strip(strip)
        total.issue()
    return Demand(
        compute=total.compute,
        busy=total.busy,
        load=total.load,
        store=total.store,
        dram_bytes=total.moved,
        weight_bytes=weights,
        waits=tuple(total.waits),
        halo=total.compute / total.whole - 1.0 if total.whole and len(cascade.strips) > 1 else 0.0,
        read_words=total.read + total.store,
        write_words=total.write + total.load,
        values=total.write * spec.ci_lanes,
        commands=total.commands,
    )


class _Sum:
    """The demand of a cascade, added up strip by strip."""

    def __init__(self, spec: AccelSpec, graph: LayerGraph, cascade: Cascade) -> None:
        self.spec, self.graph, self.cascade = spec, graph, cascade
        self.compute = self.whole = 0.0
        self.busy = self.read = self.write = self.load = self.store = self.commands = self.moved = 0
        self.waits: list[tuple[float, float]] = []

    def compute_strip(self, strip: Strip) -> None:
        spec, cascade = self.spec, self.cascade
        waits = cascade.order is RowOrder.EAGER and len(cascade.layers) > 1
        for plan in cascade.layers:
            layer, mapping = plan.layer, plan.mapping
            output = self.graph.tensors[layer.output]
            rows, width = output.height, strip.computed_width(layer.output)
            groups = ceil_div(width, spec.pixel_lanes)
            self.compute += rows * (groups * plan.group_cycles + (EAGER_ROW_CYCLES if waits else ROW_CYCLES))
            self.whole += rows * output.width / spec.pixel_lanes * plan.group_cycles / len(cascade.strips)
            self.busy += rows * groups * len(mapping.steps)
            # A segment of every fill is as wide as the lanes and the reach of the window, but for the row's ends.
            reach = spec.pixel_lanes if layer.kernel.footprint.stride == 2 else spec.segment_pixels
            self.read += rows * len(mapping.fills) * mapping.passes * groups * reach
            self.write += rows * width * mapping.output_words
            if layer.operand is not None:
                self.read += rows * width * mapping.output_words
            self.moved += round(rows * width * layer.kernel.beats_per_pixel(spec, output)) * spec.bus_bytes

    def load_strip(self, strip: Strip) -> None:
        repeats = dict(self.cascade.loads)
        for buffer in self.cascade.buffers:
            if not buffer.loaded:
                continue
            tensor, width = self.graph.tensors[buffer.tensor], strip.width(buffer.tensor)
            row_bytes = width if buffer.conversion.unfold else width * tensor.channels
            self.moved += tensor.height * round_up(row_bytes, self.spec.bus_bytes)
            self.load += tensor.height * width * buffer.groups
            rows = min(buffer.rows, tensor.height) * repeats[buffer.tensor]
            self.waits.append((rows * row_bytes, rows * width * buffer.groups))

    def keep_halos(self, strip: Strip) -> None:
        for kept in self.cascade.kept:
            height, count = self.graph.tensors[kept.tensor].height, strip.halos.get(kept.tensor, 0)
            first, end = strip.tails.get(kept.tensor, (0, 0))
            groups = ceil_div(kept.channels, self.spec.ci_lanes)
            self.load += height * count * groups
            self.store += height * (end - first) * groups
            for columns in (count, end - first):
                self.moved += height * round_up(columns * kept.channels, self.spec.bus_bytes)

    def store_strip(self, strip: Strip) -> None:
        for target in self.cascade.stores:
            channels, height = self.graph.tensors[target.target].channels, self.graph.tensors[target.tensor].height
            first, end = strip.stored[target.tensor]
            row_bytes = (end - first) * target.factor * channels
            words = (end - first) * target.factor * ceil_div(target.factor * channels, self.spec.ci_lanes)
            self.moved += height * target.factor * round_up(row_bytes, self.spec.bus_bytes)
            self.store += height * words
            self.waits.append((row_bytes * target.factor, words))

    def issue(self) -> None:
        """Commands of a strip, and those that its loop repeats."""
        cascade = self.cascade
        issued = len(cascade.buffers) + len(cascade.layers) + len(cascade.loads) + len(cascade.stores) + 4
        self.moved += issued * COMMAND_BYTES
        self.commands += issued + cascade.iterations * (issued - len(cascade.buffers))


def _weight_bytes(spec: AccelSpec, cascade: Cascade) -> int:
    return (
        cascade.weight_words * (spec.weight_word_bytes + STEP_BYTES)
        + cascade.fill_words * FILL_BYTES
        + cascade.parameter_words * spec.ci_lanes * PARAMETER_BYTES
    )
