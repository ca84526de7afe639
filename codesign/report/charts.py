"""The page's charts, each named after its content; the page adds the evidence and the command that reproduces it."""

from __future__ import annotations

import plotly.graph_objects as go

from codesign.energy.interval import Interval, engineering
from codesign.report.plot import COLOURS
from codesign.workflows.compare import Comparison

_CAUSES = (*COLOURS, "#999999", "#F0E442")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
_GRID = "rgba(128,128,128,.25)"
_BOUNDS = "#8a94a0"  # legible on white and on near-black
_BAR_PIXELS, _FEWEST_BARS, _MOST_BARS = 22, 8, 160


def speed_against_energy(comparison: Comparison) -> go.Figure:
    """Frames per second over joules per frame, with bounds."""
    figure = go.Figure()
    for index, row in enumerate(comparison.rows):
        joules, fps = row.j_per_frame, row.fps
        if joules is None:
            figure.add_hline(
                y=fps.value,
                line={"color": COLOURS[index % len(COLOURS)], "dash": "dot", "width": 1.5},
                annotation={"text": f"{row.target}: energy not known", "font_size": 11},
            )
            continue
        figure.add_scatter(
            x=[joules.value],
            y=[fps.value],
            mode="markers",
            name=row.target,
            marker=_marker(index),
            error_x=_bars(joules),
            error_y=_bars(fps),
            hovertemplate=f"{row.target}<br>%{{x:.3s}}J, {row.energy_evidence}"
            f"<br>%{{y:.3s}} frames/s, {row.evidence}<extra></extra>",
        )
    # One label per decade: more crowd a narrow screen.
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
            x=[part.joules.value for part in chosen],
            y=[part.name for part in chosen],
            orientation="h",
            name=name,
            marker={"color": colour},
            error_x={
                "array": [part.joules.high - part.joules.value for part in chosen],
                "arrayminus": [part.joules.value - part.joules.low for part in chosen],
                "color": _BOUNDS,
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[", ".join(part.records) for part in chosen],
            hovertemplate="%{y}: %{x:.3s}J<br>from %{customdata}<extra></extra>",
        )
    figure.update_xaxes(title="energy per frame", tickformat="~s", ticksuffix="J", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[part.name for part in parts][::-1])
    return _styled(figure, 140 + _BAR_PIXELS * len(parts))


