"""The page's charts."""

from __future__ import annotations

import plotly.graph_objects as go

from codesign.compare import Comparison
from codesign.report.plot import COLOURS

_CAUSES = (*COLOURS, "#999999", "#F0E442")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
_GRID = "rgba(128,128,128,.25)"
_BOUNDS = "#8a94a0"  # seen on white and on near-black


def speed_against_energy(comparison: Comparison) -> go.Figure:
    """Frames per second over joules per frame, with bounds."""
    figure = go.Figure()
    for index, row in enumerate(comparison.rows):
        joules, fps = row.j_per_frame, row.fps
        if joules is None:
            figure.add_hline(
                y=fps.value, line={"color": COLOURS[index % len(COLOURS)], "dash": "dot", "width": 1.5},
                annotation={"text": f"{row.target}: energy not known", "font_size": 11},
            )  # fmt: skip
            continue
        bars = {"thickness": 1.5, "width": 4}
        figure.add_scatter(
            x=[joules.value], y=[fps.value], mode="markers", name=row.target,
            marker={"size": 13, "color": COLOURS[index % len(COLOURS)], "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
            error_x={"array": [joules.high - joules.value], "arrayminus": [joules.value - joules.low], **bars},
            error_y={"array": [fps.high - fps.value], "arrayminus": [fps.value - fps.low], **bars},
            hovertemplate=f"{row.target}<br>%{{x:.3s}}J, {row.energy_evidence}"
            f"<br>%{{y:.3s}} frames/s, {row.evidence}<extra></extra>",
        )  # fmt: skip
    # One label a decade: the digits between crowd a narrow screen.
    figure.update_xaxes(type="log", title="energy per frame", tickformat="~s", ticksuffix="J", dtick=1)
    figure.update_yaxes(type="log", title="frames per second", tickformat="~s", dtick=1)
    return _styled(figure, 420)


def energy_breakdown(comparison: Comparison) -> go.Figure:
    """Joules by component, on the chip and off it."""
    figure = go.Figure()
    parts = comparison.account.components
    for on_chip, name, colour in ((True, "on chip", COLOURS[0]), (False, "off chip", COLOURS[1])):
        chosen = [part for part in parts if part.on_chip is on_chip]
        figure.add_bar(
            x=[part.joules.value for part in chosen], y=[part.name for part in chosen], orientation="h", name=name,
            marker={"color": colour},
            error_x={"array": [part.joules.high - part.joules.value for part in chosen],
                     "arrayminus": [part.joules.value - part.joules.low for part in chosen],
                     "color": _BOUNDS, "thickness": 1.5, "width": 4},
            customdata=[", ".join(part.records) for part in chosen],
            hovertemplate="%{y}: %{x:.3s}J<br>from %{customdata}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="energy per frame", tickformat="~s", ticksuffix="J", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[part.name for part in parts][::-1])
    return _styled(figure, 440)


def cycles_by_cause(comparison: Comparison) -> go.Figure:
    """The compute engine's cycles: busy, or waiting for what."""
    stalls: dict[str, int] = comparison.simulation["stalls"]
    total = max(1, sum(stalls.values()))
    figure = go.Figure()
    for index, (cause, cycles) in enumerate(stalls.items()):
        figure.add_bar(
            x=[100.0 * cycles / total], y=["cycles"], name=cause, orientation="h",
            marker={"color": _CAUSES[index % len(_CAUSES)]},
            hovertemplate=f"{cause}: {cycles:,} cycles, %{{x:.1f}} %<extra></extra>",
        )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="share of all cycles", ticksuffix=" %", range=[0, 100])
    figure.update_yaxes(showticklabels=False)
    return _styled(figure, 240)


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", dragmode=False,
        font={"size": 13}, margin={"l": 10, "r": 16, "t": 10, "b": 10}, showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    )  # fmt: skip
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True, fixedrange=True)
    return figure
