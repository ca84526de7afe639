"""Flow and video networks on ``base``: ``python benchmarks/motion.py --data DIR`` → ``results/motion.json``.

A row marked ``rtl-measured`` is one continuous simulation of a frame on the RTL with every value compared. For frames
that would take an hour the cycle model gives the cycles (``modelled``: every sample of a warp on chip), and a crop is
simulated to show its error. The DRAM has 16 bytes per cycle and 100 cycles latency. Frames and published weights are in
DIR (``sintel/``, ``clip/``, ``weights/``); without it a moving photograph and seeded weights are used. Rows of the same
commit in the result file are kept, so an interrupted run can be continued; so can an interrupted simulation.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections import Counter
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

from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.kernels.correlation import Correlation
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.layers import Layer
from codesign.compile.scanline.module import LoadedModule
from codesign.energy.account import account
from codesign.hw.counters import Counters
from codesign.hw.files import write_text
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE
from codesign.hw.timing import model as timing
from codesign.pictures import images
from codesign.sim.model import Dram
from codesign.workflows.compile import Compiled
from codesign.workflows.frames import Frame, FrameChoice, calibration_frames, make_frame
from codesign.workflows.simulate import host_module, simulate
from codesign.workflows.sources import Size, find, import_source
from codesign.workflows.watch import Watch

RESULTS = Path(__file__).parent / "results" / "motion.json"
SPEC = BASE
BYTES_PER_CYCLE, LATENCY = 16, 100
HOST_RUNS = 3


@dataclass(frozen=True)
class Workload:
    """A network on a frame: simulated, or predicted with a ``crop`` (width, height) simulated beside it."""

    network: str
    width: int
    height: int
    crop: Size | None = None
    weights: str = ""
    """A file of ``DIR/weights``."""

    @property
    def size(self) -> Size:
        return self.width, self.height


WORKLOADS = (
    Workload("flow_small", 1024, 448),
    Workload("spynet", 1024, 448, weights="spynet_sintel_final.npz"),
    Workload("pwcnet", 1024, 448, crop=(192, 128)),
    Workload("raft_small", 512, 256),
    Workload("raft", 512, 256, crop=(128, 128)),
    Workload("rife", 1280, 720, crop=(192, 128)),
    Workload("basicvsr_x4", 320, 180, crop=(64, 64)),
)


def stacked(frames: list[images.Pixels]) -> NDArray[np.float32]:
    """Frames as one input, ``float32[1, 3 n, H, W]``."""
    return np.concatenate([images.to_real(one).transpose(2, 0, 1) for one in frames])[None].astype(np.float32)


def frames_of(workload: Workload, size: Size, count: int, data: Path | None) -> tuple[Frame, list[NDArray[np.float32]]]:
    """The frame to run and the frames to calibrate on: ``count`` consecutive frames of ``size`` each."""
    scale = 4 if workload.network.endswith("_x4") else 1
    if data is None:
        crops = calibration_frames(3 * count, scale, size=size)[:3]
        return make_frame(3 * count, scale, FrameChoice(size)), crops
    clip = [images.fit(images.load_image(path), *size) for path in images.image_files(data / "clip")]
    shown = clip[4 : 4 + count]
    frame = Frame(stacked(shown), images.to_real(shown[0]), None, scale, "Sintel")
    return frame, [stacked(clip[at : at + count]) for at in (0, 2, len(clip) - count)]


def compiled(workload: Workload, size: Size, data: Path | None) -> Compiled:
    """The workload's network for ``base`` at ``size``, quantised by extremes."""
    began = time.perf_counter()
    weights = data / "weights" / workload.weights if data is not None and workload.weights else None
    source = find(workload.network, weights)
    assert source.channels is not None
    frame, calibration = frames_of(workload, size, source.channels // 3, data)
    network = compile_network(
        import_source(source, size),
        SPEC,
        calibration=calibration,
        quantisation=Quantisation("minmax"),
        name=source.name,
        dram_bytes_per_cycle=BYTES_PER_CYCLE,
    )
    return Compiled(source, network, frame, time.perf_counter() - began)


def kind(layer: Layer) -> str:
    """A layer's kind for readers of the result."""
    match layer.kernel:
        case Correlation() | AllPairs():
            return "correlation"
        case Normalise():
            return "normalisation"
        case Window():
            return "look-up"
        case Convolution():
            return "convolution" if layer.macs else "copy, sum, scale, pool"
        case kernel:
            return kernel.label


def by_kind(what: Compiled, timeline: Path | None) -> dict[str, dict[str, Any]]:
    """Layers, MACs and busy cycles by kind of layer; from a trace of the RTL also the cycles from row to row."""
    kinds: dict[str, str] = {}
    found: dict[str, dict[str, Any]] = {}
    for region in what.network.regions:
        for layer in region.plan.graph.computed:
            kinds[layer.name] = kind(layer)
            entry = found.setdefault(kind(layer), {"layers": 0, "macs": 0, "busy_cycles": 0})
            entry["layers"] += 1
            entry["macs"] += layer.macs
        _, layers = timing.profile(region.program, timing.Memory.of(SPEC, BYTES_PER_CYCLE, LATENCY))
        for counted in layers:
            found[kinds[counted.name]]["busy_cycles"] += counted.busy_cycles
    if timeline is not None:
        for event in json.loads(timeline.read_text())["traceEvents"]:
            if event["ph"] == "X" and event["tid"] == 1:  # the array's track
                entry = found[kinds[event["name"]]]
                entry["cycles"] = entry.get("cycles", 0) + event["args"]["cycles"]
        for entry in found.values():
            entry["mac_utilization"] = entry["macs"] / (entry["cycles"] * SPEC.macs_per_cycle)
    return found


def host_seconds(what: Compiled) -> float:
    """Seconds of one frame on this computer's host: quantising, dequantising and every operator on the host.

    The least of a few runs in which the machine answers at once with zeros.
    """

    def answer(program: Program, _: object) -> dict[str, NDArray[np.int8]]:
        return {slot.name: np.zeros((slot.height, slot.width, slot.channels), np.int8) for slot in program.outputs}

    with host_module(what) as path:
        module = LoadedModule(path, answer)
        seconds = []
        for _ in range(1 + HOST_RUNS):
            began = time.perf_counter()
            module.run(what.frame.tensor)
            seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def predicted(what: Compiled) -> Counters:
    """The cycle model's counts of all regions."""
    memory = timing.Memory.of(SPEC, BYTES_PER_CYCLE, LATENCY)
    parts = [timing.predict(region.program, memory) for region in what.network.regions]
    return Counters(**{f.name: sum(getattr(part, f.name) for part in parts) for f in dataclasses.fields(Counters)})


def simulated(what: Compiled, console: Console, kept: Path) -> tuple[dict[str, Any], Counters, dict[str, Any]]:
    """A run on the RTL: exactness, counters, layers."""
    model = predicted(what)
    with tempfile.TemporaryDirectory(prefix="motion-") as folder:
        trace = Path(folder) / "timeline.json"
        with console.status(f"{what.source.name}: {model.cycles / 1e6:.1f} M cycles expected"):
            watch = Watch(timeline=trace, checkpoints=kept / what.source.name)
            result = simulate(what, "rtl", Dram(BYTES_PER_CYCLE, LATENCY), watch)
        layers = by_kind(what, trace)
    run = {
        "input_size": result.input_size,
        "cycles": result.counters.cycles,
        "bit_exact": result.bit_exact,
        "distinct_output_values": result.distinct_output_values,
        "sim_seconds": result.simulated_seconds,
        "predicted_cycles": model.cycles,
        "model_error": model.cycles / result.counters.cycles - 1.0,
        "gathered_reads": result.counters.gathered_reads,
    }
    return run, result.counters, layers


def measure(workload: Workload, data: Path | None, console: Console, kept: Path) -> dict[str, Any]:
    """One row of the result."""
    what = compiled(workload, workload.size, data)
    network = what.network
    if workload.crop is None:
        run, counters, layers = simulated(what, console, kept)
    else:
        run, *_ = simulated(compiled(workload, workload.crop, data), console, kept)
        counters, layers = predicted(what), by_kind(what, None)
    hosted = [one for one in network.placements if not one.on_accelerator]
    host = host_seconds(what)
    seconds = counters.cycles / SPEC.clock_hz
    bill = account(counters, SPEC)
    return {
        "network": workload.network,
        "input_size": f"{workload.width}x{workload.height}",
        "accel": SPEC.name,
        "weights": workload.weights
        if data is not None and workload.weights
        else "this project's"
        if what.source.trained
        else "seeded",
        "frames": what.frame.source,
        "macs": network.macs,
        "evidence": "rtl-measured" if workload.crop is None else "modelled",
        "cycles": counters.cycles,
        "ms_per_frame": 1e3 * seconds,
        "mac_utilization": network.macs / (counters.cycles * SPEC.macs_per_cycle),
        "stalls": {"busy": counters.busy_cycles, **counters.stalls},
        "by_kind": layers,
        "simulation" if workload.crop is None else "simulated_crop": run,
        "dram_bytes": {
            "commands": counters.dram_command_read_bytes,
            "weights": counters.dram_weight_read_bytes,
            "loads": counters.dram_load_read_bytes,
            "gathered": counters.dram_gather_read_bytes,
            "writes": counters.dram_write_bytes,
        },
        "compulsory_bytes": network.compulsory_bytes,
        "regions": len(network.regions),
        "host": {
            "operators": len(hosted),
            "operator_share": len(hosted) / len(network.placements),
            "by_operator": dict(Counter(one.operator for one in hosted)),
            "mac_share": network.host_mac_share,
            "seconds": host,
            "time_share": host / (host + seconds),
        },
        "joules": {
            "node": bill.node,
            "dram": bill.dram,
            "evidence": "modelled",
            "system": dataclasses.asdict(bill.system_j),
            "chip": dataclasses.asdict(bill.chip_j),
        },
    }


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Networks; all by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with sintel/, clip/ and weights/.")] = None,
    kept: Annotated[Path, typer.Option(help="Folder for interrupted simulations.")] = Path("out/motion"),
    output: Annotated[Path, typer.Option(help="The result file.")] = RESULTS,
) -> None:
    """Measure Scanline on flow and video networks."""
    torch.set_num_threads(1)
    console = Console()
    commit = provenance.commit("benchmarks/motion.py")
    rows: dict[str, dict[str, Any]] = {}
    if output.exists():
        rows = {row["network"]: row for row in json.loads(output.read_text())["rows"]}
    for workload in WORKLOADS:
        found = rows.get(workload.network)
        if (only and workload.network not in only) or (
            found is not None and found["commit"] == commit and not commit.endswith("-dirty")
        ):
            continue
        row = measure(workload, data, console, kept) | {"commit": commit, "date": date.today().isoformat()}
        rows[workload.network] = row
        _write(output, rows)
        host = row["host"]
        console.print(
            f"{workload.network} {row['input_size']}: {row['cycles'] / 1e6:.2f} M cycles ({row['evidence']}), "
            f"utilisation {row['mac_utilization']:.3f}, {sum(row['dram_bytes'].values()) / 1e6:.1f} MB, "
            f"{row['joules']['system']['value']:.3f} J, host {host['operator_share']:.1%} of operators, "
            f"{host['time_share']:.1%} of time",
            highlight=False,
        )
    if any(
        row.get(key, {}).get("bit_exact") is False for row in rows.values() for key in ("simulation", "simulated_crop")
    ):
        raise typer.Exit(1)


def _write(output: Path, rows: dict[str, dict[str, Any]]) -> None:
    order = [workload.network for workload in WORKLOADS]
    text = {
        "command": "python benchmarks/motion.py --data DIR",
        "dram": {"bytes_per_cycle": BYTES_PER_CYCLE, "latency_cycles": LATENCY},
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "rows": [rows[name] for name in order if name in rows],
    }
    write_text(output, json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
