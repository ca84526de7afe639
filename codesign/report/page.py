"""One self-contained HTML page: verdict, table, charts, before and after, sources; it needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from codesign.energy.account import Evidence
from codesign.energy.interval import engineering, span
from codesign.energy.records import records
from codesign.report import charts
from codesign.report.figures import Figure, figures
from codesign.workflows.compare import Comparison, TargetRow

Pictures = dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class _Chart:
    heading: str
    draw: Callable[[Comparison], go.Figure | None]
    says: str
    paths: str
    """Prefix of the paths of the figures shown."""


_CHARTS = (
    _Chart(
        "Speed against energy",
        charts.speed_against_energy,
        "Up and to the left is better. Bars are bounds.",
        "targets/",
    ),
    _Chart("Quality against energy", charts.quality_against_energy, "What a decibel costs on each target.", "targets/"),
    _Chart("Where Scanline's energy goes", charts.energy_breakdown, "Joules of one frame by component.", "energy/"),
    _Chart(
        "Rooflines",
        charts.rooflines,
        "What each machine could do at most for a network of so many MACs per byte, and what this one reached.",
        "rooflines/",
    ),
    _Chart(
        "Layer by layer: when",
        charts.layer_timeline,
        "From the first row of a layer to its last. Layers of a cascade take turns row by row.",
        "layers/",
    ),
    _Chart(
        "Layer by layer: utilisation",
        charts.layer_utilization,
        "Multipliers doing the user's MACs, of all, while the array is on the layer.",
        "layers/",
    ),
    _Chart(
        "Where its cycles go",
        charts.cycles_by_cause,
        "In every cycle the array computes, or waits for one cause.",
        "cycles/",
    ),
)
_CAPTIONS = {"bicubic": "bicubic", "restored": "network, INT8 on Scanline", "truth": "ground truth"}


def render_page(comparison: Comparison, pictures: Pictures) -> str:
    """The page's text; ``pictures``: ``uint8[H, W, 3]`` by name."""
    title = f"{comparison.network}, {comparison.input_size} to {comparison.output_size}"
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    remarks = "".join(f"<li>{html.escape(text)}</li>" for text in comparison.remarks)
    shown = figures(comparison)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{style}</style><script>{get_plotlyjs()}</script></head><body><main>
