"""``synth``, ``constants``, ``area`` and ``calibrate``: the machine in gates, and the cost of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from codesign.cli.console import Accel, Json, out, progress, write_json

app = typer.Typer()


@app.command(epilog="Example: [bold]python -m codesign synth --accel tiny --target ecp5[/]")
def synth(
    accel: Accel = "tiny",
    target: Annotated[
        str, typer.Option(help="ecp5 (Yosys and nextpnr, half an hour), or generic: gates alone.")
    ] = "ecp5",
    json_to: Json = None,
) -> None:
    """Synthesise the RTL: gates per module; on an FPGA, LUTs, DSPs, block RAMs and the clock."""
    from codesign.hw.spec import load_spec
    from codesign.sim.silicon.synthesis import synthesise

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
        out.print(table)
        out.print(f"Clock: {made.fit.fmax_hz / 1e6:.1f} MHz. The longest path goes {made.fit.path_in_words}.")
    table = Table(title=f"{made.spec}: gates per module, mapped cell by cell")
    for title in ("module", "instances", "NAND2 equivalents", "flip-flops", "RAM bytes"):
        table.add_column(title, justify="left" if title == "module" else "right")
    for module in made.modules:
        table.add_row(
            module.module,
            str(module.instances),
            f"{module.gates:,.0f}",
            f"{module.flip_flops:,}",
            f"{module.memory_bits / 8:,.0f}",
        )
    table.add_section()
    table.add_row(
        "total",
        "",
        f"{sum(one.gates for one in made.modules):,.0f}",
        f"{sum(one.flip_flops for one in made.modules):,}",
        f"{sum(one.memory_bits for one in made.modules) / 8:,.0f}",
    )
    out.print(table)


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
        out.print(Text.assemble((name, "bold"), f"  {figure(record)}  ", (place, "dim"), f"  {record.confidence}"))
        out.print(Padding(f"{record.what}: {record.provenance}", (0, 0, 0, 4)), style="dim")
    out.print(f"{len(found)} constants.")


@app.command(epilog="Example: [bold]python -m codesign area --node 28nm[/]")
def area(
    accel: Annotated[str, typer.Option(help="Presets or specifications in TOML, comma-separated.")] = (
        "tiny,edge,base,large"
    ),
    node: Annotated[str, typer.Option(help="Process nodes, comma-separated: 28nm,7nm.")] = "28nm",
    count: Annotated[
        bool, typer.Option("--count", help="Count the RTL's gates (a minute) instead of estimating them.")
    ] = False,
    json_to: Json = None,
) -> None:
    """Performance, power and area of a specification: gates, mm2, clock, watts, and its size on an FPGA."""
    from codesign.energy.interval import engineering, span
    from codesign.hw.spec import load_spec
    from codesign.workflows.recorded import RESULTS
    from codesign.workflows.silicon.ppa import ppa

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
            row.spec.name,
            row.area.node,
            str(row.spec.macs_per_cycle),
            f"{row.spec.clock_hz / 1e6:.0f}",
            f"{row.tops:.3g}",
            f"{row.area.gates.value / 1e3:,.0f}",
            f"{row.area.logic_mm2.value:.2f}",
            f"{row.area.memory_mm2.value:.2f}",
            f"{engineering(row.watts.value)}W",
        )
    out.print(table)
    for row in rows:
        out.print(
            f"{row.spec.name} at {row.area.node}: {row.area.mm2.low:.2f} to {row.area.mm2.high:.2f} mm2, "
            f"{span(row.watts, 'W')}; gates {row.evidence}.",
        )
    out.print("Clocks on silicon are the specifications', not timed at these nodes.")
    for fit in {fit.device: (row, fit) for row in rows for fit in row.fits}.values():
        row, one = fit
        used = ", ".join(f"{name} {what.used:,} of {what.available:,}" for name, what in one.resources.items())
        out.print(f"{row.spec.name} on {one.device}: {one.fmax_hz / 1e6:.1f} MHz; {used}.")


@app.command(epilog="Example: [bold]python -m codesign calibrate osu018_stdcells.lib --node 180nm[/]")
def calibrate(
    liberty: Annotated[Path, typer.Argument(help="Standard cells (Liberty).", metavar="FILE")],
    node: Annotated[str, typer.Option(help="Process node of the cells, at which the account is compared.")] = "180nm",
    json_to: Json = None,
) -> None:
    """Compare the energy account with standard cells: blocks are mapped, run on a photograph, compared part by part."""
    from codesign.workflows.silicon.cell_calibration import calibrate as measure

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
    out.print(table)
    table = Table(title=f"Blocks on a photograph, pJ a cycle; model at {found.node}")
    for heading in ("block", "part", "netlist", "model", "error"):
        table.add_column(heading, justify="left" if heading in ("block", "part") else "right")
    for row in found.blocks:
        table.add_row(
            row.block,
            row.part + (f" ({row.note})" if row.note else ""),
            f"{row.netlist_pj:,.1f}",
            "" if row.model_pj is None else f"{row.model_pj.value:,.1f}",
            "" if row.error is None else f"{row.error:+.0%}",
        )
    out.print(table)
