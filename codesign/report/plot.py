"""The comparison as plots for papers, PNG or SVG by the file's suffix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from codesign.energy.interval import Interval
from codesign.hw.files import replaced
from codesign.workflows.compare import Comparison

# Okabe and Ito's colours, distinct for colour-blind readers; the shapes are distinct in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = "osD^vP"


_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "codesign",  # the same figures give the same file
}


def draw(comparison: Comparison, path: Path) -> None:
    """Frames per second against joules per frame: bars are the bounds, grey lines join points of equal power."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 5.2), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="energy per frame, whole system", ylabel="frames per second")
        axes.set_autoscale_on(False)  # limits are set below, since a single exact point has no extent
        for index, row in enumerate(comparison.rows):
            joules, fps = row.j_per_frame, row.fps
            if joules is None:
                axes.axhline(
                    fps.value,
                    color=COLOURS[index % len(COLOURS)],
                    linewidth=1.4,
                    linestyle=(0, (1, 2)),
                    label=f"{row.target}, {row.precision}\ntime {row.evidence}, energy not known",
                )
                continue
            axes.errorbar(
                joules.value,
                fps.value,
                xerr=[[joules.value - joules.low], [joules.high - joules.value]],
                yerr=[[fps.value - fps.low], [fps.high - fps.value]],
                fmt=_SHAPES[index % len(_SHAPES)],
                color=COLOURS[index % len(COLOURS)],
                capsize=3,
                markersize=8,
                elinewidth=1.4,
                zorder=3,
                label=f"{row.target}, {row.precision}\ntime {row.evidence}, energy {row.energy_evidence}",
            )
        axes.set_xlim(_limits([row.j_per_frame for row in comparison.rows if row.j_per_frame]))
        axes.set_ylim(_limits([row.fps for row in comparison.rows]))
        for axis, unit in ((axes.xaxis, "J"), (axes.yaxis, "")):
            axis.set_major_formatter(EngFormatter(unit=unit))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(which="major", color="#e4e4e4", linewidth=0.6)
        _equal_power(axes)
        axes.set_title(f"{comparison.network}, {comparison.input_size} to {comparison.output_size}", loc="left")
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.4)
        _save(figure, path)


def draw_rooflines(comparison: Comparison, path: Path) -> None:
    """Rooflines: each target's limit, and this network's point below it."""
    lines = comparison.rooflines
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="MACs per byte from DRAM", ylabel="MACs per second")
        places = [x for line in lines for x in (line.macs_per_byte, line.peak_macs_per_s / line.bytes_per_s)]
        low, high = min(places) / 4.0, max(places) * 4.0
        for index, line in enumerate(lines):
            colour = COLOURS[index % len(COLOURS)]
            corner = line.peak_macs_per_s / line.bytes_per_s
            axes.plot(
                [low, corner, high],
                [low * line.bytes_per_s, line.peak_macs_per_s, line.peak_macs_per_s],
                color=colour,
                linewidth=1.4,
            )
            reached = line.reached_macs_per_s
            axes.errorbar(
                line.macs_per_byte,
                reached.value,
                yerr=[[reached.value - reached.low], [reached.high - reached.value]],
                fmt=_SHAPES[index % len(_SHAPES)],
                color=colour,
                capsize=3,
                markersize=8,
                zorder=3,
                label=f"{line.target}, {line.evidence}",
            )
        axes.grid(which="major", color="#e4e4e4", linewidth=0.6)
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set_title(f"{comparison.network}, {comparison.input_size} to {comparison.output_size}", loc="left")
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.4)
        _save(figure, path)


def draw_energy(comparison: Comparison, path: Path) -> None:
    """Scanline's joules by component, with bounds."""
    parts = comparison.account.components[::-1]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.27 * len(parts)), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        values = [part.joules.value for part in parts]
        axes.barh(
            [part.name for part in parts],
            values,
            color=[COLOURS[0 if part.on_chip else 1] for part in parts],
            xerr=[
                [part.joules.value - part.joules.low for part in parts],
                [part.joules.high - part.joules.value for part in parts],
            ],
            error_kw={"ecolor": "#777777", "capsize": 2, "elinewidth": 1.2},
        )
        axes.set_xlim(left=0.0)
        axes.xaxis.set_major_formatter(EngFormatter(unit="J"))
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(f"{comparison.network}: energy of a frame, on the chip (blue) and off it", loc="left")
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG by the file's suffix, whole or not at all."""
    form = path.suffix.removeprefix(".")
    with replaced(path) as temporary:
        figure.savefig(temporary, format=form, metadata={"Date": None} if form == "svg" else None)


def _limits(shown: list[Interval]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room around ``shown``, a single point included."""
    low, high = min(interval.low for interval in shown), max(interval.high for interval in shown)
    room = max(3.0, (high / low) ** 0.12)
    return low / room, high * room


def _equal_power(axes: Axes) -> None:
    """Diagonals frames/s = W / (J per frame) for whole decades of power, labelled where they leave the frame."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    name = EngFormatter(unit="W")
    for decade in range(math.ceil(math.log10(x0 * y0)), math.floor(math.log10(x1 * y1)) + 1):
        watts = 10.0**decade
        axes.plot([x0, x1], [watts / x0, watts / x1], color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        # The label is on the line: at the top edge, or at the left edge for lines that start below the top.
        x = max(x0, watts / y1)
        if math.log(x1 / x) > 0.1 * math.log(x1 / x0) and math.log(watts / x / y0) > 0.1 * math.log(y1 / y0):
            axes.annotate(
                name(watts),
                (x, watts / x),
                xytext=(4, -9),
                textcoords="offset points",
                color="#777777",
                fontsize=8,
                va="top",
            )
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
