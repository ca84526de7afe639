"""A comparison as JSON. ``docs/report.md`` documents the fields; :data:`SCHEMA` changes when one of them does."""

from __future__ import annotations

import dataclasses
from typing import Any

from codesign.energy.interval import Interval
from codesign.energy.records import records
from codesign.report.figures import figures
from codesign.report.rows import Row, component_row, layer_row
from codesign.workflows.compare import Comparison, TargetRow

SCHEMA = "codesign.comparison/2"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values; intervals are ``{value, low, high}``, units are in the names."""
    shown = figures(comparison)
    used = {name for figure in shown.values() for name in figure.records}
    return {
        "schema": SCHEMA,
        "command": comparison.command,
        "network": comparison.network,
        "input_size": comparison.input_size,
        "output_size": comparison.output_size,
        "macs": comparison.macs,
        "verdict": comparison.verdict,
        "remarks": list(comparison.remarks),
        "j_ratio": _interval(comparison.ratio),
        "j_ratio_at_7nm": _interval(comparison.ratio_at_7nm),
        "quality_db": comparison.quality_db,
        "targets": [_target(row) for row in comparison.rows],
        "energy": {
            "node": comparison.account.node,
            "dram": comparison.account.dram,
            "chip_j": comparison.account.chip_j.to_json(),
            "system_j": comparison.account.system_j.to_json(),
            "system_j_with_dram_at_20_pj_per_bit": comparison.account.costly_dram_j,
            "components": [
                _values(component_row(part)) | {"counters": list(part.counters), "records": list(part.records)}
                for part in comparison.account.components
            ],
        },
        "layers": [
            _values(layer_row(layer)) | {"events": dataclasses.asdict(layer.events)} for layer in comparison.layers
        ],
        "rooflines": [
            {
                "target": line.target,
                "peak_macs_per_s": line.peak_macs_per_s,
                "bytes_per_s": line.bytes_per_s,
                "macs_per_byte": line.macs_per_byte,
                "reached_macs_per_s": line.reached_macs_per_s.to_json(),
                "evidence": line.evidence.value,
            }
            for line in comparison.rooflines
        ],
        "figures": {path: figure.to_json() for path, figure in shown.items()},
        "inputs": {
            "specification": comparison.account.spec.to_dict(),
            "workload": None if comparison.workload is None else dataclasses.asdict(comparison.workload),
        },
        "records": {name: record.model_dump(exclude_none=True) for name, record in records().items() if name in used},
        "simulation": comparison.simulation,
    }


def _values(row: Row) -> dict[str, Any]:
    return {name: value.to_json() if isinstance(value, Interval) else value for name, value in row.items()}


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.to_json()


def _target(row: TargetRow) -> dict[str, Any]:
    return {
        "target": row.target,
        "kind": row.kind,
        "fps": row.fps.value,
        "fps_interval": row.fps.to_json(),
        "ms_per_frame": row.ms_per_frame.value,
        "ms_per_frame_interval": row.ms_per_frame.to_json(),
        "j_per_frame": _interval(row.j_per_frame),
        "chip_j_per_frame": _interval(row.chip_j_per_frame),
        "j_above_idle_per_frame": _interval(row.j_above_idle),
        "watts": _interval(row.watts),
        "precision": row.precision,
        "quality_db": row.quality_db,
        "evidence": row.evidence.value,
        "evidence_by_figure": {
            name: None if evidence is None else evidence.value for name, evidence in row.evidence_by_figure.items()
        },
        "boundary": row.boundary,
        "notes": row.notes,
        "records": list(row.records),
    }
