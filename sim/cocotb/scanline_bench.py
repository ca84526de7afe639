"""Scanline as a bus master and a register file: driven only through AXI, with cocotbext-axi on the other side.

The program to run and its input come by file: ``SCANLINE_PROGRAM`` names what ``Program.to_bytes`` wrote,
``SCANLINE_INPUT`` an ``.npz`` of input tensors. ``tests/sim/test_cocotb.py`` builds and starts the simulation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, ReadOnly, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave

from codesign.hw import isa
from codesign.hw.counters import STALL_CAUSES
from codesign.hw.isa import FIELDS, ErrorCause, Opcode, WeightKind, command, encode
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import COMMAND_BYTES

MEMORY_BASE = 0x12_3456_0000
"""Where the program's memory lies on the bus: beyond 32 bits."""

PATIENCE_CYCLES = 60_000

CHANNELS = {
    "aw": (("awvalid", "awready"), ("awaddr", "awlen", "awsize", "awburst")),
    "w": (("wvalid", "wready"), ("wdata", "wstrb", "wlast")),
    "ar": (("arvalid", "arready"), ("araddr", "arlen", "arsize", "arburst")),
}


class Memory:
    """The memory that cocotbext-axi accesses: the program's at ``MEMORY_BASE``, with holes that answer errors."""

    def __init__(self, content: bytes) -> None:
        self.data = bytearray(content)
        self.no_read: range = range(0)
        self.no_write: range = range(0)
        self.written: set[int] = set()

    def _at(self, address: int, length: int) -> int:
        at = address - MEMORY_BASE
        if not 0 <= at <= len(self.data) - length:
            raise ValueError(f"{address:#x} is no memory")
        return at

    async def read(self, address: int, length: int) -> bytes:
        """Bytes of the memory; the slave answers SLVERR when this raises."""
        at = self._at(address, length)
        if range(max(at, self.no_read.start), min(at + length, self.no_read.stop)):
            raise ValueError("this address fails")
        return bytes(self.data[at : at + length])

    async def write(self, address: int, data: bytes) -> None:
        """Store bytes; the slave answers SLVERR when this raises."""
        at = self._at(address, len(data))
        if range(max(at, self.no_write.start), min(at + len(data), self.no_write.stop)):
            raise ValueError("this address fails")
        self.data[at : at + len(data)] = data
        self.written.update(range(at, at + len(data)))


def pauses(seed: int, often: float) -> Iterator[bool]:
    """Idle cycles for one channel."""
    source = random.Random(seed)
    while True:
        yield source.random() < often


