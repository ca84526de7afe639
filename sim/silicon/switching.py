"""Switching activity of a combinational netlist: every net's values over time are one row of packed bits.

Zero-delay: a net switches at most once a cycle, so glitches are not seen. Activities are meant for comparing
different data on the same netlist.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.sim.silicon.gates import read
from codesign.sim.silicon.synthesis import yosys

Packed = NDArray[np.uint8]  # [cycles / 8]: one net over time

_GATES: dict[str, Callable[..., Packed]] = {
    "$_NOT_": lambda a: ~a,
    "$_BUF_": lambda a: a,
    "$_AND_": lambda a, b: a & b,
    "$_NAND_": lambda a, b: ~(a & b),
    "$_OR_": lambda a, b: a | b,
    "$_NOR_": lambda a, b: ~(a | b),
    "$_XOR_": lambda a, b: a ^ b,
    "$_XNOR_": lambda a, b: ~(a ^ b),
    "$_ANDNOT_": lambda a, b: a & ~b,
    "$_ORNOT_": lambda a, b: a | ~b,
    "$_MUX_": lambda a, b, s: (a & ~s) | (b & s),
    "$_NMUX_": lambda a, b, s: ~((a & ~s) | (b & s)),
    "$_AOI3_": lambda a, b, c: ~((a & b) | c),
    "$_OAI3_": lambda a, b, c: ~((a | b) & c),
    "$_AOI4_": lambda a, b, c, d: ~((a & b) | (c & d)),
    "$_OAI4_": lambda a, b, c, d: ~((a | b) & (c | d)),
}
"""Yosys' gates by their inputs A, B, C, D; a multiplexer's select S comes last."""

_INPUTS = ("A", "B", "C", "D", "S")


@dataclass(frozen=True)
class Gate:
    """A gate, with the numbers of the nets it reads and drives."""

    kind: str
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class Circuit:
    """A combinational netlist; drivers come before readers."""

    ports: Mapping[str, tuple[int, ...]]  # nets of an input or output, least significant bit first
    inputs: frozenset[str]
    gates: tuple[Gate, ...]

    def fan_out(self) -> dict[int, int]:
        """Number of gates that read each net."""
        found = dict.fromkeys((net for nets in self.ports.values() for net in nets), 0)
        for gate in self.gates:
            found.setdefault(gate.output, 0)
            for net in gate.inputs:
                found[net] = found.get(net, 0) + 1
        return found


def circuit(source: str, top: str) -> Circuit:
    """Map a combinational SystemVerilog module to Yosys' gates. Raises :class:`InputError` if it holds a register."""
    with tempfile.TemporaryDirectory(prefix="codesign-switching-") as name:
        work = Path(name)
        (work / "module.sv").write_text(source)
        yosys(
            work,
            f"read_verilog -sv module.sv; synth -flatten -top {top}; abc -g cmos; opt_clean -purge; "
            "write_json gates.json",
        )
        netlist = read(work / "gates.json")
    return _circuit(netlist["modules"][top])


def _circuit(module: Mapping[str, Any]) -> Circuit:
    # Constants are nets of their own: 0 and 1; Yosys numbers wires from 2.
    def nets(bits: list[Any]) -> tuple[int, ...]:
        return tuple(0 if bit == "x" else int(bit) for bit in bits)

    waiting = []
    for cell in module["cells"].values():
        if cell["type"] not in _GATES:
            raise InputError(f"{cell['type']} is not a gate", where="switching", hint="Give combinational logic.")
        pins = {pin: nets(bits)[0] for pin, bits in cell["connections"].items()}
        waiting.append(Gate(cell["type"], tuple(pins[pin] for pin in _INPUTS if pin in pins), pins["Y"]))
    ports = {name: nets(port["bits"]) for name, port in module["ports"].items()}
    inputs = frozenset(name for name, port in module["ports"].items() if port["direction"] == "input")
    known = {0, 1, *(net for name in inputs for net in ports[name])}
    ordered: list[Gate] = []
    while waiting:
        ready = [gate for gate in waiting if known.issuperset(gate.inputs)]
        if not ready:
            raise InputError("the logic has a loop", where="switching", hint="Give combinational logic without loops.")
        ordered += ready
        known |= {gate.output for gate in ready}
        waiting = [gate for gate in waiting if gate.output not in known]
    return Circuit(ports, inputs, tuple(ordered))


def simulate(of: Circuit, stimuli: Mapping[str, NDArray[Any]]) -> dict[int, Packed]:
    """Values of every net over time. ``stimuli``: integers [cycles] per input; negative ones in two's complement."""
    values: dict[int, Packed] = {}
    for name in of.inputs:
        words = stimuli[name].astype(np.int64)
        for position, net in enumerate(of.ports[name]):
            values[net] = np.packbits((words >> position) & 1)
    length = len(next(iter(values.values())))
    values |= {0: np.zeros(length, np.uint8), 1: np.full(length, 255, np.uint8)}
    for gate in of.gates:
        values[gate.output] = _GATES[gate.kind](*(values[net] for net in gate.inputs))
    return values


def outputs(of: Circuit, values: Mapping[int, Packed], name: str, cycles: int) -> NDArray[np.int64]:
    """A port's unsigned value over time, from the result of :func:`simulate`."""
    bits = [np.unpackbits(values[net])[:cycles].astype(np.int64) << at for at, net in enumerate(of.ports[name])]
    return np.asarray(np.sum(bits, axis=0), dtype=np.int64)


def switched(of: Circuit, stimuli: Mapping[str, NDArray[Any]]) -> float:
    """Mean switched load per cycle: the sum over nets of transitions times (1 + readers), over the cycles."""
    cycles = len(next(iter(stimuli.values())))
    load = of.fan_out()
    total = 0.0
    for net, packed in simulate(of, stimuli).items():
        if net > 1:
            bits = np.unpackbits(packed)[:cycles]
            total += (1 + load.get(net, 0)) * float(np.count_nonzero(bits[1:] != bits[:-1]))
    return total / (cycles - 1)
