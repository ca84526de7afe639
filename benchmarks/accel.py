"""Scanline on ten networks, measured on the RTL: ``make bench-accel`` → a table and ``results/accel.json``.

Every row is one continuous simulation of one frame of a photograph, with a DRAM of 16 bytes per cycle and 100 cycles
latency, and every value of its output is compared with the golden model and with the integer evaluation of the
quantised graph. ``--predict`` uses the cycle model alone and takes seconds. Rows of the same commit in the result file
are kept, so an interrupted run can be continued.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import provenance
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from codesign import networks
from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.hw.model import reference
from codesign.hw.spec import BASE, AccelSpec
from codesign.hw.timing import model as timing
from codesign.networks.blocks import block_input
from codesign.pictures.images import fit
from codesign.sim.model import Dram
from codesign.sim.run import run
from codesign.workflows.frames import FrameChoice, calibration_frames, make_frame, photographs

RESULTS = Path(__file__).parent / "results" / "accel.json"

BYTES_PER_CYCLE, LATENCY = 16, 100

HALF = dataclasses.replace(
    BASE, name="base-512k", scratchpad_bytes=320 * 1024, weight_words=1024, fill_words=1024, parameter_channels=512
)
"""``base`` with 512 KiB on chip, the memory of Vela's figures."""

SPECS = {spec.name: spec for spec in (BASE, HALF)}


@dataclass(frozen=True)
class Workload:
    """A network, or a block inside one, and the frame it runs on."""

    network: str
    width: int
    height: int
    block: str = ""
    """Dotted path of a module that is run alone, on the input that the network gives it."""
    grow: int = 1
    """Ratio of the network's frame size to the block's."""

    @property
    def name(self) -> str:
        return f"{self.network}:{self.block}" if self.block else self.network


WORKLOADS = (
    Workload("espcn_x3", 960, 540),
    Workload("fsrcnn_x2", 960, 540),
    Workload("sesr_m5_x2", 960, 540),
    Workload("abpn_x3", 960, 540),
    Workload("quicksrnet_m_x3", 960, 540),
    Workload("edsr_f32b5_x2", 960, 540),
    Workload("srvgg16_x4", 480, 270),
    Workload("dncnn17", 480, 270),
    Workload("rrdbnet_x4", 480, 270, "body.0"),
    Workload("spynet", 512, 224, "levels.4", 2),
)

MOSTLY_COMPULSORY = ("espcn_x3", "fsrcnn_x2", "sesr_m5_x2", "abpn_x3", "quicksrnet_m_x3")

# Vela 5.2, Ethos-U85-2048, 512 KiB SRAM, INT8 of the same networks: MACs by its count, its estimate of cycles,
# and DRAM bytes of a frame.
VELA = {
    "espcn_x3": (11.31e9, 19.3e6, 90e6),
    "fsrcnn_x2": (6.74e9, 44.2e6, 478e6),
    "sesr_m5_x2": (6.91e9, 9.44e6, 86e6),
    "abpn_x3": (21.97e9, 70.8e6, 505e6),
    "quicksrnet_m_x3": (28.37e9, 46.8e6, 281e6),
    "edsr_f32b5_x2": (73.90e9, 175.1e6, 1720e6),
    "srvgg16_x4": (80.39e9, 79.2e6, 701e6),
    "dncnn17": (71.78e9, 59.0e6, 199e6),
}


def compiled(workload: Workload, spec: AccelSpec) -> tuple[CompiledNetwork, NDArray[np.float32]]:
    """The workload compiled for ``spec``, with its frame ``float32[1, C, H, W]``."""
    network = networks.get(workload.network)
    net = networks.load(workload.network)
    size = (workload.width * workload.grow, workload.height * workload.grow)
    frame = make_frame(network.channels, network.scale, FrameChoice(size)).tensor
    crops = calibration_frames(network.channels, network.scale)
    module, channels = net, network.channels
    if workload.block:
        module = net.get_submodule(workload.block)
        if network.channels == 6:  # a pyramid needs larger pictures than the calibration crops
            pairs = photographs(6, 1, limit=4)
            crops = [
                np.ascontiguousarray(fit(pair[0].transpose(1, 2, 0), 256, 256).transpose(2, 0, 1))[None]
                for pair in pairs
            ]
        crops = [block_input(net, module, crop) for crop in crops]
        frame = block_input(net, module, frame)
        channels = frame.shape[1]
    assert frame.shape[2:] == (workload.height, workload.width)
    model = load_model(module, width=workload.width, height=workload.height, channels=channels)
    found = compile_network(
        model,
        spec,
        calibration=crops,
        quantisation=Quantisation("percentile", pixel_output=not workload.block and network.task != "flow"),
        name=workload.name,
        dram_bytes_per_cycle=BYTES_PER_CYCLE,
    )
    return found, frame


