"""Rules that a specification keeps, each with the sentence that a user reads when it is broken."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from codesign.hw.errors import SpecError

if TYPE_CHECKING:
    from codesign.hw.spec import AccelSpec

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""A machine's name: it becomes part of file names in the cache, so it can lead nowhere else."""

MAX_CLOCK_HZ = 1e15

MAX_LANES = 4096
"""Lanes in a direction: more than any chip has, few enough to plan for."""


def check(spec: AccelSpec) -> None:
    """Raises :class:`SpecError` for the first rule that ``spec`` breaks."""
    for rules in (_numbers, _lanes, _memories, _units):
        for holds, text in rules(spec):
            if not holds:
                raise SpecError(text, where=f"accelerator {str(spec.name)[:80]!r}", hint="Correct the specification.")


Rules = Iterator[tuple[bool, str]]


def _numbers(spec: AccelSpec) -> Rules:
    """Rules for single fields: types, powers of two, the largest."""
    yield (
        isinstance(spec.name, str) and NAME.fullmatch(spec.name) is not None,
        "a name has 1 to 64 letters, digits, '_', '.' or '-'",
    )
    yield (
        isinstance(spec.clock_hz, (int, float)) and 0 < spec.clock_hz <= MAX_CLOCK_HZ,
        "clock_hz must be positive, and at most 1e15",
    )
    for one in dataclasses.fields(spec):
        value = getattr(spec, one.name)
        yield (
            one.name in ("name", "clock_hz") or (type(value) is int and abs(value) < 2**31),
            f"{one.name} must be a whole number below 2^31",
        )
    for field in (
        "pixel_lanes",
        "ci_lanes",
        "co_lanes",
        "requantise_lanes",
        "bus_bytes",
        "buffers",
        "command_slots",
        "load_fifo_beats",
        "store_fifo_beats",
        "queue_depth",
        "tables",
        "weight_words",
        "fill_words",
    ):
        value = getattr(spec, field)
        yield (
            value >= 1 and value & (value - 1) == 0,
            f"{field} must be a power of two, not {value!r}",
        )
    for field in ("pixel_lanes", "co_lanes", "requantise_lanes", "queue_depth"):
        yield (getattr(spec, field) <= MAX_LANES, f"{field} exceeds {MAX_LANES}")


def _lanes(spec: AccelSpec) -> Rules:
    """Rules for the array's lanes, and what they have to do with bus and requantiser."""
    yield (spec.channel_parts in (1, 2), f"channel_parts must be 1 or 2, not {spec.channel_parts}")
    yield (spec.lane_groups in (1, 2, 4), f"lane_groups must be 1, 2 or 4, not {spec.lane_groups}")
    yield (
        spec.ci_lanes >= 2 * spec.channel_parts or spec.channel_parts == 1,
        f"ci_lanes {spec.ci_lanes} cannot be split in {spec.channel_parts} parts",
    )
    yield (spec.co_lanes >= spec.ci_lanes, f"co_lanes {spec.co_lanes} is less than ci_lanes {spec.ci_lanes}")
    yield (
        spec.co_lanes % spec.lane_groups == 0,
        f"co_lanes {spec.co_lanes} is not a multiple of lane_groups {spec.lane_groups}",
    )
    yield (spec.ci_lanes <= 16, f"ci_lanes {spec.ci_lanes} exceeds 16")
    yield (
        spec.ci_lanes <= spec.bus_bytes,
        f"ci_lanes {spec.ci_lanes} exceeds the bus width {spec.bus_bytes}: a word must fit a beat",
    )
    yield (spec.bus_bytes in (8, 16, 32), f"bus_bytes must be 8, 16 or 32, not {spec.bus_bytes}")
    yield (
        (spec.ci_lanes * spec.co_lanes) % spec.bus_bytes == 0,
        f"a weight word of {spec.ci_lanes * spec.co_lanes} bytes is not whole {spec.bus_bytes}-byte beats",
    )
    yield (
        spec.ci_lanes <= spec.requantise_lanes <= spec.ci_lanes * spec.pixel_lanes,
        f"requantise_lanes {spec.requantise_lanes} must lie in {spec.ci_lanes}..{spec.ci_lanes * spec.pixel_lanes}",
    )


def _memories(spec: AccelSpec) -> Rules:
    """Rules for memories and buffers."""
    yield (spec.window_slots == 8, f"window_slots must be 8 (3-bit selectors), not {spec.window_slots}")
    yield (0 <= spec.window_reach <= 7, f"window_reach must be 0..7, not {spec.window_reach}")
    yield (
        spec.scratchpad_bytes % (spec.banks * spec.ci_lanes) == 0,
        f"scratchpad_bytes {spec.scratchpad_bytes} is not a multiple of {spec.banks} banks x {spec.ci_lanes} bytes",
    )
    yield (2 <= spec.bank_words <= 65536, f"bank depth {spec.bank_words} is outside 2..65536")
    yield (spec.weight_words <= 65536, f"weight_words {spec.weight_words} exceeds 65536")
    yield (spec.fill_words <= 65536, f"fill_words {spec.fill_words} exceeds 65536")
    yield (
        spec.parameter_channels % spec.ci_lanes == 0,
        f"parameter_channels {spec.parameter_channels} is not a multiple of ci_lanes {spec.ci_lanes}",
    )
    yield (4 <= spec.buffers <= 64, f"buffers {spec.buffers} is outside 4..64")
    yield (spec.tables <= 16, f"tables {spec.tables} exceeds 16")
    yield (spec.load_fifo_beats >= 32, f"load_fifo_beats {spec.load_fifo_beats} is less than two bursts (32)")


def _units(spec: AccelSpec) -> Rules:
    """Rules for hardware that a machine may lack."""
    for field in ("correlator", "layer_norm"):
        yield (getattr(spec, field) in (0, 1), f"{field} must be 0 or 1, not {getattr(spec, field)}")
    yield (0 <= spec.warp_reach <= 14, f"warp_reach {spec.warp_reach} is outside 0..14")
    yield (
        spec.warp_reach == 0 or spec.ci_lanes >= 4,
        f"a sampler needs 4 ci_lanes for a flow in one word, not {spec.ci_lanes}",
    )
    beats = spec.window_beats
    yield (
        beats == 0 or (beats >= 2 and beats & (beats - 1) == 0 and spec.warp_reach > 0),
        f"window_beats {beats} is no power of two from 2 on, or the machine has no sampler beside it",
    )
    yield (
        spec.statistic_channels % spec.ci_lanes == 0 and 0 <= spec.statistic_words <= 256,
        f"statistic_channels {spec.statistic_channels} is not 0..256 words of ci_lanes {spec.ci_lanes}",
    )
