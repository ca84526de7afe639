"""The comparison as a picture for papers: frames per second against joules per frame."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from codesign.compare import Comparison
from codesign.energy.interval import Interval
from codesign.hw.files import replaced

# Okabe and Ito: told apart by colour-blind readers; the shapes tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = "osD^vP"


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG: bars are the bounds, both axes logarithmic, grey lines join points of equal power."""
    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, 5.2), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="energy per frame, whole system", ylabel="frames per second")
        for index, row in enumerate(comparison.rows):
            joules, fps = row.j_per_frame, row.fps
            if joules is None:
                axes.axhline(
                    fps.value, color=COLOURS[index % len(COLOURS)], linewidth=1.4, linestyle=(0, (1, 2)),
                    label=f"{row.target}, {row.precision}\ntime {row.evidence}, energy not known",
                )  # fmt: skip
                continue
            axes.errorbar(
                joules.value, fps.value, xerr=[[joules.value - joules.low], [joules.high - joules.value]],
                yerr=[[fps.value - fps.low], [fps.high - fps.value]], fmt=_SHAPES[index % len(_SHAPES)],
                color=COLOURS[index % len(COLOURS)], capsize=3, markersize=8, elinewidth=1.4, zorder=3,
                label=f"{row.target}, {row.precision}\ntime {row.evidence}, energy {row.energy_evidence}",
            )  # fmt: skip
        axes.set_xlim(_limits([row.j_per_frame for row in comparison.rows if row.j_per_frame]))
        axes.set_ylim(_limits([row.fps for row in comparison.rows]))
        for axis, unit in ((axes.xaxis, "J"), (axes.yaxis, "")):
            axis.set_major_formatter(EngFormatter(unit=unit))
            axis.set_minor_formatter(NullFormatter())
        axes.grid(which="major", color="#e4e4e4", linewidth=0.6)
        _equal_power(axes)
        axes.set_title(f"{comparison.network}, {comparison.input_size} to {comparison.output_size}", loc="left")
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8.5, handletextpad=0.4)
        with replaced(path) as temporary:
            figure.savefig(temporary, format="png")


def _limits(shown: list[Interval]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room around ``shown``, a single point included."""
    low, high = min(interval.low for interval in shown), max(interval.high for interval in shown)
    room = max(3.0, (high / low) ** 0.12)
    return low / room, high * room


def _equal_power(axes: Axes) -> None:
    """Diagonals frames/s = W / (J per frame) for whole decades of power, named where they leave the frame."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    name = EngFormatter(unit="W")
    for decade in range(math.ceil(math.log10(x0 * y0)), math.floor(math.log10(x1 * y1)) + 1):
        watts = 10.0**decade
        axes.plot([x0, x1], [watts / x0, watts / x1], color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        # A name belongs on the line: at the top edge, or at the left one for lines that start below it.
        x = max(x0, watts / y1)
        if math.log(x1 / x) > 0.1 * math.log(x1 / x0) and math.log(watts / x / y0) > 0.1 * math.log(y1 / y0):
            axes.annotate(
                name(watts), (x, watts / x), xytext=(4, -9), textcoords="offset points", color="#777777",
                fontsize=8, va="top",
            )  # fmt: skip
    axes.set(xlim=(x0, x1), ylim=(y0, y1))
