"""Programs of sixteen networks on six machines, compared with stored hashes or with another commit.

::

    python tests/golden/golden.py                  compare with tests/golden/hashes.json
    python tests/golden/golden.py --against HEAD~3 compare two commits in one run, and list the differences
    python tests/golden/golden.py --accept         store the hashes of this tree
    python tests/golden/golden.py --store          make the networks' files anew (from the catalogue, calibrated here)

A hash covers the behaviour of a program: its encoded commands, its weights and the places of its tensors; not the names
of layers or of the specification's fields. Cycles (by the cycle model) and bytes are stored beside the hash, so that an
intended change can be stated; a few plans are kept as text, for a reviewer to read. Also covered: the text of the CUDA
kernels in FP16 and INT8, and the report's JSON without times of day.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fixtures

from codesign.cli.dumping import plan_text
from codesign.compile.cuda.compile import kernel_text
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import plan_launches
from codesign.compile.cuda.layers import from_layers
from codesign.compile.graph.graph import Graph
from codesign.compile.ir.relax import from_module
from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.lower import lower
from codesign.compile.scanline.partition import partition
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.errors import CodesignError
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE, EDGE, LARGE, TINY, AccelSpec
from codesign.hw.timing import model as timing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HASHES = HERE / "hashes.json"
NETWORKS = HERE / "networks"
PLANS = HERE / "plans"
ARCH = "sm_90a"

MACHINES: dict[str, AccelSpec] = {
    spec.name: spec
    for spec in (
        TINY,
        EDGE,
        BASE,
        LARGE,
        dataclasses.replace(BASE, name="base-512k", scratchpad_bytes=320 * 1024, weight_words=1024, fill_words=1024),
        dataclasses.replace(
            TINY,
            name="narrow",
            scratchpad_bytes=4096,
            warp_reach=2,
            window_beats=16,
            correlator=1,
            statistic_channels=32,
        ),
    )
}

BLOCKS = {"rrdbnet_x4": "body.0", "spynet_level": "levels.4"}
"""Networks of which one block is run, as in ``make bench-accel``."""

SIZES = {
    **dict.fromkeys(("espcn_x3", "fsrcnn_x2", "sesr_m5_x2", "abpn_x3", "quicksrnet_m_x3", "edsr_f32b5_x2"), (61, 47)),
    **dict.fromkeys(("srvgg16_x4", "dncnn17", "rrdbnet_x4", "spynet_level"), (48, 40)),
    **dict.fromkeys(("flow_small", "spynet", "pwcnet", "rife"), (64, 64)),
    "basicvsr_b2_x4": (32, 32),
    "raft_small": (128, 128),
}
"""Frame size (width, height) of each network."""

PLANNED = {"espcn_x3": ("tiny", "base"), "sesr_m5_x2": ("tiny", "base"), "flow_small": ("edge",), "rife": ("base",)}
"""Networks whose plans are kept as text, for a reviewer to read what a change does, and the machines."""

Figures = dict[str, Any]


def figures(name: str) -> Figures:
    """All compared figures of one network: its programs per machine, and its CUDA texts."""
    modules = fixtures.load(NETWORKS / f"{name}.json.xz")
    graph = from_module(modules["quantised"])
    result: Figures = {}
    for machine, spec in MACHINES.items():
        result[machine] = _programs(graph, spec, name)
    result["cuda fp16"] = _text(lambda: from_graph(from_module(modules["float"])))
    whole = partition(graph, LARGE)
    if len(whole.regions) == 1:
        result["cuda int8"] = _text(lambda: from_layers(lower(whole.regions[0], name)))
    return result


def _programs(graph: Graph, spec: AccelSpec, name: str) -> Figures:
    try:
        partitioned = partition(graph, spec)
        programs = [emit(make_plan(spec, lower(region, name), None)) for region in partitioned.regions]
    except CodesignError as error:
        return {"refused": type(error).__name__}
    return {
        "regions": [_program(program) for program in programs],
        "hosted": sum(not placement.on_accelerator for placement in partitioned.placements),
    }


def plan_texts(name: str) -> dict[Path, str]:
    """The plans of a network in words, by the file that keeps them."""
    graph = from_module(fixtures.load(NETWORKS / f"{name}.json.xz")["quantised"])
    texts = {}
    for machine in PLANNED.get(name, ()):
        spec = MACHINES[machine]
        regions = partition(graph, spec).regions
        parts = [f"{region.symbol}\n{plan_text(make_plan(spec, lower(region, name), None))}\n" for region in regions]
        texts[PLANS / f"{name}.{machine}.txt"] = "\n".join(parts)
    return texts


def _program(program: Program) -> Figures:
    slots = [dataclasses.astuple(slot)[1:] for slot in (*program.inputs, *program.outputs)]
    places = [program.commands_offset, program.blob_offset, program.write_first, program.write_end, program.macs]
    counters = timing.predict(program)
    return {
        "commands": _digest(program.encoded_commands()),
        "weights": _digest(program.blob),
        "slots": _digest(json.dumps([slots, places, program.memory_bytes]).encode()),
        "count": len(program.commands),
        "cycles": counters.cycles,
        "dram_bytes": counters.dram_read_bytes + counters.dram_write_bytes,
    }


def _text(make: Any) -> Figures:
    try:
        plan = plan_launches(make(), ARCH, None)
    except CodesignError as error:
        return {"refused": type(error).__name__}
    launches = [[launch.kernel, *map(int, launch.grid), int(launch.threads)] for launch in plan.launches]
    return {"text": _digest(kernel_text(plan).encode()), "launches": _digest(json.dumps(launches).encode())}


def report_figures() -> Figures:
    """Hash of the report's JSON for fixed counters."""
    from report_fixture import report_json

    return {"report": _digest(json.dumps(report_json(), sort_keys=True).encode())}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def all_figures(names: list[str], jobs: int) -> dict[str, Figures]:
    """:func:`figures` of every network named, a process each, and the report's."""
    with ProcessPoolExecutor(jobs) as pool:
        found = dict(zip(names, pool.map(figures, names), strict=True))
    return found | {"report": report_figures()}


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Every leaf that differs, with its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{where} / {key}" if where else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where}[{index}]")
    elif before != after:
        change = (
            f" ({after / before - 1:+.2%})" if isinstance(before, int) and isinstance(after, int) and before else ""
        )
        yield f"{where}: {before} -> {after}{change}"


