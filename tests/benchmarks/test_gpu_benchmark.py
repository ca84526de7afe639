"""The GPU benchmark's script from end to end, on an emulating driver and torch's CPU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import plan_launches
from codesign.compile.cuda.layers import from_layers
from codesign.compile.ir.relax import from_module
from codesign.compile.referee.integer import evaluate
from codesign.kernels.runtime.bundle import Bundle
from codesign.kernels.runtime.emulate import build_emulated
from codesign.workflows import gpu as cuda
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find, import_source
from tests.kernels.fake_driver import build_driver, code_of, table

ROOT = Path(__file__).parents[2]
SIZE = (20, 14)
PEAK = """#include "lanes.cuh"
extern "C" __global__ void peak(char* to, int rounds) { to[blockIdx.x * 512 + threadIdx.x] = rounds; }"""


def test_measures_checks_and_goes_on(tmp_path: Path) -> None:
    folder, driver = tmp_path / "gpu", build_driver(tmp_path)
    folder.mkdir()
    source = find("sesr_m5_x2", None)
    quantised = compile_source(source, choice=FrameChoice(SIZE)).network
    codes = np.random.default_rng(20).integers(-128, 128, (1, SIZE[1], SIZE[0])).astype(np.int8)
    graphs = {
        "fp16": from_graph(from_module(import_source(source, SIZE).module)),
        "int8": from_layers(cuda.whole(quantised)),
    }
    entries = {}
    for precision, graph in graphs.items():
        plan = plan_launches(graph, "sm_90a")
        key = f"sesr_m5_x2-{precision}"
        Bundle(tuple(plan.launches), plan.stored, graph.input, graph.output, code_of(plan.launches, tmp_path)).save(
            folder / key
        )
        entries[key] = {
            "network": "sesr_m5_x2",
            "precision": precision,
            "channels": 1,
            "scale": 2,
            "macs": 1000,
            "bundled": True,
            "launches": len(plan.launches),
            "modelled_seconds": plan.seconds,
        }
        peak = build_emulated(PEAK, "peak", 1, 1, folder=tmp_path)
        (folder / f"peak-{precision}.cubin").write_bytes(table({"peak": (peak, 1, 1)}))
    right = hashlib.sha256(
        np.ascontiguousarray(evaluate(quantised.partitioned.graph, codes[None])[0]).tobytes()
    ).hexdigest()
    entries["sesr_m5_x2-int8"]["sha256"] = right
    manifest = {"width": SIZE[0], "height": SIZE[1], "seed": 20, "commit": "0" * 40, "entries": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(ROOT / "benchmarks" / "gpu" / "measure.py", folder)
    command = [
        sys.executable,
        str(folder / "measure.py"),
        "--device",
        "cpu",
        "--driver",
        str(driver),
        "--energy",
        "0",
        "--rounds",
        "1",
        "--torch",
        "eager",
        "--out",
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    lines = (tmp_path / "out" / "measured.jsonl").read_text().splitlines()
    found = {(entry["entry"], entry["software"]): entry for entry in map(json.loads, lines)}
    assert not [entry for entry in found.values() if "failed" in entry]
    assert found["sesr_m5_x2-int8", "codesign"]["bit_exact"] is True
    assert found["sesr_m5_x2-fp16", "codesign"]["error"] < 1e-2
    assert found["sesr_m5_x2-fp16", "codesign"]["finite"] is True
    assert found["sesr_m5_x2-fp16", "torch eager"]["error"] < 1e-2
    assert found["peaks", "machine"]["mma_int8_ops_per_second"] > 0
    assert "sesr_m5_x2-int8" in (tmp_path / "out" / "table.txt").read_text()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert (tmp_path / "out" / "measured.jsonl").read_text().splitlines() == lines  # nothing is measured twice

    entries["sesr_m5_x2-int8"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    subprocess.run([*command[:-1], str(tmp_path / "again")], check=True, capture_output=True, timeout=300)
    lines = (tmp_path / "again" / "measured.jsonl").read_text().splitlines()
    found = {(entry["entry"], entry["software"]): entry for entry in map(json.loads, lines)}
    assert found["sesr_m5_x2-int8", "codesign"]["bit_exact"] is False


def test_the_table_of_networks_is_true() -> None:
    """The document has the recorded rows, and the compiler still gives the same for two; otherwise run coverage.py
    again."""
    path = ROOT / "benchmarks" / "gpu" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_networks", path)
    assert spec is not None
    assert spec.loader is not None
    coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coverage)
    rows = json.loads(coverage.RESULTS.read_text())["rows"]
    assert coverage.table(rows) in coverage.DOCUMENT.read_text()
    by_key = {(one["network"], one["precision"]): one for one in rows}
    for name in ("sesr_m5_x2", "flow_small"):
        recorded = by_key[name, "fp16"]
        graph = coverage.graph_of(name, "fp16", recorded["size"])
        assert coverage.others(graph) == recorded["others"]
        if name == "sesr_m5_x2":  # flow networks' launches change with the front end
            assert len(plan_launches(graph, "sm_90a").launches) == recorded["launches"]["sm_90a"]
    assert not [one["network"] for one in rows if any(one.get("spilled_bytes", {}).values())]
