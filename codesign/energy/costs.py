"""Energy of one event of Scanline: joules per count of every counter, by component, with the records used.

Every number is a record or a size from the specification. Dynamic energy scales with the supply squared, from the
supply of its record. Events without a counter of their own (parameters, activation tables, commands, fills) are within
the share of control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from codesign.energy.area import ARRAY_AREA, array_side_mm
from codesign.energy.interval import Interval
from codesign.energy.memory import macro_energy
from codesign.energy.records import constant, find_record, nodes, records
from codesign.hw.counters import STALL_CAUSES
from codesign.hw.errors import InputError
from codesign.hw.spec import STEP_BYTES, AccelSpec

WEIGHT_MACRO_BYTES = 8
"""Width of the weight memory's macros, placed side by side: that of the SRAM records' small ports."""

CLOCK_AND_CONTROL = {"control": "control_share", "clock tree": "clock_tree_share"}
"""Components that are shares of all dynamic energy, and their records."""


class Engine(StrEnum):
    """The part of the machine that spends the energy."""

    COMPUTE = "compute"
    LOAD = "load"
    STORE = "store"
    SHARED = "shared"


class Level(StrEnum):
    """Level of the memory hierarchy, or none."""

    LOGIC = "logic"
    REGISTERS = "registers"
    SCRATCHPAD = "scratchpad"
    WEIGHTS = "weight memory"
    DRAM = "DRAM"
    ALL = "all"


@dataclass(frozen=True)
class Cost:
    """Joules per count of ``counter`` (a field of :class:`codesign.hw.counters.Counters`) in one component."""

    component: str
    counter: str
    joules: Interval
    records: tuple[str, ...]
    engine: Engine
    level: Level


@dataclass(frozen=True)
class Operation:
    """Conditions of an account: node, supply, operand width, temperature.

    ``volts`` None: every record at its own supply. ``celsius``: 85 for silicon at work, or 25 as in publications.
    """

    node: str = "28nm"
    volts: float | None = None
    operand_bits: int = 8
    celsius: int = 85

    def __post_init__(self) -> None:
        if self.node not in nodes():
            raise InputError(
                f"no energy records at {self.node}", where="energy", hint=f"Choose one of {', '.join(nodes())}."
            )
        if self.operand_bits not in (8, 16):
            raise InputError(f"operands of {self.operand_bits} bits", where="energy", hint="Choose 8 or 16.")
        if self.celsius not in (25, 85):
            raise InputError(f"silicon at {self.celsius} C", where="energy", hint="Choose 25 or 85.")
        if self.volts is not None and not 0.3 <= self.volts <= 5.0:
            raise InputError(f"a supply of {self.volts} V", where="energy", hint="Choose 0.3 to 5 V.")

    def scale(self, record_volts: float) -> float:
        """Factor of dynamic energy from the record's supply to this one."""
        return 1.0 if self.volts is None else (self.volts / record_volts) ** 2

    def joules(self, name: str, unit: str = "J") -> Interval:
        """Energy of a record at this supply."""
        return constant(name, unit) * self.scale(find_record(name).voltage)

    def macro(self, capacity_bytes: int) -> tuple[Interval, tuple[str, ...]]:
        """Joules per byte read from an SRAM macro, and the records."""
        found = macro_energy(capacity_bytes, self.node)
        return found.joules * self.scale(found.voltage), found.records


def ratio(name: str) -> Interval:
    """A dimensionless record."""
    return constant(name, "dimensionless")


