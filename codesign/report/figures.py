"""Every figure of a report with its inputs: counters, records, a measurement's file, the specification.

A report shows no other figures, and ``report.json`` contains all inputs: with the file and this package's tables each
figure can be computed again (``tests/codesign/test_report.py`` does, for figures drawn at random).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from codesign.energy.account import DRAM_COUNTERS, Component, Evidence, layer_components
from codesign.energy.interval import Interval
from codesign.energy.records import records
from codesign.workflows.compare import Comparison, LayerFigures, Roofline, TargetRow

_SHARE = "gpu_peak_share"
"""The record that determines a modelled GPU's time; the others determine its energy."""


@dataclass(frozen=True)
class Figure:
    """One figure. ``records`` and ``counters`` name its inputs; ``files`` are measurements."""

    value: Interval
    unit: str
    evidence: Evidence
    how: str
    counters: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **self.value.to_json(),
            "unit": self.unit,
            "evidence": self.evidence.value,
            "how": self.how,
            "counters": list(self.counters),
            "records": list(self.records),
            "files": list(self.files),
        }


def figures(comparison: Comparison) -> dict[str, Figure]:
    """Figures by path: ``targets/0/energy``, ``energy/DRAM``, ``layers/3/energy``, ``rooflines/1/reached``..."""
    found: dict[str, Figure] = {}
    for index, row in enumerate(comparison.rows):
        found |= {f"targets/{index}/{name}": figure for name, figure in _target(comparison, row).items()}
    for part in comparison.account.components:
        found[f"energy/{part.name}"] = _component(part)
    for index, layer in enumerate(comparison.layers):
        found |= {f"layers/{index}/{name}": figure for name, figure in _layer(comparison, layer).items()}
    for index, (line, row) in enumerate(zip(comparison.rooflines, comparison.rows, strict=False)):
        time = found[f"targets/{index}/time"]
        found |= {f"rooflines/{index}/{name}": figure for name, figure in _roofline(line, row, time).items()}
    for cause, cycles in comparison.simulation["stalls"].items():
        evidence = comparison.rows[0].evidence
        found[f"cycles/{cause}"] = Figure(Interval.exact(float(cycles)), "", evidence, "counted", (_counter(cause),))
    for name, decibels in comparison.quality_db.items():
        if decibels is not None and _is_figure(decibels):
            found[f"quality/{name}"] = Figure(
                Interval.exact(decibels), "dB", comparison.rows[0].quality_evidence, "PSNR of the picture shown"
            )
    return found


def _is_figure(decibels: float) -> bool:
    """Whether a PSNR has bounds: that of an image which equals the truth is infinite, that of another picture may be
    negative."""
    return 0.0 <= decibels < math.inf


def _counter(cause: str) -> str:
    return "busy_cycles" if cause == "busy" else f"{cause}_stall_cycles"


class _From(NamedTuple):
    how: str
    counters: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def _target(comparison: Comparison, row: TargetRow) -> dict[str, Figure]:
    known, files = _sources(row.records)
    if row.kind == "gpu":
        how = "measured" if row.evidence is Evidence.HARDWARE else "roofline of the device's data sheet"
        energy = chip = _From(how, (), known, files)
        time = _From(how, (), tuple(name for name in known if name == _SHARE), files)
        above_idle = _From(how, (), tuple(name for name in known if name != _SHARE), files)
    else:
        clock = "the specification's clock" if row.kind == "asic" else "the clock as routed"
        time = _From(f"cycles over {clock}", ("cycles",))
        parts = comparison.account.components
        energy = _of("sum of the account's components", parts)
        chip = above_idle = _of("sum of its components on the chip", [part for part in parts if part.on_chip])
    shown = {
        "fps": Figure(row.fps, "", row.evidence, *time),
        "time": Figure(row.ms_per_frame * 1e-3, "s", row.evidence, *time),
    }
    for name, value, unit, source in (
        ("energy", row.j_per_frame, "J", energy),
        ("chip", row.chip_j_per_frame, "J", chip),
        ("above_idle", row.j_above_idle, "J", above_idle),
        ("power", row.watts, "W", energy._replace(how=f"{energy.how}, over the time")),
    ):
        if value is not None:
            shown[name] = Figure(value, unit, row.energy_evidence, *source)
    if row.quality_db is not None and _is_figure(row.quality_db):
        quality = Interval.exact(row.quality_db)
        shown["quality"] = Figure(quality, "dB", row.quality_evidence, "PSNR of the picture shown")
    return shown


def _of(how: str, parts: Sequence[Component]) -> _From:
    counters = tuple(dict.fromkeys(name for part in parts for name in part.counters))
    return _From(how, counters, tuple(dict.fromkeys(name for part in parts for name in part.records)))


def _sources(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split ``names`` into records and files of measurements."""
    return tuple(n for n in names if n in records()), tuple(n for n in names if n not in records())


def _component(part: Component) -> Figure:
    how = "leakage x time" if part.name == "leakage" else "events x energy per event"
    return Figure(part.joules, "J", Evidence.MODEL, how, part.counters, part.records)


def _layer(comparison: Comparison, layer: LayerFigures) -> dict[str, Figure]:
    model = "the cycle model's row by row"
    bill = comparison.account
    clock_hz = bill.spec.clock_hz
    parts = layer_components(layer.events, bill.spec, node=bill.node)
    used = tuple(dict.fromkeys(name for part in parts for name in part.records))
    return {
        "utilization": Figure(
            Interval.exact(layer.utilization), "", layer.evidence, "MACs over the array's capacity in the same time"
        ),
        "energy": Figure(layer.joules, "J", Evidence.MODEL, f"events x energy per event, {model}", (), used),
        "begin": Figure(Interval.exact(layer.begin_cycle / clock_hz), "s", layer.evidence, model),
        "end": Figure(Interval.exact(layer.end_cycle / clock_hz), "s", layer.evidence, model),
    }


def _roofline(line: Roofline, row: TargetRow, time: Figure) -> dict[str, Figure]:
    """``time``: the target's time for a frame."""
    moved = () if row.kind == "gpu" else DRAM_COUNTERS
    return {
        "reached": Figure(
            line.reached_macs_per_s,
            "MAC/s",
            line.evidence,
            "MACs over the time",
            time.counters,
            time.records,
            time.files,
        ),
        "intensity": Figure(
            Interval.exact(line.macs_per_byte),
            "MAC/B",
            Evidence.MODEL if row.kind == "gpu" else line.evidence,
            "MACs over the bytes that the target moves",
            moved,
        ),
    }