def cycles_by_cause(comparison: Comparison) -> go.Figure:
    """The compute engine's cycles: busy, or stalled by cause."""
    stalls: dict[str, int] = comparison.simulation["stalls"]
    total = max(1, sum(stalls.values()))
    figure = go.Figure()
    for index, (cause, cycles) in enumerate(stalls.items()):
        figure.add_bar(
            x=[100.0 * cycles / total],
            y=["cycles"],
            name=cause,
            orientation="h",
            marker={"color": _CAUSES[index % len(_CAUSES)]},
            hovertemplate=f"{cause}: {cycles:,} cycles, %{{x:.1f}} %<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="share of all cycles", ticksuffix=" %", range=[0, 100])
    figure.update_yaxes(showticklabels=False)
    return _styled(figure, 240)


def rooflines(comparison: Comparison) -> go.Figure | None:
    """MACs per second over MACs per byte: each target's limit, and the rate that this network reaches."""
    lines = comparison.rooflines
    if not lines:
        return None
    ridges = [line.peak_macs_per_s / line.bytes_per_s for line in lines]
    own = [line.macs_per_byte for line in lines]
    low, high = min(*ridges, *own) / 4.0, max(*ridges, *own) * 4.0
    figure = go.Figure()
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        corner = line.peak_macs_per_s / line.bytes_per_s
        figure.add_scatter(
            x=[low, corner, high],
            y=[low * line.bytes_per_s, line.peak_macs_per_s, line.peak_macs_per_s],
            mode="lines",
            line={"color": colour, "width": 1.6},
            legendgroup=line.target,
            showlegend=False,
            hovertemplate=f"{line.target}: at most %{{y:.3s}}MAC/s<extra></extra>",
        )
        reached = line.reached_macs_per_s
        figure.add_scatter(
            x=[line.macs_per_byte],
            y=[reached.value],
            mode="markers",
            name=line.target,
            legendgroup=line.target,
            marker=_marker(index),
            error_y=_bars(reached),
            hovertemplate=f"{line.target}<br>%{{y:.3s}}MAC/s, {line.evidence}<br>%{{x:.3s}}MAC/B<extra></extra>",
        )
    figure.update_xaxes(type="log", title="MACs per byte from DRAM", tickformat="~s", dtick=1)
    figure.update_yaxes(type="log", title="MACs per second", tickformat="~s", dtick=1)
    return _styled(figure, 420)


def layer_timeline(comparison: Comparison) -> go.Figure | None:
    """Time spans in which the array worked on each layer; layers of a cascade take turns row by row."""
    layers = comparison.layers[:_MOST_BARS]
    if not layers:
        return None
    milliseconds = 1e3 / comparison.account.spec.clock_hz
    shares = [100.0 * one.busy_cycles / max(1, one.end_cycle - one.begin_cycle) for one in layers]
    figure = go.Figure()
    figure.add_bar(
        base=[one.begin_cycle * milliseconds for one in layers],
        x=[(one.end_cycle - one.begin_cycle) * milliseconds for one in layers],
        y=[_unique(index, one.name) for index, one in enumerate(layers)],
        orientation="h",
        name="first to last row",
        marker={"color": COLOURS[0]},
        customdata=[(share, engineering(one.joules.value)) for share, one in zip(shares, layers, strict=True)],
        hovertemplate="%{y}: from %{base:.4g} ms, for %{x:.4g} ms<br>the array is on it for %{customdata[0]:.1f} % of"
        " that<br>%{customdata[1]}J on the chip<extra></extra>",
    )
    figure.update_xaxes(title="milliseconds from the start of the frame")
    return _layered(figure, layers)


def layer_utilization(comparison: Comparison) -> go.Figure | None:
    """Utilisation by layer: the share of the array's multipliers that do the user's MACs while it works on the
    layer."""
    layers = comparison.layers[:_MOST_BARS]
    if not layers:
        return None
    figure = go.Figure()
    figure.add_bar(
        x=[100.0 * one.utilization for one in layers],
        y=[_unique(index, one.name) for index, one in enumerate(layers)],
        orientation="h",
        name="of the array",
        marker={"color": COLOURS[2]},
        customdata=[engineering(float(one.macs)) for one in layers],
        hovertemplate="%{y}: %{x:.1f} % of the array, %{customdata}MAC<extra></extra>",
    )
    figure.update_xaxes(title="utilisation while the array is busy with the layer", ticksuffix=" %", rangemode="tozero")
    return _layered(figure, layers)


def quality_against_energy(comparison: Comparison) -> go.Figure | None:
    """PSNR over joules per frame; the bicubic baseline as a line. None where no quality is known."""
    rows = [(index, row) for index, row in enumerate(comparison.rows) if row.quality_db is not None and row.j_per_frame]
    if not rows:
        return None
    figure = go.Figure()
    for index, row in rows:
        assert row.j_per_frame is not None
        figure.add_scatter(
            x=[row.j_per_frame.value],
            y=[row.quality_db],
            mode="markers",
            name=f"{row.target}, {row.precision}",
            marker=_marker(index),
            error_x=_bars(row.j_per_frame),
            hovertemplate=f"{row.target}, {row.precision}<br>%{{y:.2f}} dB, {row.quality_evidence}"
            f"<br>%{{x:.3s}}J, {row.energy_evidence}<extra></extra>",
        )
    bicubic = comparison.quality_db.get("bicubic")
    if bicubic is not None:
        figure.add_hline(
            y=bicubic, line={"color": _BOUNDS, "dash": "dot"}, annotation={"text": "bicubic", "font_size": 11}
        )
    figure.update_xaxes(type="log", title="energy per frame", tickformat="~s", ticksuffix="J", dtick=1)
    figure.update_yaxes(title="PSNR", ticksuffix=" dB")
    return _styled(figure, 360)


def _unique(index: int, name: str) -> str:
    """A unique category for each layer: layers of several regions may share a name."""
    return f"{index + 1}  {name if len(name) <= 28 else f'{name[:12]}…{name[-14:]}'}"


def _layered(figure: go.Figure, layers: tuple[object, ...]) -> go.Figure:
    figure.update_yaxes(autorange="reversed", type="category")
    figure = _styled(figure, 120 + _BAR_PIXELS * max(_FEWEST_BARS, len(layers)))
    figure.update_layout(showlegend=False)
    return figure


def _marker(index: int) -> dict[str, object]:
    return {"size": 13, "color": COLOURS[index % len(COLOURS)], "symbol": _SYMBOLS[index % len(_SYMBOLS)]}


def _bars(interval: Interval) -> dict[str, object]:
    return {
        "array": [interval.high - interval.value],
        "arrayminus": [interval.value - interval.low],
        "thickness": 1.5,
        "width": 4,
    }


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        font={"size": 13},
        margin={"l": 10, "r": 16, "t": 10, "b": 10},
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    )
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=_GRID, zerolinecolor=_GRID, automargin=True, fixedrange=True)
    return figure
