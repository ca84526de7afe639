"""A compiled network for one machine: commands, weights, and a map of the memory they work on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codesign.hw import numerics
from codesign.hw.errors import InputError, ProgramError, SpecError
from codesign.hw.files import write_bytes
from codesign.hw.isa import (
    COMPUTE,
    MAX_LEVEL,
    MAX_LOOP_DEPTH,
    MAX_MAP_BYTES,
    MORE_SOURCES,
    RESIZE_ROWS,
    ROWS,
    Command,
    Opcode,
    WeightKind,
    decode,
    encode,
)
from codesign.hw.program.statistics import Statistics
from codesign.hw.program.tokens import Buffer, Tokens
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, STEP_BYTES, TABLE_BYTES, AccelSpec, Unit
from codesign.hw.windows import MAX_RADIUS, window_words

_MAGIC = b"SCANLINE\x01"

MAX_MEMORY = 2**32
"""Bytes that a program can address."""

MAX_EXECUTED = 2**25
"""Commands that a frame takes at most, loops unrolled: a larger program could not be checked in a minute."""


@dataclass(frozen=True)
class TensorSlot:
    """A dense ``int8[H, W, C]`` tensor at a byte offset of the program's memory; real = scale x (q - zero_point)."""

    name: str
    offset: int
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int

    @property
    def size_bytes(self) -> int:
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Program:
    """Immutable; ``verify`` says whether the machine may run it, ``to_bytes`` and ``from_bytes`` are inverse."""

    name: str
    spec: AccelSpec
    commands: tuple[Command, ...]
    blob: bytes = field(repr=False)
    commands_offset: int
    blob_offset: int
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    write_first: int
    write_end: int
    memory_bytes: int
    macs: int
    """Multiply-accumulates of the user's operators that this program computes, one frame."""
    labels: tuple[str, ...] = ()
    """Per command the layer or tensor it works on, for people to read; empty where there is none."""

    def encoded_commands(self) -> bytes:
        """The command stream as it lies in memory."""
        return b"".join(encode(cmd) for cmd in self.commands)

    def walk(self) -> Iterator[tuple[int, Command]]:
        """Commands in the order the machine executes them, loops unrolled, delayed ones left out, with their index."""
        return walk(self.commands)

    def verify(self) -> None:
        """Raise :class:`ProgramError` unless every rule of the machine holds.

        Checks encodings, memory windows, on-chip ranges, loop nesting, buffer overlap, and by a dry run of the tokens
        that the commands one after another never wait: then the decoupled engines cannot deadlock.
        """
        _verify(self)

    def to_bytes(self) -> bytes:
        """Serialise: magic, header length, JSON header, commands, blob, SHA-256 of all before it."""
        header = json.dumps(
            {
                "name": self.name,
                "spec": self.spec.to_dict(),
                "commands": len(self.commands),
                "blob": len(self.blob),
                "commands_offset": self.commands_offset,
                "blob_offset": self.blob_offset,
                "inputs": [vars(slot) for slot in self.inputs],
                "outputs": [vars(slot) for slot in self.outputs],
                "write_first": self.write_first,
                "write_end": self.write_end,
                "memory_bytes": self.memory_bytes,
                "macs": self.macs,
                "labels": self.labels,
            }
        ).encode()
        body = _MAGIC + len(header).to_bytes(4, "little") + header + self.encoded_commands() + self.blob
        return body + hashlib.sha256(body).digest()

    @staticmethod
    def from_bytes(data: bytes, *, where: str = "program") -> Program:
        """Read what :meth:`to_bytes` wrote. Raises :class:`InputError` for anything else, truncation included."""
        broken = InputError(
            "is not a complete Scanline program", where=where, hint="Compile the network again; the file is damaged."
        )
        start = len(_MAGIC) + 4
        if len(data) < start + 32 or not data.startswith(_MAGIC) or hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise broken
        header_bytes = int.from_bytes(data[len(_MAGIC) : start], "little")
        try:
            header: dict[str, Any] = json.loads(data[start : start + header_bytes])
            _check_types(header)
            at = start + header_bytes
            commands = tuple(
                decode(data[at + i * COMMAND_BYTES : at + (i + 1) * COMMAND_BYTES]) for i in range(header["commands"])
            )
            at += header["commands"] * COMMAND_BYTES
            if at + header["blob"] != len(data) - 32:
                raise ValueError("the weights are longer or shorter than the header says")
            program = Program(
                name=header["name"],
                spec=AccelSpec(**header["spec"]),
                commands=commands,
                blob=data[at : at + header["blob"]],
                commands_offset=header["commands_offset"],
                blob_offset=header["blob_offset"],
                inputs=tuple(TensorSlot(**slot) for slot in header["inputs"]),
                outputs=tuple(TensorSlot(**slot) for slot in header["outputs"]),
                write_first=header["write_first"],
                write_end=header["write_end"],
                memory_bytes=header["memory_bytes"],
                macs=header["macs"],
                labels=tuple(header["labels"]),
            )
            _verify_map(program)
            return program
        except (
            LookupError,
            TypeError,
            ValueError,
            ProgramError,
            SpecError,
            RecursionError,
            AttributeError,
            ArithmeticError,
        ) as error:
            raise broken from error

    def save(self, path: str | Path) -> None:
        """Write to ``path``, whole or not at all."""
        write_bytes(path, self.to_bytes())

    @staticmethod
    def load(path: str | Path) -> Program:
        """Read a program file. Raises :class:`InputError` when it is missing or damaged."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the program ({error.strerror})", where=str(path)) from error
        return Program.from_bytes(data, where=str(path))


_COUNTS = (
    "commands", "blob", "commands_offset", "blob_offset", "write_first", "write_end", "memory_bytes", "macs",
)  # fmt: skip
_EXTENTS = ("offset", "height", "width", "channels")


def _check_types(header: dict[str, Any]) -> None:
    """Raise ValueError unless a file's header holds counts, texts and scales where they belong."""
    if not all(isinstance(header[key], list) for key in ("inputs", "outputs", "labels")):
        raise ValueError("slots or labels are no list")
    slots = [*header["inputs"], *header["outputs"]]
    counts = [header[key] for key in _COUNTS] + [slot[key] for slot in slots for key in _EXTENTS]
    if not all(type(value) is int and 0 <= value < 2**63 for value in counts) or header["memory_bytes"] > MAX_MEMORY:
        raise ValueError("a count or an offset is none")
    texts = [header["name"], *header["labels"], *(slot["name"] for slot in slots)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    if not all(type(slot["scale"]) in (int, float) and math.isfinite(slot["scale"]) for slot in slots):
        raise ValueError("a scale is no number")
    if not all(type(slot["zero_point"]) is int and -(2**15) <= slot["zero_point"] < 2**15 for slot in slots):
        raise ValueError("a zero point is outside 16 bits")


def walk(commands: tuple[Command, ...]) -> Iterator[tuple[int, Command]]:
    """See :meth:`Program.walk`. Raises :class:`ProgramError` for wrong nesting or a stream without HALT."""
    stack: list[list[int]] = []  # [body, executions left, executions done]
    pc = 0
    while True:
        if pc >= len(commands):
            raise ProgramError("the command stream ends without HALT", where=f"command {pc}")
        cmd = commands[pc]
        pc += 1
        if cmd.opcode is Opcode.LOOP:
            if len(stack) == MAX_LOOP_DEPTH or cmd["count"] == 0:
                raise ProgramError("loops nest too deeply or repeat zero times", where=f"command {pc - 1}")
            stack.append([pc, cmd["count"], 0])
        elif cmd.opcode is Opcode.END:
            if not stack:
                raise ProgramError("END without LOOP", where=f"command {pc - 1}")
            loop = stack[-1]
            loop[1] -= 1
            loop[2] += 1
            if loop[1] == 0:
                stack.pop()
            else:
                pc = loop[0]
        elif cmd.opcode in ROWS:
            if not stack or stack[-1][2] >= cmd["delay"]:
                yield pc - 1, cmd
        else:
            yield pc - 1, cmd
            if cmd.opcode is Opcode.HALT:
                if stack:
                    raise ProgramError("HALT inside a loop", where=f"command {pc - 1}")
                return


def _verify(program: Program) -> None:
    spec = program.spec
    body_length = _longest_body(program.commands)
    if (executed := _executed(program.commands)) > MAX_EXECUTED:
        raise ProgramError(f"{executed} commands are executed, loops unrolled, more than {MAX_EXECUTED}")
    if body_length > spec.command_slots:
        raise ProgramError(f"a loop body of {body_length} commands exceeds the {spec.command_slots} kept on chip")
    _verify_map(program)
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
                    elif cmd.opcode is Opcode.LOOKUP:
                        _check_look_up(program, tokens, cmd)
                    else:
                        _check_conv(spec, tokens, cmd)
                    sound.add(index)
            elif cmd.opcode is Opcode.STORE and (row := tokens.store(cmd)) is not None:
                _check_store(program, tokens.buffer(cmd["buffer"]), cmd, row)
                statistics.stored(cmd, row)
        except ProgramError as error:
            raise ProgramError(error.what, where=f"command {index} ({cmd.opcode.name})") from error


def _verify_map(program: Program) -> None:
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


def _check_look_up(program: Program, tokens: Tokens, cmd: Command) -> None:
    source, destination = tokens.buffer(cmd["source"]), tokens.buffer(cmd["destination"])
    width, map_bytes = destination.computed_width, cmd["map_width"] * cmd["map_height"]
    if Unit.WINDOWS not in program.spec.units:
        raise ProgramError("the machine has no look-ups")
    if cmd["add_enable"] or cmd["more_sources"] or (cmd["stride_rows"], cmd["x_stride"]) != (1, 1):
        raise ProgramError("a looked-up row has one source, the flow, no second operand and no stride")
    if (cmd["kernel_rows"], cmd["pad_rows"]) != (1, 0) or source.height < destination.height:
        raise ProgramError("a looked-up row needs the flow's row, and no other")
    if not 1 <= cmd["radius"] <= MAX_RADIUS or cmd["words"] != window_words(program.spec, cmd["radius"]):
        raise ProgramError(f"a window of radius {cmd['radius']} has not {cmd['words']} words")
    if cmd["fraction_bits"] > numerics.FLOW_FRACTION_BITS or cmd["level"] > MAX_LEVEL:
        raise ProgramError(f"{cmd['fraction_bits']} fraction bits on level {cmd['level']} are not the machine's")
    if cmd["x_offset"] < 0 or cmd["x_offset"] + width > source.width:
        raise ProgramError("the flow has not the columns that are looked up")
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
