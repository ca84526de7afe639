"""CONV: a row of a convolution on the array."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.hw.commands.kind import Verification
from codesign.hw.commands.row import Row
from codesign.hw.errors import ProgramError
from codesign.hw.isa import MORE_SOURCES, Command, Opcode
from codesign.hw.model.array_program import Taps, decode_kernel
from codesign.hw.program.tokens import ConvRow, more_sources
from codesign.hw.timing.latencies import FINISH, LANDING, NEXT_ROW, OPERAND, TO_GRANT
from codesign.hw.timing.row import Before, Stretch

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.timing.conv import ConvShape
    from codesign.hw.timing.engines.array import ArrayEngine, Turn


class Conv(Row):
    """Psums are sums over taps. It is one matrix product: on BLAS, in a floating type that holds every sum exactly."""

    opcode: ClassVar[Opcode] = Opcode.CONV

    def first_row(self, cmd: Command, y: int) -> int:
        return y * cmd["stride_rows"] - cmd["pad_rows"]

    def rates_match(self, cmd: Command, sources: int, destinations: int) -> bool:
        return sources == cmd["stride_rows"] * destinations

    def check_row(self, state: Verification, cmd: Command) -> None:
        spec, tokens = state.program.spec, state.tokens
        if cmd["steps_base"] + cmd["steps_count"] > spec.weight_words or cmd["steps_count"] == 0:
            raise ProgramError("steps lie outside the weight memory")
        if cmd["fills_base"] + cmd["fills_count"] > spec.fill_words or 0 in (cmd["fills_count"], cmd["fills_repeat"]):
            raise ProgramError("fills lie outside the fill memory")
        if cmd["x_stride"] not in (1, 2) or (1 << cmd["lane_groups_log2"]) > spec.lane_groups:
            raise ProgramError("stride or lane groups are not the machine's")
        if cmd["edge"]:
            source, destination = tokens.buffer(cmd["source"]), tokens.buffer(cmd["destination"])
            last_top = (destination.height - 1) * cmd["stride_rows"] - cmd["pad_rows"]
            reach = -cmd["x_offset"] if cmd["x_offset"] < 0 else 0
            if not 0 <= cmd["pad_rows"] < cmd["kernel_rows"] or last_top >= source.height or reach > spec.window_reach:
                raise ProgramError("rows or columns beyond the frame have no nearest pixel in reach")
        if cmd["more_sources"] > MORE_SOURCES:
            raise ProgramError(f"{cmd['more_sources']} further sources, the machine reads {MORE_SOURCES}")

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        kernel = machine.decoded(cmd, decode_kernel)
        stride, width = cmd["x_stride"], machine.tokens.buffer(cmd["destination"]).computed_width
        lines = taken_lines(machine, cmd, at, kernel.taps, kernel.matrix.dtype)
        step_row, step_x, step_channel = lines.strides
        patches = np.lib.stride_tricks.as_strided(
            lines,
            (width, len(kernel.taps.rows), kernel.taps.columns, lines.shape[2]),
            (step_x * stride, step_row, step_x, step_channel),
        )
        return np.asarray((patches.reshape(width, -1) @ kernel.matrix).astype(np.int64))

    def joined(self, machine: Machine, cmd: Command, at: ConvRow, result: NDArray[np.int8]) -> NDArray[np.int8]:
        return _with_operand(machine, cmd, at.y, result) if cmd["add_enable"] else result

    def shape(self, engine: ArrayEngine, cmd: Command) -> ConvShape | None:
        return engine.shapes.shape(cmd, engine.engines.tokens.buffer(cmd["destination"]))

    def follow(self, engine: ArrayEngine, turn: Turn) -> None:
        cmd, shape = turn.cmd, turn.row.shape
        assert shape is not None
        granted = turn.start + TO_GRANT
        begin = max(engine.array, granted + LANDING)
        engine.idle(begin, turn)
        engine.begun.append(begin)
        while engine.taken and engine.taken[0].end <= granted:
            engine.taken.popleft()
        operand = max(granted + OPERAND, engine.drain + 1)
        before = Before(begin, granted, engine.freed, engine.place, engine.drain + NEXT_ROW, operand)
        after = shape.rows.follow(before, engine.taken)
        if after.reads:
            engine.taken = deque(sorted((*engine.taken, *(Stretch(time, time + 1) for time in after.reads))))
        engine.stalls["fill"] += after.fill_stalls
        engine.stalls["requantise"] += after.requantise_stalls
        engine.count("busy", shape.rows.steps)
        engine.span(begin, after.end)
        engine.chunks_since_load += shape.rows.chunks
        engine.array, last_grant = after.end, after.granted
        engine.front = last_grant + FINISH + len(more_sources(cmd))
        engine.drain, engine.freed, engine.place = after.drained, after.freed, after.place
        inside = range(turn.row.height)
        window = (words for y, words in enumerate(shape.words_by_row, turn.at.top) if cmd["edge"] or y in inside)
        engine.finish(turn, shape.add_words + sum(window), last_grant)


def taken_lines(machine: Machine, cmd: Command, at: ConvRow, taps: Taps, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The pixels under all taps of a row: ``[rows, columns, channels]``, zero point where there is no pixel."""
    source = machine.tokens.buffer(cmd["source"])
    width = machine.tokens.buffer(cmd["destination"]).computed_width
    first = cmd["x_offset"] + taps.first_column
    span = (width - 1) * cmd["x_stride"] + taps.columns
    lines = np.empty((len(taps.rows), span, sum(taps.channels)), dtype)
    channel = 0
    for number, channels in enumerate(taps.channels):
        buffer_id = cmd[f"source_{number}"] if number else cmd["source"]
        delta = cmd[f"x_delta_{number}"] if number else 0
        buffer = machine.tokens.buffer(buffer_id)
        part = lines[:, :, channel : channel + channels]
        part[:] = buffer.zero_point
        start = first + delta
        low, high = max(start, 0), min(start + span, buffer.width)
        for index, row in enumerate(taps.rows):
            y = at.top + row
            if cmd["edge"]:
                held = machine.data[buffer_id][min(max(y, 0), source.height - 1) % buffer.rows]
                part[index] = held[np.clip(np.arange(start, start + span), 0, buffer.width - 1), :channels]
            elif 0 <= y < source.height and high > low:
                held = machine.data[buffer_id][y % buffer.rows]
                part[index, low - start : high - start] = held[low:high, :channels]
        channel += channels
    return lines


