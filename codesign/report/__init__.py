"""A comparison to read: terminal table, JSON, plot, page."""

from __future__ import annotations

import json
from pathlib import Path

from codesign.compare import Comparison
from codesign.hw.files import write_text
from codesign.report.data import SCHEMA, to_json
from codesign.report.page import Pictures, render_page
from codesign.report.plot import draw
from codesign.report.table import terminal_table


def write_report(comparison: Comparison, folder: Path, pictures: Pictures | None = None) -> dict[str, Path]:
    """Write ``report.json``, ``comparison.png`` and ``report.html`` into ``folder``, each whole or not at all.

    ``pictures``: ``uint8[H, W, 3]`` by name, shown side by side on the page. Returns the paths by ``data``, ``plot``,
    ``page``. Raises :class:`codesign.hw.errors.InputError` when the folder is missing, not writable or full.
    """
    paths = {"data": folder / "report.json", "plot": folder / "comparison.png", "page": folder / "report.html"}
    write_text(paths["data"], json.dumps(to_json(comparison), indent=2, allow_nan=False) + "\n")
    draw(comparison, paths["plot"])
    write_text(paths["page"], render_page(comparison, pictures or {}))
    return paths


__all__ = ["SCHEMA", "Pictures", "terminal_table", "to_json", "write_report"]
