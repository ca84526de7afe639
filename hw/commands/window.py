"""WINDOW: a row of windows, each of a map of its pixel's own, around the pixel's place plus its flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.hw.commands.beside import Sampled
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES, Command, Opcode
from codesign.hw.program.tokens import Buffer, ConvRow
from codesign.hw.spec import Unit
from codesign.hw.timing import window as timing
from codesign.hw.timing.beside import UnitRow
from codesign.hw.windows import MAX_RADIUS, bands, window_words

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.array import ArrayEngine


class Window(Sampled):
    opcode: ClassVar[Opcode] = Opcode.WINDOW
    unit: ClassVar[Unit | None] = Unit.WINDOWS

    def check_row(self, state: Verification, cmd: Command) -> None:
        program, tokens = state.program, state.tokens
        source, destination = tokens.buffer(cmd["source"]), tokens.buffer(cmd["destination"])
        width, map_bytes = destination.computed_width, cmd["map_width"] * cmd["map_height"]
        if cmd["add_enable"] or cmd["more_sources"]:
            raise ProgramError("a row of windows has one source, the flow, and no second operand")
        if (cmd["kernel_rows"], cmd["pad_rows"]) != (1, 0) or source.height < destination.height:
            raise ProgramError("a row of windows needs the flow's row, and no other")
        if not 1 <= cmd["radius"] <= MAX_RADIUS or cmd["words"] != window_words(program.spec, cmd["radius"]):
            raise ProgramError(f"a window of radius {cmd['radius']} has not {cmd['words']} words")
        if cmd["fraction_bits"] > numerics.FLOW_FRACTION_BITS or cmd["level"] > MAX_LEVEL:
            raise ProgramError(f"{cmd['fraction_bits']} fraction bits on level {cmd['level']} are not the machine's")
        if cmd["x_offset"] < 0 or cmd["x_offset"] + width > source.width:
            raise ProgramError("the flow has not the columns that windows are made of")
        if not 1 <= map_bytes <= MAX_MAP_BYTES:
            raise ProgramError(f"maps of {map_bytes} bytes, of 1 to {MAX_MAP_BYTES}")
        last = cmd["address"] + (destination.height - 1) * cmd["row_stride"] + width * map_bytes
        if last > program.memory_bytes:
            raise ProgramError("maps lie outside the program's memory")

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        flows, width = machine.tokens.buffer(cmd["source"]), machine.tokens.buffer(cmd["destination"]).computed_width
        flow = numerics.from_byte_planes(machine.data[cmd["source"]][at.y % flows.rows][cmd["x_offset"] :][:width, :4])
        own, scaled = np.arange(width), (cmd["fraction_bits"], cmd["level"])
        x, share_x = numerics.window_places(own + cmd["x_first"], flow[:, 0], *scaled)
        y, share_y = numerics.window_places(np.full(width, at.y), flow[:, 1], *scaled)
        found = _around(machine, cmd, at.y, y, x)
        rows = found.shape[1]
        psums = []
        for band in bands(machine.spec, cmd["radius"]):
            seen = np.full((width, rows, band.words * machine.spec.ci_lanes + 1), cmd["map_zero_point"], np.int8)
            seen[:, :, : band.columns + 1] = found[:, :, band.first : band.first + band.columns + 1]
            crossed = numerics.interpolate(seen[:, :, :-1], seen[:, :, 1:], share_x[:, None, None])
            psums.append(numerics.interpolate(crossed[:, :-1], crossed[:, 1:], share_y[:, None, None]))
        return np.concatenate([one.reshape(width, -1) for one in psums], 1)

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        """As if no pixel moved; the bytes read from memory take no others' bandwidth."""
        spec, width = engine.spec, destination.computed_width
        latency, per_beat = engine.engines.memory.latency_cycles, engine.engines.bus.cycles_per_beat
        pace = timing.pace_of(spec, timing.Window.of(cmd, destination), latency, per_beat)
        engine.count("gather_bytes", round(width * pace.beats) * spec.bus_bytes)
        engine.count("gathered_reads", round(width * pace.rows))
        return timing.window_row(spec, cmd["radius"], width, pace, start, engine.drain)

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """The flow alone."""
        return width


def _around(machine: Machine, cmd: Command, row: int, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int8]:
    """The map's pixels around (y, x) of every pixel of a row: ``int8[width, 2 radius + 2, 2 radius + 2]``."""
    reach = np.arange(-cmd["radius"], cmd["radius"] + 2)
    rows, columns = (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None]
    inside = (rows >= 0) & (rows < cmd["map_height"]) & (columns >= 0) & (columns < cmd["map_width"])
    own = np.arange(len(x)) * (cmd["map_height"] * cmd["map_width"])
    maps = cmd["address"] + row * cmd["row_stride"] + own
    places = maps[:, None, None] + rows * cmd["map_width"] + columns
    found = np.full(inside.shape, cmd["map_zero_point"], np.int8)
    found[inside] = machine.memory[places[inside]].view(np.int8)
    return found
