"""``python -m codesign``: networks, compile, tune, simulate, explore, compare, synth, constants, area, calibrate."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table

from codesign import studies
from codesign.console import (
    Accel,
    Bandwidth,
    ErrorBudget,
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
    parse_size,
    progress,
    write_json,
)
from codesign.console import err as _err
from codesign.console import out as _out
from codesign.hw.errors import CodesignError, InputError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="What would an image network cost on a GPU, and on silicon of its own?",
)  # fmt: skip

app.add_typer(studies.app, name="study")


def _method(text: str) -> Any:
    if text not in ("percentile", "minmax", "mse"):
        raise InputError(f"unknown calibration {text!r}", where="--method", hint="percentile, minmax or mse.")
    return text


@app.command(epilog="Example: [bold]python -m codesign networks --size 1280x720[/]")
def networks(size: SizeOption = "1280x720", json_to: Json = None) -> None:
    """List the reference networks with parameters and MACs of one frame."""
    from codesign import networks as library

    width, height = parse_size(size) or (1280, 720)
    rows: list[dict[str, Any]] = []
    for network in library.catalogue():
        module = network.build()
        rows.append(
            {
                "network": network.name,
                "task": network.task,
                "scale": network.scale,
                "channels": network.channels,
                "parameters": library.parameters(module),
                "macs": library.count_macs(module, width, height, network.channels) // network.results,
                "trained": network.trained,
                "reference": network.reference,
            }
        )
    if json_to is not None:
        write_json({"input_size": f"{width}x{height}", "networks": rows}, json_to)
        return
    table = Table(title=f"One frame of {width}x{height}")
    for heading in ("network", "input", "parameters", "GMAC", "weights", "from"):
        table.add_column(heading, justify="right" if heading in ("parameters", "GMAC") else "left")
    for row in rows:
        images = row["channels"] // 3
        taken = "luma" if images == 0 else "RGB" if images == 1 else f"{images} RGB"
        table.add_row(
            str(row["network"]), taken, f"{row['parameters']:,}",
            f"{row['macs'] / 1e9:.2f}", "shipped" if row["trained"] else "seeded", str(row["reference"]),
        )  # fmt: skip
    _out.print(table)


@app.command(
    name="compile",
    epilog="Example: [bold]python -m codesign compile sesr_m5_x2 --size 1280x720 --accel base -o sesr.so[/]",
)
def compile_command(
    source: Source,
    size: SizeOption = None,
    accel: Accel = "base",
    weights: Weights = None,
    method: Method = "percentile",
    images: Images = None,
    finetune: Finetune = 0,
    error_budget: ErrorBudget = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The runnable module (.so).")] = None,
    program: Annotated[Path | None, typer.Option(help="The first region's program file.")] = None,
    export_qdq: Annotated[Path | None, typer.Option(help="The quantised network as ONNX.")] = None,
    target: Annotated[str, typer.Option(help="scanline or cuda.")] = "scanline",
    arch: Annotated[str, typer.Option(help="For cuda: sm_80, sm_86, sm_89, sm_90a.")] = "sm_90a",
    precision: Annotated[str, typer.Option(help="For cuda: fp16 or int8.")] = "fp16",
    dram_bandwidth: Bandwidth = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the plan, and why it is so.")] = False,
    json_to: Json = None,
) -> None:
    """Compile a network; print where every operator runs, and why."""
    from codesign import simulate as verbs
    from codesign.compile.explain import explain as explain_plan

    found = verbs.find(source, weights)
    if target not in ("scanline", "cuda"):
        raise InputError(f"unknown target {target!r}", where="--target", hint="scanline or cuda.")
    if target == "cuda":
        wanted = parse_size(size) or verbs.DEFAULT_SIZE
        _compile_cuda(found, wanted, arch, precision, method, images, output, json_to)
        return
    with progress("Compiling") as (say, _):
        compiled = verbs.compile_source(
            found, accel, size=parse_size(size), method=_method(method), images=images, finetune_steps=finetune,
            error_budget=error_budget, dram_bytes_per_cycle=dram_bandwidth, say=say,
        )  # fmt: skip
    network = compiled.network
    written = {}
    if output is not None:
        from codesign.compile.module import export

        export(network.executable(), output)
        written["module"] = str(output)
    if program is not None:
        if not network.regions:
            raise InputError("nothing runs on the accelerator, so there is no program", where=source)
        network.regions[0].program.save(program)
        written["program"] = str(program)
    if export_qdq is not None:
        from codesign.compile.qdq_export import export_qdq as write_qdq

        write_qdq(network.quantised, export_qdq)
        written["qdq"] = str(export_qdq)
    plans = [explain_plan(region.plan) for region in network.regions]
    data = {
        "network": network.name, "accel": network.spec.name,
        "input_size": f"{compiled.frame.width}x{compiled.frame.height}", "macs": network.macs,
        "host_mac_share": network.host_mac_share, "compile_seconds": compiled.seconds,
        "cascades": [len(region.plan.cascades) for region in network.regions],
        "commands": [len(region.program.commands) for region in network.regions],
        "operators": [vars(placement) for placement in network.placements], "plan": plans, "written": written,
    }  # fmt: skip
    if network.mixed is not None:
        data["error_budget"] = network.mixed.to_json()
    if json_to is not None:
        write_json(data, json_to)
    else:
        table = Table(title=f"{network.name} on {network.spec.name}, input {data['input_size']}")
        for heading in ("operator", "kind", "MMAC", "runs on", "why not on Scanline"):
            table.add_column(heading, justify="right" if heading == "MMAC" else "left")
        for placement in network.placements:
            table.add_row(
                placement.name, placement.operator, f"{placement.macs / 1e6:.1f}",
                "Scanline" if placement.on_accelerator else "host", placement.reason,
            )  # fmt: skip
        _out.print(table)
        for plan in plans:
            for number, cascade in enumerate(plan, start=1):
                _out.print(_cascade_line(number, cascade), highlight=False)
                if explain:
                    _out.print(_buffer_table(cascade))
        if network.mixed is not None:
            _print_mixed(network.mixed, explain=explain)
        _out.print(f"Compiled in {compiled.seconds:.1f} s.", highlight=False)
        for what, where in written.items():
            _out.print(f"Wrote {what} {where}", highlight=False)
    if network.host_mac_share > 0.01:
        _err.print(f"[yellow]Warning:[/] {network.host_mac_share:.1%} of the MACs run on the host.")


def _print_mixed(mixed: Any, *, explain: bool) -> None:
    """What has 16 bits for the sake of the error budget, what it gains, and what it costs."""
    kept = "kept" if mixed.met else "[yellow]not kept[/], nothing more helps"
    times = mixed.macs / max(mixed.macs_before, 1)
    _out.print(
        f"Error budget {mixed.budget:g} {kept}: error {mixed.error_before:.4g} in 8 bits, {mixed.error:.4g} with "
        f"{len(mixed.choices)} tensors and weights in 16, at {times:.2f} times the products.",
        highlight=False,
    )
    if not explain:
        return
    table = Table(title="16 bits, what helps most for its products first", title_justify="left")
    for heading in ("tensor", "error of its 8 bits, rms", "products added"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for choice in mixed.choices:
        table.add_row(choice.name, f"{choice.damage**0.5:.2g}", f"{choice.macs:,}")
    _out.print(table)
    for refusal in mixed.refusals:
        _out.print(f"{refusal.name} stays 8 bits: {refusal.reason}.", highlight=False)


def _cascade_line(number: int, cascade: dict[str, Any]) -> str:
    layers, strips = cascade["layers"], len(cascade["strips"])
    named = layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]}, {len(layers)} layers"
    halo = {
        "none": "",
        "recompute": f", {cascade['halo']:.1%} computed twice at strip borders",
        "keep": f", {cascade['kept_bytes'] / 1e6:,.1f} MB kept in memory for the next strip",
    }[cascade["halo_mode"]]
    return (
        f"Cascade {number}: {named} in {strips} strip{'s' if strips > 1 else ''}{halo}; about "
        f"{cascade['cycles']:,} cycles, limited by {cascade['limited_by']}"
    )


def _buffer_table(cascade: dict[str, Any]) -> Table:
    used, limit = cascade["scratchpad_bytes"] / 1024, cascade["scratchpad_limit"] / 1024
    table = Table(
        title=f"scratchpad {used:.0f} of {limit:.0f} KiB, weight memory {cascade['weight_words']} of "
        f"{cascade['weight_words_limit']} words, DRAM {cascade['dram_bytes']:,} B, {cascade['order']} order, "
        f"{cascade['rows_per_step']} row(s) a step",
        title_justify="left",
        caption=f"The cascade ends here: {cascade['ends_because']}.",
        caption_justify="left",
    )
    for heading in ("rolling buffer", "role", "rows", "width", "channels", "KiB"):
        table.add_column(heading, justify="left" if heading in ("rolling buffer", "role") else "right")
    for buffer in cascade["buffers"]:
        table.add_row(
            buffer["tensor"], buffer["role"], str(buffer["rows"]), str(buffer["width"]), str(buffer["channels"]),
            f"{buffer['bytes'] / 1024:.1f}",
        )  # fmt: skip
    return table


def _compile_cuda(
    found: Any, size: tuple[int, int], arch: str, precision: str, method: str, images: Path | None,
    output: Path | None, json_to: str | None,
) -> None:  # fmt: skip
    from codesign import cuda

    with progress("Compiling for CUDA") as (say, _):
        compiled = cuda.compile_source(
            found, size, arch=arch, precision=cuda.check_precision(precision), method=_method(method), images=images,
            say=say,
        )  # fmt: skip
    if output is not None:
        compiled.module.export(output)
    data = compiled.to_json() | {"written": {"module": str(output)} if output else {}}
    if json_to is not None:
        write_json(data, json_to)
        return
    table = Table(title=f"{found.name} {size[0]}x{size[1]}, {precision} for {arch}: {len(data['launches'])} launches")
    for heading in ("layers", "blocks", "threads", "registers", "spilled", "shared KiB"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for launch in data["launches"]:
        names = launch["layers"]
        table.add_row(
            names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)})", str(launch["blocks"]),
            str(launch["threads"]), str(launch["registers"]), str(launch["spilled_bytes"]),
            f"{launch['shared_bytes'] / 1024:.0f}",
        )  # fmt: skip
    if data["launches"]:
        _out.print(table)
    if data["others"]:
        _out.print(f"TVM schedules {', '.join(data['others'])}.", highlight=False)
    if data["modelled_seconds"]:
        _out.print(f"Modelled, not measured: {data['modelled_seconds'] * 1e6:.0f} us a frame.", highlight=False)
    if output is not None:
        _out.print(f"Wrote module {output}", highlight=False)


@app.command(epilog="Example: [bold]python -m codesign tune sesr_m5_x2 --size 1280x720 --folder out/tune[/]")
def tune(
    sources: Annotated[list[str], typer.Argument(help="Networks, or .onnx or .pt2 files.", metavar="NET|FILE...")],
    size: SizeOption = "1280x720",
    arch: Annotated[str, typer.Option(help="sm_80, sm_86, sm_89, sm_90a.")] = "sm_90a",
    precision: Annotated[str, typer.Option(help="fp16 or int8.")] = "fp16",
    folder: Annotated[Path, typer.Option(help="Candidates and results; what is there is kept.")] = Path("out/tune"),
    limit: Annotated[int, typer.Option(help="Candidates per kernel.", min=1)] = 12,
    build: Annotated[bool, typer.Option("--build", help="Only build, to be measured where a GPU is.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Only record what was measured in the folder.")] = False,
) -> None:
    """Search kernel schedules: build candidates, measure them on the GPU here, keep the fastest for later compiles.

    Of this project's kernels by their own parameters, of operators left to TVM by MetaSchedule's traces.

    Without a GPU: --build here, python -m codesign.kernels.tuning FOLDER where one is, and --record here.
    """
    from codesign import cuda
    from codesign import simulate as verbs
    from codesign.compile import gpu_operators
    from codesign.kernels import tuning
    from codesign.kernels.driver import Driver
    from codesign.kernels.traces import traces
    from codesign.kernels.tuned import database

    if not record:
        with progress("Tuning") as (say, _):
            for source in sources:
                say(f"{source}: choose what to measure")
                tasks = cuda.tuning_tasks(
                    verbs.find(source, None), parse_size(size) or verbs.DEFAULT_SIZE, arch=arch,
                    precision=cuda.check_precision(precision),
                )  # fmt: skip
                tuning.prepare(tasks.stacks, arch, folder, limit=limit, say=say)
                tuning.prepare_gemms(tasks.gemms, arch, folder, limit=limit, say=say)
                gpu_operators.prepare(tasks.operators, arch, folder, limit=limit, say=say)
            if not build:
                say("measure")
                tuning.measure(folder, Driver(), say=say)
    if build:
        _out.print(f"Built in {folder}. Measure: python -m codesign.kernels.tuning {folder}", highlight=False)
        return
    measured, stacks, operators = tuning.collect(folder)
    path = database(measured).with_records(stacks).save()
    _out.print(f"Recorded the best schedules of {len(stacks)} kernels in {path}", highlight=False)
    if operators:
        path = traces(measured).with_records(operators).save()
        _out.print(f"Recorded the best traces of {len(operators)} of TVM's operators in {path}", highlight=False)


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
    from codesign import simulate as verbs
    from codesign.images import save_image
    from codesign.sim.model import Dram
    from codesign.sim.run import Waves

    if backend not in ("rtl", "reference"):
        raise InputError(f"unknown backend {backend!r}", where="--backend", hint="rtl or reference.")
    paths = _input_files(given or [])
    if frames is not None:
        if timeline or waves or checkpoint or finetune or image:
            raise InputError(
                "a clip takes no timeline, waveform, checkpoint, fine-tuning or ground truth", where="--frames",
                hint="Simulate one frame, without --frames.",
            )  # fmt: skip
        _simulate_clip(
            source, weights, accel, parse_size(size), paths, frames, "rtl" if backend == "rtl" else "reference",
            _method(method), Dram(bytes_per_cycle=dram_bandwidth, latency_cycles=dram_latency), save, json_to,
        )  # fmt: skip
        return
    if len(paths) > 1 and (timeline or waves):
        raise InputError("a timeline or waveform is of one frame", where="--input", hint="Give one image.")
    with progress("Simulating") as (say, tick):
        compiled = verbs.compile_source(
            verbs.find(source, weights), accel, size=parse_size(size), image=image, given=paths[0] if paths else None,
            method=_method(method), images=images, finetune_steps=finetune, dram_bytes_per_cycle=dram_bandwidth,
            say=say,
        )  # fmt: skip
        memory = Dram(bytes_per_cycle=dram_bandwidth, latency_cycles=dram_latency)
        if len(paths) > 1:
            several = [compiled.frame, *(compiled.like_frame(path, parse_size(size)) for path in paths[1:])]
            results = verbs.simulate_frames(
                compiled, several, jobs=jobs, backend="rtl" if backend == "rtl" else "reference", dram=memory,
                checkpoints=checkpoint, say=say, tick=tick,
            )  # fmt: skip
            _report_frames(paths, results, save, json_to)
            return
        result = verbs.simulate(
            compiled, backend="rtl" if backend == "rtl" else "reference", dram=memory, timeline=timeline,
            waves=None if waves is None else Waves(waves, *_window(window)), checkpoints=checkpoint, began=began,
            say=say, tick=tick,
        )  # fmt: skip
    if save is not None:
        save_image(result.judged.pixels, save)
    for what, path in (("timeline", timeline), ("waveform", waves), ("image", save)):
        if path is not None:
            _err.print(f"Wrote {what}: {path}", highlight=False)
    data = result.to_json()
    if json_to is not None:
        write_json(data, json_to)
    else:
        _out.print(_simulation_table(data))
    _demand_exact(source, result)


def _simulate_clip(
    source: str, weights: Path | None, accel: str, size: tuple[int, int] | None, paths: list[Path], count: int,
    backend: Any, method: Any, dram: Any, save: Path | None, json_to: str | None,
) -> None:  # fmt: skip
    from codesign import simulate as verbs
    from codesign import stream
    from codesign.images import fit, load_image, save_image

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
        _err.print(f"Wrote {len(results)} images to {save}", highlight=False)
    if json_to is not None:
        write_json({"network": source, "accel": accel, "frames": [result.to_json() for result in results]}, json_to)
    else:
        table = Table(title=f"{source} on {accel}, {size[0]}x{size[1]}, as a clip")
        for heading in ("frame", "cycles", "DRAM read", "DRAM written", "bit-exact", "simulated in"):
            table.add_column(heading, justify="right")
        for result in results:
            exact = "not compared" if result.mismatches is None else f"no, {result.mismatches} differ"
            table.add_row(
                str(result.number), f"{result.counters.cycles:,}", f"{result.counters.dram_read_bytes:,} B",
                f"{result.counters.dram_write_bytes:,} B", exact if result.mismatches != 0 else "yes",
                f"{result.simulated_seconds:.1f} s",
            )  # fmt: skip
        _out.print(table)
    for result in results:
        _demand_exact(f"frame {result.number}", result)


def _input_files(given: list[Path]) -> list[Path]:
    """The images themselves, and those of the folders among them."""
    from codesign.images import image_files

    return [path for one in given for path in (image_files(one) if one.is_dir() else [one])]


def _report_frames(paths: list[Path], results: list[Any], save: Path | None, json_to: str | None) -> None:
    from codesign.images import save_image

    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for path, result in zip(paths, results, strict=True):
            save_image(result.judged.pixels, save / f"{path.stem}.png")
        _err.print(f"Wrote {len(results)} images to {save}", highlight=False)
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
                path.name, f"{result.counters.cycles:,}", f"{result.milliseconds:.3f}", f"{result.mac_utilization:.1%}",
                exact, f"{result.simulated_seconds:.1f} s",
            )  # fmt: skip
        _out.print(table)
    for path, result in zip(paths, results, strict=True):
        _demand_exact(str(path), result)


def _demand_exact(where: str, result: Any) -> None:
    if result.bit_exact is False:
        raise CodesignError(
            f"{result.mismatches} values differ between RTL, golden model and integer graph", where=where,
            hint="This is a defect of the toolkit; please report the command.",
        )  # fmt: skip


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


@app.command(
    epilog="Example: [bold]python -m codesign explore fsrcnn_x2 --size 960x540 --vary scratchpad_bytes=128Ki:1Mi:57[/]"
)
def explore(
    source: Source,
    size: SizeOption = None,
    accel: Accel = "base",
    vary: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=A,B,C or FIELD=LOW:HIGH:COUNT of the specification, or dram_bytes_per_cycle."),
    ] = None,
    keep_plan: Annotated[bool, typer.Option("--keep-plan", help="Keep the cascades planned for --accel.")] = False,
    csv_to: Annotated[Path | None, typer.Option("--csv", help="Every machine, one a line.")] = None,
    json_to: Json = None,
) -> None:
    """One network on many machines, each with its best plan: which are fast, frugal and small?"""
    from codesign import simulate as verbs
    from codesign.explore import explore as search
    from codesign.explore import parse_choices, product, to_csv, to_json
    from codesign.hw.files import write_text

    with progress("Exploring") as (say, _):
        compiled = verbs.compile_source(verbs.find(source, None), accel, size=parse_size(size), say=say)
        network = compiled.network
        if len(network.regions) != 1:
            raise InputError(
                f"{len(network.regions)} parts of it run on the accelerator", where=source,
                hint="Explore a network that runs there whole.",
            )  # fmt: skip
        machines = product(network.spec, parse_choices(vary or []))
        say(f"price {len(machines):,} machines")
        region = network.regions[0]
        found = search(region.graph, machines, keep=region.plan if keep_plan else None)
    if csv_to is not None:
        write_text(csv_to, to_csv(found))
        _err.print(f"Wrote {csv_to}", highlight=False)
    data = to_json(found) | {"input_size": f"{compiled.frame.width}x{compiled.frame.height}"}
    if json_to is not None:
        write_json(data, json_to)
        return
    varied = list(machines.columns)
    table = Table(title=f"{network.name}, {data['input_size']}: {data['feasible']:,} of {len(machines):,} machines can")
    for heading in (*varied, "fps", "mJ/frame", "KiB on chip", "utilisation"):
        table.add_column(heading, justify="right")
    for row in data["front"]:
        table.add_row(
            *(f"{row[name]:,.10g}" for name in varied), f"{row['fps']:.1f}", f"{row['system_j'] * 1e3:.2f}",
            f"{row['on_chip_bytes'] / 1024:.0f}", f"{row['utilization']:.1%}",
        )  # fmt: skip
    _out.print(table)
    _out.print("Beaten by no other machine in time, energy and memory at once. All figures modelled.", style="dim")


@app.command(epilog="Example: [bold]python -m codesign compare sesr_m5_x2 --size 256x256 --report out[/]")
def compare(
    source: Source,
    accel: Accel = "base",
    size: SizeOption = None,
    image: ImageOption = None,
    weights: Weights = None,
    method: Method = "percentile",
    images: Images = None,
    finetune: Finetune = 0,
    backend: Annotated[str, typer.Option(help="rtl or reference.")] = "rtl",
    gpu: Annotated[str, typer.Option(help="Comma-separated GPUs: H200, A100, RTX4090, Orin.")] = "H200",
    report: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
    json_to: Json = None,
) -> None:
    """The same frame on Scanline and on GPUs: frames per second, joules, quality, evidence."""
    began = time.perf_counter()
    from codesign import simulate as verbs
    from codesign.compare import compare_targets
    from codesign.report import terminal_table, to_json, write_report

    if backend not in ("rtl", "reference"):
        raise InputError(f"unknown backend {backend!r}", where="--backend", hint="rtl or reference.")
    with progress("Comparing") as (say, tick):
        compiled = verbs.compile_source(
            verbs.find(source, weights), accel, size=parse_size(size), image=image, method=_method(method),
            images=images, finetune_steps=finetune, say=say,
        )  # fmt: skip
        result = verbs.simulate(
            compiled, backend="rtl" if backend == "rtl" else "reference", began=began, say=say, tick=tick
        )
        say("account")
        comparison, pictures = compare_targets(result, [name.strip() for name in gpu.split(",")], command=_command())
    if json_to is not None:
        write_json(to_json(comparison), json_to)
    else:
        _out.print(terminal_table(comparison))
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        paths = write_report(comparison, report, pictures)
        _err.print(f"Wrote {paths['page']} and {len(paths) - 1} files beside it", highlight=False)


@app.command(epilog="Example: [bold]python -m codesign restore in.mp4 -o out.mp4 --network sesr_m5_x2[/]")
def restore(
    video: Annotated[Path, typer.Argument(help="The video to restore.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The video to write: .mp4, .mov or .mkv.")],
    network: Annotated[str, typer.Option(help="A network that up-scales or denoises.")] = "sesr_m5_x2",
    target: Annotated[str, typer.Option(help="cpu, cuda, or scanline-model: the golden model.")] = "cpu",
    accel: Accel = "base",
    weights: Weights = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again where an output is.")] = False,
    json_to: Json = None,
) -> None:
    """Restore a video frame by frame: audio is copied, times are kept, an interrupted run goes on with --resume."""
    from codesign import simulate as verbs
    from codesign.video.restore import restore as restore_video
    from codesign.video.targets import check_target

    began = time.perf_counter()
    first: list[int] = []
    with progress("Restoring") as (say, _):

        def tick(done: int, expected: int | None) -> None:
            first[:] = first or [done - 1]
            rate = (done - first[0]) / (time.perf_counter() - began)
            left = f", {(expected - done) / rate:.0f} s left" if expected and expected > done else ""
            say(f"frame {done}{f' of {expected}' if expected else ''}, {rate:.2f} frames/s{left}")

        try:
            made = restore_video(
                video, output, verbs.find(network, weights), target=check_target(target), accel=accel, resume=resume,
                overwrite=overwrite, say=say, tick=tick,
            )  # fmt: skip
        except KeyboardInterrupt:
            if first:
                _err.print(f"{output} holds what was done and plays; --resume goes on with it.", highlight=False)
            raise
    data = {
        "output": str(output), "network": network, "target": target, "frames": made.frames,
        "resumed_frames": made.resumed_frames, "output_size": f"{made.size[0]}x{made.size[1]}",
        "seconds": made.seconds, "frames_per_second": made.frames_per_second,
    }  # fmt: skip
    if json_to is not None:
        write_json(data, json_to)
    else:
        _out.print(
            f"Wrote {output}: {made.frames} frames of {data['output_size']}, {made.frames_per_second:.2f} a second.",
            highlight=False,
        )


@app.command(epilog="Example: [bold]python -m codesign synth --accel tiny --target ecp5[/]")
def synth(
    accel: Accel = "tiny",
    target: Annotated[
        str, typer.Option(help="ecp5 (Yosys and nextpnr, half an hour), or generic: gates alone.")
    ] = "ecp5",
    json_to: Json = None,
) -> None:
    """What the RTL takes: gates per module; on an FPGA, LUTs, DSPs, block RAMs and the clock."""
    from codesign.hw.spec import load_spec
    from codesign.sim.synthesis import synthesise

    with progress("Synthesis") as (say, _):
        made = synthesise(load_spec(accel), target, report=say)
    if json_to is not None:
        write_json(made.to_json(), json_to)
        return
    if made.fit is not None:
        table = Table(title=f"{made.spec} on {made.fit.device}")
        for title in ("resource", "used", "of", "share"):
            table.add_column(title, justify="left" if title == "resource" else "right")
        for name, one in made.fit.resources.items():
            table.add_row(name, f"{one.used:,}", f"{one.available:,}", f"{one.used / one.available:.0%}")
        _out.print(table)
        _out.print(f"Clock: {made.fit.fmax_hz / 1e6:.1f} MHz. The longest path goes {made.fit.path_in_words}.")
    table = Table(title=f"{made.spec}: gates per module, mapped cell by cell")
    for title in ("module", "instances", "NAND2 equivalents", "flip-flops", "RAM bytes"):
        table.add_column(title, justify="left" if title == "module" else "right")
    for module in made.modules:
        table.add_row(
            module.module, str(module.instances), f"{module.gates:,.0f}", f"{module.flip_flops:,}",
            f"{module.memory_bits / 8:,.0f}",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "total", "", f"{sum(one.gates for one in made.modules):,.0f}",
        f"{sum(one.flip_flops for one in made.modules):,}",
        f"{sum(one.memory_bits for one in made.modules) / 8:,.0f}",
    )  # fmt: skip
    _out.print(table)


@app.command(epilog="Example: [bold]python -m codesign constants mac --node 28nm[/]")
def constants(
    text: Annotated[list[str] | None, typer.Argument(help="Words that name, meaning or source contain.")] = None,
    node: Annotated[str, typer.Option(help="A process node: 28nm.")] = "",
    json_to: Json = None,
) -> None:
    """List the constants of the energy account: value, bounds, node, supply, confidence and source."""
    from codesign.energy.listing import chosen, figure

    found = chosen(" ".join(text or []), node)
    if json_to is not None:
        write_json({name: record.model_dump(exclude_none=True) for name, record in found.items()}, json_to)
        return
    for name, record in found.items():
        place = record.node if record.node == "any" else f"{record.node}, {record.voltage:g} V"
        _out.print(f"[bold]{name}[/]  {figure(record)}  [dim]{place}[/]  {record.confidence}", highlight=False)
        _out.print(Padding(_escaped(f"{record.what}: {record.provenance}"), (0, 0, 0, 4)), style="dim", highlight=False)
    _out.print(f"{len(found)} constants.", highlight=False)


@app.command(epilog="Example: [bold]python -m codesign area --node 28nm[/]")
def area(
    accel: Annotated[str, typer.Option(help="Presets or specifications in TOML, comma-separated.")] = (
        "tiny,edge,base,large"
    ),
    node: Annotated[str, typer.Option(help="Process nodes, comma-separated: 28nm,7nm.")] = "28nm",
    count: Annotated[bool, typer.Option("--count", help="Count the RTL's gates (a minute), do not estimate.")] = False,
    json_to: Json = None,
) -> None:
    """Performance, power and area of a specification: gates, mm2, clock and watts, and what it takes on an FPGA."""
    from codesign.energy.interval import engineering, span
    from codesign.hw.spec import load_spec
    from codesign.ppa import RESULTS, ppa

    with progress("Area") as (say, _):
        rows = [
            ppa(load_spec(one.strip()), where.strip(), RESULTS / "fpga", count=count, say=say)
            for one in accel.split(",")
            for where in node.split(",")
        ]
    if json_to is not None:
        write_json({"rows": [row.to_json() for row in rows]}, json_to)
        return
    table = Table(title="Performance, power and area; the array busy in every cycle, without DRAM")
    for heading in ("accel", "node", "MACs", "MHz", "TOPS", "kGE", "logic mm2", "SRAM mm2", "power"):
        table.add_column(heading, justify="left" if heading in ("accel", "node") else "right")
    for row in rows:
        table.add_row(
            row.spec.name, row.area.node, str(row.spec.macs_per_cycle), f"{row.spec.clock_hz / 1e6:.0f}",
            f"{row.tops:.3g}", f"{row.area.gates.value / 1e3:,.0f}", f"{row.area.logic_mm2.value:.2f}",
            f"{row.area.memory_mm2.value:.2f}", f"{engineering(row.watts.value)}W",
        )  # fmt: skip
    _out.print(table)
    for row in rows:
        _out.print(
            f"{row.spec.name} at {row.area.node}: {row.area.mm2.low:.2f} to {row.area.mm2.high:.2f} mm2, "
            f"{span(row.watts, 'W')}; gates {row.evidence}.",
            highlight=False,
        )  # fmt: skip
    _out.print("Clocks on silicon are the specifications', not timed at these nodes.", highlight=False)
    for fit in {fit.device: (row, fit) for row in rows for fit in row.fits}.values():
        row, one = fit
        used = ", ".join(f"{name} {what.used:,} of {what.available:,}" for name, what in one.resources.items())
        _out.print(f"{row.spec.name} on {one.device}: {one.fmax_hz / 1e6:.1f} MHz; {used}.", highlight=False)


@app.command(epilog="Example: [bold]python -m codesign calibrate osu018_stdcells.lib --node 180nm[/]")
def calibrate(
    liberty: Annotated[Path, typer.Argument(help="Standard cells (Liberty).", metavar="FILE")],
    node: Annotated[str, typer.Option(help="Process node of the cells, to compare the account at.")] = "180nm",
    json_to: Json = None,
) -> None:
    """Hold the account of energy against standard cells: blocks mapped, run on a photograph, compared part by part."""
    from codesign.calibrate import calibrate as measure

    with progress("Calibrating") as (say, _):
        found = measure(liberty, node, say=say)
    if json_to is not None:
        write_json(found.to_json(), json_to)
        return
    table = Table(title=f"{found.library} at {found.voltage:g} V: units on random operands")
    for heading in ("unit", "gates", "netlist pJ", "scaled pJ"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for unit in found.units:
        table.add_row(unit.record, f"{unit.gate_equivalents:,.0f}", f"{unit.netlist_pj:.3g}", f"{unit.scaled_pj:.3g}")
    _out.print(table)
    table = Table(title=f"Blocks on a photograph, pJ a cycle; model at {found.node}")
    for heading in ("block", "part", "netlist", "model", "error"):
        table.add_column(heading, justify="left" if heading in ("block", "part") else "right")
    for row in found.blocks:
        table.add_row(
            row.block, row.part + (f" ({row.note})" if row.note else ""), f"{row.netlist_pj:,.1f}",
            "" if row.model_pj is None else f"{row.model_pj.value:,.1f}",
            "" if row.error is None else f"{row.error:+.0%}",
        )  # fmt: skip
    _out.print(table)


def _command() -> str:
    return " ".join(["python -m codesign", *sys.argv[1:]])


def main() -> None:
    """Run the command line; known errors become one message and exit code 1, ``--debug`` shows the traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, prog_name="python -m codesign", standalone_mode=True)
    except CodesignError as error:
        if debug:
            raise
        _err.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _err.print("interrupted; nothing was left half written")
        raise SystemExit(130) from None
    except OSError as error:
        if debug:
            raise
        _err.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False)
        raise SystemExit(1) from None


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
