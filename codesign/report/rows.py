"""Rows that a comparison's JSON and CSV have in common; intervals are written by each in its own form."""

from __future__ import annotations

from codesign.energy.account import Component
from codesign.workflows.compare import LayerFigures

Row = dict[str, object]


def component_row(part: Component) -> Row:
    """One component of Scanline's account, without the names of its counters and records."""
    return {
        "component": part.name,
        "joules": part.joules,
        "on_chip": part.on_chip,
        "engine": part.engine.value,
        "level": part.level.value,
    }


def layer_row(layer: LayerFigures) -> Row:
    """One layer on Scanline."""
    return {
        "layer": layer.name,
        "macs": layer.macs,
        "busy_cycles": layer.busy_cycles,
        "begin_cycle": layer.begin_cycle,
        "end_cycle": layer.end_cycle,
        "utilization": layer.utilization,
        "joules": layer.joules,
        "evidence": layer.evidence.value,
    }
