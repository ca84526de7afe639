"""Faults in the RTL: signals that are held at wrong values while a program runs, and the assertions that notice.

A fault holds a signal of the design that an assertion guards, never the assertion's own. It is found when the assertion
fails; the machine may do anything behind it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import SimulationError
from codesign.hw.program.program import Program
from codesign.hw.spec import TINY, Unit
from codesign.sim.build import Variant, rtl_sources
from codesign.sim.model import Dram, Failure, Model

_SIZES = dict.fromkeys((unit.value for unit in Unit), 1) | {
    "warp_reach": 2,
    "window_beats": 16,
    "statistic_channels": 36,
    "parameter_channels": 132,
}
MACHINE = dataclasses.replace(TINY, name="faults", **_SIZES)
"""The smallest machine with every unit."""

SIGNALS = """
stream_fifo: ready_o valid_o count_q tail_q
row_marks: read_data_o
buffer_table: next_loaded next_computed destination_view_o load_view_o
scratchpad: conv_grant_o load_grant_o
read_arbiter: ready_o ar_valid_o who data_valid_o ar_len_o ar_addr_o order_valid
sequencer: state_q depth_q requested_q arrived_q pc_q load_valid_o conv_valid_o store_valid_o conv_cmd_o load_cmd_o
sequencer: store_cmd_o read_o sync_o halted_o illegal ram_read set_o set_config_o
load_engine: state_q credits_q read_o job_q write_o element_o next_q fifo_pop left_q rel_q element_q x_q fifo_ready
load_engine: claim_o done_o ends
conv_front: state_q which_q row_q segment_o fill_q pass_q group_q word_valid_q free_o claim_o top_q unit_row_o
conv_front: cmd_q
conv_array: spoken_q landed_q oldest_q issue step_q group_q row_q correlate_q
requantiser: psum_held_q add_count_q add_pending_q add_tail_q word_q group_q cog_word_q parameter_addr_o
requantiser: parameter_valid_q psum_free_o free_source_o issue segment_o write_o done_o active_q
layer_norm: segment_o asked_word asked_group sum_count_q out_count_q sum_pending_q out_pending_q claimed_q figured_q
layer_norm: summing_q chunk_o made_group_q sum_group_q doublings count made_valid_q asks_out asked_q row_q free_o
layer_norm: sum_bank_q out_bank_q rows_q sum_rows_q out_rows_q ready_o busy_o
sampler: state_q place_q read_o segment_o pixel_q word_q group_q set_q psum_o
window_walker: state_q credits_q segment_o read_o pixel_q window_row_q first_column_q group_q past_q
window: beat_take set_q psum_o window_row_q first_column_q pixel_q group_q row_valid_q beat_ready issue
row_units: samples windows norms is_window stream_reading_o
conv_engine: segment_o add_grant front_grant array_rows row_ready row_beside row_streamed unit_start front_free
conv_engine: stream_free
store_engine: state_q burst_o beat_o aw_next_q len_ready beat_push sent_q outstanding_q pos_q fetch_q group_q x_q sub_q
store_engine: claim_o free_to_o count_o batch_groups_q beat_ready segment_o
normaliser: state_q step_q root_q rest_q index_o read_o read_addr_o ready_o
control_registers: bvalid_o rvalid_o rdata_o bresp_o start_o clear_o awready_o wready_o arready_o
counters: event_now counters_o
top: cause_q busy_q finished weights_loaded_q stored_element read_idle engines_idle
"""
"""Signals of the design that faults hold, by module."""


def variant() -> Variant:
    """The build whose signals can be held."""
    lines = (line.split(":") for line in SIGNALS.strip().splitlines())
    return Variant(forced=tuple((f"scanline_{module}", name) for module, names in lines for name in names.split()))


@dataclass(frozen=True)
class Fault:
    """Bits [``first``, ``first + bits``) of a signal hold ``value`` for ``cycles`` cycles, from ``begin`` on."""

    instance: str
    signal: str
    first: int
    bits: int
    value: int
    begin: int
    cycles: int


@dataclass(frozen=True)
class Assertion:
    """An assertion of the RTL: its module, its name, and the names in what it demands."""

    module: str
    name: str
    words: frozenset[str]


def assertions() -> tuple[Assertion, ...]:
    """All assertions, as the RTL's text has them; a handshake is two."""
    found = []
    for path in rtl_sources():
        for kind, name, rest in _ASSERTION.findall(path.read_text()):
            words = frozenset(re.findall(r"[a-z]\w+", rest))
            names = (name,) if kind == "ASSERT" else (f"{name}Stays", f"{name}Same")
            found += [Assertion(path.stem, one, words) for one in names]
    return tuple(found)


_ASSERTION = re.compile(r"`SCANLINE_(ASSERT|HANDSHAKE)\((\w+), (.*(?:\n {8,}.*)?)")
_INSTANCE = re.compile(r"(scanline_\w+) (?:#\([^;]*?\) )?(u_\w+) \(")


@cache
def modules() -> Mapping[str, str]:
    """The module of every instance, by the last part of its path."""
    found = {"scanline_top": "scanline_top"}
    for path in rtl_sources():
        found |= {instance: module for module, instance in _INSTANCE.findall(path.read_text())}
    return found


def module_of(instance: str) -> str:
    """The module that an instance, given by its path, is one of."""
    return modules()[instance.rsplit(".", 1)[-1]]


def noticed(
    program: Program, memory: NDArray[np.uint8], fault: Fault | None, *, after: int, dram: Dram | None = None
) -> tuple[Failure, ...]:
    """The assertions that fail in a run on ``memory: uint8[memory_bytes]``, in order; cycles count from its start.

    The run is left ``after`` cycles behind the fault.
    """
    with Model(MACHINE, program.memory_bytes, dram=dram, variant=variant(), tolerant=True) as model:
        model.load(program)
        model.memory[:] = memory
        started = model.cycle
        model.start()
        if fault is not None:
            _advance(model, fault.begin)
            model.force(fault.instance, fault.signal, fault.value, first=fault.first, bits=fault.bits)
            _access_registers(model)
            _advance(model, fault.cycles)
            model.release(fault.instance, fault.signal)
        _advance(model, after)
        return tuple(dataclasses.replace(one, cycle=one.cycle - started) for one in model.failures())


def _access_registers(model: Model) -> None:
    """A write and a read, whether they are answered or not: some faults are seen there alone."""
    with contextlib.suppress(SimulationError):
        model.write_register("interrupt_enable", 1)
    with contextlib.suppress(SimulationError):
        model.read_register("status")


def _advance(model: Model, cycles: int) -> None:
    """Runs on, over assertions that fail, until the machine is done or the cycles are over."""
    end = model.cycle + cycles
    while model.cycle < end and not model.run(end - model.cycle):
        pass
