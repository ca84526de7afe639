"""A Verilated Scanline that scripts control cycle by cycle: load, step, run, registers, memory, counters, reset,
trace."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw import isa
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError, SimulationError
from codesign.hw.program.program import Program
from codesign.hw.spec import AccelSpec
from codesign.sim.build import Report, Variant, library


@dataclass(frozen=True)
class Dram:
    """The memory behind the bus: bandwidth shared by reads and writes, latency from address to first data."""

    bytes_per_cycle: float | None = None  # None: the bus width
    latency_cycles: int = 100
    stall_probability: float = 0.0  # of a cycle in which nothing moves, nor is an answer of the registers taken
    seed: int = 1

    def __post_init__(self) -> None:
        if self.bytes_per_cycle is not None and not 0.25 <= self.bytes_per_cycle <= 1024:
            raise InputError(f"DRAM bandwidth must be 0.25 to 1024 bytes per cycle, not {self.bytes_per_cycle}")
        if not 1 <= self.latency_cycles <= 100_000:
            raise InputError(f"DRAM latency must be 1 to 100000 cycles, not {self.latency_cycles}")
        if not 0 <= self.stall_probability < 0.95:
            raise InputError(f"the stall probability must lie in 0..0.95, not {self.stall_probability}")


def _bind(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    u32, u64, i64, ptr = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "scanline_new": (ptr, [u64]),
        "scanline_delete": (None, [ptr]),
        "scanline_memory": (ptr, [ptr]),
        "scanline_cycle": (u64, [ptr]),
        "scanline_reset": (None, [ptr]),
        "scanline_dram": (None, [ptr, u32, u64, u32, u64]),
        "scanline_fail": (None, [ptr, u64, u64, u64, u64]),
        "scanline_step": (None, [ptr, u64]),
        "scanline_run": (ctypes.c_int, [ptr, u64]),
        "scanline_write_register": (ctypes.c_int, [ptr, u32, u32]),
        "scanline_read_register": (i64, [ptr, u32]),
        "scanline_failures": (ctypes.c_char_p, [ptr]),
        "scanline_forceable": (ctypes.c_char_p, [ptr]),
        "scanline_force": (ctypes.c_int, [ptr, ctypes.c_char_p, ctypes.c_char_p, u32, u32, u64]),
        "scanline_trace": (ctypes.c_int, [ptr, ctypes.c_char_p]),
        "scanline_save": (u64, [ptr]),
        "scanline_snapshot": (ptr, [ptr]),
        "scanline_restore": (ctypes.c_int, [ptr, ctypes.c_char_p, u64]),
        "scanline_log_activity": (None, [ptr, ctypes.c_int]),
        "scanline_activity_entries": (u64, [ptr]),
        "scanline_activity": (ptr, [ptr]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


@dataclass(frozen=True)
class Failure:
    """An assertion of the RTL that failed: the first time in this cycle, in this instance of its module."""

    cycle: int
    instance: str  # scanline_top.u_store.u_beats
    assertion: str

    def __str__(self) -> str:
        return f"assertion {self.assertion} of {self.instance} failed in cycle {self.cycle}"


_FAILURE = re.compile(r"(\d+) .*Assertion failed in (?:TOP\.)?(\S+): (.*)")


class Model:
    """One instance of the machine with its memory. Use it as a context manager, or call :meth:`close`.

    ``variant`` chooses a build: with waveforms, without assertions, with signals that can be forced. Unless it is
    ``tolerant``, whatever advances the clock raises :class:`SimulationError` when an assertion of the RTL fails.
    """

    def __init__(
        self,
        spec: AccelSpec,
        memory_bytes: int,
        *,
        dram: Dram | None = None,
        variant: Variant | None = None,
        tolerant: bool = False,
        report: Report | None = None,
    ) -> None:
        self.spec = spec
        self.tolerant = tolerant
        self.library = library(spec, variant, report=report)
        """The build that this model is an instance of."""
        self._lib = _bind(self.library)
        self._handle: int | None = self._lib.scanline_new(memory_bytes)
        address = self._lib.scanline_memory(self._handle)
        buffer = (ctypes.c_uint8 * memory_bytes).from_address(address)
        self.memory: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)
        """The DRAM, ``uint8[memory_bytes]``, writable; valid until :meth:`close`."""
        self.set_dram(dram or Dram())

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the model and release its memory."""
        if self._handle is not None:
            self._lib.scanline_delete(self._handle)
            self._handle = None
            self.memory = np.zeros(0, np.uint8)

    @property
    def _model(self) -> int:
        if self._handle is None:
            raise SimulationError("the model is closed")
        return self._handle

    @property
    def cycle(self) -> int:
        """Cycles simulated since the model was made, resets and register accesses included."""
        return int(self._lib.scanline_cycle(self._model))

    def set_dram(self, dram: Dram) -> None:
        """Set the memory's bandwidth, latency and random stalls, also in the middle of a run."""
        bandwidth = self.spec.bus_bytes if dram.bytes_per_cycle is None else dram.bytes_per_cycle
        self._lib.scanline_dram(
            self._model, dram.latency_cycles, round(bandwidth * 256), round(dram.stall_probability * 256), dram.seed
        )

    def fail_bus(self, reads: range = range(0), writes: range = range(0)) -> None:
        """Answer accesses that touch these addresses with a bus error."""
        self._lib.scanline_fail(self._model, reads.start, reads.stop, writes.start, writes.stop)

    def reset(self) -> None:
        """Pull the reset line for four cycles. Memory keeps its content."""
        self._lib.scanline_reset(self._model)
        self._demand_sound()

    def step(self, cycles: int = 1) -> None:
        """Advance the clock."""
        self._lib.scanline_step(self._model, cycles)
        self._demand_sound()

    def run(self, cycles: int) -> bool:
        """Advance until the interrupt rises, at most ``cycles``; returns whether it rose."""
        rose = bool(self._lib.scanline_run(self._model, cycles))
        self._demand_sound()
        return rose

    def failures(self) -> tuple[Failure, ...]:
        """The assertions that have failed so far, in order."""
        found = []
        for line in self._lib.scanline_failures(self._model).decode().splitlines():
            match = _FAILURE.fullmatch(line)
            assert match is not None, line
            found.append(Failure(int(match[1]), match[2].removesuffix(f".{match[3]}"), match[3]))
        return tuple(found)

    def _demand_sound(self) -> None:
        if not self.tolerant and (failed := self.failures()):
            raise SimulationError(str(failed[0]), where="RTL", hint="This is an error in the RTL or in the program.")

    def force(self, instance: str, signal: str, value: int, *, first: int = 0, bits: int = 1) -> None:
        """Hold ``bits`` bits (at most 64) of a signal, from bit ``first`` on, at ``value`` until :meth:`release`.

        Needs a build whose variant names the signal. Raises :class:`SimulationError` when the instance has none such.
        """
        names = f"TOP.{instance}".encode(), signal.encode()
        if self._lib.scanline_force(self._model, *names, first, bits, value):
            raise SimulationError(f"{instance} has no signal {signal} that can be forced")

    def forceable(self) -> dict[tuple[str, str], int]:
        """The bits of every signal that :meth:`force` can hold, by instance and name."""
        lines = (line.split() for line in self._lib.scanline_forceable(self._model).decode().splitlines())
        return {(instance.removeprefix("TOP."), signal): int(bits) for instance, signal, bits in lines}

    def release(self, instance: str, signal: str) -> None:
        """End what :meth:`force` began."""
        self._lib.scanline_force(self._model, f"TOP.{instance}".encode(), signal.encode(), 0, 0, 0)

    def write_register(self, name: str, value: int) -> None:
        """Write a register of ``isa.REGISTERS`` over AXI4-Lite."""
        silent = self._lib.scanline_write_register(self._model, isa.REGISTERS[name], value)
        self._demand_sound()
        if silent:
            raise SimulationError(f"register {name} did not answer")

    def read_register(self, name_or_address: str | int) -> int:
        """Read a register by name, or by byte offset, over AXI4-Lite."""
        address = isa.REGISTERS[name_or_address] if isinstance(name_or_address, str) else name_or_address
        value = int(self._lib.scanline_read_register(self._model, address))
        if value < 0:
            raise SimulationError(f"register {name_or_address} did not answer")
        return value

    def load(self, program: Program) -> None:
        """Put a program's commands and weights into memory and its windows into the registers."""
        if program.memory_bytes > len(self.memory):
            raise SimulationError(f"the program needs {program.memory_bytes} bytes, the model has {len(self.memory)}")
        for offset, data in (
            (program.commands_offset, program.encoded_commands()),
            (program.blob_offset, program.blob),
        ):
            self.memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        self.select(program)

    def select(self, program: Program) -> None:
        """Set the registers for a program that is in memory already: its commands and its windows."""
        for name, value in (
            ("memory_base_low", 0),
            ("memory_base_high", 0),
            ("memory_bytes", program.memory_bytes),
            ("command_address", program.commands_offset),
            ("command_count", len(program.commands)),
            ("write_first", program.write_first),
            ("write_end", program.write_end),
            ("interrupt_enable", 1),
            ("interrupt", 1),
        ):
            self.write_register(name, value)

    def start(self) -> None:
        """Write the start bit."""
        self.write_register("control", 1)

    def error(self) -> tuple[isa.ErrorCause, int] | None:
        """The error that stopped the machine, and its address; None if it did not fail."""
        if not self.read_register("status") & 4:
            return None
        return isa.ErrorCause(self.read_register("error_cause")), self.read_register("error_address")

    def counters(self) -> Counters:
        """The performance counters."""
        values = {}
        for name in isa.COUNTER_NAMES:
            at = isa.counter_address(name)
            values[name] = self.read_register(at) | self.read_register(at + 4) << 32
        bus = self.spec.bus_bytes
        return Counters(
            macs_issued=values["busy_cycles"] * self.spec.macs_per_cycle,
            weight_read_words=values["busy_cycles"],
            dram_command_read_bytes=values.pop("dram_command_read_beats") * bus,
            dram_weight_read_bytes=values.pop("dram_weight_read_beats") * bus,
            dram_load_read_bytes=values.pop("dram_load_read_beats") * bus,
            dram_gather_read_bytes=values.pop("dram_gather_read_beats") * bus,
            dram_write_bytes=values.pop("dram_write_beats") * bus,
            **values,
        )

    def save(self) -> bytes:
        """A snapshot of everything that the next cycles depend on, for a model of the same build and memory."""
        size = int(self._lib.scanline_save(self._model))
        return ctypes.string_at(self._lib.scanline_snapshot(self._model), size)

    def restore(self, snapshot: bytes) -> None:
        """Continue from the point at which :meth:`save` was called. Raises :class:`SimulationError` for another
        memory's snapshot."""
        if self._lib.scanline_restore(self._model, snapshot, len(snapshot)):
            raise SimulationError("the snapshot is of a model with another memory")

    def log_activity(self) -> None:
        """Keep a log of the engines' activity from now on."""
        self._lib.scanline_log_activity(self._model, 1)

    def activity(self) -> NDArray[np.uint64]:
        """The log so far: ``uint64[n, 2]`` of (cycle, bits of ``activity_o``)."""
        entries = int(self._lib.scanline_activity_entries(self._model))
        if entries == 0:
            return np.zeros((0, 2), np.uint64)
        log = (ctypes.c_uint64 * (2 * entries)).from_address(self._lib.scanline_activity(self._model))
        return np.ctypeslib.as_array(log).reshape(entries, 2).copy()

    def trace(self, path: str | Path | None) -> None:
        """Start writing a VCD waveform to ``path``, or stop with None. Needs a model made with ``trace=True``."""
        code = self._lib.scanline_trace(self._model, None if path is None else str(path).encode())
        if code == -1:
            raise SimulationError("this model was built without waveforms", hint="Choose Variant(trace=True).")
        if code:
            raise SimulationError("cannot write the waveform", where=str(path))
