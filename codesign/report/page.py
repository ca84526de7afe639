"""One self-contained HTML page: verdict, table, charts, before and after, sources; it needs no network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from codesign.compare import Comparison, TargetRow
from codesign.energy.account import Evidence
from codesign.energy.interval import Interval, engineering, span
from codesign.energy.records import records
from codesign.report.charts import cycles_by_cause, energy_breakdown, speed_against_energy

Pictures = dict[str, NDArray[np.uint8]]

_CHARTS = {
    "Speed against energy": speed_against_energy,
    "Where Scanline's energy goes": energy_breakdown,
    "Where its cycles go": cycles_by_cause,
}
_CAPTIONS = {"bicubic": "bicubic", "restored": "network, INT8 on Scanline", "truth": "ground truth"}


def render_page(comparison: Comparison, pictures: Pictures) -> str:
    """The page's text; ``pictures``: ``uint8[H, W, 3]`` by name."""
    title = f"{comparison.network}, {comparison.input_size} to {comparison.output_size}"
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    remarks = "".join(f"<li>{html.escape(text)}</li>" for text in comparison.remarks)
    config = {"displayModeBar": False, "responsive": True}
    charts = "".join(
        f"<h2>{heading}</h2>{chart(comparison).to_html(full_html=False, include_plotlyjs=False, config=config)}"
        for heading, chart in _CHARTS.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{style}</style><script>{get_plotlyjs()}</script></head><body>
<p class="soft">{html.escape(title)}; {engineering(comparison.macs)}MAC a frame</p>
<h1>{html.escape(comparison.verdict)}</h1>
{_table(comparison)}
<ul class="soft">{remarks}</ul>
<p>{_quality(comparison)}</p>
{_pictures(comparison, pictures)}
{charts}
<h2>What each row covers</h2>
<ul>{"".join(f"<li>{_covered(row)}</li>" for row in comparison.rows)}</ul>
<h2>Reproduce</h2><p><code>{html.escape(comparison.command)}</code></p>
{_sources(comparison)}
</body></html>
"""


def _covered(row: TargetRow) -> str:
    return (
        f"{html.escape(row.target)}: {html.escape(row.boundary)}.<span class='soft'> {html.escape(row.notes)}.</span>"
    )


def _figure(interval: Interval, unit: str, evidence: Evidence, beside: str = "") -> str:
    """A value, its bounds, what belongs to it, and its evidence."""
    band = "" if interval.is_exact else f"<small>{span(interval, unit)}</small>"
    extra = f"<small>{beside}</small>" if beside else ""
    return f"<span>{engineering(interval.value)}{unit}</span>{band}{extra}{_tag(evidence)}"


def _tag(evidence: Evidence) -> str:
    return f'<span class="tag">{evidence}</span>'


def _table(comparison: Comparison) -> str:
    names = ("frames/s", "energy/frame", "chip only", "power", "PSNR")
    head = "".join(f'<th class="n">{name}</th>' for name in names)
    rows = []
    for row in comparison.rows:
        cells = (
            _figure(row.fps, "", row.evidence, f"{engineering(row.ms_per_frame.value * 1e-3)}s a frame"),
            "" if row.j_per_frame is None else _figure(row.j_per_frame, "J", row.energy_evidence, _above_idle(row)),
            "" if row.chip_j_per_frame is None else _figure(row.chip_j_per_frame, "J", row.energy_evidence),
            "" if row.watts is None else _figure(row.watts, "W", row.energy_evidence),
            "" if row.quality_db is None else f"<div>{row.quality_db:.2f} dB</div>{_tag(row.quality_evidence)}",
        )
        filled = "".join(
            f'<td class="n" data-name="{name}">{cell}</td>' if cell else '<td class="n"></td>'
            for name, cell in zip(names, cells, strict=True)
        )
        rows.append(f"<tr><td><b>{html.escape(row.target)}</b><small>{row.precision}</small></td>{filled}</tr>")
    return f"<table><thead><tr><th>target</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _above_idle(row: TargetRow) -> str:
    return "" if row.j_above_idle is None else f"{engineering(row.j_above_idle.value)}J without idle"


def _quality(comparison: Comparison) -> str:
    names = {"bicubic": "bicubic", "fp32": "network in FP32", "int8": "network in INT8 on Scanline"}
    shown = [
        f"{label} {value:.2f} dB"
        for key, label in names.items()
        if (value := comparison.quality_db.get(key)) is not None
    ]
    exact = {
        True: "RTL, golden model and integer graph agree on every value.",
        False: "RTL and its model differ: these figures are not to be trusted.",
        None: "The output was not compared with RTL.",
    }[comparison.simulation["bit_exact"]]
    return f"PSNR on this frame: {', '.join(shown) or 'none (no trained weights, or no ground truth)'}. {exact}"


def _pictures(comparison: Comparison, pictures: Pictures) -> str:
    figures = []
    for name, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        decibels = comparison.quality_db.get({"restored": "int8"}.get(name, name))
        caption = _CAPTIONS.get(name, name) + ("" if decibels is None else f", {decibels:.2f} dB")
        figures.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return f'<h2>Before and after</h2><div class="pictures">{"".join(figures)}</div>' if figures else ""


def _sources(comparison: Comparison) -> str:
    """Every constant that a figure on this page was computed from."""
    used = sorted({name for row in comparison.rows for name in row.records} & set(records()))
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{record.value:g} ({record.low:g} to {record.high:g}) "
        f"{html.escape(record.unit)}</td><td>{html.escape(record.what)}; node {html.escape(record.node)}, "
        f"{record.voltage:g} V</td><td>{html.escape(record.source)} "
        f'<span class="tag">{record.confidence}</span></td></tr>'
        for name in used
        for record in (records()[name],)
    )
    return (
        f"<details><summary>The {len(used)} constants behind the energy figures</summary><table><thead><tr>"
        f"<th>record</th><th>value</th><th>what</th><th>source</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
