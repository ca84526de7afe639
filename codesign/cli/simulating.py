"""``simulate``: a frame, several, or a clip on the machine, every value compared."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from codesign.cli.console import (
    Accel,
    Bandwidth,
    Finetune,
    ImageOption,
    Images,
    InputOption,
    Json,
    Latency,
    Method,
    SizeOption,
    Source,
    Weights,
    calibration,
    err,
    out,
    parse_size,
    progress,
    write_json,
)
from codesign.hw.errors import CodesignError, InputError

app = typer.Typer()


@app.command(epilog="Example: [bold]python -m codesign simulate sesr_m5_x2 --accel base --size 64x64 --json -[/]")
def simulate(
    source: Source,
    accel: Accel = "base",
    size: SizeOption = None,
    image: ImageOption = None,
    given: InputOption = None,
    backend: Annotated[str, typer.Option(help="rtl (cycle by cycle) or reference (golden model).")] = "rtl",
    weights: Weights = None,
    method: Method = "percentile",
    images: Images = None,
    finetune: Finetune = 0,
    dram_bandwidth: Bandwidth = None,
    dram_latency: Latency = 100,
    timeline: Annotated[Path | None, typer.Option(help="Write a trace of the engines for ui.perfetto.dev.")] = None,
    waves: Annotated[Path | None, typer.Option(help="Write a waveform (VCD) of the cycles of --window.")] = None,
    window: Annotated[str, typer.Option(help="Cycles of the waveform.", metavar="FIRST:END")] = "0:2000",
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which an interrupted run goes on.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the restored image; a folder for several.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Frames at a time; one per core by default.", min=1)] = None,
    frames: Annotated[
        int | None, typer.Option(help="So many frames as a clip: what the network keeps stays in memory.", min=1)
    ] = None,
    json_to: Json = None,
) -> None:
    """Run one frame, several side by side, or a clip on the accelerator and compare every value."""
    began = time.perf_counter()
    from codesign.pictures.images import save_image
    from codesign.sim.model import Dram
    from codesign.sim.run import Waves
    from codesign.workflows import simulate as verbs

    if backend not in ("rtl", "reference"):
        raise InputError(f"unknown backend {backend!r}", where="--backend", hint="rtl or reference.")
    paths = _input_files(given or [])
    if frames is not None:
        if timeline or waves or checkpoint or finetune or image:
            raise InputError(
                "a clip takes no timeline, waveform, checkpoint, fine-tuning or ground truth",
                where="--frames",
                hint="Simulate one frame, without --frames.",
            )
        _simulate_clip(
            source,
            weights,
            accel,
            parse_size(size),
            paths,
            frames,
            "rtl" if backend == "rtl" else "reference",
            calibration(method),
            Dram(bytes_per_cycle=dram_bandwidth, latency_cycles=dram_latency),
            save,
            json_to,
        )
        return
    if len(paths) > 1 and (timeline or waves):
        raise InputError("a timeline or waveform is of one frame", where="--input", hint="Give one image.")
    with progress("Simulating") as (say, tick):
        compiled = verbs.compile_source(
            verbs.find(source, weights),
            accel,
            size=parse_size(size),
            image=image,
            given=paths[0] if paths else None,
            method=calibration(method),
            images=images,
            finetune_steps=finetune,
            dram_bytes_per_cycle=dram_bandwidth,
            say=say,
        )
        memory = Dram(bytes_per_cycle=dram_bandwidth, latency_cycles=dram_latency)
        if len(paths) > 1:
            several = [compiled.frame, *(compiled.like_frame(path, parse_size(size)) for path in paths[1:])]
            results = verbs.simulate_frames(
                compiled,
                several,
                jobs=jobs,
                backend="rtl" if backend == "rtl" else "reference",
                dram=memory,
                checkpoints=checkpoint,
                say=say,
                tick=tick,
            )
            _report_frames(paths, results, save, json_to)
            return
        result = verbs.simulate(
            compiled,
            backend="rtl" if backend == "rtl" else "reference",
            dram=memory,
            timeline=timeline,
            waves=None if waves is None else Waves(waves, *_window(window)),
            checkpoints=checkpoint,
            began=began,
            say=say,
            tick=tick,
        )
    if save is not None:
        save_image(result.judged.pixels, save)
    for what, path in (("timeline", timeline), ("waveform", waves), ("image", save)):
        if path is not None:
            err.print(f"Wrote {what}: {path}")
    data = result.to_json()
    if json_to is not None:
        write_json(data, json_to)
    else:
        out.print(_simulation_table(data))
    _demand_exact(source, result)


def _simulate_clip(
    source: str,
    weights: Path | None,
    accel: str,
    size: tuple[int, int] | None,
    paths: list[Path],
    count: int,
    backend: Any,
    method: Any,
    dram: Any,
    save: Path | None,
    json_to: str | None,
) -> None:
    from codesign.pictures.images import fit, load_image, save_image
    from codesign.workflows import clip as stream
    from codesign.workflows import simulate as verbs

    if paths and len(paths) < count:
        raise InputError(f"{count} frames of {len(paths)} images", where="--frames", hint="Ask for fewer.")
    size = size or verbs.DEFAULT_SIZE
    clip = [stream.frame_of(fit(load_image(path), *size)) for path in paths[:count]]
    clip = clip or stream.moving_photograph(size, count)
    with progress("Simulating") as (say, tick):
        compiled = stream.compile_clip(verbs.find(source, weights), accel, size, method=method, say=say)
        results = list(stream.simulate_clip(compiled, clip, backend=backend, dram=dram, say=say, tick=tick))
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for result in results:
            save_image(result.picture(), save / f"frame_{result.number:04}.png")
        err.print(f"Wrote {len(results)} images to {save}")
    if json_to is not None:
        write_json({"network": source, "accel": accel, "frames": [result.to_json() for result in results]}, json_to)
    else:
        table = Table(title=f"{source} on {accel}, {size[0]}x{size[1]}, as a clip")
        for heading in ("frame", "cycles", "DRAM read", "DRAM written", "bit-exact", "simulated in"):
            table.add_column(heading, justify="right")
        for result in results:
            exact = "not compared" if result.mismatches is None else f"no, {result.mismatches} differ"
            table.add_row(
                str(result.number),
                f"{result.counters.cycles:,}",
                f"{result.counters.dram_read_bytes:,} B",
                f"{result.counters.dram_write_bytes:,} B",
                exact if result.mismatches != 0 else "yes",
                f"{result.simulated_seconds:.1f} s",
            )
        out.print(table)
    for result in results:
        _demand_exact(f"frame {result.number}", result)


def _input_files(given: list[Path]) -> list[Path]:
    """The images themselves, and those of the folders among them."""
    from codesign.pictures.images import image_files

    return [path for one in given for path in (image_files(one) if one.is_dir() else [one])]


def _report_frames(paths: list[Path], results: list[Any], save: Path | None, json_to: str | None) -> None:
    from codesign.pictures.images import save_image

    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for path, result in zip(paths, results, strict=True):
            save_image(result.judged.pixels, save / f"{path.stem}.png")
        err.print(f"Wrote {len(results)} images to {save}")
    if json_to is not None:
        rows = [{"input": str(path), **result.to_json()} for path, result in zip(paths, results, strict=True)]
        write_json({"frames": rows}, json_to)
    else:
        first = results[0]
        table = Table(title=f"{first.network} on {first.accel}: {first.input_size} to {first.output_size}")
        for heading in ("frame", "cycles", "ms", "utilisation", "bit-exact", "simulated in"):
            table.add_column(heading, justify="left" if heading == "frame" else "right")
        for path, result in zip(paths, results, strict=True):
            exact = {True: "yes", False: f"no, {result.mismatches} differ", None: "not compared"}[result.bit_exact]
            table.add_row(
                path.name,
                f"{result.counters.cycles:,}",
                f"{result.milliseconds:.3f}",
                f"{result.mac_utilization:.1%}",
                exact,
                f"{result.simulated_seconds:.1f} s",
            )
        out.print(table)
    for path, result in zip(paths, results, strict=True):
        _demand_exact(str(path), result)


def _demand_exact(where: str, result: Any) -> None:
    if result.bit_exact is False:
        raise CodesignError(
            f"{result.mismatches} values differ between RTL, golden model and integer graph",
            where=where,
            hint="This is a defect of the toolkit; please report the command.",
        )


def _window(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,15}):(\d{1,15})", text.strip())
    if match is None:
        raise InputError(f"{text!r} is no range of cycles", where="--window", hint="Write FIRST:END, like 1000:3000.")
    return int(match[1]), int(match[2])


def _simulation_table(data: dict[str, Any]) -> Table:
    table = Table(title=f"{data['network']} on {data['accel']}: {data['input_size']} to {data['output_size']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("evidence")
    evidence = data["cycles_evidence"]
    table.add_row("cycles", f"{data['cycles']:,}", evidence)
    table.add_row("time per frame", f"{data['ms_per_frame']:.3f} ms", evidence)
    table.add_row("MAC utilisation", f"{data['mac_utilization']:.1%}", evidence)
    table.add_row("DRAM read, written", f"{data['dram_read_bytes']:,} B, {data['dram_write_bytes']:,} B", evidence)
    table.add_row("compulsory", f"{data['compulsory_bytes']:,} B", "counted")
    for cause, cycles in data["stalls"].items():
        table.add_row(f"  {cause}", f"{cycles:,}", evidence)
    exact = {True: "yes", False: f"no, {data['mismatches']} differ", None: "not compared"}[data["bit_exact"]]
    table.add_row("bit-exact", exact, "RTL = golden model = integer graph")
    table.add_row("distinct output values", str(data["distinct_output_values"]), "counted")
    quality = data["quality_db"]
    table.add_row("PSNR", "no trained weights or truth" if quality is None else f"{quality:.2f} dB", "measured")
    if data["sim_cycles_per_second"]:
        table.add_row("simulation", f"{data['sim_cycles_per_second'] / 1e3:.0f} thousand cycles/s", "measured")
    return table
