"""The same frame on Scanline and on GPUs, with the boundary, precision and evidence of every figure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from codesign.energy.account import EnergyAccount, Evidence, account
from codesign.energy.interval import Interval, engineering
from codesign.energy.records import constant, devices
from codesign.frames import bicubic_baseline, judge
from codesign.hw.errors import InputError
from codesign.images import Pixels, to_pixels
from codesign.simulate import Simulation, run_float

RESULTS = Path("benchmarks/results/gpu")


class Recorded(BaseModel):
    """A measurement on a real GPU with its whole provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    input_size: str
    device: str
    precision: str
    batch: int
    ms_per_frame: float
    j_per_frame: float
    idle_w: float
    software: str
    driver: str
    clock_mhz: float
    method: str
    date: str
    commit: str


@dataclass(frozen=True)
class TargetRow:
    """One target's figures for one frame. ``chip_j_per_frame`` leaves out DRAM and regulator."""

    target: str
    ms_per_frame: Interval
    j_per_frame: Interval
    chip_j_per_frame: Interval | None
    watts: Interval
    precision: str
    quality_db: float | None
    evidence: Evidence  # of the time
    energy_evidence: Evidence
    boundary: str
    notes: str
    records: tuple[str, ...]

    @property
    def fps(self) -> Interval:
        """Frames per second."""
        ms = self.ms_per_frame
        return Interval(1e3 / ms.value, 1e3 / ms.high, 1e3 / ms.low)


@dataclass(frozen=True)
class Comparison:
    """Everything the table, the JSON and the report show."""

    network: str
    input_size: str
    output_size: str
    macs: int
    rows: tuple[TargetRow, ...]
    quality_db: dict[str, float | None]  # bicubic, fp32, int8
    account: EnergyAccount
    simulation: dict[str, Any] = field(repr=False)
    command: str

    @property
    def verdict(self) -> str:
        """One sentence: joules against joules, as they are."""
        chip, *others = self.rows
        if not others:
            return f"{chip.target} needs {engineering(chip.j_per_frame.value)}J per frame."
        best = min(others, key=lambda row: row.j_per_frame.value)
        ratio = best.j_per_frame / chip.j_per_frame
        mine, theirs = engineering(chip.j_per_frame.value), engineering(best.j_per_frame.value)
        return (
            f"{self.network} at {self.input_size} takes {mine}J a frame on {chip.target} and "
            f"{theirs}J on {best.target}: {ratio.value:.2g} times less "
            f"({ratio.low:.2g} to {ratio.high:.2g}), as they are, not at one node."
        )


def compare_targets(
    result: Simulation, gpus: list[str], *, command: str, results: Path = RESULTS
) -> tuple[Comparison, dict[str, Pixels]]:
    """Compare a simulated frame with ``gpus``; returns the comparison and pictures ``uint8[H, W, 3]`` by name."""
    bill = account(result.counters, result.spec)
    frame = result.compiled.frame
    quality: dict[str, float | None] = {"int8": result.quality_db}
    bicubic = bicubic_baseline(frame)
    quality["bicubic"] = bicubic.psnr_db
    quality["fp32"] = None
    if result.compiled.source.module is not None and result.compiled.source.trained:
        quality["fp32"] = judge(frame, run_float(result.compiled)).psnr_db
    rows = [scanline_row(result, bill)]
    rows += [gpu_row(result, name, quality["fp32"], results) for name in gpus if name]
    pictures = {"bicubic": bicubic.pixels, "restored": result.judged.pixels}
    if frame.truth is not None:
        pictures["truth"] = to_pixels(frame.truth)
    comparison = Comparison(
        network=result.network,
        input_size=result.input_size,
        output_size=result.output_size,
        macs=result.macs,
        rows=tuple(rows),
        quality_db=quality,
        account=bill,
        simulation=result.to_json(),
        command=command,
    )
    return comparison, pictures


def scanline_row(result: Simulation, bill: EnergyAccount) -> TargetRow:
    """Scanline as an ASIC at 28 nm: cycles as simulated, energy accounted for."""
    return TargetRow(
        target=f"Scanline {result.spec.name} (28 nm, {result.spec.clock_hz / 1e9:g} GHz)",
        ms_per_frame=Interval.exact(result.milliseconds),
        j_per_frame=bill.system_j,
        chip_j_per_frame=bill.chip_j,
        watts=bill.watts,
        precision="INT8",
        quality_db=result.quality_db,
        evidence=Evidence(result.evidence),
        energy_evidence=Evidence.MODEL,
        boundary="die, DRAM with interface, leakage, regulator",
        notes="node 28 nm; energy from counted events and published constants",
        records=tuple(sorted({name for part in bill.components for name in part.records})),
    )