class Bench:
    """The machine in its reset state, a master on its registers, a memory on its bus, a check on its handshakes."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.program = Program.from_bytes(Path(os.environ["SCANLINE_PROGRAM"]).read_bytes())
        with np.load(os.environ["SCANLINE_INPUT"]) as file:
            self.inputs = dict(file)
        self.memory = Memory(reference.initial_memory(self.program, self.inputs).tobytes())

    async def start(self, often: float = 0.0, seed: int = 1) -> None:
        """Clock, reset, bus models; ``often`` is the share of cycles in which a channel pauses."""
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk_i, 10, "ns").start())
        dut.rst_ni.value = 0
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk_i, dut.rst_ni, False)
        self.bus = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.clk_i, dut.rst_ni, self.memory, False)
        if often:
            channels = (
                self.bus.write_if.aw_channel,
                self.bus.write_if.w_channel,
                self.bus.write_if.b_channel,
                self.bus.read_if.ar_channel,
                self.bus.read_if.r_channel,
                self.registers.write_if.aw_channel,
                self.registers.write_if.w_channel,
                self.registers.write_if.b_channel,
                self.registers.read_if.ar_channel,
                self.registers.read_if.r_channel,
            )
            for index, channel in enumerate(channels):
                channel.set_pause_generator(pauses(seed * 100 + index, often))
        await ClockCycles(dut.clk_i, 5)
        dut.rst_ni.value = 1
        await ClockCycles(dut.clk_i, 2)
        for handshake, payload in CHANNELS.values():
            cocotb.start_soon(self._watch(*handshake, payload))

    async def _watch(self, valid: str, ready: str, payload: tuple[str, ...]) -> None:
        """Once valid, a transfer stays valid and unchanged until it is taken."""
        pins = {name: getattr(self.dut, f"m_axi_{name}") for name in (valid, ready, *payload)}
        waiting: tuple[int, ...] | None = None
        while True:
            await RisingEdge(self.dut.clk_i)
            await ReadOnly()
            offered = bool(self.dut.rst_ni.value) and bool(pins[valid].value)
            now = tuple(int(pins[name].value) for name in payload) if offered else None
            assert waiting is None or now == waiting or not self.dut.rst_ni.value, (
                f"{valid} fell or its payload changed before {ready}"
            )
            waiting = now if offered and not bool(pins[ready].value) else None

    async def write(self, name: str, value: int) -> None:
        """Write a register of ``isa.REGISTERS``."""
        await self.registers.write_dword(isa.REGISTERS[name], value)

    async def read(self, name: str) -> int:
        """Read a register of ``isa.REGISTERS``."""
        return int(await self.registers.read_dword(isa.REGISTERS[name]))

    async def counters(self) -> dict[str, int]:
        """All counters, 64 bits each."""
        found = {}
        for name in isa.COUNTER_NAMES:
            low, high = await self.registers.read_dwords(isa.counter_address(name), 2)
            found[name] = low | high << 32
        return found

    async def launch(self, **changes: int) -> None:
        """Set every register as a driver would, apart from ``changes``, and start."""
        program = self.program
        values = {
            "memory_base_low": MEMORY_BASE & 0xFFFF_FFFF,
            "memory_base_high": MEMORY_BASE >> 32,
            "memory_bytes": program.memory_bytes,
            "command_address": program.commands_offset,
            "command_count": len(program.commands),
            "write_first": program.write_first,
            "write_end": program.write_end,
            "interrupt_enable": 1,
            "interrupt": 1,
            **changes,
        }
        for name, value in values.items():
            await self.write(name, value)
        await self.write("control", 1)

    async def finish(self) -> int:
        """Wait for the interrupt; returns the status register."""
        if not self.dut.interrupt_o.value:
            rise, late = RisingEdge(self.dut.interrupt_o), ClockCycles(self.dut.clk_i, PATIENCE_CYCLES)
            assert await First(rise, late) is rise, "the machine hangs"
        await self.write("interrupt", 1)
        assert not self.dut.interrupt_o.value
        return await self.read("status")

    def check_outputs(self) -> None:
        """Every output equals the golden model's, and nothing outside the write window was written."""
        memory = np.frombuffer(bytes(self.memory.data), np.uint8)
        for name, wanted in reference.run(self.program, self.inputs).items():
            slot = next(slot for slot in self.program.outputs if slot.name == name)
            np.testing.assert_array_equal(reference.read_tensor(memory, slot), wanted, err_msg=name)
        assert min(self.memory.written) >= self.program.write_first
        assert max(self.memory.written) < self.program.write_end

    async def check_stopped(self, cause: ErrorCause) -> int:
        """The machine stopped with ``cause``, says done, and takes a correct program next; returns the address."""
        status = await self.finish()
        assert status == 6, f"status {status}: not done with an error"
        assert await self.read("error_cause") == cause
        address = await self.read("error_address")
        self.memory.no_read = self.memory.no_write = range(0)
        self.memory.data[:] = reference.initial_memory(self.program, self.inputs).tobytes()
        await self.write("control", 2)
        assert await self.read("status") == 0
        assert await self.read("error_cause") == ErrorCause.NONE
        self.memory.written.clear()
        await self.launch()
        assert await self.finish() == 2
        self.check_outputs()
        return address


@cocotb.test()
async def registers_read_what_was_written(dut: Any) -> None:
    """Every configuration register holds its value; unmapped addresses read zero."""
    bench = Bench(dut)
    await bench.start(often=0.3)
    assert await bench.read("identity") == int.from_bytes(b"SCAN", "little")
    assert await bench.read("status") == 0
    names = ("memory_base_low", "memory_bytes", "command_address", "command_count", "write_first", "write_end")
    for index, name in enumerate(names):
        await bench.write(name, 0xA5A5_0000 + 64 * index)
    await bench.write("memory_base_high", 0xFFFF_FF7E)
    for index, name in enumerate(names):
        assert await bench.read(name) == 0xA5A5_0000 + 64 * index
    assert await bench.read("memory_base_high") == 0x7E  # addresses have 40 bits
    assert int(await bench.registers.read_dword(0x3FC)) == 0


@cocotb.test()
@cocotb.parametrize(often=[0.0, 0.2, 0.6])
async def a_frame_matches_the_golden_model(dut: Any, often: float) -> None:
    """Bit for bit, with no pause on any channel, with some, with many; the counters partition the cycles."""
    bench = Bench(dut)
    await bench.start(often=often)
    for _ in range(2):  # twice: the second start begins from a clean state
        await bench.launch()
        assert await bench.finish() == 2
        bench.check_outputs()
        found = await bench.counters()
        stalls = sum(found[f"{cause}_stall_cycles"] for cause in STALL_CAUSES)
        assert found["busy_cycles"] + stalls == found["cycles"] > 0
        written = sum(slot.size_bytes for slot in bench.program.outputs)
        assert found["dram_write_beats"] * bench.program.spec.bus_bytes >= written


