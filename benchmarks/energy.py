"""Published chips predicted from their public parameters: ``make bench-energy`` → a table and ``results/energy.json``.

A chip is modelled as a Scanline of its size: as many MACs, as much memory, its node, supply and clock. The cycle model
runs a super-resolution network on that machine, and the energy account, with the shipped records, gives joules per MAC
and leakage. Published results are only printed beside. RAFT-Lite runs on an FPGA, whose energy this
project does not model; designs without published power are predicted, not judged.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.energy.account import EnergyAccount, account
from codesign.energy.area import silicon_area
from codesign.energy.interval import Interval
from codesign.hw.counters import Counters
from codesign.hw.files import write_text
from codesign.hw.spec import BASE, AccelSpec
from codesign.hw.timing import model as timing
from codesign.networks import get, load
from codesign.workflows.frames import calibration_frames

CHIPS = Path(__file__).parent / "chips.toml"
RESULTS = Path(__file__).parent / "results" / "energy.json"

NETWORK, SIZE = "edsr_f32b5_x2", (320, 180)
"""Network run on every chip: MLPerf Mobile's super-resolution network."""

PLAIN = dataclasses.replace(BASE, statistic_channels=0, window_beats=0, layer_norm=0)
"""Machine from which chips are derived: none of them normalises or reads windows."""

WITHIN = 2.0


@dataclass(frozen=True)
class Public:
    """Public parameters, the only input of a prediction."""

    node: str
    volts: float
    basis: str
    clock_hz: float | None = None
    macs: int | None = None
    macs_per_s: float | None = None
    kilo_gates: float | None = None
    area_mm2: float | None = None
    memory_bytes: int | None = None
    utilization: float = 1.0
    operand_bits: int = 8


@dataclass(frozen=True)
class Published:
    """Published results for comparison; a design may state one, both or none."""

    watts: float | None = None
    tops_per_watt: float | None = None


@dataclass(frozen=True)
class Chip:
    name: str
    source: str
    public: Public
    published: Published


@dataclass(frozen=True)
class Prediction:
    """Prediction for the chip alone, without DRAM, its interface and the regulator, at 25 C."""

    spec: AccelSpec
    macs: int
    watts: Interval
    tops_per_watt: Interval
    joules_per_mac: Interval
    account: EnergyAccount


def chips(path: Path = CHIPS) -> tuple[Chip, ...]:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Chip(name, one["source"], Public(**one["public"]), Published(**one["published"])) for name, one in table.items()
    )


def macs_of(public: Public) -> int:
    """Published MACs; or those from throughput and clock; or those of a Scanline with the chip's gates or area."""
    if public.macs is not None:
        return public.macs
    if public.macs_per_s is not None and public.clock_hz is not None:
        return round(public.macs_per_s / public.clock_hz / public.utilization)
    if public.kilo_gates is not None:
        return _most(lambda spec: silicon_area(spec, public.node).gates.value / 1e3, public.kilo_gates, public)
    if public.area_mm2 is not None:
        return _most(lambda spec: silicon_area(spec, public.node).mm2.value, public.area_mm2, public)
    return BASE.macs_per_cycle


