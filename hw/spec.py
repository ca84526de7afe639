"""The machine's shape: one frozen description from which ISA, RTL, golden model, cycle model and energy derive."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from codesign.hw.errors import InputError, SpecError
from codesign.hw.normalise import SQUARES_BITS, TOTAL_BITS
from codesign.hw.numerics import ceil_div
from codesign.hw.spec_rules import check

COMMAND_BYTES = 64
"""Size of a command in memory."""

STEP_BYTES, FILL_BYTES, PARAMETER_BYTES, TABLE_BYTES = 8, 4, 16, 256
"""Sizes in memory of a step word, a fill word, one channel's requantisation parameters and one look-up table."""

STATISTIC_BITS = TOTAL_BITS + SQUARES_BITS
"""A channel's sum of codes and sum of their squares."""

MAX_WINDOW_SIDE = 9
"""Rows and columns of the largest window that a WINDOW makes."""

MIN_READS_IN_FLIGHT = 32

SELECTOR_BITS = 7
"""A selector in a step word: 3 bits of slot, 3 of shift, 1 of channel part."""


class Unit(Enum):
    """Hardware that a machine may lack, by the specification's field that sizes it; 0 leaves it out."""

    SAMPLER = "warp_reach"  # warps by a flow, and enlarging with aligned corners
    WINDOWS = "window_beats"  # windows of features looked up around a flow
    CORRELATOR = "correlator"  # the array's weights taken from pixels
    NORMALISER = "statistic_channels"  # sums of channels, and normalisation by them
    LAYER_NORM = "layer_norm"  # pixels normalised over their channels

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.lower().replace("_", " ")

    @property
    def missing(self) -> str:
        """The sentence about a machine that lacks it."""
        return f"This machine has no {self.title} ({self.value})."


MAX_SPEC_BYTES = 2**20


