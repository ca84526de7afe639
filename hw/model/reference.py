"""The golden model: executes a :class:`Program` command by command in numpy, bit for bit. It defines the machine.

Integer dot products run on BLAS: in float32 where every partial sum provably stays below 2**24, else in float64, so
they are exact. A row of a convolution is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw import normalise, numerics
from codesign.hw.errors import InputError
from codesign.hw.isa import NORM_BYTES, Command, Opcode, Plane, WeightKind, decode_norm
from codesign.hw.model.taps import Kernel, Products, Taps, decode_kernel, decode_products
from codesign.hw.program.program import Program, TensorSlot
from codesign.hw.program.tokens import Buffer, ConvRow, Tokens
from codesign.hw.spec import FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, TABLE_BYTES
from codesign.hw.windows import bands

Int8 = NDArray[np.int8]

_PARAMETERS = np.dtype([("bias", "<i4"), ("m", "<i4"), ("n", "<i4"), ("shift", "<u4")])


class _Machine:
    def __init__(self, program: Program, memory: NDArray[np.uint8]) -> None:
        spec = program.spec
        self.spec, self.memory = spec, memory
        self.tokens = Tokens(spec)
        self.data: dict[int, Int8] = {}
        self.weights = np.zeros((spec.weight_words, spec.co_lanes, spec.ci_lanes), np.int8)
        self.steps = np.zeros(spec.weight_words, np.uint64)
        self.fills = np.zeros(spec.fill_words, np.uint32)
        self.parameters = bytearray(spec.parameter_channels * PARAMETER_BYTES)
        self.tables = np.zeros((spec.look_up_tables, TABLE_BYTES), np.int8)
        self.totals, self.squares = np.zeros((2, spec.statistic_channels), np.int64)
        self.kernels: dict[tuple[int, ...], Kernel | Products] = {}

    def execute(self, cmd: Command) -> None:
        if cmd.opcode is Opcode.BUFFER:
            self.tokens.configure(cmd)
            shape = (cmd["rows"], cmd["width"], cmd["groups"] * self.spec.ci_lanes)
            self.data[cmd["id"]] = np.zeros(shape, np.int8)
        elif cmd.opcode is Opcode.SYNC:
            self.tokens.sync()
        elif cmd.opcode is Opcode.LOADW:
            self._load_weights(cmd)
        elif cmd.opcode is Opcode.LOAD:
            if (row := self.tokens.load(cmd)) is not None:
                self._load(cmd, row)
        elif cmd.opcode in (Opcode.CONV, Opcode.CORR):
            if (conv_row := self.tokens.conv(cmd)) is not None:
                self._conv(cmd, conv_row)
        elif cmd.opcode is Opcode.WARP:
            if (warp_row := self.tokens.conv(cmd)) is not None:
                self._warp(cmd, warp_row)
        elif cmd.opcode is Opcode.WINDOW:
            if (window_row := self.tokens.conv(cmd)) is not None:
                self._window(cmd, window_row)
        elif cmd.opcode is Opcode.RESIZE:
            if (resized_row := self.tokens.conv(cmd)) is not None:
                self._resize(cmd, resized_row)
        elif cmd.opcode is Opcode.STORE and (row := self.tokens.store(cmd)) is not None:
            self._store(cmd, row)

    def _load_weights(self, cmd: Command) -> None:
        data = self.memory[cmd["address"] : cmd["address"] + cmd["bytes"]].tobytes()
        kind, first, count = WeightKind(cmd["kind"]), cmd["destination"], cmd["elements"]
        if kind is WeightKind.WEIGHTS:
            size, word = count * self.spec.bus_bytes, self.spec.weight_word_bytes
            for number, at in enumerate(range(0, size, word)):
                flat = self.weights[first + number * (1 + cmd["gap"])].reshape(-1)
                flat[: min(word, size - at)] = np.frombuffer(data[at : min(at + word, size)], np.int8)
        elif kind is WeightKind.STEPS:
            self.steps[first : first + count] = np.frombuffer(data[: count * STEP_BYTES], "<u8")
        elif kind is WeightKind.FILLS:
            self.fills[first : first + count] = np.frombuffer(data[: count * FILL_BYTES], "<u4")
        elif kind is WeightKind.PARAMETERS:
            start = first * self.spec.ci_lanes * PARAMETER_BYTES
            self.parameters[start : start + 8 * count] = data[: 8 * count]
        elif kind is WeightKind.NORM:
            self._normalise(first * self.spec.ci_lanes, data[: 8 * count])
        else:
            self.tables[cmd["table"], first : first + count] = np.frombuffer(data[:count], np.int8)
        self.tokens.weights_loaded += 1
        self.kernels.clear()

    def _normalise(self, first: int, records: bytes) -> None:
        """Parameters of the channels from ``first`` on, of the statistics that their records name."""
        for number in range(len(records) // NORM_BYTES):
            constants, word = decode_norm(records[number * NORM_BYTES : (number + 1) * NORM_BYTES])
            channel = word * self.spec.ci_lanes + number % self.spec.ci_lanes
            total, squares = int(self.totals[channel]), int(self.squares[channel])
            bias, multiplier, shift = normalise.channel_factors(total, squares, constants)
            record = np.array([(bias, multiplier, multiplier, shift)], _PARAMETERS).tobytes()
            start = (first + number) * PARAMETER_BYTES
            self.parameters[start : start + PARAMETER_BYTES] = record

    def _load(self, cmd: Command, row: int) -> None:
        buffer = self.tokens.buffer(cmd["buffer"])
        start = cmd["address"] + row * cmd["row_stride"]
        channels = -(-cmd["pixel_bytes"] // self.spec.ci_lanes) * self.spec.ci_lanes
        span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
        line = np.full(span, buffer.zero_point, np.int8)
        first, last = max(cmd["skip"], 0), min(cmd["skip"] + span, cmd["row_bytes"])
        if last > first:
            line[first - cmd["skip"] : last - cmd["skip"]] = self.memory[start + first : start + last].view(np.int8)
        pixels = np.lib.stride_tricks.as_strided(line, (cmd["x_count"], cmd["pixel_bytes"]), (cmd["pixel_pitch"], 1))
        at = cmd["group"] * self.spec.ci_lanes
        target = self.data[cmd["buffer"]][row % buffer.rows][cmd["x_first"] : cmd["x_first"] + cmd["x_count"]]
        target[:, at : at + channels] = buffer.zero_point
        target[:, at : at + cmd["pixel_bytes"]] = pixels

    def _decoded(self, cmd: Command) -> Kernel | Products:
        names = ("steps_base", "steps_count", "fills_base", "fills_count", "fills_repeat", "words", "lane_groups_log2",
                 "x_stride", "more_sources")  # fmt: skip
        key = (cmd.opcode, *(cmd[name] for name in names))
        if key not in self.kernels:
            decode = decode_products if cmd.opcode is Opcode.CORR else decode_kernel
            self.kernels[key] = decode(self.spec, cmd, self.weights, self.steps, self.fills)
        return self.kernels[key]

    def _conv(self, cmd: Command, at: ConvRow) -> None:
        """A row of a CONV or a CORR."""
        decoded = self._decoded(cmd)
        stride, width = cmd["x_stride"], self.tokens.buffer(cmd["destination"]).computed_width
        if isinstance(decoded, Kernel):
            lines = self._lines(cmd, at, decoded.taps, decoded.matrix.dtype)
            step_row, step_x, step_channel = lines.strides
            patches = np.lib.stride_tricks.as_strided(
                lines,
                (width, len(decoded.taps.rows), decoded.taps.columns, lines.shape[2]),
                (step_x * stride, step_row, step_x, step_channel),
            )
            psum = (patches.reshape(width, -1) @ decoded.matrix).astype(np.int64)
        else:
            lines = self._lines(cmd, at, decoded.taps, np.dtype(np.int32))
            along = np.arange(width)[:, None] * stride
            first, second = (lines[row, along + column, channel] for row, column, channel in decoded.pairs)
            psum = np.zeros((width, decoded.count), np.int64)
            psum[:, decoded.outputs] = np.add.reduceat(first * second, decoded.starts, axis=1)
        result = self._requantised(cmd, psum)
        if cmd["add_enable"]:
            result = self._joined(cmd, at.y, result, cmd["words"] * self.spec.ci_lanes)
        self._write(cmd, at.y, result)

    def _lines(self, cmd: Command, at: ConvRow, taps: Taps, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The pixels under all taps of a row: ``[rows, columns, channels]``, zero point where there is no pixel."""
        source = self.tokens.buffer(cmd["source"])
        width = self.tokens.buffer(cmd["destination"]).computed_width
        first = cmd["x_offset"] + taps.first_column
        span = (width - 1) * cmd["x_stride"] + taps.columns
        lines = np.empty((len(taps.rows), span, sum(taps.channels)), dtype)
        channel = 0
        for number, channels in enumerate(taps.channels):
            buffer_id = cmd[f"source_{number}"] if number else cmd["source"]
            delta = cmd[f"x_delta_{number}"] if number else 0
            buffer = self.tokens.buffer(buffer_id)
            part = lines[:, :, channel : channel + channels]
            part[:] = buffer.zero_point
            start = first + delta
            low, high = max(start, 0), min(start + span, buffer.width)
            for index, row in enumerate(taps.rows):
                y = at.top + row
                if cmd["edge"]:
                    held = self.data[buffer_id][min(max(y, 0), source.height - 1) % buffer.rows]
                    part[index] = held[np.clip(np.arange(start, start + span), 0, buffer.width - 1), :channels]
                elif 0 <= y < source.height and high > low:
                    held = self.data[buffer_id][y % buffer.rows]
                    part[index, low - start : high - start] = held[low:high, :channels]
            channel += channels
        return lines

    def _warp(self, cmd: Command, at: ConvRow) -> None:
        source, destination = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"])
        flows, width = self.tokens.buffer(cmd["add_buffer"]), destination.computed_width
        planes = self.data[cmd["add_buffer"]][at.y % flows.rows][cmd["add_x_offset"] :][:width, :4]
        flow = numerics.from_byte_planes(planes)
        pixels_x, share_x = numerics.sample_places(flow[:, :1], cmd["fraction_bits"])
        pixels_y, share_y = numerics.sample_places(flow[:, 1:], cmd["fraction_bits"])
        x = pixels_x[:, 0] + cmd["x_first"] + cmd["x_offset"] + np.arange(width)
        y = pixels_y[:, 0] + at.y
        corners = [self._pixels(cmd, at, source, y + down, x + right) for down in (0, 1) for right in (0, 1)]
        upper = numerics.interpolate(corners[0], corners[1], share_x)
        lower = numerics.interpolate(corners[2], corners[3], share_x)
        self._write(cmd, at.y, self._requantised(cmd, numerics.interpolate(upper, lower, share_y)))

    def _resize(self, cmd: Command, at: ConvRow) -> None:
        source, outputs = self.tokens.buffer(cmd["source"]), cmd["words"] * self.spec.ci_lanes
        own = np.arange(self.tokens.buffer(cmd["destination"]).computed_width)
        own += (cmd["x_first"] << cmd["enlarge_log2"]) + cmd["x_offset"]
        x, share_x = numerics.corner_places(own, cmd["step_x"])
        y, share_y = numerics.corner_places(np.array([at.y]), cmd["step_y"])
        rows = np.minimum([int(y[0]), int(y[0]) + 1], source.height - 1) % source.rows
        near, far = (np.minimum(x + step, cmd["frame_width"] - 1) - cmd["x_first"] for step in (0, 1))
        held = self.data[cmd["source"]][rows, :, :outputs].astype(np.int64)
        crossed = numerics.interpolate(held[:, near], held[:, far], share_x[:, None])
        psum = numerics.interpolate(crossed[0], crossed[1], share_y)
        if cmd["flow"]:  # the sample of 256 high + low is that of its parts
            psum[:, :4] = np.tile(256 * psum[:, :2] + psum[:, 2:4], 2)
        self._write(cmd, at.y, self._requantised(cmd, psum))

    def _window(self, cmd: Command, at: ConvRow) -> None:
        flows, width = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"]).computed_width
        flow = numerics.from_byte_planes(self.data[cmd["source"]][at.y % flows.rows][cmd["x_offset"] :][:width, :4])
        own, scaled = np.arange(width), (cmd["fraction_bits"], cmd["level"])
        x, share_x = numerics.window_places(own + cmd["x_first"], flow[:, 0], *scaled)
        y, share_y = numerics.window_places(np.full(width, at.y), flow[:, 1], *scaled)
        reach = np.arange(-cmd["radius"], cmd["radius"] + 2)
        rows, columns = (y[:, None] + reach)[:, :, None], (x[:, None] + reach)[:, None]
        inside = (rows >= 0) & (rows < cmd["map_height"]) & (columns >= 0) & (columns < cmd["map_width"])
        maps = cmd["address"] + at.y * cmd["row_stride"] + own * (cmd["map_height"] * cmd["map_width"])
        places = maps[:, None, None] + rows * cmd["map_width"] + columns
        found = np.full(inside.shape, cmd["map_zero_point"], np.int8)
        found[inside] = self.memory[places[inside]].view(np.int8)
        psums = []
        for band in bands(self.spec, cmd["radius"]):
            seen = np.full((width, len(reach), band.words * self.spec.ci_lanes + 1), cmd["map_zero_point"], np.int8)
            seen[:, :, : band.columns + 1] = found[:, :, band.first : band.first + band.columns + 1]
            crossed = numerics.interpolate(seen[:, :, :-1], seen[:, :, 1:], share_x[:, None, None])
            psums.append(numerics.interpolate(crossed[:, :-1], crossed[:, 1:], share_y[:, None, None]))
        self._write(cmd, at.y, self._requantised(cmd, np.concatenate([one.reshape(width, -1) for one in psums], 1)))

    def _pixels(self, cmd: Command, at: ConvRow, source: Buffer, y: NDArray[np.int64], x: NDArray[np.int64]) -> Int8:
        """Pixels (y, x) of a WARP's frame, ``int8[n, C]``: from the window on chip, else from memory."""
        height, width, outputs = source.height, cmd["frame_width"], cmd["words"] * self.spec.ci_lanes
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        own = x - cmd["x_first"]
        held = (y >= at.top) & (y < at.top + cmd["kernel_rows"]) & (own >= 0) & (own < source.width)
        found = np.full((len(x), outputs), source.zero_point, np.int8)
        found[held] = self.data[cmd["source"]][y[held] % source.rows, own[held]][:, :outputs]
        for index in np.nonzero(~held)[0]:
            start = cmd["address"] + int(y[index]) * cmd["row_stride"] + int(x[index]) * cmd["pixel_pitch"]
            count = min(cmd["channels"], outputs)
            found[index, :count] = self.memory[start : start + count].view(np.int8)
        if not cmd["edge"]:
            found[outside] = source.zero_point
        return found

    def _requantised(self, cmd: Command, psum: NDArray[np.int64]) -> Int8:
        """Psums to codes, bias and look-up included. ``psum: int64[n, C]``."""
        first = cmd["parameters_base"] * self.spec.ci_lanes
        fields = np.frombuffer(bytes(self.parameters), _PARAMETERS)[first : first + psum.shape[1]]
        # Accumulators have 32 bits and wrap; the compiler proves that they never do.
        psums = (psum + fields["bias"]).astype(np.int32)
        factors = {"multiplier": fields["m"], "negative_multiplier": fields["n"], "shift": fields["shift"] & 63}
        result = numerics.requantise(psums, **factors, zero_point=cmd["zero_point"], qmin=cmd["qmin"], qmax=cmd["qmax"])
        planes = fields["shift"] >> 6 & 3
        if planes.any():
            high, low = np.split(numerics.byte_planes(numerics.requantise_wide(psums, **factors)), 2, axis=1)
            result = np.where(planes == Plane.HIGH, high, np.where(planes == Plane.LOW, low, result))
        return numerics.look_up(result, self.tables[cmd["table"]]) if cmd["table_enable"] else result

    def _write(self, cmd: Command, y: int, result: Int8) -> None:
        destination = self.tokens.buffer(cmd["destination"])
        base, outputs = cmd["group"] * self.spec.ci_lanes, cmd["words"] * self.spec.ci_lanes
        self.data[cmd["destination"]][y % destination.rows][destination.halo :, base : base + outputs] = result

    def _joined(self, cmd: Command, y: int, result: Int8, outputs: int) -> Int8:
        buffer = self.tokens.buffer(cmd["add_buffer"])
        held = self.data[cmd["add_buffer"]][y % buffer.rows]
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

    def _store(self, cmd: Command, row: int) -> None:
        buffer = self.tokens.buffer(cmd["buffer"])
        held = self.data[cmd["buffer"]][row % buffer.rows][cmd["x_first"] : cmd["x_first"] + cmd["x_count"]]
        for sub in range(cmd["sub_rows"]):
            channel = cmd["channel"] + sub * cmd["channel_step"]
            start = cmd["address"] + row * cmd["row_stride"] + sub * cmd["sub_stride"]
            target = np.lib.stride_tricks.as_strided(
                self.memory[start:], (cmd["x_count"], cmd["pixel_bytes"]), (cmd["pixel_pitch"], 1)
            )
            target[:] = held[:, channel : channel + cmd["pixel_bytes"]].view(np.uint8)
        if cmd["statistics"]:
            self._count(cmd, row, held[:, cmd["channel"] : cmd["channel"] + cmd["pixel_bytes"]])

    def _count(self, cmd: Command, row: int, codes: Int8) -> None:
        """Add ``codes: int8[n, C]`` to the statistics."""
        first = cmd["statistics_base"] * self.spec.ci_lanes
        channels = slice(first, first + codes.shape[1])
        if cmd["statistics_begin"] and row == 0:
            words = -(-codes.shape[1] // self.spec.ci_lanes)
            self.totals[first : first + words * self.spec.ci_lanes] = 0
            self.squares[first : first + words * self.spec.ci_lanes] = 0
        totals, squares = normalise.sums(codes)
        self.totals[channels] += totals
        self.squares[channels] += squares


def initial_memory(program: Program, inputs: Mapping[str, Int8]) -> NDArray[np.uint8]:
    """The program's memory before the start: commands, weights and inputs in place.

    ``inputs[name]: int8[H, W, C]``. Raises :class:`InputError` when a tensor is missing or has another shape.
    """
    memory = np.zeros(program.memory_bytes, np.uint8)

    def place(offset: int, data: bytes) -> None:
        memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    place(program.commands_offset, program.encoded_commands())
    place(program.blob_offset, program.blob)
    for slot in program.inputs:
        tensor = inputs.get(slot.name)
        shape = (slot.height, slot.width, slot.channels)
        if tensor is None or tensor.shape != shape or tensor.dtype != np.int8:
            found = "nothing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            raise InputError(f"input {slot.name!r} must be int8{list(shape)}, got {found}", where=program.name)
        place(slot.offset, np.ascontiguousarray(tensor).tobytes())
    return memory


def read_tensor(memory: NDArray[np.uint8], slot: TensorSlot) -> Int8:
    """A tensor out of the program's memory, ``int8[H, W, C]``."""
    data = memory[slot.offset : slot.offset + slot.size_bytes].view(np.int8)
    return data.reshape(slot.height, slot.width, slot.channels).copy()


def run(
    program: Program, inputs: Mapping[str, Int8], *, progress: Callable[[float], None] | None = None
) -> dict[str, Int8]:
    """Execute ``program``; returns every output as ``int8[H, W, C]``.

    ``progress`` is called with the share of the commands executed so far, now and then.
    """
    memory = initial_memory(program, inputs)
    execute(program, memory, progress=progress)
    return {slot.name: read_tensor(memory, slot) for slot in program.outputs}


def execute(program: Program, memory: NDArray[np.uint8], *, progress: Callable[[float], None] | None = None) -> None:
    """Execute ``program`` on a memory that holds its weights and inputs: ``uint8[memory_bytes]``, changed in place."""
    machine = _Machine(program, memory)
    total = 0 if progress is None else sum(1 for _ in program.walk())
    for count, (_, cmd) in enumerate(program.walk()):
        machine.execute(cmd)
        if progress is not None and count % 256 == 0:
            progress(count / total)
