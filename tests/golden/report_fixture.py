"""A comparison of fixed counters: its report's JSON depends on constants and formulas alone, not on a processor."""

from __future__ import annotations

import dataclasses
from typing import Any

from codesign.energy.account import Evidence, account
from codesign.energy.gpu import Workload
from codesign.hw.counters import Counters
from codesign.hw.spec import BASE
from codesign.report import to_json
from codesign.workflows.compare import Comparison, gpu_row, scanline_row


def report_json() -> dict[str, Any]:
    """The JSON of a report, to eight digits: sums of floats may differ in the last."""
    counters = dataclasses.replace(
        Counters(**{field.name: 0 for field in dataclasses.fields(Counters)}),
        cycles=10**6,
        busy_cycles=9 * 10**5,
        macs_issued=2048 * 9 * 10**5,
        dram_load_read_bytes=3 * 10**5,
        dram_write_bytes=10**5,
        weight_read_words=9 * 10**5,
        requantised_values=10**6,
    )
    bill = account(counters, BASE)
    work = Workload("net", "64x48", "128x96", 10**9, 10**5)
    chip = scanline_row(counters, BASE, bill, evidence=Evidence.RTL, quality_db=34.5)
    rows = (chip, *(gpu_row(work, gpu, quality_db=35.0) for gpu in ("H200", "A100", "RTX4090", "Orin")))
    simulation = {"stalls": {"busy": 10**6, **counters.stalls}, "bit_exact": True}
    quality = {"bicubic": 30.0, "fp32": 35.0, "int8": 34.5}
    comparison = Comparison("net", "64x48", "128x96", 10**9, rows, quality, bill, simulation, "command")
    return dict(_rounded(to_json(comparison)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