@cocotb.test()
@cocotb.parametrize(after=[30, 300, 700, 1300])
async def reset_in_mid_frame(dut: Any, after: int) -> None:
    """After a reset at any moment the machine is idle and runs the next frame correctly."""
    bench = Bench(dut)
    await bench.start()
    await bench.launch()
    await ClockCycles(dut.clk_i, after)
    assert await bench.read("status") == 1
    dut.rst_ni.value = 0
    await ClockCycles(dut.clk_i, 4)
    dut.rst_ni.value = 1
    await ClockCycles(dut.clk_i, 2)
    assert await bench.read("status") == 0
    await bench.launch()
    assert await bench.finish() == 2
    bench.check_outputs()


@cocotb.test()
@cocotb.parametrize(opcode=[0, int(Opcode.CORR), int(Opcode.WINDOW), int(Opcode.RESIZE), int(Opcode.WARP), 255])
async def an_illegal_opcode_stops(dut: Any, opcode: int) -> None:
    """The cause is told, the address is that of the command."""
    bench = Bench(dut)
    await bench.start()
    index = 3
    bench.memory.data[bench.program.commands_offset + 64 * index] = opcode
    await bench.launch()
    assert await bench.check_stopped(ErrorCause.ILLEGAL_COMMAND) == index


@cocotb.test()
@cocotb.parametrize(("opcode", [Opcode.LOADW, Opcode.STORE]))
async def a_command_for_an_absent_unit_stops(dut: Any, opcode: Opcode) -> None:
    """Sums are neither read nor added to where there are none."""
    bench = Bench(dut)
    await bench.start()
    program = bench.program
    index, cmd = next((index, cmd) for index, cmd in enumerate(program.commands) if cmd.opcode is opcode)
    fields = {field.name: cmd[field.name] for field in FIELDS[opcode]}
    changed = {"kind": WeightKind.NORM} if opcode is Opcode.LOADW else {"statistics": 1, "delay": 0}
    at = program.commands_offset + COMMAND_BYTES * index
    bench.memory.data[at : at + COMMAND_BYTES] = encode(command(opcode, **{**fields, **changed}))
    await bench.launch()
    assert await bench.check_stopped(ErrorCause.ILLEGAL_COMMAND) == index


@cocotb.test()
@cocotb.parametrize(("where", ["commands", "weights", "input"]), ("often", [0.0, 0.6]))
async def a_bus_read_error_stops(dut: Any, where: str, often: float) -> None:
    """Wherever the bad address lies."""
    bench = Bench(dut)
    await bench.start(often=often)
    at = {
        "commands": bench.program.commands_offset,
        "weights": bench.program.blob_offset,
        "input": bench.program.inputs[0].offset + bench.program.inputs[0].size_bytes // 2,
    }[where]
    bench.memory.no_read = range(at, at + 1)
    await bench.launch()
    await bench.check_stopped(ErrorCause.BUS_READ)


@cocotb.test()
@cocotb.parametrize(often=[0.0, 0.6])
async def a_bus_write_error_stops(dut: Any, often: float) -> None:
    """A write the memory refuses is not lost silently."""
    bench = Bench(dut)
    await bench.start(often=often)
    slot = bench.program.outputs[0]
    bench.memory.no_write = range(slot.offset, slot.offset + slot.size_bytes)
    await bench.launch()
    await bench.check_stopped(ErrorCause.BUS_WRITE)


@cocotb.test()
@cocotb.parametrize(often=[0.0, 0.6])
async def a_write_outside_the_window_stops(dut: Any, often: float) -> None:
    """The machine itself refuses, before anything reaches the bus."""
    bench = Bench(dut)
    await bench.start(often=often)
    slot = bench.program.outputs[0]
    half = slot.offset + slot.size_bytes // 2
    await bench.launch(write_end=half)
    await bench.check_stopped(ErrorCause.WRITE_WINDOW)


@cocotb.test()
@cocotb.parametrize(often=[0.0, 0.6])
async def reads_outside_the_memory_stop(dut: Any, often: float) -> None:
    """A window too small for the input, and one too small for the command stream."""
    bench = Bench(dut)
    await bench.start(often=often)
    slot = bench.program.inputs[0]
    await bench.launch(memory_bytes=slot.offset + slot.size_bytes // 2)
    await bench.check_stopped(ErrorCause.READ_WINDOW)
    await bench.launch(memory_bytes=64)
    await bench.check_stopped(ErrorCause.READ_WINDOW)
