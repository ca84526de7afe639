"""The comparison as CSV: one file per table, numbers in SI units, bounds beside values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from codesign.energy.interval import Interval
from codesign.workflows.compare import Comparison


def targets_csv(comparison: Comparison) -> str:
    """A row per target."""
    return _text(
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
    return _text(
        [
            {
                "component": part.name,
                **_columns("joules", part.joules),
                "on_chip": part.on_chip,
                "engine": part.engine.value,
                "level": part.level.value,
                "records": " ".join(part.records),
            }
            for part in comparison.account.components
        ]
    )


def layers_csv(comparison: Comparison) -> str:
    """A row per layer on Scanline."""
    return _text(
        [
            {
                "layer": layer.name,
                "macs": layer.macs,
                "busy_cycles": layer.busy_cycles,
                "begin_cycle": layer.begin_cycle,
                "end_cycle": layer.end_cycle,
                "utilization": layer.utilization,
                **_columns("joules", layer.joules),
                "evidence": layer.evidence.value,
            }
            for layer in comparison.layers
        ]
    )


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    parts = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=True))


def _text(rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
