"""``explore`` and ``compare``: many machines by the model, or one machine beside GPUs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from codesign.cli.console import (
    Accel,
    BackendOption,
    ImageOption,
    Json,
    NetworkOptions,
    NoImportCheck,
    QuantisationOptions,
    SizeOption,
    Source,
    backend_named,
    command_line,
    err,
    found_and_described,
    out,
    parse_size,
    progress,
    tell_import,
    warn_import,
    with_groups,
    write_json,
)
from codesign.hw.errors import InputError

app = typer.Typer()


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
    no_import_check: NoImportCheck = False,
    csv_to: Annotated[Path | None, typer.Option("--csv", help="Write every machine as CSV, one a line.")] = None,
    json_to: Json = None,
) -> None:
    """One network on many machines, each with its best plan: which are fast, frugal and small?"""
    from codesign.hw.files import write_text
    from codesign.workflows.compile import compile_source
    from codesign.workflows.explore import explore as search
    from codesign.workflows.explore import parse_choices, product, to_csv, to_json
    from codesign.workflows.frames import FrameChoice

    found_source = found_and_described(source, check=not no_import_check)
    with progress("Exploring") as (say, _):
        compiled = compile_source(found_source, accel, FrameChoice(parse_size(size)), say=say)
        network = compiled.network
        if len(network.regions) != 1:
            raise InputError(
                f"{len(network.regions)} separate parts of the network run on the accelerator",
                where=source,
                hint="Explore a network that runs there as a whole.",
            )
        machines = product(network.spec, parse_choices(vary or []))
        say(f"price {len(machines):,} machines")
        region = network.regions[0]
        found = search(region.graph, machines, keep=region.plan if keep_plan else None)
    if csv_to is not None:
        write_text(csv_to, to_csv(found))
        err.print(f"Wrote {csv_to}")
    check = network.source.check.to_json()
    data = to_json(found) | {"input_size": f"{compiled.frame.width}x{compiled.frame.height}", "import": check}
    if json_to is not None:
        write_json(data, json_to)
        warn_import(check)
        return
    varied = list(machines.columns)
    table = Table(title=f"{network.name}, {data['input_size']}: {data['feasible']:,} of {len(machines):,} machines can")
    for heading in (*varied, "fps", "mJ/frame", "KiB on chip", "utilisation"):
        table.add_column(heading, justify="right")
    for row in data["front"]:
        table.add_row(
            *(f"{row[name]:,.10g}" for name in varied),
            f"{row['fps']:.1f}",
            f"{row['system_j'] * 1e3:.2f}",
            f"{row['on_chip_bytes'] / 1024:.0f}",
            f"{row['utilization']:.1%}",
        )
    out.print(table)
    tell_import(check)
    out.print("Beaten by no other machine in time, energy and memory at once. All figures modelled.", style="dim")


@app.command(epilog="Example: [bold]python -m codesign compare sesr_m5_x2 --size 256x256 --report out[/]")
@with_groups
def compare(
    *,
    network: NetworkOptions,
    accel: Accel = "base",
    size: SizeOption = None,
    image: ImageOption = None,
    quantisation: QuantisationOptions,
    backend: BackendOption = "rtl",
    gpu: Annotated[str, typer.Option(help="Comma-separated GPUs: H200, A100, RTX4090, Orin.")] = "H200",
    report: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
    json_to: Json = None,
) -> None:
    """The same frame on Scanline and on GPUs: frames per second, joules, quality, evidence."""
    began = time.perf_counter()
    from codesign.report import terminal_table, to_json, write_report
    from codesign.workflows.compare import compare_targets
    from codesign.workflows.compile import compile_source
    from codesign.workflows.frames import FrameChoice
    from codesign.workflows.simulate import simulate
    from codesign.workflows.watch import Watch

    on = backend_named(backend)
    with progress("Comparing") as (say, tick):
        compiled = compile_source(
            network.found(),
            accel,
            FrameChoice(parse_size(size), image),
            quantisation=quantisation.quantisation(),
            images=quantisation.images,
            say=say,
        )
        result = simulate(compiled, on, watch=Watch(say, tick), began=began)
        say("account")
        comparison, pictures = compare_targets(
            result, [name.strip() for name in gpu.split(",")], command=command_line()
        )
    if json_to is not None:
        write_json(to_json(comparison), json_to)
        warn_import(comparison.simulation["import"])
    else:
        out.print(terminal_table(comparison))
        tell_import(comparison.simulation["import"])
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        paths = write_report(comparison, report, pictures)
        err.print(f"Wrote {paths['page']} and {len(paths) - 1} files beside it")
