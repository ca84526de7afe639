"""Cells, mapped netlists, their transitions and energy: parsed, checked against RTL and Verilator, counted by hand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.hw.errors import InputError
from codesign.sim.build import c_compiler, verilator_root
from codesign.sim.silicon.functions import function_of
from codesign.sim.silicon.liberty import parse, read_liberty
from codesign.sim.silicon.netlist import Activity, Instance, Netlist, Port, map_block, simulate
from codesign.sim.silicon.power import WIRE_PF_PER_MM, block_energy
from codesign.sim.silicon.stimuli import read_ports

CELLS = Path(__file__).parent / "cells.lib"
OSU = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")

BLOCK = """module block(
  input logic clk_i, input logic rst_ni, input logic en_i,
  input logic signed [4:0] a_i, input logic signed [4:0] b_i, output logic signed [15:0] sum_o, output logic odd_o);
  logic signed [9:0] product_q;
  always_ff @(posedge clk_i) product_q <= a_i * b_i;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) sum_o <= 16'sd3;
    else if (en_i) sum_o <= sum_o + 16'(product_q);
  end
  assign odd_o = ^sum_o;
endmodule
"""


@pytest.fixture(scope="module")
def library():
    return read_liberty(CELLS)


class TestLiberty:
    def test_units_are_applied(self, library):
        inverter = library.cells["INV"]
        assert library.voltage == 2.0
        assert (inverter.area, inverter.leakage_w) == (2.0, pytest.approx(5e-12))
        assert library.cells["NAND2"].leakage_w == pytest.approx(7e-12)
        assert inverter.pins["A"].capacitance_pf == pytest.approx(0.01)
        assert library.cells["XOR2"].pins["B"].capacitance_pf == pytest.approx(0.02)

    def test_tables_are_read_by_their_axes(self, library):
        """Load first in the file, in tens of femtofarads; energies in 10 fF x 1 V2; a falling output takes nothing."""
        rise = library.cells["INV"].pins["Y"].rise[0]
        assert rise.at(0.0, 0.0) == pytest.approx(1e-14)
        assert rise.at(1.0, 0.0) == pytest.approx(3e-14)
        assert rise.at(0.0, 0.1) == pytest.approx(5e-14)
        assert rise.at(0.5, 0.05) == pytest.approx(4e-14)
        assert rise.at(9.0, 9.0) == pytest.approx(7e-14)  # held at the last point
        assert library.cells["INV"].pins["Y"].internal_j(0.5, 0.05) == pytest.approx(2e-14)

    def test_the_gate_equivalent_is_found_by_function(self, library):
        assert library.nand2.name == "NAND2"

    def test_flip_flops(self, library):
        stored = library.cells["DFFR"].flip_flop
        assert stored is not None
        assert (stored.state, stored.clear, stored.clocked_on, stored.preset) == ("IQ", "!RN", "CK", "")

    @pytest.mark.parametrize(
        ("text", "pins", "value"),
        [
            ("A B + C", "001", True),
            ("A B + C", "100", False),
            ("A (B + C)", "101", True),
            ("A' B", "010", True),
            ("(A B)'", "110", False),
            ("!A ^ B", "000", True),
            ("A ^ B C", "010", False),
            ("A & B | !C", "000", True),
            ("A*B", "110", True),
            ("1", "000", True),
            ("A''", "100", True),
            ("!(!A)", "000", False),
        ],
    )
    def test_functions(self, text, pins, value):
        function = function_of(text)
        assert function.value(dict(zip("ABC", (bit == "1" for bit in pins), strict=True))) is value

    @pytest.mark.parametrize("text", ["", "A +", "(A", "A)", "A @ B", "'A"])
    def test_what_is_no_function(self, text):
        with pytest.raises(InputError):
            function_of(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "library",
            "library(a) {",
            "library(a) { cell(b) { area : x; } }",
            "cell(a) { }",
            "library(a) { }",
            "library(a) { } more",
            'library(a) { time_unit : "1 apple"; }',
        ],
    )
    def test_what_is_no_library(self, tmp_path, text):
        (tmp_path / "bad.lib").write_text(text)
        with pytest.raises(InputError, match=r"bad\.lib"):
            read_liberty(tmp_path / "bad.lib")
        with pytest.raises(InputError, match="cannot be read"):
            read_liberty(tmp_path / "absent.lib")

    def test_comments_and_continued_lines(self):
        assert parse("pin(a) { direction : input; capacitance : 1.0 }").number("capacitance") == 1.0
        group = parse('library(a) { /* b : 1; */ c : 2; // d : 3;\n e ("1, 2", \\\n "3"); }')
        assert dict(group.attributes) == {"c": ("2",), "e": ("1, 2", "3")}


def random_netlist(seed: int, cells: int = 150) -> Netlist:
    """Cells that read nets before them, flip-flops that read any: no combinational loop."""
    rng = np.random.default_rng(seed)
    clock, reset, inputs = 2, 3, list(range(4, 10))
    combinational = [number for number in range(10, 10 + cells) if rng.random() < 0.8]
    states = [number for number in range(10, 10 + cells) if number not in combinational]
    known = [0, 1, *inputs, *states]
    instances = []
    for net in combinational:
        kind = str(rng.choice(["INV", "NAND2", "NOR2", "XOR2"]))
        pins = {pin: int(rng.choice(known)) for pin in ("A", "B")[: 1 if kind == "INV" else 2]}
        instances.append(Instance(kind, pins | {"Y": net}))
        known.append(net)
    unused = 10 + cells
    for net in states:
        data = {"CK": clock, "D": int(rng.choice(known))}
        if rng.random() < 0.5:
            instances.append(Instance("DFF", data | {"Q": net}))
        else:
            instances.append(Instance("DFFR", data | {"RN": reset, "QN": net, "Q": unused}))
            unused += 1
    rng.shuffle(instances)  # the order in a file says nothing
    ports = {
        "clk_i": Port("clk_i", True, (clock,)),
        "rst_ni": Port("rst_ni", True, (reset,)),
        "a_i": Port("a_i", True, tuple(inputs)),
        "y_o": Port("y_o", False, tuple(known[-40:])),
    }
    return Netlist("block", "clk_i", ports, tuple(instances), {net: f"r{net}_q" for net in states})


def stimuli(cycles: int, seed: int = 0, **widths: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    reset = np.ones(cycles, np.uint32)
    reset[:3] = 0
    found = {"rst_ni": reset} | {name: rng.integers(0, 1 << bits, cycles) for name, bits in widths.items()}
    return {name: values.astype(np.uint32)[:, None] for name, values in found.items()}


class TestNetlist:
    def test_verilator_sees_the_same(self, library, tmp_path):
        """Outputs, and every net's transitions by Verilator's SAIF writer, out of its own simulation of the cells."""
        netlist, given = random_netlist(1), stimuli(300, a_i=6)
        activity = simulate(netlist, library, given)
        counted, outputs = by_verilator(tmp_path, netlist, library, given)
        assert len(counted) > 150
        for net, count in counted.items():
            assert activity.transitions[net] == count, net
        np.testing.assert_array_equal(activity.outputs["y_o"], outputs)
        assert len(np.unique(outputs, axis=0)) > 20

    def test_cycles_before_the_first_do_not_count(self, library):
        netlist, given = random_netlist(3), stimuli(100, a_i=6)
        whole = simulate(netlist, library, given)
        late = simulate(netlist, library, given, first=99)
        assert late.cycles == 1
        assert not late.transitions.any()
        assert whole.transitions.sum() > 0
        np.testing.assert_array_equal(whole.outputs["y_o"], late.outputs["y_o"])

    def test_cells_belong_to_the_registers_they_feed(self, library):
        """An inverter for one register, one for two, one for an output."""
        instances = (
            Instance("INV", {"A": 3, "Y": 4}),
            Instance("DFF", {"CK": 2, "D": 4, "Q": 5}),
            Instance("INV", {"A": 3, "Y": 6}),
            Instance("NAND2", {"A": 6, "B": 5, "Y": 7}),
            Instance("DFF", {"CK": 2, "D": 7, "Q": 8}),
            Instance("NAND2", {"A": 6, "B": 8, "Y": 9}),
            Instance("DFF", {"CK": 2, "D": 9, "Q": 10}),
            Instance("INV", {"A": 10, "Y": 11}),
        )
        ports = {"clk": Port("clk", True, (2,)), "a": Port("a", True, (3,)), "y": Port("y", False, (11,))}
        netlist = Netlist("three", "clk", ports, instances, {5: "p_q", 8: "q_q", 10: "r_q"})
        assert netlist.owners(library) == (
            "p_q logic",
            "p_q",
            "shared",
            "q_q logic",
            "q_q",
            "r_q logic",
            "r_q",
            "shared",
        )

    @pytest.mark.parametrize(
        ("instances", "message"),
        [
            ([Instance("ORACLE", {"A": 2, "Y": 3})], "ORACLE is not in the library"),
            ([Instance("INV", {"A": 3, "Y": 4}), Instance("INV", {"A": 4, "Y": 3})], "loop"),
            ([Instance("DFF", {"CK": 2, "D": 2, "Q": 3})], "not clocked by the block's clock"),
        ],
    )
    def test_what_cannot_run(self, library, instances, message):
        netlist = Netlist("odd", None, {"a": Port("a", True, (2,)), "y": Port("y", False, (3,))}, tuple(instances))
        with pytest.raises(InputError, match=message):
            simulate(netlist, library, {"a": np.zeros((2, 1), np.uint32)})


class TestPower:
    def test_by_hand(self, library):
        """An inverter drives a flip-flop: pins of 10 fF, 4 V2, wires of one NAND2 side each."""
        netlist = Netlist(
            "pair",
            "clk",
            {"clk": Port("clk", True, (2,)), "a": Port("a", True, (3,)), "q": Port("q", False, (5,))},
            (Instance("INV", {"A": 3, "Y": 4}), Instance("DFF", {"CK": 2, "D": 4, "Q": 5})),
            {5: "q"},
        )
        wire = WIRE_PF_PER_MM * 1.0 * 2.0 * 1e-3  # the side of 4 square micrometres
        activity = Activity(100, np.array([0, 0, 0, 40, 40, 39]), {})
        found = block_energy(netlist, library, activity, wire_gates_per_pin=1.0)
        each = 0.5 * (0.01 + wire) * 1e-12 * 4.0
        internal = library.cells["INV"].pins["Y"].internal_j(0.2, 0.01 + wire)
        assert found.by_owner["inputs"] == pytest.approx(40 * each)
        assert found.by_owner["q logic"] == pytest.approx(40 * (each + internal))
        assert found.by_owner["q"] == pytest.approx(0.0)  # it drives nothing in here
        assert found.clock_j == pytest.approx(200 * each)
        assert found.dynamic_j == pytest.approx(40 * (2 * each + internal))
        assert found.leakage_w == pytest.approx(12e-12)
        assert (found.gate_equivalents, found.flip_flops) == (22 / 4, 1)

    @given(st.integers(1, 20))
    def test_longer_wires_take_more(self, length):
        library = read_liberty(CELLS)
        netlist = Netlist(
            "one", None, {"a": Port("a", True, (2,)), "y": Port("y", False, (3,))}, (Instance("INV", {"A": 2, "Y": 3}),)
        )
        activity = Activity(10, np.array([0, 0, 5, 5]), {})
        short, long = (
            block_energy(netlist, library, activity, wire_gates_per_pin=pins) for pins in (0.0, float(length))
        )
        assert long.dynamic_j > short.dynamic_j > 0.0


WAVES = """$scope module top $end
 $var wire 1 ! clk $end
 $scope module other $end
  $var wire 3 # data [2:0] $end
 $upscope $end
 $scope module block $end
  $var wire 40 " data [39:0] $end
  $var wire 1 $ valid $end
 $upscope $end
