"""``operators``, ``networks``, ``compile`` and ``tune``: list what there is, place operators, search schedules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from codesign.cli.console import (
    Accel,
    Bandwidth,
    ErrorBudget,
    Json,
    NetworkOptions,
    NoImportCheck,
    QuantisationOptions,
    SizeOption,
    found_and_described,
    out,
    parse_size,
    progress,
    tell_import,
    warn,
    warn_import,
    with_groups,
    write_json,
)
from codesign.hw.errors import InputError

if TYPE_CHECKING:  # what these modules import takes seconds to load
    from codesign.compile.driver import CompiledNetwork
    from codesign.workflows import sources
    from codesign.workflows.compile import Compiled

app = typer.Typer()


@app.command(epilog="Example: [bold]python -m codesign operators > docs/operators.md[/]")
def operators() -> None:
    """Print the operators that run on Scanline and in CUDA kernels, as a page in Markdown."""
    from codesign.compile.operators.page import operators_page

    typer.echo(operators_page(), nl=False)


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
            str(row["network"]),
            taken,
            f"{row['parameters']:,}",
            f"{row['macs'] / 1e9:.2f}",
            "shipped" if row["trained"] else "seeded",
            str(row["reference"]),
        )
    out.print(table)


@dataclass(frozen=True)
class WrittenOptions:
    """Files written by a compilation for Scanline."""

    output: Annotated[Path | None, typer.Option("-o", "--output", help="The runnable module (.so).")] = None
    program: Annotated[Path | None, typer.Option(help="The first region's program file.")] = None
    export_qdq: Annotated[Path | None, typer.Option(help="The quantised network as ONNX.")] = None

    def write(self, network: CompiledNetwork) -> dict[str, str]:
        """Paths written, by kind. Raises :class:`InputError` for a program of a network that only the host runs."""
        from codesign.compile.quantise.qdq_export import export_qdq
        from codesign.compile.scanline.module import export

        written = {}
        if self.output is not None:
            export(network.executable(), self.output)
            written["module"] = str(self.output)
        if self.program is not None:
            if not network.regions:
                raise InputError(
                    "nothing runs on the accelerator, so there is no program",
                    where=network.name,
                    hint="Leave --program out; the table shows the reasons.",
                )
            network.regions[0].program.save(self.program)
            written["program"] = str(self.program)
        if self.export_qdq is not None:
            export_qdq(network.quantised, self.export_qdq)
            written["qdq"] = str(self.export_qdq)
        return written


@dataclass(frozen=True)
class TargetOptions:
    """The target of a compilation."""

    target: Annotated[str, typer.Option(help="scanline or cuda.")] = "scanline"
    arch: Annotated[str, typer.Option(help="For cuda: sm_80, sm_86, sm_89, sm_90a.")] = "sm_90a"
    precision: Annotated[str, typer.Option(help="For cuda: fp16 or int8.")] = "fp16"


@app.command(
    name="compile",
    epilog="Example: [bold]python -m codesign compile sesr_m5_x2 --size 1280x720 --accel base -o sesr.so[/]",
)
@with_groups
def compile_command(
    *,
    network: NetworkOptions,
    size: SizeOption = None,
    accel: Accel = "base",
    quantisation: QuantisationOptions,
    error_budget: ErrorBudget = None,
    written: WrittenOptions,
    target: TargetOptions,
    dram_bandwidth: Bandwidth = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the plan, and why it is so.")] = False,
    dump: Annotated[
        str | None,
        typer.Option(
            help="Print the network, one operator a line, after a stage (imported, canonical, quantised, partitioned, "
            "layers, plan) or a pass (canonical/fold_affine).",
            metavar="STAGE",
        ),
    ] = None,
    json_to: Json = None,
) -> None:
    """Compile a network; print where every operator runs, and why."""
    from codesign.cli.dumping import Dump
    from codesign.compile.driver import HOST_MACS_WARNING
    from codesign.workflows.compile import compile_source
    from codesign.workflows.frames import FrameChoice
    from codesign.workflows.sources import DEFAULT_SIZE

    if target.target not in ("scanline", "cuda"):
        raise InputError(f"unknown target {target.target!r}", where="--target", hint="Choose scanline or cuda.")
    found = network.found()
    if target.target == "cuda":
        wanted = found.sides.padded(parse_size(size) or DEFAULT_SIZE)
        _compile_cuda(found, wanted, target, quantisation, written.output, json_to)
        return
    asked = Dump(dump or "")
    with progress("Compiling") as (say, _), asked.collecting():
        compiled = compile_source(
            found,
            accel,
            FrameChoice(parse_size(size)),
            quantisation=quantisation.quantisation(error_budget),
            images=quantisation.images,
            dram_bytes_per_cycle=dram_bandwidth,
            say=say,
        )
    if dump is not None:
        out.print(asked.found(compiled.network), soft_wrap=True)
        return
    data = _compiled_data(compiled, written.write(compiled.network))
    if json_to is not None:
        write_json(data, json_to)
        warn_import(data["import"])
    else:
        _print_compiled(compiled, data, explain=explain)
    share = compiled.network.host_mac_share
    if share > HOST_MACS_WARNING:
        warn(f"{share:.1%} of the MACs run on the host.")


def _compiled_data(compiled: Compiled, written: dict[str, str]) -> dict[str, Any]:
    from codesign.compile.scanline.plan.explain import explain

    network = compiled.network
    data = {
        "network": network.name,
        "accel": network.spec.name,
        "input_size": f"{compiled.frame.width}x{compiled.frame.height}",
        "macs": network.macs,
        "host_mac_share": network.host_mac_share,
        "compile_seconds": compiled.seconds,
        "cascades": [len(region.plan.cascades) for region in network.regions],
        "commands": [len(region.program.commands) for region in network.regions],
        "operators": [vars(placement) for placement in network.placements],
        "plan": [explain(region.plan) for region in network.regions],
        "import": network.source.check.to_json(),
        "written": written,
        **compiled.input_json(),
    }
    if network.mixed is not None:
        data["error_budget"] = network.mixed.to_json()
    return data


def _print_compiled(compiled: Compiled, data: dict[str, Any], *, explain: bool) -> None:
    network = compiled.network
    table = Table(title=f"{network.name} on {network.spec.name}, input {data['input_size']}")
    for heading in ("operator", "kind", "MMAC", "runs on", "why not on Scanline"):
        table.add_column(heading, justify="right" if heading == "MMAC" else "left")
    for placement in network.placements:
        place = "Scanline" if placement.on_accelerator else "host"
        table.add_row(placement.name, placement.operator, f"{placement.macs / 1e6:.1f}", place, placement.reason)
    out.print(table)
    for plan in data["plan"]:
        for number, cascade in enumerate(plan, start=1):
            out.print(_cascade_line(number, cascade))
            if explain:
                out.print(_buffer_table(cascade))
    if network.mixed is not None:
        _print_mixed(network.mixed, explain=explain)
    tell_import(data["import"])
    for remark in compiled.remarks:
        out.print(remark)
    out.print(f"Compiled in {compiled.seconds:.1f} s.")
    for what, where in data["written"].items():
        out.print(f"Wrote {what} {where}")


def _print_mixed(mixed: Any, *, explain: bool) -> None:
    """Print the tensors that the error budget gives 16 bits, with gain and cost."""
    kept = "kept" if mixed.met else "not kept, nothing more helps"
    times = mixed.macs / max(mixed.macs_before, 1)
    out.print(
        f"Error budget {mixed.budget:g} {kept}: error {mixed.error_before:.4g} in 8 bits, {mixed.error:.4g} with "
        f"{len(mixed.choices)} tensors and weights in 16, at {times:.2f} times the products.",
    )
    if not explain:
        return
    table = Table(title="16 bits, what helps most for its products first", title_justify="left")
    for heading in ("tensor", "error of its 8 bits, rms", "products added"):
        table.add_column(heading, justify="left" if heading == "tensor" else "right")
    for choice in mixed.choices:
        table.add_row(choice.name, f"{choice.damage**0.5:.2g}", f"{choice.macs:,}")
    out.print(table)
    for refusal in mixed.refusals:
        out.print(f"{refusal.name} stays 8 bits: {refusal.reason}.")


def _cascade_line(number: int, cascade: dict[str, Any]) -> str:
    layers, strips = cascade["layers"] or ["a pixel shuffle"], len(cascade["strips"])
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
            buffer["tensor"],
            buffer["role"],
            str(buffer["rows"]),
            str(buffer["width"]),
            str(buffer["channels"]),
            f"{buffer['bytes'] / 1024:.1f}",
        )
    return table


def _compile_cuda(
    found: sources.Source,
    size: tuple[int, int],
    target: TargetOptions,
    quantisation: QuantisationOptions,
    output: Path | None,
    json_to: str | None,
) -> None:
    from codesign.workflows.gpu import check_precision, compile_for_gpu

    arch, precision = target.arch, check_precision(target.precision)
    with progress("Compiling for CUDA") as (say, _):
        compiled = compile_for_gpu(
            found,
            size,
            arch=arch,
            precision=precision,
            quantisation=quantisation.quantisation(),
            images=quantisation.images,
            say=say,
        )
    if output is not None:
        compiled.module.export(output)
    data = compiled.to_json() | {"written": {"module": str(output)} if output else {}}
    if json_to is not None:
        write_json(data, json_to)
        warn_import(data["import"])
        return
    table = Table(title=f"{found.name} {size[0]}x{size[1]}, {precision} for {arch}: {len(data['launches'])} launches")
    for heading in ("layers", "blocks", "threads", "registers", "spilled", "shared KiB"):
        table.add_column(heading, justify="left" if heading == "layers" else "right")
    for launch in data["launches"]:
        names = launch["layers"]
        table.add_row(
            names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)})",
            str(launch["blocks"]),
            str(launch["threads"]),
            str(launch["registers"]),
            str(launch["spilled_bytes"]),
            f"{launch['shared_bytes'] / 1024:.0f}",
        )
    if data["launches"]:
        out.print(table)
    if data["others"]:
        out.print(f"TVM schedules {', '.join(data['others'])}.")
    tell_import(data["import"])
    if data["modelled_seconds"]:
        out.print(f"Modelled, not measured: {data['modelled_seconds'] * 1e6:.0f} us a frame.")
    if output is not None:
        out.print(f"Wrote module {output}")


@app.command(epilog="Example: [bold]python -m codesign tune sesr_m5_x2 --size 1280x720 --folder out/tune[/]")
def tune(
    sources: Annotated[list[str], typer.Argument(help="Networks, or .onnx or .pt2 files.", metavar="NET|FILE...")],
    size: SizeOption = "1280x720",
    arch: Annotated[str, typer.Option(help="sm_80, sm_86, sm_89, sm_90a.")] = "sm_90a",
    precision: Annotated[str, typer.Option(help="fp16 or int8.")] = "fp16",
    folder: Annotated[Path, typer.Option(help="Folder of candidates and results; existing ones are kept.")] = Path(
        "out/tune"
    ),
    limit: Annotated[int, typer.Option(help="Candidates per kernel.", min=1)] = 12,
    build: Annotated[bool, typer.Option("--build", help="Only build; measure later on a machine with a GPU.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Only record the measurements in the folder.")] = False,
    no_import_check: NoImportCheck = False,
) -> None:
    """Search kernel schedules: build candidates, measure them on the GPU here, keep the fastest for later compiles.

    This project's kernels are searched by their own parameters, operators left to TVM by MetaSchedule's traces.

    Without a GPU: --build here, run python -m codesign.kernels.tuning.search FOLDER on a machine with one, then
    --record here.
    """
    from codesign.compile.cuda import tvm_operators as gpu_operators
    from codesign.kernels.runtime.driver import Driver
    from codesign.kernels.tuning import search as tuning
    from codesign.kernels.tuning.traces import traces
    from codesign.kernels.tuning.tuned import database
    from codesign.workflows.gpu import check_precision, tuning_tasks
    from codesign.workflows.sources import DEFAULT_SIZE

    if not record:
        with progress("Tuning") as (say, _):
            for source in sources:
                say(f"{source}: choose what to measure")
                found = found_and_described(source, check=not no_import_check)
                frame = found.sides.padded(parse_size(size) or DEFAULT_SIZE)
                tasks = tuning_tasks(found, frame, arch=arch, precision=check_precision(precision))
                tuning.prepare(tasks.stacks, arch, folder, limit=limit, say=say)
                tuning.prepare_gemms(tasks.gemms, arch, folder, limit=limit, say=say)
                gpu_operators.prepare(tasks.operators, arch, folder, limit=limit, say=say)
                warn_import(tasks.check.to_json())
            if not build:
                say("measure")
                tuning.measure(folder, Driver(), say=say)
    if build:
        out.print(f"Built in {folder}. Measure: python -m codesign.kernels.tuning.search {folder}")
        return
    measured, stacks, operators = tuning.collect(folder)
    path = database(measured).with_records(stacks).save()
    out.print(f"Recorded the best schedules of {len(stacks)} kernels in {path}")
    if operators:
        path = traces(measured).with_records(operators).save()
        out.print(f"Recorded the best traces of {len(operators)} of TVM's operators in {path}")