def gpu_row(result: Simulation, device_name: str, quality_db: float | None, results: Path) -> TargetRow:
    """A recorded measurement when one fits, else a roofline labelled as modelled.

    Raises :class:`InputError` for an unknown device or a broken record.
    """
    table = devices()
    if device_name not in table:
        raise InputError(f"unknown GPU {device_name!r}", where="--gpu", hint=f"Known: {', '.join(table)}.")
    for path in sorted(results.glob("*.json")) if results.is_dir() else []:
        try:
            record = Recorded.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValidationError, json.JSONDecodeError) as error:
            raise InputError(f"is not a GPU measurement ({error})", where=str(path)) from error
        if (record.network, record.input_size, record.device) == (result.network, result.input_size, device_name):
            seconds = record.ms_per_frame / 1e3
            return TargetRow(
                target=f"{device_name}, measured",
                ms_per_frame=Interval.exact(record.ms_per_frame),
                j_per_frame=Interval.exact(record.j_per_frame),
                chip_j_per_frame=None,
                watts=Interval.exact(record.j_per_frame / seconds),
                precision=record.precision,
                quality_db=quality_db,
                evidence=Evidence.HARDWARE,
                energy_evidence=Evidence.HARDWARE,
                boundary="GPU board with memory, idle included",
                notes=f"{record.software}; {record.method}; {record.date}; {path.name}",
                records=(str(path),),
            )
    device = table[device_name]
    # Best software keeps light networks' features on chip: input, output and FP16 weights must move.
    macs, moved = result.macs, 2.0 * result.compulsory_bytes
    ideal = max(2.0 * macs / (device.peak_fp16_tflops * 1e12), moved / (device.bandwidth_gb_s * 1e9))
    share = constant("gpu_peak_share", "dimensionless")
    seconds_band = Interval(ideal / share.value, ideal / share.high, ideal / share.low)
    dynamic = constant("gpu_flop_fp16_a100", "J") * (2.0 * macs) + constant(device.memory, "J") * (8.0 * moved)
    joules = dynamic + seconds_band * device.idle_w
    bands = ((joules.low, seconds_band.low), (joules.value, seconds_band.value), (joules.high, seconds_band.high))
    watts = [energy / seconds for energy, seconds in bands]
    return TargetRow(
        target=f"{device_name}, roofline",
        ms_per_frame=seconds_band * 1e3,
        j_per_frame=joules,
        chip_j_per_frame=None,
        watts=Interval(watts[1], min(watts), max(watts)),
        precision="FP16",
        quality_db=quality_db,
        evidence=Evidence.MODEL,
        energy_evidence=Evidence.MODEL,
        boundary="GPU board with memory, idle included",
        notes=f"{share.low:.0%} to {share.high:.0%} of the roofline; pJ per FLOP and per bit from the literature",
        records=("gpu_peak_share", "gpu_flop_fp16_a100", device.memory),
    )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison for machines; intervals are ``{value, low, high}``."""
    return {
        "network": comparison.network,
        "input_size": comparison.input_size,
        "output_size": comparison.output_size,
        "macs": comparison.macs,
        "verdict": comparison.verdict,
        "quality_db": comparison.quality_db,
        "targets": [
            {
                "target": row.target,
                "fps": row.fps.value,
                "fps_interval": row.fps.to_json(),
                "ms_per_frame": row.ms_per_frame.value,
                "ms_per_frame_interval": row.ms_per_frame.to_json(),
                "j_per_frame": row.j_per_frame.to_json(),
                "chip_j_per_frame": None if row.chip_j_per_frame is None else row.chip_j_per_frame.to_json(),
                "watts": row.watts.to_json(),
                "precision": row.precision,
                "quality_db": row.quality_db,
                "evidence": {"time": row.evidence, "energy": row.energy_evidence, "quality": "measured"},
                "boundary": row.boundary,
                "notes": row.notes,
                "records": list(row.records),
            }
            for row in comparison.rows
        ],
        "energy": [
            {
                "component": part.name,
                "joules": part.joules.to_json(),
                "on_chip": part.on_chip,
                "records": list(part.records),
            }
            for part in comparison.account.components
        ],
        "simulation": comparison.simulation,
        "command": comparison.command,
    }
