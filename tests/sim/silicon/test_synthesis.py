"""Gates and FPGA figures: designs small enough to know the answer, the whole machine's storage by its specification."""

from __future__ import annotations

import dataclasses

import pytest

from codesign.hw.errors import InputError, SimulationError
from codesign.hw.spec import TINY
from codesign.sim.silicon import synthesis
from codesign.sim.silicon.synthesis import PathStep, Resource, Synthesis, cached, describe_path, fitted, synthesise

SMALL = """
module leaf (input logic [7:0] a_i, input logic [7:0] b_i, output logic [7:0] y_o);
  assign y_o = a_i & b_i;
endmodule
module scanline_top (
    input logic clk_i, input logic [17:0] a_i, input logic [17:0] b_i, output logic [35:0] y_o, output logic [7:0] z_o
);
  logic [17:0] a_q, b_q;
  logic [35:0] product_q, read_q, mem[512];
  logic [7:0] first;
  leaf u_one (.a_i(a_q[7:0]), .b_i(b_q[7:0]), .y_o(first));
  leaf u_two (.a_i(first), .b_i(b_q[15:8]), .y_o(z_o));
  always_ff @(posedge clk_i) begin
    a_q <= a_i;
    b_q <= b_i;
    product_q <= a_q * b_q;
    if (a_q[0]) mem[a_q[8:0]] <= product_q;
    read_q <= mem[b_q[8:0]];
  end
  assign y_o = read_q;
endmodule
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small design in the machine's place, and a cache of its own."""
    source = tmp_path / "small.sv"
    source.write_text(SMALL)
    monkeypatch.setattr(synthesis, "rtl_sources", lambda: [source])
    monkeypatch.setattr(synthesis, "cache_folder", lambda: tmp_path / "cache")
    return source


def test_gates_of_each_module(small):
    made = synthesise(TINY)
    modules = {module.module: module for module in made.modules}
    assert set(modules) == {"leaf", "scanline_top"}
    assert modules["leaf"].instances == 2
    assert modules["leaf"].gates == 2 * 8 * 1.5  # an AND has six transistors, a NAND2 four
    top = modules["scanline_top"]
    assert 18 * 18 < top.gates < 18 * 18 * 12  # the multiplier: an AND and a full adder a bit
    assert top.memory_bits == 512 * 36
    # The address or the data of a memory's read port may be its register: 36 more or none.
    assert top.flip_flops in (18 + 18 + 36, 18 + 18 + 36 + 36)
    assert made.fit is None


def test_an_fpga_s_figures_come_from_its_own_cells(small):
    said = []
    made = synthesise(TINY, "ecp5", report=said.append)
    assert made.fit is not None
    assert made.fit.resources["DSP"] == Resource(1, 156)
    assert made.fit.resources["block RAM"] == Resource(1, 208)
    assert made.fit.resources["LUT RAM"].used == 0
    assert 8 <= made.fit.resources["LUT"].used < 100
    assert 50e6 < made.fit.fmax_hz < 1e9
    total = sum(step.delay_ns for step in made.fit.critical_path)
    assert total == pytest.approx(1e9 / made.fit.fmax_hz, rel=1e-3)
    assert "of the top" in made.fit.path_in_words
    assert any("place and route" in text for text in said)
    # Kept: no tool runs again, and the figures are found for this hardware alone.
    said.clear()
    assert synthesise(TINY, "ecp5", report=said.append) == made
    assert said == []
    assert fitted(TINY, small.parent / "nothing") == [made.fit]
    small.write_text(SMALL.replace("a_q & b_q", "a_q | b_q") + "\n")
    assert cached(TINY, "ecp5") is None
    assert fitted(TINY, small.parent / "nothing") == []


def test_another_specification_is_another_machine(small):
    synthesise(TINY)
    assert cached(TINY, "generic") is not None
    assert cached(dataclasses.replace(TINY, scratchpad_bytes=TINY.scratchpad_bytes * 2), "generic") is None


def test_rtl_that_does_not_elaborate_is_an_error(small):
    small.write_text(SMALL.replace("a_q * b_q", "a_q * nothing"))
    with pytest.raises(SimulationError, match="nothing"):
        synthesise(TINY)


def test_unknown_target(small):
    with pytest.raises(InputError, match="unknown target 'ice40'"):
        synthesise(TINY, "ice40")


def test_json_and_back(small):
    made = synthesise(TINY)
    fit = synthesis.FpgaFit("d", {"LUT": Resource(1, 2)}, 1e6, (PathStep("logic", 1.0, "u_conv.x_LUT4_Z"),))
    for one in (made, dataclasses.replace(made, fit=fit)):
        assert Synthesis.from_json(one.to_json()) == one


def test_a_path_in_words():
    path = (
        PathStep("clk-skew", 0.1, "u_conv.u_requantiser.psum0_q_TRELLIS_FF_Q_3"),
        PathStep("clk-to-q", 0.5, "u_conv.u_array.sum_q_TRELLIS_FF_Q_1"),
        PathStep("routing", 1.0, "u_conv.u_array.sum_q_LUT4_A"),
        PathStep("logic", 0.25, "u_conv.u_array.sum_q_LUT4_A"),
        PathStep("routing", 2.0, "u_scratchpad.mem_MULT18X18D_P3"),
        PathStep("logic", 2.5, "u_scratchpad.mem_MULT18X18D_P3"),
        PathStep("routing", 1.0, "u_conv.u_requantiser.psum0_q_TRELLIS_FF_Q_3"),
        PathStep("setup", 0.0, "u_conv.u_requantiser.psum0_q_TRELLIS_FF_Q_3"),
    )
    assert describe_path(path) == (
        "from sum_q of conv/array to psum0_q of conv/requantiser by way of scratchpad: 7.3 ns, 3.2 in logic "
        "(1 LUT, 1 DSP), 4.0 in wires and 0.1 between the clocks of the two"
    )


@pytest.mark.timeout(300)
def test_the_machine_s_memories_stay_memories(tmp_path, monkeypatch):
    """Every byte of scratchpad, weights and tables is in a RAM; flip-flops hold the datapath and no more."""
    monkeypatch.setattr(synthesis, "cache_folder", lambda: tmp_path / "cache")
    made = synthesise(TINY)
    memory_bits = sum(module.memory_bits for module in made.modules)
    flip_flops = sum(module.flip_flops for module in made.modules)
    assert flip_flops < 0.05 * memory_bits
    # The large ones are block RAMs; FIFOs and tables are small enough for LUTs.
    (blocks,) = [module for module in made.modules if module.module == "scanline_ram_1r1w"]
    assert blocks.memory_bits >= 8 * (TINY.scratchpad_bytes + TINY.weight_words * TINY.weight_word_bytes)
    assert blocks.memory_bits > 0.9 * memory_bits