def dynamic_costs(spec: AccelSpec, at: Operation) -> tuple[Cost, ...]:
    """Costs of all events on the chip, without control and clock. Raises :class:`InputError`."""
    node = at.node
    bit, requantise = f"register_bit_{node}", f"requantise_{node}"
    width = f"int{at.operand_bits}"
    byte_multiply = f"int8_multiply_{node}"
    multiply, add, accumulate = f"{width}_multiply_{node}", f"sum_{width}_{node}", f"accumulate_{width}_{node}"
    for name in (multiply, add, accumulate, bit, requantise):
        if name not in records():
            raise InputError(f"no energy record {name!r}", where="energy", hint="Add it with its source.")
    bank_j, bank_records = at.macro(spec.scratchpad_bytes // spec.banks)
    macro_j, macro_records = at.macro(spec.weight_words * WEIGHT_MACRO_BYTES)
    write = ratio("sram_write_factor")
    word_bytes = spec.weight_word_bytes + STEP_BYTES  # a step word comes with every weight word

    def registers(component: str, counter: str, bits: float, toggle: str, engine: Engine = Engine.COMPUTE) -> Cost:
        joules = at.joules(bit) * ratio(toggle) * bits
        return Cost(component, counter, joules, (bit, toggle), engine, Level.REGISTERS)

    def queue(counter: str, engine: Engine) -> Cost:
        # Written once and read once, with the activity of activations.
        return registers(f"{engine} queue", counter, 2 * 8, "toggle_activations", engine)

    operands = 8 * spec.pixel_lanes * spec.ci_lanes * spec.lane_groups
    psums = 32 * spec.pixel_lanes * spec.co_lanes
    # An operand is wired to the outputs of its lane group, a weight to all pixels: the array's side, or a part of it.
    crossing = operands / spec.lane_groups + 8.0 * spec.weight_word_bytes
    wires = at.joules("wire_bit_mm", "J/mm") * array_side_mm(spec, node) * crossing
    compute, load, store, shared = Engine.COMPUTE, Engine.LOAD, Engine.STORE, Engine.SHARED
    return (
        Cost(
            "MAC data path",
            "macs_issued",
            at.joules(multiply) * ratio("multiply_activity"),
            (multiply, "multiply_activity"),
            compute,
            Level.LOGIC,
        ),
        Cost(
            "MAC data path",
            "macs_issued",
            at.joules(add) * ratio("sum_activity") * (1.0 - 1.0 / spec.ci_lanes),
            (add, "sum_activity"),
            compute,
            Level.LOGIC,
        ),
        Cost(
            "MAC data path",
            "macs_issued",
            at.joules(accumulate) * ratio("accumulate_activity") / spec.ci_lanes,
            (accumulate, "accumulate_activity"),
            compute,
            Level.LOGIC,
        ),
        Cost(
            "operand selection",
            "busy_cycles",
            at.joules(byte_multiply) * ratio("selection_over_multiply") * (operands / 8.0),
            (byte_multiply, "selection_over_multiply"),
            compute,
            Level.LOGIC,
        ),
        registers("array registers", "busy_cycles", operands, "toggle_activations"),
        registers("array registers", "busy_cycles", 8 * spec.weight_word_bytes, "toggle_weights"),
        registers("array registers", "busy_cycles", psums, "toggle_psums"),
        registers("array registers", "requantised_values", 32, "toggle_psums"),
        registers("window registers", "scratchpad_read_words", 8 * spec.ci_lanes, "toggle_activations"),
        Cost(
            "operand wires",
            "busy_cycles",
            wires,
            ("wire_bit_mm", *ARRAY_AREA, f"gate_area_{node}"),
            compute,
            Level.LOGIC,
        ),
        Cost(
            "scratchpad reads", "scratchpad_read_words", bank_j * spec.ci_lanes, bank_records, shared, Level.SCRATCHPAD
        ),
        Cost(
            "scratchpad writes",
            "scratchpad_write_words",
            bank_j * write * spec.ci_lanes,
            (*bank_records, "sram_write_factor"),
            shared,
            Level.SCRATCHPAD,
        ),
        Cost("weight memory", "weight_read_words", macro_j * word_bytes, macro_records, compute, Level.WEIGHTS),
        Cost(
            "weight loading",
            "dram_weight_read_bytes",
            macro_j * write,
            (*macro_records, "sram_write_factor"),
            load,
            Level.WEIGHTS,
        ),
        Cost("requantisation", "requantised_values", at.joules(requantise), (requantise,), compute, Level.LOGIC),
        *_beside(spec, at),
        queue("dram_load_read_bytes", load),
        queue("dram_gather_read_bytes", load),
        queue("dram_weight_read_bytes", load),
        queue("dram_write_bytes", store),
    )


def _beside(spec: AccelSpec, at: Operation) -> Iterator[Cost]:
    """Costs of the units that make rows beside the array, per cycle of theirs."""
    multiply = f"int16_multiply_{at.node}"
    for cause in STALL_CAUSES:
        for lanes, count in (("channel", spec.ci_lanes), ("lane", spec.requantise_lanes)):
            products = f"{cause}_products_per_{lanes}"
            if products in records():
                joules = at.joules(multiply) * ratio(products) * float(count)
                name, used = f"{cause.removesuffix('e')}ing", (multiply, products)
                yield Cost(name, f"{cause}_stall_cycles", joules, used, Engine.COMPUTE, Level.LOGIC)


def share_costs(costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
    """Costs of control and clock tree: for each of ``costs`` the same events and a share of its joules."""
    return tuple(
        Cost(component, cost.counter, cost.joules * ratio(share), (share, *cost.records), Engine.SHARED, Level.ALL)
        for component, share in CLOCK_AND_CONTROL.items()
        for cost in costs
    )
