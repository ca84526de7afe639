"""The comparison as a picture for papers: frames per second against joules per frame."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from codesign.compare import Comparison
from codesign.hw.files import replaced

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: safe for colour-blind readers


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG; bars are the intervals, both axes logarithmic."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7.2, 4.4), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        for index, row in enumerate(comparison.rows):
            joules, fps = row.j_per_frame, row.fps
            colour = COLOURS[index % len(COLOURS)]
            axes.errorbar(
                joules.value, fps.value, xerr=[[joules.value - joules.low], [joules.high - joules.value]],
                yerr=[[fps.value - fps.low], [fps.high - fps.value]], fmt="o", color=colour, capsize=3, markersize=8,
            )  # fmt: skip
            axes.annotate(
                f"{row.target}\n{row.precision}; {row.evidence}", (joules.value, fps.value), xytext=(9, 9),
                textcoords="offset points", color=colour, fontsize=9,
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="joules per frame (system)", ylabel="frames per second")
        axes.margins(x=0.35, y=0.3)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_title(f"{comparison.network}, {comparison.input_size} to {comparison.output_size}", loc="left")
        with replaced(path) as temporary:
            figure.savefig(temporary, format="png")
