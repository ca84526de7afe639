"""``simulate``: a frame, several, or a clip on the machine, with every value compared."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from codesign.cli.console import (
    Accel,
    BackendOption,
    DramOptions,
    ImageOption,
    InputOption,
    Json,
    NetworkOptions,
    QuantisationOptions,
    SizeOption,
    backend_named,
    err,
    import_text,
    out,
    parse_size,
    progress,
    tell_import,
    warn_import,
    with_groups,
    write_json,
)
from codesign.hw.errors import CodesignError, InputError

if TYPE_CHECKING:  # what these modules import takes seconds to load
    from codesign.sim.model import Dram
    from codesign.workflows.clip import ClipFrame, Reals
    from codesign.workflows.simulate import Simulation
    from codesign.workflows.watch import Backend, Say, Tick, Watch

app = typer.Typer()


@dataclass(frozen=True)
class WatchOptions:
    """Recordings of one frame on the RTL."""

    timeline: Annotated[Path | None, typer.Option(help="Write a trace of the engines for ui.perfetto.dev.")] = None
    waves: Annotated[Path | None, typer.Option(help="Write a waveform (VCD) of the cycles of --window.")] = None
    window: Annotated[str, typer.Option(help="Cycles of the waveform.", metavar="FIRST:END")] = "0:2000"
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which an interrupted run continues.")] = None
    assertions: Annotated[
        bool, typer.Option("--assertions/--no-assertions", help="Check the RTL's assertions; a fifth faster without.")
    ] = True

    def watch(self, say: Say, tick: Tick) -> Watch:
        """Raises :class:`InputError` for a window that is not a range of cycles."""
        from codesign.sim.run import Waves
        from codesign.workflows.watch import Watch

        waves = None if self.waves is None else Waves(self.waves, *_window(self.window))
        return Watch(say, tick, self.timeline, waves, self.checkpoint, self.assertions)


@app.command(epilog="Example: [bold]python -m codesign simulate sesr_m5_x2 --accel base --size 64x64 --json -[/]")
@with_groups
def simulate(
    *,
    network: NetworkOptions,
    accel: Accel = "base",
    size: SizeOption = None,
    image: ImageOption = None,
    given: InputOption = None,
    backend: BackendOption = "rtl",
    quantisation: QuantisationOptions,
    memory: DramOptions,
    recorded: WatchOptions,
    save: Annotated[Path | None, typer.Option(help="Write the restored image; a folder for several.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Frames at a time; one per core by default.", min=1)] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames to run as a clip; the network's states stay in memory.", min=1)
    ] = None,
    json_to: Json = None,
) -> None:
    """Run one frame, several side by side, or a clip on the accelerator and compare every value."""
    began = time.perf_counter()
    from codesign.workflows.compile import compile_source
    from codesign.workflows.frames import FrameChoice
    from codesign.workflows.simulate import simulate as run_frame
    from codesign.workflows.simulate import simulate_frames

    on, dram = backend_named(backend), memory.dram()
    paths = _input_files(given or [])
    if frames is not None:
        records = recorded.timeline or recorded.waves or recorded.checkpoint
        if records or quantisation.finetune or image:
            raise InputError(
                "a clip takes no timeline, waveform, checkpoint, fine-tuning or ground truth",
                where="--frames",
                hint="Simulate one frame, without --frames.",
            )
        clip = _clip_frames(paths, frames, parse_size(size))
        results, check = _simulate_clip(network, accel, clip, quantisation, on, dram, recorded.assertions)
        _report_clip(network, accel, results, check, save, json_to)
        return
    if len(paths) > 1 and (recorded.timeline or recorded.waves):
        raise InputError("a timeline or waveform records one frame", where="--input", hint="Give one image.")
    with progress("Simulating") as (say, tick):
        watch = recorded.watch(say, tick)
        compiled = compile_source(
            network.found(),
            accel,
            FrameChoice(parse_size(size), image, paths[0] if paths else None),
            quantisation=quantisation.quantisation(),
            images=quantisation.images,
            dram_bytes_per_cycle=memory.dram_bandwidth,
            say=say,
        )
        if len(paths) > 1:
            several = [compiled.frame, *(compiled.like_frame(path, parse_size(size)) for path in paths[1:])]
            side_by_side = simulate_frames(compiled, several, on, dram, watch, jobs=jobs)
            _report_frames(paths, side_by_side, save, json_to)
            return
        result = run_frame(compiled, on, dram, watch, began=began)
    _report_frame(network, result, recorded, save, json_to)


def _report_frame(
    network: NetworkOptions, result: Simulation, recorded: WatchOptions, save: Path | None, json_to: str | None
) -> None:
    from codesign.pictures.images import save_image

    if save is not None:
        save_image(result.judged.pixels, save)
    for what, path in (("timeline", recorded.timeline), ("waveform", recorded.waves), ("image", save)):
        if path is not None:
            err.print(f"Wrote {what}: {path}")
    data = result.to_json()
    if json_to is not None:
        write_json(data, json_to)
        warn_import(data["import"])
    else:
        out.print(_simulation_table(data))
    _require_exact(network.source, result)


def _clip_frames(paths: list[Path], count: int, size: tuple[int, int] | None) -> list[Reals]:
    """``count`` frames from images, or from a moving photograph: ``float32[1, 3, H, W]`` each."""
    from codesign.pictures.images import fit, load_image
    from codesign.workflows.clip import frame_of, moving_photograph
    from codesign.workflows.sources import DEFAULT_SIZE

    if paths and len(paths) < count:
        raise InputError(f"{count} frames from {len(paths)} images", where="--frames", hint="Ask for fewer.")
    size = size or DEFAULT_SIZE
    return [frame_of(fit(load_image(path), *size)) for path in paths[:count]] or moving_photograph(size, count)


def _simulate_clip(
    network: NetworkOptions,
    accel: str,
    clip: list[Reals],
    quantisation: QuantisationOptions,
    backend: Backend,
    dram: Dram,
    assertions: bool,
) -> tuple[list[ClipFrame], dict[str, Any]]:
    """The frames' results, and the check of the network's import."""
    from codesign.workflows.clip import compile_clip, simulate_clip
    from codesign.workflows.watch import Watch

    height, width = clip[0].shape[2:]
    if network.values not in (None, "0..1"):
        raise InputError("a clip is fed 0..1", where="--range", hint="Simulate one frame, without --frames.")
    with progress("Simulating") as (say, tick):
        compiled = compile_clip(
            network.found(), accel, (width, height), quantisation=quantisation.quantisation(), say=say
        )
        results = list(simulate_clip(compiled, clip, backend, dram, Watch(say, tick, assertions=assertions)))
        return results, compiled.network.source.check.to_json()


def _report_clip(
    network: NetworkOptions,
    accel: str,
    results: list[ClipFrame],
    check: dict[str, Any],
    save: Path | None,
    json_to: str | None,
) -> None:
    from codesign.pictures.images import save_image

    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for result in results:
            save_image(result.picture(), save / f"frame_{result.number:04}.png")
        err.print(f"Wrote {len(results)} images to {save}")
    if json_to is not None:
        frames = [result.to_json() for result in results]
        write_json({"network": network.source, "accel": accel, "import": check, "frames": frames}, json_to)
        warn_import(check)
    else:
        height, width = results[0].output.shape[2:]
        table = Table(title=f"{network.source} on {accel}, {width}x{height}, as a clip")
        for heading in ("frame", "cycles", "DRAM read", "DRAM written", "bit-exact", "simulated in"):
            table.add_column(heading, justify="right")
        for result in results:
            table.add_row(
                str(result.number),
                f"{result.counters.cycles:,}",
                f"{result.counters.dram_read_bytes:,} B",
                f"{result.counters.dram_write_bytes:,} B",
                _exactness(result.mismatches),
                f"{result.simulated_seconds:.1f} s",
            )
        out.print(table)
        tell_import(check)
    for result in results:
        _require_exact(f"frame {result.number}", result)


def _exactness(mismatches: int | None) -> str:
    if mismatches is None:
        return "not compared"
    return f"no, {mismatches} differ" if mismatches else "yes"


def _input_files(given: list[Path]) -> list[Path]:
    """The images given, and those in the folders given."""
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
        warn_import(rows[0]["import"])
    else:
        first = results[0]
        table = Table(title=f"{first.network} on {first.accel}: {first.input_size} to {first.output_size}")
        for heading in ("frame", "cycles", "ms", "utilisation", "bit-exact", "simulated in"):
            table.add_column(heading, justify="left" if heading == "frame" else "right")
        for path, result in zip(paths, results, strict=True):
            table.add_row(
                path.name,
                f"{result.counters.cycles:,}",
                f"{result.milliseconds:.3f}",
                f"{result.mac_utilization:.1%}",
                _exactness(result.mismatches),
                f"{result.simulated_seconds:.1f} s",
            )
        out.print(table)
        tell_import(first.to_json()["import"])
    for path, result in zip(paths, results, strict=True):
        _require_exact(str(path), result)


def _require_exact(where: str, result: Any) -> None:
    if result.bit_exact is False:
        raise CodesignError(
            f"{result.mismatches} values differ between RTL, golden model and integer graph",
            where=where,
            hint="This is a defect of the toolkit; please report the command.",
        )


def _window(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,15}):(\d{1,15})", text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a range of cycles", where="--window", hint="Write FIRST:END, like 1000:3000."
        )
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
    table.add_row("import", import_text(data["import"], short=True), data["import"]["engine"])
    table.add_row("bit-exact", _exactness(data["mismatches"]), "RTL = golden model = integer graph")
    table.add_row("values of the input", data["input_values"], data["input_values_reason"])
    if data["image_size"] != data["input_size"]:
        table.add_row("image", data["image_size"], f"padded to {data['input_size']}, the result cut")
    table.add_row("distinct output values", str(data["distinct_output_values"]), "counted")
    quality = data["quality_db"]
    table.add_row("PSNR", "no trained weights or truth" if quality is None else f"{quality:.2f} dB", "measured")
    if data["sim_cycles_per_second"]:
        table.add_row("simulation", f"{data['sim_cycles_per_second'] / 1e3:.0f} thousand cycles/s", "measured")
    return table