@dataclass(frozen=True)
class AccelSpec:
    """An accelerator. Invariants are checked on construction; a violation raises :class:`SpecError`."""

    name: str  # matches NAME
    pixel_lanes: int  # output pixels computed side by side; power of two
    ci_lanes: int  # input channels reduced per cycle; also the bytes of a scratchpad word; power of two
    co_lanes: int  # output channels computed side by side; power of two
    channel_parts: int  # a word of ci_lanes channels is selectable in this many parts (tap packing); 1 or 2
    lane_groups: int  # co_lanes divide into this many groups that may take different taps (lane grouping); 1, 2 or 4
    requantise_lanes: int  # psums turned into int8 per cycle; multiple of ci_lanes
    scratchpad_bytes: int  # rolling buffers
    weight_words: int  # depth of the weight memory; a word is ci_lanes x co_lanes bytes, one step of the array
    fill_words: int  # depth of the fill memory
    parameter_channels: int  # channels whose requantisation parameters are resident
    tables: int  # resident 256-entry tables
    bus_bytes: int  # AXI data width; 8, 16 or 32
    load_fifo_beats: int  # reads in flight: at least latency x bandwidth to hide the DRAM
    clock_hz: float
    window_slots: int = 8  # row segments held in registers
    window_reach: int = 6  # largest shift inside a segment: kernel width - 1
    buffers: int = 32  # rolling-buffer descriptors
    command_slots: int = 64  # commands held on chip: the longest loop body
    store_fifo_beats: int = 32
    queue_depth: int = 4  # commands waiting per engine
    warp_reach: int = 0  # rows and columns around a pixel that a WARP has on chip; 0: the machine has no sampler
    window_beats: int = 0  # beats of a WINDOW on their way or waiting, a power of two; 0: the machine has none
    correlator: int = 0  # 1: the array can take its weights from the window, for CORR
    statistic_channels: int = 0  # channels whose sums are kept for normalisations; 0: the machine does not normalise
    layer_norm: int = 0  # 1: pixels are normalised over their channels

    def __post_init__(self) -> None:
        check(self)

    @property
    def units(self) -> frozenset[Unit]:
        """Optional hardware that this machine has."""
        return frozenset(unit for unit in Unit if getattr(self, unit.value))

    # Derived widths. Every other room asks here.

    @property
    def macs_per_cycle(self) -> int:
        return self.pixel_lanes * self.ci_lanes * self.co_lanes

    @property
    def banks(self) -> int:
        """Scratchpad banks, a power of two: pixel x lives in bank ``x mod banks``.

        There are enough that one read serves a segment at any alignment, at stride 1 or 2.
        """
        return 1 << (max(2 * self.pixel_lanes, self.segment_pixels) - 1).bit_length()

    @property
    def bank_words(self) -> int:
        """Depth of a bank, in words of ``ci_lanes`` bytes."""
        return self.scratchpad_bytes // (self.banks * self.ci_lanes)

    @property
    def part_lanes(self) -> int:
        """Channels in a selectable part of a word."""
        return self.ci_lanes // self.channel_parts

    @property
    def segment_pixels(self) -> int:
        return self.pixel_lanes + self.window_reach

    @property
    def selectors(self) -> int:
        """Selectors in a step word: one per lane group and channel part."""
        return self.lane_groups * self.channel_parts

    @property
    def requantise_pixels(self) -> int:
        """Pixels requantised per cycle (each with ``ci_lanes`` channels)."""
        return self.requantise_lanes // self.ci_lanes

    @property
    def weight_word_bytes(self) -> int:
        return self.ci_lanes * self.co_lanes

    @property
    def parameter_words(self) -> int:
        return self.parameter_channels // self.ci_lanes

    @property
    def statistic_words(self) -> int:
        return self.statistic_channels // self.ci_lanes

    @property
    def window_lanes(self) -> int:
        """Columns of a window that a WINDOW fetches at once: with one more, they lie in two beats."""
        return min(self.co_lanes, self.bus_bytes)

    def band_words(self, columns: int) -> int:
        """Words of a window's row of so many columns: a power of two, so that rows divide a set of psums."""
        return 1 << (ceil_div(columns, self.ci_lanes) - 1).bit_length()

    @property
    def window_row_words(self) -> int:
        """Words of the widest row of a window that is fetched at once."""
        return self.band_words(min(self.window_lanes, MAX_WINDOW_SIDE))

    @property
    def reads_in_flight(self) -> int:
        """Requests to the memory that may wait for their data."""
        return max(MIN_READS_IN_FLIGHT, self.window_beats)

    @property
    def burst_bytes(self) -> int:
        """Longest AXI burst; bursts end at multiples of it, so none crosses a 4 KiB boundary."""
        return 16 * self.bus_bytes

    def on_chip_bytes(self) -> dict[str, int]:
        """Every RAM and FIFO by name, in bytes (pipeline, accumulator and window registers apart)."""
        return {
            "scratchpad": self.scratchpad_bytes,
            "weights": self.weight_words * self.weight_word_bytes,
            "steps": self.weight_words * STEP_BYTES,
            "fills": self.fill_words * FILL_BYTES,
            "parameters": self.parameter_channels * PARAMETER_BYTES,
            "look-up tables": self.tables * TABLE_BYTES * self.requantise_lanes,
            "commands": self.command_slots * COMMAND_BYTES,
            "load FIFO": self.load_fifo_beats * self.bus_bytes,
            "store FIFO": self.store_fifo_beats * self.bus_bytes,
            **(
                {
                    "window FIFO": self.window_beats * self.bus_bytes,
                    "window rows": 2 * self.pixel_lanes * self.window_row_words * self.ci_lanes,
                }
                if self.window_beats
                else {}
            ),
            **(
                {"statistics": ceil_div(self.statistic_channels * STATISTIC_BITS, 8)} if self.statistic_channels else {}
            ),
            **({"layer norm": ceil_div(self.pixel_lanes * self._layer_norm_bits, 8)} if self.layer_norm else {}),
        }

    @property
    def _layer_norm_bits(self) -> int:
        """Bits that the unit keeps for a pixel: two words for either pass, sums, and the figures of four groups."""
        sums, figures = 20 + 27, 20 + 5 + 18  # mean, pairs of zeros, root
        return 4 * 8 * self.ci_lanes + sums + 4 * figures

    def register_bytes(self) -> dict[str, int]:
        """Accumulator, psum and window registers, in bytes: not memories, reported apart."""
        return {
            "accumulators": 4 * self.pixel_lanes * self.co_lanes,
            "drain psums": 4 * self.pixel_lanes * self.co_lanes,
            "window": self.window_slots * self.segment_pixels * self.ci_lanes,
        }

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


