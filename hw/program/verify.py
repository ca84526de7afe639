"""The rules of the machine: what a program may ask of it, command by command.

A dry run of the tokens shows that commands one after another never wait, so the decoupled engines cannot deadlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codesign.hw import numerics
from codesign.hw.errors import ProgramError
from codesign.hw.isa import (
    COMPUTE,
    MAX_LEVEL,
    MAX_MAP_BYTES,
    MORE_SOURCES,
    RESIZE_ROWS,
    Command,
    Opcode,
    WeightKind,
)
from codesign.hw.program.statistics import Statistics
from codesign.hw.program.tokens import Buffer, Tokens
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, STEP_BYTES, TABLE_BYTES, AccelSpec, Unit
from codesign.hw.windows import MAX_RADIUS, window_words

if TYPE_CHECKING:
    from codesign.hw.program.program import Program

MAX_EXECUTED = 2**25
"""Commands that a frame takes at most, loops unrolled: a larger program could not be checked in a minute."""


def verify(program: Program) -> None:
    """Raise :class:`ProgramError` unless every rule of the machine holds; see :meth:`Program.verify`."""
    spec = program.spec
    body_length = _longest_body(program.commands)
    if (executed := _executed(program.commands)) > MAX_EXECUTED:
        raise ProgramError(f"{executed} commands are executed, loops unrolled, more than {MAX_EXECUTED}")
    if body_length > spec.command_slots:
        raise ProgramError(f"a loop body of {body_length} commands exceeds the {spec.command_slots} kept on chip")
    verify_map(program)
    tokens, statistics = Tokens(spec), Statistics(spec)
    live: dict[int, tuple[int, int]] = {}
    sound: set[int] = set()  # CONVs checked since a buffer was configured
    for index, cmd in program.walk():
        try:
            if cmd.opcode is Opcode.BUFFER:
                tokens.configure(cmd)
                statistics.configure(cmd["id"])
                sound.clear()
                _check_overlap(spec, live, cmd)
            elif cmd.opcode is Opcode.SYNC:
                live.clear()
                tokens.sync()
                statistics.sync()
            elif cmd.opcode is Opcode.LOADW:
                _check_loadw(program, cmd)
                tokens.weights_loaded += 1
                if cmd["kind"] == WeightKind.NORM:
                    statistics.normalise(_records(program, cmd), tokens.weights_loaded)
            elif cmd.opcode is Opcode.LOAD:
                if (row := tokens.load(cmd)) is not None:
                    _check_load(program, tokens.buffer(cmd["buffer"]), cmd, row)
            elif cmd.opcode in COMPUTE:
                if tokens.conv(cmd) is None:
                    continue
                statistics.computed(cmd)
                if index not in sound:
                    _check_layer(spec, tokens, cmd)
                    if cmd.opcode is Opcode.RESIZE:
                        _check_resize(spec, tokens, cmd)
                    elif cmd.opcode is Opcode.WARP:
                        _check_warp(program, tokens, cmd)
                    elif cmd.opcode is Opcode.WINDOW:
                        _check_window(program, tokens, cmd)
                    else:
                        _check_conv(spec, tokens, cmd)
                    sound.add(index)
            elif cmd.opcode is Opcode.STORE and (row := tokens.store(cmd)) is not None:
                _check_store(program, tokens.buffer(cmd["buffer"]), cmd, row)
                statistics.stored(cmd, row)
        except ProgramError as error:
            raise ProgramError(error.what, where=f"command {index} ({cmd.opcode.name})") from error


def verify_map(program: Program) -> None:
    """Commands, weights, tensors and the write window lie in the program's memory."""
    end = program.memory_bytes
    for what, offset, size in (
        ("commands", program.commands_offset, len(program.commands) * COMMAND_BYTES),
        ("weights", program.blob_offset, len(program.blob)),
        *((slot.name, slot.offset, slot.size_bytes) for slot in (*program.inputs, *program.outputs)),
    ):
        if offset < 0 or offset + size > end:
            raise ProgramError(f"{what} lie outside the program's {end} bytes of memory")
    if program.commands_offset % COMMAND_BYTES:
        raise ProgramError(f"the command stream must be aligned to {COMMAND_BYTES} bytes")
    if not 0 <= program.write_first <= program.write_end <= end:
        raise ProgramError("the write window lies outside the program's memory")


