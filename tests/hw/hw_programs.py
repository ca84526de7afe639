"""A small hand-written program for tiny: a 1x1 convolution that copies a one-channel frame."""

from __future__ import annotations

import numpy as np

from codesign.hw import isa, numerics
from codesign.hw.isa import Command, Fill, Opcode, Selector, Step, WeightKind, command
from codesign.hw.program.program import Program, TensorSlot
from codesign.hw.spec import TINY

HEIGHT, WIDTH = 6, 9
BLOB_AT, INPUT_AT, OUTPUT_AT, MEMORY = 4096, 8192, 12288, 16384
SOURCE, RESULT = 0, 1


def buffer(number: int, base: int, **changes: int) -> Command:
    fields = {
        "id": number,
        "base": base,
        "rows": 2,
        "row_pitch": 1,
        "group_pitch": 1,
        "groups": 1,
        "width": WIDTH,
        "height": HEIGHT,
        "zero_point": 0,
        "freed_by_conv": int(number == SOURCE),
        "loaded": int(number == SOURCE),
        "freed_by_store": int(number == RESULT),
    }
    return command(Opcode.BUFFER, **{**fields, **changes})


def load(**changes: int) -> Command:
    fields = {
        "buffer": SOURCE,
        "address": INPUT_AT,
        "row_stride": WIDTH,
        "pixel_bytes": 1,
        "pixel_pitch": 1,
        "row_bytes": WIDTH,
        "x_count": WIDTH,
    }
    return command(Opcode.LOAD, **{**fields, **changes})


def conv(**changes: int) -> Command:
    fields = {
        "source": SOURCE,
        "destination": RESULT,
        "weights_needed": 4,
        "steps_count": 1,
        "fills_count": 1,
        "fills_repeat": 1,
        "kernel_rows": 1,
        "stride_rows": 1,
        "x_stride": 1,
        "words": 1,
        "qmin": -128,
        "qmax": 127,
        "free_source": 1,
    }
    return command(Opcode.CONV, **{**fields, **changes})


def store(**changes: int) -> Command:
    fields = {
        "buffer": RESULT,
        "address": OUTPUT_AT,
        "row_stride": WIDTH,
        "sub_rows": 1,
        "pixel_bytes": 1,
        "pixel_pitch": 1,
        "x_count": WIDTH,
    }
    return command(Opcode.STORE, **{**fields, **changes})


def weights(kind: WeightKind, at: int, elements: int, size: int, **changes: int) -> Command:
    fields = {"kind": int(kind), "address": BLOB_AT + at, "elements": elements, "bytes": size}
    return command(Opcode.LOADW, **{**fields, **changes})


FILLS = weights(WeightKind.FILLS, 0, 1, 8)
PARAMETERS = weights(WeightKind.PARAMETERS, 8, 8, 64)
STEPS = weights(WeightKind.STEPS, 72, 1, 8)
WEIGHTS = weights(WeightKind.WEIGHTS, 80, 2, 16)
LOOP, END = command(Opcode.LOOP, count=HEIGHT), command(Opcode.END)
SYNC, HALT = command(Opcode.SYNC), command(Opcode.HALT)
BUFFERS = (buffer(SOURCE, 0), buffer(RESULT, 8))
LOADWS = (FILLS, PARAMETERS, STEPS, WEIGHTS)
COMMANDS = (SYNC, *BUFFERS, *LOADWS, LOOP, load(), conv(), store(), END, HALT)


def blob() -> bytes:
    """One fill, four channels of parameters, one step, one weight word: channel 0 copies channel 0."""
    multiplier, shift = numerics.quantise_multiplier(1.0)
    record = np.zeros(4, np.dtype([("bias", "<i4"), ("m", "<i4"), ("n", "<i4"), ("shift", "<u4")]))
    record["m"], record["n"], record["shift"] = multiplier, multiplier, shift
    words = np.zeros((TINY.co_lanes, TINY.ci_lanes), np.int8)
    words[0, 0] = 1
    # Lane groups: all lanes of both groups read the same slot; parts 0 and 1 of its word.
    selectors = tuple(Selector(0, 0, part) for _ in range(TINY.lane_groups) for part in range(TINY.channel_parts))
    step = isa.encode_step(Step(selectors, 1, True))
    fill = isa.encode_fill(Fill(0, 0, 0))
    return fill.to_bytes(8, "little") + record.tobytes() + step.to_bytes(8, "little") + words.tobytes()


def program(*commands: Command, **changes: object) -> Program:
    """The copying program, with other commands or other fields."""
    fields: dict[str, object] = {
        "name": "copy",
        "spec": TINY,
        "commands": commands or COMMANDS,
        "blob": blob(),
        "commands_offset": 0,
        "blob_offset": BLOB_AT,
        "inputs": (TensorSlot("x", INPUT_AT, HEIGHT, WIDTH, 1, 0.5, 0),),
        "outputs": (TensorSlot("y", OUTPUT_AT, HEIGHT, WIDTH, 1, 0.5, 0),),
        "write_first": OUTPUT_AT,
        "write_end": MEMORY,
        "memory_bytes": MEMORY,
        "macs": HEIGHT * WIDTH,
        "labels": ("copy",),
    }
    return Program(**{**fields, **changes})  # type: ignore[arg-type]


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (HEIGHT, WIDTH, 1)).astype(np.int8)
