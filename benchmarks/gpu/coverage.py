"""Operators of each network in this project's CUDA kernels, and those left to TVM; all kernels are compiled.

``python benchmarks/gpu/coverage.py`` → ``benchmarks/results/gpu_coverage.json`` and the table in ``docs/cuda.md``.
Needs no GPU. Existing rows of the same size are kept; remove the file to begin anew.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from codesign.compile.cuda.compile import kernel_text
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import plan_launches
from codesign.compile.cuda.layers import GpuGraph, Other, from_layers
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import CodesignError, UnsupportedError
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from codesign.workflows import gpu as cuda
from codesign.workflows.sources import find, import_source

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_coverage.json"
DOCUMENT = ROOT / "docs" / "cuda.md"
BEGIN, END = "<!-- coverage -->\n", "<!-- /coverage -->\n"
ARCHITECTURES = ("sm_80", "sm_90a")
PICTURES, PAIRS = "64x48", "64x64"
NETWORKS = {
    "espcn_x3": PICTURES,
    "fsrcnn_x2": PICTURES,
    "sesr_m5_x2": PICTURES,
    "abpn_x3": PICTURES,
    "quicksrnet_m_x3": PICTURES,
    "edsr_f32b5_x2": PICTURES,
    "srvgg16_x4": PICTURES,
    "dncnn17": PICTURES,
    "flow_small": PAIRS,
    "spynet": PAIRS,
    "raft_small": PAIRS,
    "raft": PAIRS,
    "pwcnet": PAIRS,
    "rife": PAIRS,
    "edsr_baseline_x4": PICTURES,
    "nafnet32": PICTURES,
    "rrdbnet_x4": PICTURES,
    "basicvsr_x4": PAIRS,
}


def graph_of(name: str, precision: str, size: str) -> GpuGraph:
    """The network as GPU operations. Raises :class:`UnsupportedError` for an INT8 network with operators on the
    host."""
    width, height = map(int, size.split("x"))
    source = find(name, None)
    if precision == "int8":
        return from_layers(cuda.integer_layers(source, (width, height)))
    return from_graph(from_module(import_source(source, (width, height)).module))


def others(graph: GpuGraph) -> dict[str, int]:
    """Operators left to TVM."""
    return dict(Counter(o.node.op.removeprefix("nn.") for o in graph.operations if isinstance(o, Other)))


def row(name: str, precision: str, size: str) -> dict[str, Any]:
    """One network: launches, kernels and spills per architecture, and what is left to TVM."""
    entry: dict[str, Any] = {"network": name, "precision": precision, "size": size}
    try:
        graph = graph_of(name, precision, size)
    except UnsupportedError as error:
        return entry | {"refused": str(error)}
    entry |= {"others": others(graph), "launches": {}, "kernels": {}, "spilled_bytes": {}}
    for arch in ARCHITECTURES:
        plan = plan_launches(graph, arch)
        binary = compile_cuda_text(kernel_text(plan), arch)
        entry["launches"][arch] = len(plan.launches)
        entry["kernels"][arch] = len(binary.kernels)
        entry["spilled_bytes"][arch] = sum(kernel.spilled_bytes for kernel in binary.kernels)
    return entry


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table of the document."""
    lines = [
        "| network | size | precision | launches sm_80, sm_90a | kernels | spilled bytes | left to TVM |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        if "refused" in one:
            figures = ["", "", "", "refused"]
        else:
            figures = [
                ", ".join(str(one[key][arch]) for arch in ARCHITECTURES)
                for key in ("launches", "kernels", "spilled_bytes")
            ]
            left = ", ".join(f"{count} {op}" for op, count in sorted(one["others"].items()))
            figures.append(left or "nothing")
        lines.append(f"| {' | '.join([one['network'], one['size'], one['precision'], *figures])} |")
    return "\n".join(lines) + "\n"


def write_document(rows: list[dict[str, Any]]) -> None:
    """Write the table between its marks in the document."""
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN)
    DOCUMENT.write_text(head + BEGIN + table(rows) + END + rest.split(END)[1])


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Networks; all by default.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp16, int8; both by default.")] = None,
) -> None:
    """Measure the missing rows."""
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for name in names or NETWORKS:
        for kind in precision or ("fp16", "int8"):
            key = name, kind, NETWORKS[name]
            if any((one["network"], one["precision"], one["size"]) == key for one in rows):
                continue
            try:
                rows.append(row(*key))
            except CodesignError as error:
                console.print(f"{name} {kind}: {error}", style="red", highlight=False)
                continue
            order = [(network, which) for network in NETWORKS for which in ("fp16", "int8")]
            rows.sort(key=lambda one: order.index((one["network"], one["precision"])))
            lines = ",\n".join(json.dumps(one) for one in rows)
            RESULTS.write_text('{"command": "python benchmarks/gpu/coverage.py", "rows": [\n' + lines + "\n]}\n")
            console.print(f"{name} {kind}", highlight=False)
    write_document(rows)


if __name__ == "__main__":
    typer.run(main)