def mapping_bound(network: CompiledNetwork) -> float:
    """MAC utilisation if the array did only its mapping's steps, without halo and without rounding rows up to the
    lanes."""
    spec, (region,) = network.spec, network.regions
    tensors = region.plan.graph.tensors
    steps = (
        sum(
            len(planned.mapping.steps) * tensors[planned.layer.output].height * tensors[planned.layer.output].width
            for cascade in region.plan.cascades
            for planned in cascade.layers
        )
        / spec.pixel_lanes
    )
    return network.macs / (steps * spec.macs_per_cycle)


def measure(workload: Workload, accel: str, predict_only: bool) -> dict[str, Any]:
    """One row of the result."""
    torch.set_num_threads(1)
    spec = SPECS[accel]
    network, frame = compiled(workload, spec)
    (region,) = network.regions
    began = time.perf_counter()
    predicted = timing.predict(region.program, timing.Memory.of(spec, BYTES_PER_CYCLE, LATENCY))
    row: dict[str, Any] = {
        "workload": workload.name,
        "input_size": f"{workload.width}x{workload.height}",
        "accel": accel,
        "on_chip_bytes": sum(spec.on_chip_bytes().values()),
        "macs": network.macs,
        "host_mac_share": network.host_mac_share,
        "mapping_bound": mapping_bound(network),
        "cascades": [
            {"layers": len(cascade.layers), "strips": len(cascade.strips), "halo": cost.halo, "limit": cost.limit}
            for cascade, cost in zip(region.plan.cascades, region.plan.costs, strict=True)
        ],
        "compulsory_bytes": network.compulsory_bytes,
        "predicted_cycles": predicted.cycles,
        "predict_seconds": time.perf_counter() - began,
    }
    counters = predicted
    if not predict_only:
        entry, _ = quantised_io(network.quantised)
        codes = np.clip(np.rint(frame / np.float32(entry.scale)) + entry.zero_point, -128, 127).astype(np.int8)
        inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
        measured = run(region.program, inputs, dram=Dram(BYTES_PER_CYCLE, LATENCY), assertions=False)
        golden = reference.run(region.program, inputs)
        (name,) = golden
        expected = evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0)
        wrong = int(np.count_nonzero(measured.outputs[name] != golden[name]))
        wrong += int(np.count_nonzero(golden[name] != expected))
        counters = measured.counters
        row |= {
            "bit_exact": wrong == 0,
            "distinct_output_values": len(np.unique(golden[name])),
            "model_error": predicted.cycles / counters.cycles - 1.0,
            "sim_seconds": measured.wall_seconds,
            "sim_cycles_per_second": measured.cycles_per_second,
        }
    return row | {
        "evidence": "modelled" if predict_only else "rtl-measured",
        "cycles": counters.cycles,
        "mac_utilization": network.macs / (counters.cycles * spec.macs_per_cycle),
        "dram_bytes": counters.dram_read_bytes + counters.dram_write_bytes,
        "stalls": {"busy": counters.busy_cycles, **counters.stalls},
    }


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """The table that the benchmark prints."""
    result = Table(title=title)
    for heading in (
        "workload",
        "cycles",
        "utilisation",
        "bound",
        "of it",
        "DRAM / compulsory",
        "cascades (strips)",
        "largest stalls",
        "model",
        "exact",
    ):
        result.add_column(heading, justify="left" if heading in ("workload", "largest stalls") else "right")
    for row in rows:
        stalls = sorted(((n, c) for n, c in row["stalls"].items() if n != "busy"), key=lambda item: -item[1])[:3]
        result.add_row(
            row["workload"],
            f"{row['cycles'] / 1e6:.2f} M",
            f"{row['mac_utilization']:.3f}",
            f"{row['mapping_bound']:.3f}",
            f"{row['mac_utilization'] / row['mapping_bound']:.3f}",
            f"{row['dram_bytes'] / row['compulsory_bytes']:.3f}",
            " ".join(f"{c['layers']}({c['strips']})" for c in row["cascades"]),
            ", ".join(f"{name} {cycles / row['cycles']:.1%}" for name, cycles in stalls),
            f"{row['model_error']:+.3%}" if "model_error" in row else "",
            str(row.get("bit_exact", "")),
        )
    mean = math.exp(sum(math.log(row["mac_utilization"]) for row in rows) / len(rows))
    result.add_row("geometric mean", "", f"{mean:.3f}")
    return result


