"""The comparison as CSV: one file per table, numbers in SI units, bounds beside values."""

from __future__ import annotations

from codesign.energy.interval import Interval
from codesign.report.rows import Row, component_row, layer_row
from codesign.workflows.compare import Comparison
from codesign.workflows.csv_text import csv_text


def targets_csv(comparison: Comparison) -> str:
    """A row per target."""
    return csv_text(
        [
            {
                "target": row.target,
                "kind": row.kind,
                "precision": row.precision,
                **_columns("seconds_per_frame", row.ms_per_frame * 1e-3),
                **_columns("j_per_frame", row.j_per_frame),
                **_columns("chip_j_per_frame", row.chip_j_per_frame),
                **_columns("watts", row.watts),
                "quality_db": row.quality_db,
                "evidence": row.evidence.value,
                "energy_evidence": row.energy_evidence.value,
            }
            for row in comparison.rows
        ]
    )


def energy_csv(comparison: Comparison) -> str:
    """A row per component of Scanline's account."""
    parts = comparison.account.components
    return csv_text([_flat(component_row(part)) | {"records": " ".join(part.records)} for part in parts])


def layers_csv(comparison: Comparison) -> str:
    """A row per layer on Scanline."""
    return csv_text([_flat(layer_row(layer)) for layer in comparison.layers])


def _flat(row: Row) -> Row:
    """``row`` with a column each for an interval's value and bounds."""
    flat: Row = {}
    for name, value in row.items():
        flat |= _columns(name, value) if isinstance(value, Interval) else {name: value}
    return flat


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    parts = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))
