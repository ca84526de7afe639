"""Counters of one run of the machine; the RTL's registers and the cycle model fill the same record."""

from __future__ import annotations

from dataclasses import dataclass

STALL_CAUSES = ("load", "store", "weights", "requantise", "control", "fill", "drain", "sample", "normalise")
"""Causes for which the MAC array did not issue in a cycle. With ``busy`` these partition ``cycles``."""


@dataclass(frozen=True)
class Counters:
    """Events of one frame, from the accepted start write to done. Bytes are bus beats x bus width."""

    cycles: int
    busy_cycles: int
    """Cycles in which the array issued a step."""
    load_stall_cycles: int
    store_stall_cycles: int
    weights_stall_cycles: int
    requantise_stall_cycles: int
    control_stall_cycles: int
    fill_stall_cycles: int
    drain_stall_cycles: int
    macs_issued: int
    """Busy cycles x MACs of the array."""
    dram_command_read_bytes: int
    dram_weight_read_bytes: int
    dram_load_read_bytes: int
    dram_write_bytes: int
    scratchpad_read_words: int
    """Bank words (``ci_lanes`` bytes each) read from the scratchpad."""
    scratchpad_write_words: int
    weight_read_words: int
    """Weight words (``ci_lanes x co_lanes`` bytes each) read."""
    requantised_values: int
    commands: int
    sample_stall_cycles: int = 0
    """Cycles in which a row was sampled instead of convolved."""
    normalise_stall_cycles: int = 0
    """Cycles in which the pixels of a row were normalised over their channels."""
    dram_gather_read_bytes: int = 0
    gathered_reads: int = 0
    """Rows of samples (one or two pixels) that were not on chip."""

    @property
    def dram_read_bytes(self) -> int:
        streams = (self.dram_command_read_bytes, self.dram_weight_read_bytes, self.dram_load_read_bytes)
        return sum(streams) + self.dram_gather_read_bytes

    @property
    def stalls(self) -> dict[str, int]:
        """Cycles by cause; with ``busy_cycles`` they add up to ``cycles``."""
        return {cause: int(getattr(self, f"{cause}_stall_cycles")) for cause in STALL_CAUSES}


@dataclass(frozen=True)
class LayerCounters:
    """One layer's share of a frame's events. Spans of a cascade's layers overlap: they take turns on the array.

    A step reads one weight word, so ``busy_cycles`` counts those too.
    """

    name: str
    begin_cycle: int
    """Cycle in which the array began the layer's first row, counted from the accepted start write."""
    end_cycle: int
    busy_cycles: int
    scratchpad_read_words: int
    scratchpad_write_words: int
    requantised_values: int