def vela_table(rows: dict[tuple[str, str], dict[str, Any]]) -> Table:
    """Cycles and DRAM bytes of a frame beside Vela's estimates."""
    result = Table(title="Beside Vela 5.2's estimate for Ethos-U85-2048 with 512 KiB (1 GHz, 2048 MACs a cycle, both)")
    for heading in ("workload", "Vela", "base", "base-512k", "Vela DRAM", "base DRAM", "base-512k DRAM"):
        result.add_column(heading, justify="left" if heading == "workload" else "right")
    for name, (_, cycles, moved) in VELA.items():
        found = [rows.get((name, accel)) for accel in SPECS]
        result.add_row(
            name,
            f"{cycles / 1e6:.1f} M",
            *(f"{row['cycles'] / 1e6:.2f} M" if row else "" for row in found),
            f"{moved / 1e6:.0f} MB",
            *(f"{row['dram_bytes'] / 1e6:.1f} MB" if row else "" for row in found),
        )
    return result


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Workloads; all by default.")] = None,
    accel: Annotated[str, typer.Option(help="base, base-512k or both.")] = "both",
    predict: Annotated[bool, typer.Option("--predict", help="Use the cycle model alone.")] = False,
    jobs: Annotated[int, typer.Option(help="Rows measured at a time.")] = os.cpu_count() or 1,
    output: Annotated[Path, typer.Option(help="The result file.")] = RESULTS,
) -> None:
    """Measure Scanline on the ten networks."""
    console = Console(width=200)
    commit = provenance.commit("benchmarks/accel.py")
    specs = list(SPECS) if accel == "both" else [accel]
    wanted = [(w, a) for a in specs for w in WORKLOADS if not only or w.name in only or w.network in only]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if output.exists() and not predict and not commit.endswith("-dirty"):
        kept = json.loads(output.read_text())["rows"]
        rows = {(row["workload"], row["accel"]): row for row in kept if row["commit"] == commit}
    with ProcessPoolExecutor(jobs) as pool:
        running = {
            pool.submit(measure, workload, name, predict): (workload.name, name)
            for workload, name in wanted
            if (workload.name, name) not in rows
        }
        for job in as_completed(running):
            row = job.result() | {"commit": commit, "date": date.today().isoformat()}
            rows[running[job]] = row
            console.print(f"{row['workload']} on {row['accel']}: {row['mac_utilization']:.3f}", highlight=False)
            if not predict:
                _write(output, rows)
    for name in specs:
        shown = [rows[w.name, a] for w, a in wanted if a == name]
        console.print(table(shown, f"Scanline {name}, {shown[0]['evidence']}"))
    console.print(vela_table(rows))
    if any(row.get("bit_exact") is False for row in rows.values()):
        sys.exit("a row is not bit-exact")


def _write(output: Path, rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    order = {(w.name, a): index for index, (a, w) in enumerate((a, w) for a in SPECS for w in WORKLOADS)}
    data = {
        "command": "make bench-accel",
        "dram": {"bytes_per_cycle": BYTES_PER_CYCLE, "latency_cycles": LATENCY},
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "vela": {name: {"macs": m, "cycles": c, "dram_bytes": b} for name, (m, c, b) in VELA.items()},
        "rows": [rows[key] for key in sorted(rows, key=order.__getitem__)],
    }
    temporary = output.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(output)


if __name__ == "__main__":
    typer.run(main)
