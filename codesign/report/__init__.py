"""A comparison to read: terminal table, JSON, CSV, plots, page."""

from __future__ import annotations

import json
from pathlib import Path

from codesign.hw.files import write_text
from codesign.report.data import SCHEMA, to_json
from codesign.report.page import Pictures, render_page
from codesign.report.plot import draw, draw_energy, draw_rooflines
from codesign.report.table import terminal_table
from codesign.report.tables import energy_csv, layers_csv, targets_csv
from codesign.workflows.compare import Comparison

_PLOTS = {"comparison": draw, "energy": draw_energy, "rooflines": draw_rooflines}
_TABLES = {"targets": targets_csv, "energy": energy_csv, "layers": layers_csv}


def write_report(comparison: Comparison, folder: Path, pictures: Pictures | None = None) -> dict[str, Path]:
    """Write the page (``report.html``), its data (``report.json``), plots and tables into ``folder``.

    Each file is written whole or not at all. ``pictures``: ``uint8[H, W, 3]`` by name, shown on the page. Returns the
    paths by ``page``, ``data``, and the files' names. Raises :class:`codesign.hw.errors.InputError` when the folder is
    missing, not writable or full.
    """
    paths = {"data": folder / "report.json", "page": folder / "report.html"}
    write_text(paths["data"], json.dumps(to_json(comparison), indent=2, allow_nan=False) + "\n")
    for name, draw_one in _PLOTS.items():
        if draw_one is draw_rooflines and not comparison.rooflines:
            continue
        for form in ("png", "svg"):
            paths[f"{name}.{form}"] = folder / f"{name}.{form}"
            draw_one(comparison, paths[f"{name}.{form}"])
    for name, table in _TABLES.items():
        if text := table(comparison):
            paths[f"{name}.csv"] = folder / f"{name}.csv"
            write_text(paths[f"{name}.csv"], text)
    write_text(paths["page"], render_page(comparison, pictures or {}))
    return paths


__all__ = ["SCHEMA", "Pictures", "terminal_table", "to_json", "write_report"]
