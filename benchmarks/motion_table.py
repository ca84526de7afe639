"""Tables of flow and video networks, from ``motion.json`` and ``flow.json``: ``python benchmarks/motion_table.py``.

``results/README.md`` contains them; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

HEADINGS = (
    "network",
    "frame",
    "EPE in FP32 → INT8, px",
    "INT8 from FP32",
    "cycles",
    "from",
    "utilisation",
    "cycle model",
    "DRAM",
    "J/frame",
    "host: operators, MACs, time",
)


MIXED = (
    "network",
    "pair",
    "FP32",
    "INT8",
    "mixed",
    "from FP32, INT8 → mixed",
    "G products",
    "M cycles",
    "DRAM MB",
)


def networks(results: Path = RESULTS) -> str:
    """Cost and quality of each network, in Markdown."""
    rows = json.loads((results / "motion.json").read_text())["rows"]
    quality = json.loads((results / "flow.json").read_text())["rows"]
    return _table(HEADINGS, [_cells(row, [one for one in quality if one["network"] == row["network"]]) for row in rows])


def mixed(results: Path = RESULTS) -> str:
    """End-point errors in 8 bits and by an error budget, with the cost of the budget, in Markdown."""
    rows = json.loads((results / "flow.json").read_text())["rows"]
    return _table(MIXED, [_budget(row) for row in rows if "fp32" in row])


def _budget(row: dict[str, Any]) -> list[str]:
    before, after = row["base"]["int8"], row["base"]["mixed"]
    return [
        row["network"],
        row["pair"],
        *(f"{row[name]['epe_pixels']:.3f}" for name in ("fp32", "int8", "mixed")),
        f"{row['int8_from_fp32']['epe_pixels']:.2f} → {row['mixed_from_fp32']['epe_pixels']:.2f}",
        f"{before['products'] / 1e9:.1f} → {after['products'] / 1e9:.1f}",
        f"{before['cycles'] / 1e6:.1f} → {after['cycles'] / 1e6:.1f}",
        f"{before['dram_bytes'] / 1e6:.1f} → {after['dram_bytes'] / 1e6:.1f}",
    ]


def _table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _cells(row: dict[str, Any], quality: list[dict[str, Any]]) -> list[str]:
    judged = [one for one in quality if "fp32" in one]
    apart = [one["int8_from_fp32_relative"] for one in quality if "int8_from_fp32_relative" in one]
    run = row.get("simulation") or row["simulated_crop"]
    joules, host = row["joules"]["system"], row["host"]
    measured = row["evidence"] == "rtl-measured"
    return [
        row["network"] + (" (seeded)" if row["weights"] == "seeded" else ""),
        row["input_size"],
        "; ".join(f"{one['fp32']['epe_pixels']:.3f} → {one['int8']['epe_pixels']:.3f}" for one in judged) or "-",
        "; ".join(f"{one:.1%}" for one in apart)
        or "; ".join(f"{one['int8_from_fp32']['epe_pixels']:.2f} px" for one in judged)
        or "-",
        f"{row['cycles'] / 1e6:.2f} M",
        "RTL" if measured else f"model; {run['input_size']} on RTL",
        f"{row['mac_utilization']:.3f}",
        f"{run['model_error']:+.2%}",
        f"{sum(row['dram_bytes'].values()) / 1e6:.1f} MB",
        f"{_two(joules['value'])} ({_two(joules['low'])} to {_two(joules['high'])})",
        f"{host['operator_share']:.0%}, {host['mac_share']:.1%}, {host['time_share']:.0%}",
    ]


def _two(value: float) -> str:
    """A number to two significant digits."""
    return f"{float(f'{value:.2g}'):g}"


if __name__ == "__main__":
    print(networks(), mixed(), sep="\n\n")
