"""A comparison to read: terminal table, JSON, plot, page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from codesign.compare import Comparison, to_json
from codesign.energy.interval import Interval
from codesign.hw.files import write_text
from codesign.report.page import render_page
from codesign.report.plot import draw

Pictures = dict[str, NDArray[np.uint8]]


def terminal_table(comparison: Comparison) -> Table:
    """One row a target; every figure's evidence beside it."""
    quality = comparison.quality_db
    shown = ", ".join(
        f"{name} {value:.2f} dB" if (value := quality.get(name)) is not None else f"{name} -"
        for name in ("bicubic", "fp32", "int8")
    )
    table = Table(
        title=f"{comparison.network}, {comparison.input_size} to {comparison.output_size}",
        caption=f"PSNR, measured on this frame: {shown}\n{comparison.verdict}",
    )
    table.add_column("target")
    for heading in ("fps", "ms/frame", "J/frame", "W", "PSNR dB"):
        table.add_column(heading, justify="right")
    table.add_column("precision")
    table.add_column("evidence: time; energy")
    for row in comparison.rows:
        table.add_row(
            row.target,
            _number(row.fps),
            _number(row.ms_per_frame),
            _number(row.j_per_frame),
            _number(row.watts),
            "-" if row.quality_db is None else f"{row.quality_db:.2f}",
            row.precision,
            f"{row.evidence}; {row.energy_evidence}",
        )
    return table


def _number(interval: Interval) -> str:
    if interval.low == interval.high:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} ({interval.low:.2g} to {interval.high:.2g})"


def write_report(comparison: Comparison, folder: Path, pictures: Pictures | None = None) -> dict[str, Path]:
    """Write ``report.json``, ``comparison.png`` and ``report.html`` into ``folder``, each whole or not at all."""
    paths = {"data": folder / "report.json", "plot": folder / "comparison.png", "page": folder / "report.html"}
    write_text(paths["data"], json.dumps(to_json(comparison), indent=2) + "\n")
    draw(comparison, paths["plot"])
    write_text(paths["page"], render_page(comparison, pictures or {}))
    return paths


__all__ = ["Pictures", "terminal_table", "to_json", "write_report"]
