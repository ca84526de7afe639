"""Registers and counters of the AXI4-Lite port."""

from __future__ import annotations

from codesign.hw.counters import STALL_CAUSES

REGISTERS: dict[str, int] = {
    "identity": 0x00,  # reads "SCAN"
    "control": 0x04,  # write bit 0: start; bit 1: clear error and counters
    "status": 0x08,  # bit 0 busy, bit 1 done, bit 2 error
    "error_cause": 0x0C,
    "error_address": 0x10,
    "interrupt_enable": 0x14,
    "interrupt": 0x18,  # write 1 to clear
    "memory_base_low": 0x20,
    "memory_base_high": 0x24,
    "memory_bytes": 0x28,
    "command_address": 0x2C,
    "command_count": 0x30,
    "write_first": 0x34,  # writes must lie in [write_first, write_end)
    "write_end": 0x38,
}
"""Byte offsets. Counters are 64 bits, low word first."""

COUNTER_NAMES = (
    "cycles",
    "busy_cycles",
    *(f"{cause}_stall_cycles" for cause in STALL_CAUSES),
    "dram_command_read_beats",
    "dram_weight_read_beats",
    "dram_load_read_beats",
    "dram_gather_read_beats",
    "gathered_reads",
    "dram_write_beats",
    "scratchpad_read_words",
    "scratchpad_write_words",
    "requantised_values",
    "commands",
)
COUNTERS_BASE = 0x80


def counter_address(name: str) -> int:
    """Byte offset of a counter's low word."""
    return COUNTERS_BASE + 8 * COUNTER_NAMES.index(name)