$upscope $end
$enddefinitions $end
#0
b1 "
0$
#1
b111 "
#2
b1111111111111111111111111111111111111111 "
1$
#3
0$
#4
bx1 "
#5
"""


def test_ports_are_read_before_every_edge(tmp_path):
    """Even times count, odd ones do not; the instance is the one whose widths fit; unknown bits are 0."""
    path = tmp_path / "waves.vcd"
    path.write_text(WAVES)
    ports = (Port("data", True, tuple(range(2, 42))), Port("valid", True, (50,)))
    found = read_ports(path, ports)
    assert found["data"].tolist() == [[1, 0], [0xFFFFFFFF, 0xFF], [1, 0]]
    assert found["valid"].tolist() == [[0], [1], [0]]
    with pytest.raises(InputError, match="no instance has the ports"):
        read_ports(path, [Port("absent", True, (2,))])


@pytest.mark.skipif(not OSU.exists(), reason="needs the Debian package qflow-tech-osu018")
def test_a_real_library(tmp_path):
    library = read_liberty(OSU)
    assert len(library.cells) == 32
    assert (library.nand2.name, library.voltage) == ("NAND2X1", 1.8)
    (tmp_path / "block.sv").write_text(BLOCK)
    netlist = map_block(tmp_path, [tmp_path / "block.sv"], "block", OSU, clock="clk_i")
    given = stimuli(500, en_i=1, a_i=5, b_i=5)
    activity = simulate(netlist, library, given)
    total, product, expected = 0, 0, []
    for cycle in range(500):
        expected.append(total & 0xFFFF)
        a, b = (((int(given[name][cycle, 0]) + 16) % 32) - 16 for name in ("a_i", "b_i"))
        if not given["rst_ni"][cycle, 0]:
            total = 3
        elif given["en_i"][cycle, 0]:
            total += product
        product = a * b
    found = activity.outputs["sum_o"][:, 0]
    np.testing.assert_array_equal(found[1:], expected[1:])  # before the first edge there was no reset
    parity = [value.bit_count() & 1 for value in found.tolist()]
    np.testing.assert_array_equal(activity.outputs["odd_o"][:, 0], parity)
    energy = block_energy(netlist, library, activity, wire_gates_per_pin=10.0)
    assert energy.flip_flops == 26
    assert {"product_q", "sum_o", "product_q logic", "sum_o logic", "inputs"} <= set(energy.by_owner)


# The referee: the same cells as SystemVerilog, their functions from the library, simulated and counted by Verilator.


def by_verilator(work, netlist, library, given):
    (work / "block.sv").write_text(as_verilog(netlist, library))
    inputs = [port for port in netlist.ports.values() if port.is_input and port.name != netlist.clock]
    rows = np.concatenate([given[port.name] for port in inputs], axis=1).astype(np.uint32)
    (work / "rows.bin").write_bytes(rows.tobytes())
    feed = " ".join(f"top.{port.name} = at[{place}];" for place, port in enumerate(inputs))
    (work / "bench.cpp").write_text(
        f"""#include <cstdio>
