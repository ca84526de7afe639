"""What a cascade costs: the planner's estimate of cycles and DRAM bytes, coarse where it may be and cheap everywhere.

``hw/timing.py`` predicts a finished program exactly; this ranks thousands of candidates before there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from codesign.compile.layers import LayerGraph
from codesign.compile.plan import Cascade
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, AccelSpec

LATENCY_CYCLES = 100
"""DRAM latency that the planner assumes: it only weighs the start of a strip."""

DRAM_BYTE_MACS = 160
"""Multiply-accumulates that take as much energy as a byte from DRAM: 64 pJ (LPDDR4, 8 pJ per bit) over 0.4 pJ."""

ENERGY_WEIGHT = 0.5
"""How much DRAM energy counts against time: frames per second first, joules second."""

ROW_CYCLES, EAGER_ROW_CYCLES = 1, 24
"""What the array loses between two rows; eagerly, when a row follows the one it reads."""


@dataclass(frozen=True)
class Cost:
    """Cycles by what they are spent on; engines overlap, so a cascade takes the longest of the three, and its start."""

    compute: float
    dram: float
    load: float  # the load engine unpacks a word a cycle
    store: float
    start: float  # until the array has its first rows, strip by strip, and the last rows' way out
    halo: float  # share of the computing that strips do twice
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


def drain_cycles(spec: AccelSpec, words: int) -> int:
    """Cycles of the requantiser for ``words`` channel groups of one pixel group."""
    return words * (spec.pixel_lanes // spec.requantise_pixels)


def estimate(spec: AccelSpec, graph: LayerGraph, cascade: Cascade, bytes_per_cycle: float) -> Cost:
    """The cost of one frame's pass through ``cascade`` with a DRAM of ``bytes_per_cycle``."""
    compute = whole = load_words = store_words = start = 0.0
    moved = _weight_bytes(spec, cascade)
    weight_cycles = moved / min(spec.bus_bytes, bytes_per_cycle)
    repeats = dict(cascade.loads)
    row_cycles = EAGER_ROW_CYCLES if cascade.eager and len(cascade.convs) > 1 else ROW_CYCLES
    for number, strip in enumerate(cascade.strips):
        for plan in cascade.convs:
            layer, mapping = plan.layer, plan.mapping
            rows = graph.tensors[layer.output].height
            group = max(
                len(mapping.steps), len(mapping.fills) * mapping.passes, drain_cycles(spec, mapping.output_words)
            )
            width = strip.computed_width(layer.output)
            compute += rows * (-(-width // spec.pixel_lanes) * group + row_cycles)
            whole += rows * graph.tensors[layer.output].width / spec.pixel_lanes * group / len(cascade.strips)
        first_rows = 0.0
        for buffer in cascade.buffers:
            if not buffer.loaded:
                continue
            tensor, width = graph.tensors[buffer.tensor], strip.width(buffer.tensor)
            row_bytes = width if buffer.conversion.unfold else width * tensor.channels
            moved += tensor.height * _up(row_bytes, spec.bus_bytes)
            load_words += tensor.height * width * buffer.groups
            rows = min(buffer.rows, tensor.height) * repeats[buffer.tensor]
            first_rows += rows * max(row_bytes / bytes_per_cycle, width * buffer.groups)
        for kept in cascade.kept:
            tensor, count = graph.tensors[kept.tensor], strip.halos.get(kept.tensor, 0)
            first, end = strip.tails.get(kept.tensor, (0, 0))
            groups = -(-kept.channels // spec.ci_lanes)
            load_words += tensor.height * count * groups
            store_words += tensor.height * (end - first) * groups
            moved += tensor.height * (_up(count * kept.channels, spec.bus_bytes) if count else 0)
            moved += tensor.height * (_up((end - first) * kept.channels, spec.bus_bytes) if end > first else 0)
        last_row = 0.0
        for store in cascade.stores:
            target = graph.tensors[store.target]
            first, end = strip.stored[store.tensor]
            row_bytes = (end - first) * store.factor * target.channels
            moved += graph.tensors[store.tensor].height * store.factor * _up(row_bytes, spec.bus_bytes)
            words = (end - first) * store.factor * (-(-store.factor * target.channels // spec.ci_lanes))
            store_words += graph.tensors[store.tensor].height * words
            last_row += max(row_bytes * store.factor / bytes_per_cycle, words)
        start += first_rows + last_row + 3 * LATENCY_CYCLES + (weight_cycles if number == 0 else 0.0)
        commands = len(cascade.buffers) + len(cascade.convs) + len(cascade.loads) + len(cascade.stores) + 4
        moved += commands * COMMAND_BYTES
    return Cost(
        compute=compute,
        dram=moved / bytes_per_cycle,
        load=load_words,
        store=store_words,
        start=start,
        halo=compute / whole - 1.0 if whole and len(cascade.strips) > 1 else 0.0,
        dram_bytes=int(moved),
        byte_cycles=ENERGY_WEIGHT * DRAM_BYTE_MACS / spec.macs_per_cycle,
    )


def _weight_bytes(spec: AccelSpec, cascade: Cascade) -> int:
    return (
        cascade.weight_words * (spec.weight_word_bytes + STEP_BYTES)
        + cascade.fill_words * FILL_BYTES
        + cascade.parameter_words * spec.ci_lanes * PARAMETER_BYTES
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