def of_commit(commit: str, names: list[str], jobs: int) -> dict[str, Figures]:
    """The figures of another commit, of this tree's networks, from a checkout of its own."""
    with tempfile.TemporaryDirectory(prefix="codesign-golden-") as folder:
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            script = Path(folder) / "tests" / "golden" / "golden.py"
            if not script.exists():
                raise SystemExit(f"{commit} has no tests/golden/golden.py")
            command = [sys.executable, str(script), "--print", "--jobs", str(jobs), *names]
            of_that_commit = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=of_that_commit)
            if done.returncode:
                raise SystemExit(f"{commit}: {done.stderr[-2000:]}")
            return dict(json.loads(done.stdout))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=False)


def store(names: list[str]) -> None:
    """Make the networks' files: the catalogue's networks, calibrated on its photographs."""
    from store import modules_of

    NETWORKS.mkdir(exist_ok=True)
    for name in names:
        fixtures.save(NETWORKS / f"{name}.json.xz", modules_of(name, SIZES[name], BLOCKS.get(name, "")))
        print(name, (NETWORKS / f"{name}.json.xz").stat().st_size, "bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(SIZES), help="which networks (all)")
    parser.add_argument("--against", metavar="COMMIT", help="compare with another commit")
    parser.add_argument("--accept", action="store_true", help="store this tree's hashes")
    parser.add_argument("--store", action="store_true", help="make the networks' files anew")
    parser.add_argument("--print", action="store_true", help="print this tree's figures as JSON")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.store:
        store(options.networks)
        return
    found = all_figures(options.networks, options.jobs)
    if options.print:
        print(json.dumps(found))
        return
    known = json.loads(HASHES.read_text()) if HASHES.exists() else {}
    if options.accept:
        HASHES.write_text(json.dumps(known | found, indent=1, sort_keys=True) + "\n")
        for name in options.networks:
            for path, text in plan_texts(name).items():
                path.write_text(text)
        return
    before = of_commit(options.against, options.networks, options.jobs) if options.against else known
    changed = list(differences({name: before.get(name) for name in found}, found))
    print("\n".join(changed) or f"identical: {len(options.networks)} networks, {len(MACHINES)} machines, CUDA, report")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()