def _executed(commands: tuple[Command, ...]) -> int:
    """Commands executed, loops unrolled."""
    total, times = 0, [1]
    for cmd in commands:
        if cmd.opcode is Opcode.LOOP:
            times.append(times[-1] * cmd["count"])
        elif cmd.opcode is Opcode.END and len(times) > 1:
            times.pop()
        total += times[-1]
    return total


def _longest_body(commands: tuple[Command, ...]) -> int:
    starts: list[int] = []
    longest = 0
    for index, cmd in enumerate(commands):
        if cmd.opcode is Opcode.LOOP:
            starts.append(index)
        elif cmd.opcode is Opcode.END and starts:
            longest = max(longest, index - starts.pop())
    return longest


def _check_overlap(spec: AccelSpec, live: dict[int, tuple[int, int]], cmd: Command) -> None:
    first, last = cmd["base"], cmd["base"] + cmd["rows"] * cmd["row_pitch"]
    if last > spec.bank_words:
        raise ProgramError(f"buffer {cmd['id']} ends at word {last} of a bank of {spec.bank_words}")
    if cmd["group_pitch"] * spec.banks < cmd["width"] or cmd["groups"] * cmd["group_pitch"] > cmd["row_pitch"]:
        raise ProgramError(f"buffer {cmd['id']} has rows that do not hold its pixels")
    live.pop(cmd["id"], None)
    for other, (begin, end) in live.items():
        if first < end and begin < last:
            raise ProgramError(f"buffers {cmd['id']} and {other} overlap")
    live[cmd["id"]] = (first, last)


