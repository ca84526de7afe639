"""RESIZE: a row sampled at equal steps that enlarge the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.hw.commands.beside import Sampled
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import RESIZE_ROWS, Command, Opcode
from codesign.hw.program.tokens import Buffer, ConvRow
from codesign.hw.spec import Unit
from codesign.hw.timing.beside import UnitRow, sampled_row

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.engines.array import ArrayEngine


class Resize(Sampled):
    opcode: ClassVar[Opcode] = Opcode.RESIZE
    unit: ClassVar[Unit | None] = Unit.SAMPLER

    def first_row(self, cmd: Command, y: int) -> int:
        return int(y >> cmd["enlarge_log2"]) - cmd["pad_rows"]

    def rates_match(self, cmd: Command, sources: int, destinations: int) -> bool:
        return sources << cmd["enlarge_log2"] == destinations

    def check_row(self, state: Verification, cmd: Command) -> None:
        source, destination = state.tokens.buffer(cmd["source"]), state.tokens.buffer(cmd["destination"])
        if cmd["add_enable"] or cmd["more_sources"]:
            raise ProgramError("a resized row has one source and no second operand")
        if cmd["words"] > source.groups or cmd["x_first"] + source.width > cmd["frame_width"]:
            raise ProgramError("the source has not the channels or columns that are sampled")
        factor = 1 << cmd["enlarge_log2"]
        if destination.height != factor * source.height:
            raise ProgramError(f"{destination.height} rows are not {factor} times {source.height}")
        for step, pixels in ((cmd["step_x"], cmd["frame_width"]), (cmd["step_y"], source.height)):
            if factor == 1 or step != numerics.corner_step(pixels, factor * pixels):
                raise ProgramError(f"a step of {step} does not enlarge {pixels} pixels {factor} times")
        if (cmd["kernel_rows"], cmd["pad_rows"]) != (RESIZE_ROWS, 1):
            raise ProgramError(f"a resized row needs {RESIZE_ROWS} rows, from the one above its own on")
        _check_columns(cmd, source, destination)

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        source, outputs = machine.tokens.buffer(cmd["source"]), cmd["words"] * machine.spec.ci_lanes
        own = np.arange(machine.tokens.buffer(cmd["destination"]).computed_width) + _first_column(cmd)
        x, share_x = numerics.corner_places(own, cmd["step_x"])
        y, share_y = numerics.corner_places(np.array([at.y]), cmd["step_y"])
        rows = np.minimum([int(y[0]), int(y[0]) + 1], source.height - 1) % source.rows
        near, far = (np.minimum(x + step, cmd["frame_width"] - 1) - cmd["x_first"] for step in (0, 1))
        held = machine.data[cmd["source"]][rows, :, :outputs].astype(np.int64)
        crossed = numerics.interpolate(held[:, near], held[:, far], share_x[:, None])
        psum = numerics.interpolate(crossed[0], crossed[1], share_y)
        if cmd["flow"]:  # the sample of 256 high + low is that of its parts
            psum[:, :4] = np.tile(256 * psum[:, :2] + psum[:, 2:4], 2)
        return psum

    def made(self, engine: ArrayEngine, cmd: Command, destination: Buffer, start: float) -> UnitRow:
        return sampled_row(engine.spec, destination.computed_width, cmd["words"], start, engine.drain, flow=False)

    def words_read(self, cmd: Command, source: Buffer, width: int) -> int:
        """Two pixels of two rows each sample, of the last column one."""
        own = _first_column(cmd) + np.arange(width)
        left = numerics.corner_places(own, cmd["step_x"])[0] - cmd["x_first"]
        return int(2 * cmd["words"] * np.minimum(source.width - left, 2).sum())


def _first_column(cmd: Command) -> int:
    """The first computed column, in the resized frame."""
    return int((cmd["x_first"] << cmd["enlarge_log2"]) + cmd["x_offset"])


def _check_columns(cmd: Command, source: Buffer, destination: Buffer) -> None:
    first, factor = _first_column(cmd), 1 << cmd["enlarge_log2"]
    if first < 0 or first + destination.computed_width > factor * cmd["frame_width"]:
        raise ProgramError("resized columns lie beyond the frame")
    ends = np.array([first, first + destination.computed_width - 1])
    left, right = numerics.corner_places(ends, cmd["step_x"])[0] - cmd["x_first"]
    last = min(cmd["frame_width"] - 1 - cmd["x_first"], int(right) + 1)
    if left < 0 or last >= source.width:
        raise ProgramError("resized columns need pixels that the source has not")