TINY = AccelSpec(
    name="tiny",
    pixel_lanes=4,
    ci_lanes=4,
    co_lanes=4,
    channel_parts=2,
    lane_groups=2,
    requantise_lanes=8,
    scratchpad_bytes=32 * 1024,
    weight_words=512,
    fill_words=512,
    parameter_channels=128,
    tables=2,
    bus_bytes=8,
    load_fifo_beats=64,
    clock_hz=200e6,
)

EDGE = AccelSpec(
    name="edge",
    pixel_lanes=4,
    ci_lanes=8,
    co_lanes=8,
    channel_parts=2,
    lane_groups=2,
    requantise_lanes=16,
    scratchpad_bytes=192 * 1024,
    weight_words=1024,
    fill_words=1024,
    parameter_channels=256,
    tables=2,
    bus_bytes=16,
    load_fifo_beats=128,
    clock_hz=500e6,
)

BASE = AccelSpec(
    name="base",
    pixel_lanes=16,
    ci_lanes=8,
    co_lanes=16,
    channel_parts=2,
    lane_groups=4,
    requantise_lanes=64,
    scratchpad_bytes=640 * 1024,
    weight_words=2048,
    fill_words=2048,
    parameter_channels=512,
    tables=2,
    bus_bytes=16,
    load_fifo_beats=128,
    clock_hz=1e9,
    warp_reach=8,
    window_beats=64,
    correlator=1,
    statistic_channels=256,
    layer_norm=1,
)

LARGE = AccelSpec(
    name="large",
    pixel_lanes=16,
    ci_lanes=16,
    co_lanes=16,
    channel_parts=2,
    lane_groups=4,
    requantise_lanes=128,
    scratchpad_bytes=1280 * 1024,
    weight_words=2048,
    fill_words=2048,
    parameter_channels=1024,
    tables=2,
    bus_bytes=32,
    load_fifo_beats=128,
    clock_hz=1e9,
    warp_reach=8,
    window_beats=64,
    correlator=1,
    statistic_channels=256,
    layer_norm=1,
)

PRESETS: dict[str, AccelSpec] = {spec.name: spec for spec in (TINY, EDGE, BASE, LARGE)}


def load_spec(name_or_path: str | Path) -> AccelSpec:
    """A preset by name, or a TOML file with fields of :class:`AccelSpec` and perhaps ``extends = "base"``.

    Raises :class:`InputError` for an unknown preset or unreadable file, :class:`SpecError` for an inconsistent one.
    """
    text = str(name_or_path)
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix != ".toml":
        raise InputError(
            f"unknown accelerator {text!r}",
            hint=f"Presets: {', '.join(PRESETS)}; or give a specification file ending in .toml.",
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SPEC_BYTES + 1)
        if len(content) > MAX_SPEC_BYTES:
            raise InputError(f"is larger than {MAX_SPEC_BYTES} bytes", where=text)
        fields = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the specification ({error.strerror})", where=text) from error
    except (ValueError, RecursionError) as error:  # TOML's and UTF-8's errors, numbers of too many digits, nesting
        raise InputError(f"is not valid TOML ({str(error)[:200]})", where=text) from error
    parent = fields.pop("extends", None)
    if parent is not None and (not isinstance(parent, str) or parent not in PRESETS):
        raise SpecError(f"extends an unknown preset {parent!r}", where=text, hint=f"Presets: {', '.join(PRESETS)}.")
    known = {field.name: field for field in dataclasses.fields(AccelSpec)}
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise SpecError(f"unknown field {unknown[0]!r}", where=text, hint=f"Fields: {', '.join(known)}.")
    values = {**(PRESETS[parent].to_dict() if parent else {}), "name": _name_of(path), **fields}
    for key, value in values.items():
        wanted: tuple[type, ...] = (str,) if key == "name" else (int, float) if key == "clock_hz" else (int,)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise SpecError(f"{key} has the wrong type: {value!r}", where=text)
    missing = sorted(
        name for name, field in known.items() if name not in values and field.default is dataclasses.MISSING
    )
    if missing:
        raise SpecError(f"lacks the field {missing[0]!r}", where=text, hint='Give it, or start with extends = "base".')
    return AccelSpec(**values)


def _name_of(path: Path) -> str:
    """A machine's name from its file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)[:64]