def scanline(macs: int, memory_bytes: int | None) -> AccelSpec:
    """A machine of ``macs`` MACs, rounded to a power of two, in the presets' proportions; memory as given, or in
    ``base``'s proportion to MACs."""
    lanes = 1 << max(6, round(math.log2(macs)))
    ci = 8 if lanes < 4096 else 16
    rest = (lanes // ci).bit_length() - 1
    pixels, outputs = 1 << rest // 2, 1 << rest - rest // 2
    if outputs < ci:
        pixels, outputs = lanes // ci // ci, ci
    memory = memory_bytes or sum(PLAIN.on_chip_bytes().values()) * lanes // BASE.macs_per_cycle
    word = ci * outputs
    weights = max(64, 1 << (memory // 4 // word).bit_length() - 1)
    banks = 1 << (max(2 * pixels, pixels + BASE.window_reach) - 1).bit_length()
    scratchpad = max(2, (memory - weights * (word + 8)) * 9 // 10 // (banks * ci)) * banks * ci
    return dataclasses.replace(
        PLAIN,
        name=f"scanline-{lanes}-{memory >> 10}k",
        pixel_lanes=pixels,
        ci_lanes=ci,
        co_lanes=outputs,
        scratchpad_bytes=scratchpad,
        weight_words=weights,
        fill_words=weights,
        requantise_lanes=max(ci, min(ci * pixels, lanes // 32)),
        bus_bytes=max(16, min(32, ci)),
        parameter_channels=512,
    )


def _most(size: Callable[[AccelSpec], float], limit: float, public: Public) -> int:
    """MACs for ``limit``, interpolated between powers of two."""
    below = 64
    while size(scanline(2 * below, public.memory_bytes)) <= limit:
        below *= 2
    low, high = size(scanline(below, public.memory_bytes)), size(scanline(2 * below, public.memory_bytes))
    return round(below * (1.0 + max(0.0, limit - low) / (high - low)))


@cache
def counters(spec: AccelSpec) -> Counters:
    """Events of a frame of the network on ``spec``, by the cycle model."""
    network = get(NETWORK)
    model = load_model(load(NETWORK), width=SIZE[0], height=SIZE[1], channels=network.channels)
    found = compile_network(
        model,
        spec,
        calibration=calibration_frames(network.channels, network.scale),
        quantisation=Quantisation("minmax", pixel_output=True),
        name=NETWORK,
    )
    (region,) = found.regions
    return timing.predict(region.program, timing.Memory.of(spec, 4.0 * spec.bus_bytes, 100))


def predict(public: Public, count: Callable[[AccelSpec], Counters] = counters) -> Prediction:
    """A chip's power at its full rate, from its public parameters and the records alone."""
    macs = macs_of(public)
    spec = scanline(macs, public.memory_bytes)
    events = count(spec)
    bill = account(events, spec, node=public.node, volts=public.volts, operand_bits=public.operand_bits, celsius=25)
    leakage_w = next(part.joules for part in bill.components if part.name == "leakage") / bill.seconds
    switching_j = Interval.exact(0.0)
    for part in bill.components:
        if part.on_chip and part.name != "leakage":
            switching_j = switching_j + part.joules
    per_issued = switching_j / float(events.macs_issued)
    rate = public.macs_per_s or macs * (public.clock_hz or spec.clock_hz) * public.utilization
    # The nearest power of two represents the chip's number of MACs, in leakage too.
    watts = per_issued * rate + leakage_w * (macs / spec.macs_per_cycle)
    efficiency = Interval.exact(2e-12 * rate) / watts
    return Prediction(spec, macs, watts, efficiency, watts / rate, bill)


def row(chip: Chip, predicted: Prediction) -> dict[str, Any]:
    """Predicted and published figure and their ratio, in the published unit."""
    in_watts = chip.published.tops_per_watt is None
    figure = predicted.watts if in_watts else predicted.tops_per_watt
    published = chip.published.watts if in_watts else chip.published.tops_per_watt
    ratio = None if published is None else figure.value / published
    return {
        "chip": chip.name,
        "source": chip.source,
        "unit": "W" if in_watts else "TOPS/W",
        "predicted": figure.to_json(),
        "published": published,
        "ratio": ratio,
        "within": None if ratio is None else 1.0 / WITHIN <= ratio <= WITHIN,
        "interval_holds": None if published is None else figure.low <= published <= figure.high,
        "pj_per_mac": (predicted.joules_per_mac * 1e12).to_json(),
        "macs": predicted.macs,
        "machine": predicted.spec.name,
        "counters": dataclasses.asdict(predicted.account.counters),
        "public": dataclasses.asdict(chip.public),
        "components_j": {part.name: part.joules.value for part in predicted.account.components if part.on_chip},
        "records": list(predicted.account.records),
    }


def alternative(rows: Mapping[str, Chip]) -> dict[str, Any]:
    """The prediction with another value of a doubtful parameter: SRNPU with 8-bit operands."""
    chip = rows["SRNPU"]
    narrow = dataclasses.replace(chip, public=dataclasses.replace(chip.public, operand_bits=8))
    return row(narrow, predict(narrow.public)) | {"chip": "SRNPU, were its operands 8 bits"}


def main() -> None:
    console = Console()
    found = chips()
    rows = [row(chip, predict(chip.public)) for chip in found]
    doubtful = alternative({chip.name: chip for chip in found})
    table = Table(title="Published chips, predicted from public parameters")
    for heading in ("chip", "node", "predicted", "bounds", "published", "unit", "ratio"):
        table.add_column(heading, justify="left" if heading in ("chip", "node", "unit") else "right")
    for one in [*rows, doubtful]:
        if one is doubtful:
            table.add_section()
        figure = one["predicted"]
        table.add_row(
            one["chip"],
            one["public"]["node"],
            f"{figure['value']:.3g}",
            f"{figure['low']:.2g} to {figure['high']:.2g}",
            "" if one["published"] is None else f"{one['published']:.4g}",
            one["unit"],
            "" if one["ratio"] is None else f"{one['ratio']:.2f}" + ("" if one["within"] else " !"),
        )
    console.print(table)
    judged = [one for one in rows if one["ratio"] is not None]
    console.print(f"{sum(one['within'] for one in judged)} of {len(judged)} within {WITHIN:g} x.", highlight=False)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": "make bench-energy",
        "date": date.today().isoformat(),
        "commit": commit,
        "network": NETWORK,
        "size": SIZE,
        "within": WITHIN,
        "rows": rows,
        "alternative": doubtful,
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    console.print(f"Wrote {RESULTS}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