def _with_operand(machine: Machine, cmd: Command, y: int, result: NDArray[np.int8]) -> NDArray[np.int8]:
    """``result: int8[n, C]`` joined with row ``y`` of the second operand."""
    buffer, outputs = machine.tokens.buffer(cmd["add_buffer"]), cmd["words"] * machine.spec.ci_lanes
    held = machine.data[cmd["add_buffer"]][y % buffer.rows]
    other = np.full((len(result), held.shape[1]), buffer.zero_point, np.int8)
    offset = cmd["add_x_offset"]
    low, high = max(offset, 0), min(offset + len(result), buffer.width)
    if high > low:
        other[low - offset : high - offset] = held[low:high]
    channel = cmd["add_channel"]
    other = other[:, channel : channel + 1] if cmd["add_broadcast"] else other[:, :outputs]
    zero_points = cmd["add_value_zero_point"], buffer.zero_point
    bounds = cmd["add_zero_point"], cmd["add_qmin"], cmd["add_qmax"]
    if cmd["add_product"]:
        product = numerics.MultiplyRule(*zero_points, cmd["add_other_multiplier"], cmd["add_shift"], *bounds)
        return numerics.multiply_requantised(result, other, product)
    factors = cmd["add_multiplier"], cmd["add_other_multiplier"], cmd["add_shift"]
    return numerics.add_requantised(result, other, numerics.AddRule(*zero_points, *factors, *bounds))
