"""WARP: a row sampled at each pixel's own place plus the second operand's flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.hw.commands.beside import Sampled
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.program.tokens import Buffer, ConvRow
from codesign.hw.spec import Unit
from codesign.hw.timing.beside import UnitRow, sampled_row

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.array import ArrayEngine


class Warp(Sampled):
    opcode: ClassVar[Opcode] = Opcode.WARP
    unit: ClassVar[Unit | None] = Unit.SAMPLER

    def check_row(self, state: Verification, cmd: Command) -> None:
        program, source = state.program, state.tokens.buffer(cmd["source"])
        if not cmd["add_enable"] or cmd["more_sources"]:
            raise ProgramError("a sampled row has one source and a flow")
        if cmd["fraction_bits"] > numerics.FLOW_FRACTION_BITS:
            raise ProgramError(f"{cmd['fraction_bits']} fraction bits, the sampler has {numerics.FLOW_FRACTION_BITS}")
        if cmd["words"] > source.groups or cmd["x_first"] + source.width > cmd["frame_width"]:
            raise ProgramError("the source has not the channels or columns that are sampled")
        pixels = (source.height - 1) * cmd["row_stride"] + (cmd["frame_width"] - 1) * cmd["pixel_pitch"]
        if cmd["channels"] == 0 or cmd["address"] + pixels + cmd["channels"] > program.memory_bytes:
            raise ProgramError("samples are read outside the program's memory")

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        source, destination = machine.tokens.buffer(cmd["source"]), machine.tokens.buffer(cmd["destination"])
        flows, width = machine.tokens.buffer(cmd["add_buffer"]), destination.computed_width
        planes = machine.data[cmd["add_buffer"]][at.y % flows.rows][cmd["add_x_offset"] :][:width, :4]
        flow = numerics.from_byte_planes(planes)
        pixels_x, share_x = numerics.sample_places(flow[:, :1], cmd["fraction_bits"])
        pixels_y, share_y = numerics.sample_places(flow[:, 1:], cmd["fraction_bits"])
        x = pixels_x[:, 0] + cmd["x_first"] + cmd["x_offset"] + np.arange(width)
        y = pixels_y[:, 0] + at.y
        corners = [_pixels(machine, cmd, at, source, y + down, x + right) for down in (0, 1) for right in (0, 1)]
        upper = numerics.interpolate(corners[0], corners[1], share_x)
        lower = numerics.interpolate(corners[2], corners[3], share_x)
        return numerics.interpolate(upper, lower, share_y)

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        return sampled_row(engine.spec, destination.computed_width, cmd["words"], start, engine.drain, flow=True)

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Two pixels of two rows each sample, and a flow. At the frame's edges a pixel may stand for two."""
        return (4 * cmd["words"] + 1) * width


def _pixels(
    machine: Machine, cmd: Command, at: ConvRow, source: Buffer, y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Pixels (y, x) of the frame, ``int8[n, C]``: from the rows on chip, else from memory."""
    height, width, outputs = source.height, cmd["frame_width"], cmd["words"] * machine.spec.ci_lanes
    outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    own = x - cmd["x_first"]
    held = (y >= at.top) & (y < at.top + cmd["kernel_rows"]) & (own >= 0) & (own < source.width)
    found = np.full((len(x), outputs), source.zero_point, np.int8)
    found[held] = machine.data[cmd["source"]][y[held] % source.rows, own[held]][:, :outputs]
    for index in np.nonzero(~held)[0]:
        start = cmd["address"] + int(y[index]) * cmd["row_stride"] + int(x[index]) * cmd["pixel_pitch"]
        count = min(cmd["channels"], outputs)
        found[index, :count] = machine.memory[start : start + count].view(np.int8)
    if not cmd["edge"]:
        found[outside] = source.zero_point
    return found