#include <cstdlib>
#include <vector>
#include "Vblock.h"
#include "verilated.h"
#include "verilated_saif_c.h"
int main(int, char** argv) {{
    std::vector<uint32_t> rows({rows.size});
    FILE* file = std::fopen(argv[1], "rb");
    if (std::fread(rows.data(), 4, rows.size(), file) != rows.size()) return 1;
    VerilatedContext context;
    context.traceEverOn(true);
    Vblock top(&context);
    VerilatedSaifC trace;
    top.trace(&trace, 1);
    trace.open(argv[2]);
    FILE* seen = std::fopen(argv[3], "wb");
    for (unsigned cycle = 0; cycle < std::strtoul(argv[4], nullptr, 10); cycle++) {{
        const uint32_t* at = rows.data() + cycle * {rows.shape[1]};
        {feed}
        top.eval();
        trace.dump(cycle);
        const uint64_t out = top.y_o;
        std::fwrite(&out, 8, 1, seen);
        top.{netlist.clock} = 1; top.eval(); top.{netlist.clock} = 0; top.eval();
    }}
    trace.close();
    std::fclose(seen);
}}
"""
    )
    root = verilator_root()
    include = root / "include"
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    subprocess.run(
        [
            root / "bin" / "verilator_bin",
            "--cc",
            "--prefix",
            "Vblock",
            "--trace-saif",
            "--no-timing",
            "-Wno-fatal",
            "-Wno-lint",
            "--x-initial",
            "0",
            "-Mdir",
            work / "obj",
            work / "block.sv",
        ],
        env=environment,
        check=True,
        capture_output=True,
    )
    sources = [*(work / "obj").glob("*.cpp"), work / "bench.cpp"]
    sources += [include / name for name in ("verilated.cpp", "verilated_threads.cpp", "verilated_saif_c.cpp")]
    subprocess.run(
        [
            c_compiler(),
            "-std=c++17",
            "-O0",
            "-w",
            f"-I{work / 'obj'}",
            f"-I{include}",
            f"-I{include / 'vltstd'}",
            "-DVL_TIME_CONTEXT",
            "-DVM_COVERAGE=0",
            "-DVM_SC=0",
            "-DVM_TRACE=1",
            "-DVM_TRACE_FST=0",
            "-DVM_TRACE_VCD=0",
            "-DVM_TRACE_SAIF=1",
            *sources,
            "-o",
            work / "bench",
            "-lpthread",
        ],
        check=True,
        capture_output=True,
    )

    def run(cycles: int) -> dict[int, int]:
        files = [work / name for name in ("rows.bin", "activity.saif", "seen.bin")]
        subprocess.run([work / "bench", *files, str(cycles)], check=True)
        found = re.findall(r"\(n(\d+) [^\n]*\(TC (\d+)\)", files[1].read_text())
        return {int(net): int(count) for net, count in found}

    first, whole = run(1), run(len(rows))  # SAIF counts a 1 in the first cycle as a change
    counted = {net: count - first[net] for net, count in whole.items()}
    return counted, np.fromfile(work / "seen.bin", "<u4").reshape(len(rows), 2)


def as_verilog(netlist, library):
    clock = netlist.ports[netlist.clock].nets[0]

    def wire(net):
        return f"1'b{net}" if net < 2 else f"n{net}"

    lines = []
    for number, one in enumerate(netlist.instances):
        cell = library.cells[one.cell]
        nets = {pin: wire(net) for pin, net in one.pins.items()}
        if (stored := cell.flip_flop) is not None:
            nets |= {stored.state: f"s{number}", stored.inverse: f"~s{number}"}
            new = function_of(stored.next_state).render(nets)
            if stored.clear:
                new = f"{function_of(stored.clear).render(nets)} ? 1'b0 : {new}"
            lines.append(f"logic s{number}; always_ff @(posedge n{clock}) s{number} <= {new};")
        lines += [
            f"assign {nets[pin.name]} = {function_of(pin.function).render(nets)};"
            for pin in cell.pins.values()
            if pin.is_output and one.pins.get(pin.name, 0) > 1
        ]
    header = []
    used = {net for one in netlist.instances for net in one.pins.values() if net > 1}
    for port in netlist.ports.values():
        header.append(f"{'input' if port.is_input else 'output'} logic [{len(port.nets) - 1}:0] {port.name}")
        used |= {net for net in port.nets if net > 1}
        for place, net in enumerate(port.nets):
            left, right = wire(net), f"{port.name}[{place}]"
            lines.append(f"assign {left} = {right};" if port.is_input else f"assign {right} = {left};")
    wires = "".join(f"wire n{net};\n" for net in sorted(used))
    return f"module block({', '.join(header)});\n{wires}" + "\n".join(lines) + "\nendmodule\n"
