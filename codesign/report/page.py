"""One self-contained HTML page: verdict, table, charts, before and after; it needs no network."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image
from plotly.offline import get_plotlyjs

from codesign.compare import Comparison
from codesign.energy.interval import Interval, engineering
from codesign.report.plot import COLOURS

_CAUSES = (*COLOURS, "#56B4E9", "#999999", "#F0E442")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #5a6572; --line: #d8dee4; --tag: #eef3f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebee; --paper: #14171a; --soft: #a5b0bb; --line: #343b42; --tag: #22303c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.4rem; line-height: 1.3; margin: .2rem 0 .6rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p.soft, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
small { color: var(--soft); display: block; }
.tag { background: var(--tag); border-radius: .3rem; padding: .05rem .4rem; font-size: .8rem; white-space: nowrap; }
.pictures { display: flex; gap: .8rem; flex-wrap: wrap; }
.pictures figure { margin: 0; flex: 1 1 16rem; } .pictures img { width: 100%; image-rendering: pixelated; }
code { background: var(--tag); padding: .1rem .35rem; border-radius: .3rem; overflow-wrap: anywhere; }
"""


def render_page(comparison: Comparison, pictures: dict[str, NDArray[np.uint8]]) -> str:
    """The page's text."""
    title = f"{comparison.network}, {comparison.input_size} to {comparison.output_size}"
    charts = "".join(
        f'<h2>{html.escape(heading)}</h2><div class="wide">'
        + figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
        + "</div>"
        for heading, figure in (
            ("Speed against energy", _scatter(comparison)),
            ("Where Scanline's energy goes", _breakdown(comparison)),
            ("Where its cycles go", _cycles(comparison)),
        )
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head><body>
<p class="soft">{html.escape(title)}, {comparison.macs / 1e9:.3g} GMAC a frame</p>
<h1>{html.escape(comparison.verdict)}</h1>
{_table(comparison)}
{_quality(comparison)}
{charts}
{_pictures(pictures, comparison)}
<h2>Reproduce</h2><p><code>{html.escape(comparison.command)}</code></p>
<p class="soft">Boundaries: {"; ".join(html.escape(f"{row.target}: {row.boundary}") for row in comparison.rows)}.
Figures are as they are, each at its own node; nothing is scaled to a common one.</p>
</body></html>
"""


def _figure(interval: Interval, unit: str = "") -> str:
    value = f"{engineering(interval.value)}{unit}"
    if interval.low == interval.high:
        return value
    return f"{value}<small>{engineering(interval.low)}{unit} to {engineering(interval.high)}{unit}</small>"


def _table(comparison: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(row.target)}<small>{html.escape(row.notes)}</small></td>"
        f'<td class="n">{_figure(row.fps)}</td><td class="n">{_figure(row.ms_per_frame * 1e-3, "s")}</td>'
        f'<td><span class="tag">{row.evidence}</span></td><td class="n">{_figure(row.j_per_frame, "J")}</td>'
        f'<td class="n">{"-" if row.chip_j_per_frame is None else _figure(row.chip_j_per_frame, "J")}</td>'
        f'<td class="n">{_figure(row.watts, "W")}</td><td><span class="tag">{row.energy_evidence}</span></td>'
        f"<td>{row.precision}</td></tr>"
        for row in comparison.rows
    )
    return (
        '<div class="wide"><table><thead><tr><th>target</th><th class="n">frames/s</th><th class="n">time/frame</th>'
        '<th>evidence</th><th class="n">energy/frame</th><th class="n">chip only</th><th class="n">power</th>'
        f"<th>evidence</th><th>precision</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _quality(comparison: Comparison) -> str:
    names = {"bicubic": "bicubic", "fp32": "network, FP32", "int8": "network, INT8 on Scanline"}
    shown = [
        f"{label} {value:.2f} dB"
        for key, label in names.items()
        if (value := comparison.quality_db.get(key)) is not None
    ]
    exact = comparison.simulation["bit_exact"]
    text = {True: "RTL, golden model and integer graph agree on every value.", False: "RTL differs from its model.",
            None: "Not compared with RTL."}[exact]  # fmt: skip
    return f"<p>PSNR on this frame (measured): {', '.join(shown) or 'none; the weights are not trained'}. {text}</p>"


def _scatter(comparison: Comparison) -> go.Figure:
    figure = go.Figure()
    for index, row in enumerate(comparison.rows):
        joules, fps = row.j_per_frame, row.fps
        figure.add_scatter(
            x=[joules.value], y=[fps.value], mode="markers", name=row.target,
            marker={"size": 13, "color": COLOURS[index % len(COLOURS)]},
            error_x={"array": [joules.high - joules.value], "arrayminus": [joules.value - joules.low]},
            error_y={"array": [fps.high - fps.value], "arrayminus": [fps.value - fps.low]},
            hovertemplate=f"{row.target}<br>%{{x:.3g}} J, %{{y:.4g}} fps<br>{row.evidence}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", title="joules per frame")
    figure.update_yaxes(type="log", title="frames per second")
    return _styled(figure)


def _breakdown(comparison: Comparison) -> go.Figure:
    parts = comparison.account.components[::-1]
    micro = [part.joules.value * 1e6 for part in parts]
    figure = go.Figure(
        go.Bar(
            x=micro, y=[part.name for part in parts], orientation="h",
            marker={"color": [COLOURS[0] if part.on_chip else COLOURS[1] for part in parts]},
            error_x={"array": [(part.joules.high - part.joules.value) * 1e6 for part in parts],
                     "arrayminus": [(part.joules.value - part.joules.low) * 1e6 for part in parts]},
            customdata=[", ".join(part.records) for part in parts],
            hovertemplate="%{y}: %{x:.3g} µJ<br>from %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="µJ per frame (blue: on chip)")
    return _styled(figure)


def _cycles(comparison: Comparison) -> go.Figure:
    stalls: dict[str, int] = comparison.simulation["stalls"]
    figure = go.Figure()
    for index, (cause, cycles) in enumerate(stalls.items()):
        figure.add_bar(
            x=[cycles], y=["cycles"], name=cause, orientation="h", marker={"color": _CAUSES[index]},
            hovertemplate=f"{cause}: %{{x:,}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="stack", height=220)
    return _styled(figure)


def _styled(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", font={"color": "#6b7885"},
        margin={"l": 10, "r": 10, "t": 20, "b": 10}, legend={"orientation": "h", "y": -0.25},
    )  # fmt: skip
    figure.update_xaxes(gridcolor="rgba(128,128,128,.25)", automargin=True)
    figure.update_yaxes(gridcolor="rgba(128,128,128,.25)", automargin=True)
    return figure


def _pictures(pictures: dict[str, NDArray[np.uint8]], comparison: Comparison) -> str:
    if not pictures:
        return ""
    figures = []
    for name, pixels in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
        )
    del comparison
    return f'<h2>Before and after</h2><div class="pictures">{"".join(figures)}</div>'