<p class="soft">{html.escape(title)}; {engineering(comparison.macs)}MAC a frame</p>
<h1>{html.escape(comparison.verdict)}</h1>
{_table(comparison, shown)}
<ul class="soft">{remarks}</ul>
<p>{_quality(comparison)}</p>
{_before_and_after(comparison, pictures)}
{"".join(_chart(comparison, chart, shown) for chart in _CHARTS)}
<h2>What each row covers</h2>
<ul>{"".join(f"<li>{_covered(row)}</li>" for row in comparison.rows)}</ul>
<h2>Reproduce</h2><p><code>{html.escape(comparison.command)}</code></p>
{_traces(shown)}
{_sources(shown)}
</main><script>{script}</script></body></html>
"""


def _covered(row: TargetRow) -> str:
    return (
        f"{html.escape(row.target)}: {html.escape(row.boundary)}.<span class='soft'> {html.escape(row.notes)}.</span>"
    )


def _figure(path: str, figure: Figure, beside: str = "") -> str:
    """A value with bounds, remark and evidence; ``data-figure`` refers to its inputs."""
    band = "" if figure.value.is_exact else f"<small>{span(figure.value, figure.unit)}</small>"
    extra = f"<small>{beside}</small>" if beside else ""
    text = f"{figure.value.value:.2f} dB" if figure.unit == "dB" else f"{engineering(figure.value.value)}{figure.unit}"
    return f'<span data-figure="{html.escape(path)}">{text}</span>{band}{extra}{_tag(figure.evidence)}'


def _tag(evidence: Evidence) -> str:
    return f'<span class="tag">{evidence}</span>'


def _table(comparison: Comparison, shown: dict[str, Figure]) -> str:
    columns = {"fps": "frames/s", "energy": "energy/frame", "chip": "chip only", "power": "power", "quality": "PSNR"}
    head = "".join(f'<th class="n" scope="col">{name}</th>' for name in columns.values())
    rows = []
    for index, row in enumerate(comparison.rows):
        cells = []
        for name, heading in columns.items():
            path = f"targets/{index}/{name}"
            beside = {"fps": f"{engineering(row.ms_per_frame.value * 1e-3)}s a frame", "energy": _above_idle(row)}.get(
                name, ""
            )
            cells.append(
                f'<td class="n" data-name="{heading}">{_figure(path, shown[path], beside)}</td>'
                if path in shown
                else '<td class="n"></td>'
            )
        name = f'<th scope="row">{html.escape(row.target)}<small>{row.precision}</small></th>'
        rows.append(f"<tr>{name}{''.join(cells)}</tr>")
    return f'<table><thead><tr><th scope="col">target</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _above_idle(row: TargetRow) -> str:
    return "" if row.j_above_idle is None else f"{engineering(row.j_above_idle.value)}J without idle"


def _chart(comparison: Comparison, chart: _Chart, shown: dict[str, Figure]) -> str:
    """The chart with caption, evidence and command; empty if there is nothing to draw."""
    drawn = chart.draw(comparison)
    if drawn is None:
        return ""
    config = {"displayModeBar": False, "responsive": True}
    evidence = dict.fromkeys(figure.evidence for path, figure in shown.items() if path.startswith(chart.paths))
    return (
        f'<section class="chart" aria-label="{html.escape(chart.heading)}"><h2>{chart.heading}</h2>'
        f'<p class="soft">{html.escape(chart.says)} {" ".join(map(_tag, evidence))}</p>'
        f"{drawn.to_html(full_html=False, include_plotlyjs=False, config=config)}"
        f'<p class="soft">From <code>{html.escape(comparison.command)}</code></p></section>'
    )


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
    return (
        f"PSNR on this frame: {', '.join(shown) or 'none (no trained weights, or no ground truth)'}. {exact} "
        f"{_import(comparison.simulation['import'])}"
    )


def _import(check: dict[str, Any]) -> str:
    """How far the imported network agrees with the model."""
    text = html.escape(check["text"])
    if not check["checked"]:
        return f'<strong class="alarm">import: {text}</strong>'
    return f"Import: {text} beside {html.escape(check['engine'])} on a frame of {check['frame']}."


def _before_and_after(comparison: Comparison, pictures: Pictures) -> str:
    """The restored picture over another, with a slider between them; all side by side below."""
    if not pictures:
        return ""
    sources = {name: _png(pixels) for name, pixels in pictures.items()}
    captions = {name: _caption(comparison, name) for name in pictures}
    side_by_side = "".join(
        f'<figure><img alt="{html.escape(captions[name])}" src="{source}"><figcaption>{html.escape(captions[name])}'
        "</figcaption></figure>"
        for name, source in sources.items()
    )
    first = next((name for name in ("bicubic", *sources) if name in sources and name != "restored"), None)
    slider = (
        ""
        if first is None or "restored" not in sources
        else (
            f'<div class="slider" id="slider"><img alt="{html.escape(captions[first])}" src="{sources[first]}">'
            f'<img class="over" alt="{html.escape(captions["restored"])}" src="{sources["restored"]}"><i></i></div>'
            f'<label class="slide"><span>{html.escape(captions[first])}</span>'
            '<input type="range" id="slide" min="0" max="100" value="50" '
            'aria-label="Where the network\'s result begins, from the left">'
            f"<span>{html.escape(captions['restored'])}</span></label>"
        )
    )
    return f'<h2>Before and after</h2>{slider}<div class="pictures">{side_by_side}</div>'


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _caption(comparison: Comparison, name: str) -> str:
    decibels = comparison.quality_db.get({"restored": "int8"}.get(name, name))
    return _CAPTIONS.get(name, name) + ("" if decibels is None else f", {decibels:.2f} dB")


def _traces(shown: dict[str, Figure]) -> str:
    """Every figure with its inputs, including those shown only in charts."""
    rows = "".join(
        f"<tr><td><code>{html.escape(path)}</code></td><td>{engineering(figure.value.value)}{figure.unit}</td>"
        f"<td>{html.escape(figure.how)} {_tag(figure.evidence)}</td>"
        f"<td>{html.escape(', '.join((*figure.counters, *figure.records, *figure.files)))}</td></tr>"
        for path, figure in shown.items()
    )
    return (
        f"<details><summary>Where each of the {len(shown)} figures comes from</summary><table><thead><tr>"
        f"<th>figure</th><th>value</th><th>how</th><th>from</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _sources(shown: dict[str, Figure]) -> str:
    """Every constant used by a figure on this page."""
    used = sorted({name for figure in shown.values() for name in figure.records})
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
