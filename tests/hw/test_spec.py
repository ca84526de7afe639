"""Specifications: presets, the user's own, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from codesign.hw.errors import InputError, SpecError
from codesign.hw.spec import BASE, PRESETS, TINY, AccelSpec, load_spec


@pytest.mark.parametrize(("name", "macs"), [("tiny", 64), ("edge", 256), ("base", 2048), ("large", 4096)])
def test_presets(name: str, macs: int) -> None:
    spec = load_spec(name)
    assert spec is PRESETS[name]
    assert spec.macs_per_cycle == macs


def test_memory_of_the_presets() -> None:
    """Every RAM and FIFO counts against the budgets of the design: 64 KiB for tiny, 1 MiB for base."""
    assert sum(TINY.on_chip_bytes().values()) <= 64 * 1024
    assert sum(BASE.on_chip_bytes().values()) <= 1024 * 1024


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
def test_any_segment_is_one_read(spec: AccelSpec) -> None:
    """A segment at stride 2 and at any alignment touches every bank at most once."""
    assert spec.banks >= 2 * spec.pixel_lanes
    assert spec.banks >= spec.segment_pixels
    assert spec.banks & (spec.banks - 1) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel_lanes": 12},
        {"pixel_lanes": 0},
        {"pixel_lanes": 4.0},
        {"co_lanes": 4},
        {"ci_lanes": 32, "co_lanes": 32, "bus_bytes": 32, "requantise_lanes": 64},
        {"bus_bytes": 64},
        {"channel_parts": 3},
        {"lane_groups": 8},
        {"requantise_lanes": 4},
        {"requantise_lanes": 256},
        {"scratchpad_bytes": 1000},
        {"scratchpad_bytes": 256},
        {"window_slots": 4},
        {"window_reach": 9},
        {"parameter_channels": 9},
        {"buffers": 2},
        {"load_fifo_beats": 16},
        {"tables": 32},
        {"clock_hz": 0.0},
        {"window_beats": 48},
        {"window_beats": 1},
        {"warp_reach": 0},
        {"statistic_channels": 12},
        {"statistic_channels": 8 * 257},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_inconsistent(changes: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="accelerator 'base'"):
        dataclasses.replace(BASE, **changes)  # type: ignore[arg-type]


def test_own_specification(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "tiny"\nscratchpad_bytes = 65536\n')
    assert load_spec(path) == dataclasses.replace(TINY, name="mine", scratchpad_bytes=65536)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends = 'huge'", "unknown preset 'huge'"),
        ("extends = 'tiny'\nlanes = 3", "unknown field 'lanes'"),
        ("extends = 'tiny'\nbuffers = '32'", "buffers has the wrong type"),
        ("extends = 'tiny'\nbuffers = true", "buffers has the wrong type"),
        ("pixel_lanes = 4", "lacks the field"),
        ("extends = ", "not valid TOML"),
    ],
)
def test_broken_specification_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError if "TOML" in message else SpecError, match=message):
        load_spec(path)


def test_no_such_specification(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown accelerator 'huge'[^$]*tiny"):
        load_spec("huge")
    with pytest.raises(InputError, match="cannot read"):
        load_spec(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        load_spec(tmp_path / "binary.toml")
