"""The comparison as a terminal table of at most 80 columns; every figure has its evidence below it."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from codesign.energy.interval import Interval, engineering, span
from codesign.workflows.compare import Comparison, TargetRow


def terminal_table(comparison: Comparison) -> RenderableType:
    """One row per target, then the verdict and remarks."""
    table = Table(
        title=f"{comparison.network}, {comparison.input_size} to {comparison.output_size}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("target")
    for heading in ("frames/s", "energy/frame", "PSNR"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, row in enumerate(comparison.rows):
        if index:
            table.add_row()
        table.add_row(*_cells(row))
    shown = [f"{name} {value:.2f} dB" for name, value in comparison.quality_db.items() if value is not None]
    quality = f"PSNR on this frame: {', '.join(shown)}." if shown else "No PSNR: no trained weights, or no truth."
    remarks = [Text(text, style="dim") for text in (quality, *comparison.remarks)]
    return Group(table, Text(comparison.verdict, style="bold"), *remarks)


def _cells(row: TargetRow) -> tuple[Text, Text, Text, Text]:
    quality = "-" if row.quality_db is None else f"{row.quality_db:.2f} dB"
    return (
        Text.assemble(row.target.replace(" (", "\n("), "\n", (row.precision, "dim")),
        _cell(row.fps, "", f"{engineering(row.ms_per_frame.value * 1e-3)}s a frame", row.evidence),
        Text("-")
        if row.j_per_frame is None or row.watts is None
        else _cell(row.j_per_frame, "J", f"{engineering(row.watts.value)}W", row.energy_evidence),
        Text.assemble(quality, "" if row.quality_db is None else (f"\n{row.quality_evidence}", "cyan")),
    )


def _cell(interval: Interval, unit: str, beside: str, evidence: str) -> Text:
    band = "" if interval.is_exact else f"\n{span(interval, unit)}"
    value = f"{engineering(interval.value)}{unit}".rstrip()
    return Text.assemble((value, "bold"), (band, "dim"), f"\n{beside}", (f"\n{evidence}", "cyan"))