def _check_loadw(program: Program, cmd: Command) -> None:
    spec = program.spec
    if cmd["kind"] not in {int(kind) for kind in WeightKind}:
        raise ProgramError(f"weights of kind {cmd['kind']}")
    kind = WeightKind(cmd["kind"])
    size, words, per_word = {
        WeightKind.WEIGHTS: (spec.bus_bytes, spec.weight_words, spec.weight_word_bytes // spec.bus_bytes),
        WeightKind.STEPS: (STEP_BYTES, spec.weight_words, 1),
        WeightKind.FILLS: (FILL_BYTES, spec.fill_words, 1),
        WeightKind.PARAMETERS: (8, spec.parameter_words, 2 * spec.ci_lanes),
        WeightKind.TABLE: (1, TABLE_BYTES, 1),
        WeightKind.NORM: (8, spec.parameter_words, 2 * spec.ci_lanes),
    }[kind]
    if kind is WeightKind.NORM and (Unit.NORMALISER not in spec.units or cmd["elements"] % 2):
        raise ProgramError("the machine has no statistics, or half a record is read")
    if kind is WeightKind.TABLE and cmd["table"] >= spec.look_up_tables:
        raise ProgramError(f"table {cmd['table']} of {spec.look_up_tables}")
    if cmd["gap"] and (kind is not WeightKind.WEIGHTS or cmd["elements"] % per_word):
        raise ProgramError("only whole words of weights lie apart")
    left_out = cmd["gap"] * (cmd["elements"] // per_word - 1) if cmd["gap"] else 0
    if (cmd["destination"] + left_out) * per_word + cmd["elements"] > words * per_word:
        raise ProgramError(f"{kind.name.lower()} end beyond the memory's {words} words")
    padded = -(-cmd["elements"] * size // spec.bus_bytes) * spec.bus_bytes
    if cmd["elements"] == 0 or cmd["bytes"] != padded or cmd["address"] % spec.bus_bytes:
        raise ProgramError(
            f"{cmd['elements']} elements of {size} bytes need {padded} aligned bytes, not {cmd['bytes']}"
        )
    if cmd["address"] + cmd["bytes"] > program.memory_bytes:
        raise ProgramError("weights are read outside the program's memory")


def _records(program: Program, cmd: Command) -> bytes:
    """What a LOADW of kind NORM reads."""
    at, size = cmd["address"] - program.blob_offset, 8 * cmd["elements"]
    if at < 0 or at + size > len(program.blob):
        raise ProgramError("constants of a normalisation lie outside the program's weights")
    return program.blob[at : at + size]


def _check_load(program: Program, buffer: Buffer, cmd: Command, row: int) -> None:
    start = cmd["address"] + row * cmd["row_stride"]
    if cmd["x_count"] == 0 or cmd["x_first"] + cmd["x_count"] > (buffer.width if buffer.loaded else buffer.halo):
        raise ProgramError("the loaded columns are not the buffer's to load")
    span = cmd["skip"] + (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
    if start + min(max(span, 0), cmd["row_bytes"]) > program.memory_bytes:
        raise ProgramError(f"row {row} is read outside the program's memory")
    groups = -(-cmd["pixel_bytes"] // program.spec.ci_lanes)
    if cmd["group"] + groups > buffer.groups or cmd["pixel_bytes"] == 0:
        raise ProgramError(f"{cmd['pixel_bytes']} channels do not fit the buffer's {buffer.groups} groups")
    if cmd["pixel_pitch"] < cmd["pixel_bytes"] and groups > 1:
        raise ProgramError("overlapping pixels must fit one word")


def _check_layer(spec: AccelSpec, tokens: Tokens, cmd: Command) -> None:
    """What CONV, RESIZE and WARP have in common: their results and the way there."""
    destination = tokens.buffer(cmd["destination"])
    if cmd["group"] + cmd["words"] > destination.groups or cmd["words"] == 0:
        raise ProgramError(f"{cmd['words']} output groups do not fit the buffer's {destination.groups}")
    if cmd["parameters_base"] + cmd["words"] > spec.parameter_words:
        raise ProgramError("parameters lie outside their memory")
    if cmd["table_enable"] and cmd["table"] >= spec.look_up_tables:
        raise ProgramError(f"table {cmd['table']} of {spec.look_up_tables}")
    if cmd["add_enable"] and not tokens.buffer(cmd["add_buffer"]).operand:
        raise ProgramError(f"adds rows of buffer {cmd['add_buffer']}, which is not configured as an operand")
    if cmd["add_enable"] and cmd["add_channel"] >= spec.ci_lanes:
        raise ProgramError(f"channel {cmd['add_channel']} is not in a group's first word")


def _check_warp(program: Program, tokens: Tokens, cmd: Command) -> None:
    source = tokens.buffer(cmd["source"])
    if Unit.SAMPLER not in program.spec.units:
        raise ProgramError("the machine has no sampler")
    if not cmd["add_enable"] or cmd["more_sources"] or (cmd["stride_rows"], cmd["x_stride"]) != (1, 1):
        raise ProgramError("a sampled row has one source, a flow, and no stride")
    if cmd["fraction_bits"] > numerics.FLOW_FRACTION_BITS:
        raise ProgramError(f"{cmd['fraction_bits']} fraction bits, the sampler has {numerics.FLOW_FRACTION_BITS}")
    if cmd["words"] > source.groups or cmd["x_first"] + source.width > cmd["frame_width"]:
        raise ProgramError("the source has not the channels or columns that are sampled")
    pixels = (source.height - 1) * cmd["row_stride"] + (cmd["frame_width"] - 1) * cmd["pixel_pitch"]
    if cmd["channels"] == 0 or cmd["address"] + pixels + cmd["channels"] > program.memory_bytes:
        raise ProgramError("samples are read outside the program's memory")


def _check_window(program: Program, tokens: Tokens, cmd: Command) -> None:
    source, destination = tokens.buffer(cmd["source"]), tokens.buffer(cmd["destination"])
    width, map_bytes = destination.computed_width, cmd["map_width"] * cmd["map_height"]
    if Unit.WINDOWS not in program.spec.units:
        raise ProgramError("the machine makes no windows")
    if cmd["add_enable"] or cmd["more_sources"] or (cmd["stride_rows"], cmd["x_stride"]) != (1, 1):
        raise ProgramError("a row of windows has one source, the flow, no second operand and no stride")
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
    if cmd["address"] < 0 or cmd["row_stride"] < 0 or last > program.memory_bytes:
        raise ProgramError("maps lie outside the program's memory")


def _check_resize(spec: AccelSpec, tokens: Tokens, cmd: Command) -> None:
    source, destination = tokens.buffer(cmd["source"]), tokens.buffer(cmd["destination"])
    if Unit.SAMPLER not in spec.units:
        raise ProgramError("the machine has no sampler")
    if cmd["add_enable"] or cmd["more_sources"] or cmd["x_stride"] != 1 or cmd["flow"] > 1:
        raise ProgramError("a resized row has one source, no second operand and no stride")
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
    first = (cmd["x_first"] << cmd["enlarge_log2"]) + cmd["x_offset"]
    if first < 0 or first + destination.computed_width > factor * cmd["frame_width"]:
        raise ProgramError("resized columns lie beyond the frame")
    ends = np.array([first, first + destination.computed_width - 1])
    left, right = numerics.corner_places(ends, cmd["step_x"])[0] - cmd["x_first"]
    last = min(cmd["frame_width"] - 1 - cmd["x_first"], int(right) + 1)
    if left < 0 or last >= source.width:
        raise ProgramError("resized columns need pixels that the source has not")


def _check_conv(spec: AccelSpec, tokens: Tokens, cmd: Command) -> None:
    destination = tokens.buffer(cmd["destination"])
    if cmd["steps_base"] + cmd["steps_count"] > spec.weight_words or cmd["steps_count"] == 0:
        raise ProgramError("steps lie outside the weight memory")
    if cmd["fills_base"] + cmd["fills_count"] > spec.fill_words or 0 in (cmd["fills_count"], cmd["fills_repeat"]):
        raise ProgramError("fills lie outside the fill memory")
    if cmd["x_stride"] not in (1, 2) or (1 << cmd["lane_groups_log2"]) > spec.lane_groups or cmd["shuffle"]:
        raise ProgramError("stride, lane groups or shuffle are not the machine's")
    if cmd["edge"]:
        source = tokens.buffer(cmd["source"])
        last_top = (destination.height - 1) * cmd["stride_rows"] - cmd["pad_rows"]
        reach = -cmd["x_offset"] if cmd["x_offset"] < 0 else 0
        if not 0 <= cmd["pad_rows"] < cmd["kernel_rows"] or last_top >= source.height or reach > spec.window_reach:
            raise ProgramError("rows or columns beyond the frame have no nearest pixel in reach")
    if cmd["more_sources"] > MORE_SOURCES:
        raise ProgramError(f"{cmd['more_sources']} further sources, the machine reads {MORE_SOURCES}")


def _check_store(program: Program, buffer: Buffer, cmd: Command, row: int) -> None:
    if (
        cmd["x_count"] == 0
        or cmd["x_first"] + cmd["x_count"] > buffer.width
        or 0 in (cmd["pixel_bytes"], cmd["sub_rows"])
    ):
        raise ProgramError("the stored columns are not the buffer's")
    if cmd["pixel_pitch"] < cmd["pixel_bytes"]:
        raise ProgramError("stored pixels overlap")
    first = cmd["address"] + row * cmd["row_stride"]
    last = first + (cmd["sub_rows"] - 1) * cmd["sub_stride"]
    span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
    if first < program.write_first or last + span > program.write_end:
        raise ProgramError(f"row {row} is written outside the write window")
    top = cmd["channel"] + (cmd["sub_rows"] - 1) * cmd["channel_step"] + cmd["pixel_bytes"]
    if top > buffer.groups * program.spec.ci_lanes:
        raise ProgramError(f"channel {top - 1} is not in the buffer")
