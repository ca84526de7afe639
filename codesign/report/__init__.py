"""A comparison to read: terminal table, JSON, plot, page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from codesign.compare import Comparison, to_json
from codesign.energy.interval import Interval, engineering
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
    for heading in ("frames/s", "time/frame", "energy/frame", "power", "PSNR"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("evidence")
    for row in comparison.rows:
        table.add_row(
            f"{row.target}\n{row.precision}",
            _number(row.fps, ""),
            _number(row.ms_per_frame * 1e-3, "s"),
            _number(row.j_per_frame, "J"),
            _number(row.watts, "W"),
            "-" if row.quality_db is None else f"{row.quality_db:.2f} dB",
            f"time {row.evidence}\nenergy {row.energy_evidence}",
        )
    return table


def _number(interval: Interval, unit: str) -> str:
    value = f"{engineering(interval.value)}{unit}"
    if interval.low == interval.high:
        return value
    return f"{value}\n{engineering(interval.low)}{unit} to\n{engineering(interval.high)}{unit}"


def write_report(comparison: Comparison, folder: Path, pictures: Pictures | None = None) -> dict[str, Path]:
    """Write ``report.json``, ``comparison.png`` and ``report.html`` into ``folder``, each whole or not at all."""
    paths = {"data": folder / "report.json", "plot": folder / "comparison.png", "page": folder / "report.html"}
    write_text(paths["data"], json.dumps(to_json(comparison), indent=2) + "\n")
    draw(comparison, paths["plot"])
    write_text(paths["page"], render_page(comparison, pictures or {}))
    return paths


__all__ = ["Pictures", "terminal_table", "to_json", "write_report"]
