"""Programs: what ``verify`` lets pass and what it refuses, and the file format."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hw_programs import (
    BUFFERS,
    COMMANDS,
    END,
    HALT,
    HEIGHT,
    INPUT_AT,
    LOOP,
    MEMORY,
    OUTPUT_AT,
    RESULT,
    SOURCE,
    STEPS,
    SYNC,
    WEIGHTS,
    WIDTH,
    buffer,
    conv,
    frame,
    load,
    program,
    store,
    weights,
)

from codesign.hw import numerics
from codesign.hw.errors import InputError, ProgramError
from codesign.hw.isa import Command, Opcode, WeightKind, command
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import TINY


def test_the_copying_program_copies() -> None:
    made = program()
    made.verify()
    np.testing.assert_array_equal(reference.run(made, {"x": frame()})["y"], frame())


def replaced(old: Command, new: Command) -> tuple[Command, ...]:
    assert old in COMMANDS
    return tuple(new if cmd == old else cmd for cmd in COMMANDS)


HALO_RESULT = buffer(RESULT, 8, width=TINY.banks + WIDTH, halo=1, rows=2, row_pitch=3, group_pitch=3)
HALO_LOAD = load(buffer=RESULT, x_first=TINY.banks - 3, x_count=3)
HALO_STORE = store(x_first=TINY.banks - 3)
WITH_HALO = (SYNC, BUFFERS[0], HALO_RESULT, *COMMANDS[3:8], load(), HALO_LOAD, conv(), HALO_STORE, END, HALT)


def test_a_row_with_a_halo_has_two_producers() -> None:
    """LOAD fills what lies before the computed pixels, here the first three of the same row once more."""
    made = program(*WITH_HALO)
    made.verify()
    x = frame(2)
    expected = np.concatenate([x[:, :3], x], axis=1)[:, :WIDTH]
    np.testing.assert_array_equal(reference.run(made, {"x": x})["y"], expected)


BROKEN: dict[str, tuple[tuple[Command, ...], str]] = {
    "no HALT": (COMMANDS[:-1], "ends without HALT"),
    "END alone": ((END, HALT), "END without LOOP"),
    "HALT in a loop": ((LOOP, HALT, END), "HALT inside a loop"),
    "nothing to repeat": ((command(Opcode.LOOP, count=0), END, HALT), "zero times"),
    "five loops": ((*[command(Opcode.LOOP, count=1)] * 5, *[END] * 5, HALT), "nest too deeply"),
    "long body": ((LOOP, *[SYNC] * TINY.command_slots, END, HALT), "loop body"),
    "buffer id": (replaced(BUFFERS[0], buffer(40, 0)), "buffer 40 of 32"),
    "buffer empty": (replaced(BUFFERS[0], buffer(SOURCE, 0, rows=0)), "empty"),
    "buffer beyond the bank": (replaced(BUFFERS[1], buffer(RESULT, TINY.bank_words - 1)), "ends at word"),
    "buffers overlap": (replaced(BUFFERS[1], buffer(RESULT, 1)), "overlap"),
    "rows too short": (replaced(BUFFERS[0], buffer(SOURCE, 0, width=TINY.banks + 1)), "do not hold its pixels"),
    "unaligned weights": (replaced(WEIGHTS, weights(WeightKind.WEIGHTS, 81, 2, 16)), "aligned"),
    "weights outside": (replaced(WEIGHTS, weights(WeightKind.WEIGHTS, MEMORY, 2, 16)), "outside the program's memory"),
    "too many steps": (
        replaced(STEPS, weights(WeightKind.STEPS, 72, 1, 8, destination=TINY.weight_words)),
        "beyond the memory",
    ),
    "load outside": (replaced(load(), load(address=MEMORY - WIDTH)), "read outside"),
    "load too wide": (replaced(load(), load(pixel_bytes=9, pixel_pitch=9)), "do not fit"),
    "load past the buffer": (replaced(load(), load(x_first=1)), "not the buffer's to load"),
    "load nothing": (replaced(load(), load(x_count=0)), "not the buffer's to load"),
    "load a computed row": (replaced(load(), load(buffer=RESULT)), "not for LOAD"),
    "compute a loaded row": (replaced(conv(), conv(destination=SOURCE)), "not for CONV"),
    "halo of a loaded row": (
        replaced(BUFFERS[0], buffer(SOURCE, 0, halo=1)),
        "no pixels beside it to compute",
    ),
    "load past the halo": (
        tuple(load(buffer=RESULT, x_first=TINY.banks, x_count=3) if cmd == HALO_LOAD else cmd for cmd in WITH_HALO),
        "not the buffer's to load",
    ),
    "store before the halo": (
        tuple(cmd for cmd in WITH_HALO if cmd != HALO_LOAD),
        "would wait for ever for row 0",
    ),
    "add what is no operand": (
        replaced(conv(), conv(add_enable=1, add_buffer=SOURCE, add_multiplier=1)),
        "not configured as an operand",
    ),
    "conv without weights": (replaced(conv(), conv(weights_needed=5)), "needs 5 LOADWs"),
    "conv of no rows": (replaced(conv(), conv(source=7)), "buffer 7 is not configured"),
    "conv of future rows": (replaced(conv(), conv(kernel_rows=2)), "would wait for ever for row 1"),
    "conv never frees": (replaced(conv(), conv(free_source=0)), "free row"),
    "conv too wide": (replaced(conv(), conv(words=2)), "2 output groups"),
    "conv stride": (replaced(conv(), conv(x_stride=3)), "stride"),
    "conv table": (replaced(conv(), conv(table_enable=1, table=2)), "table 2 of 2"),
    "store outside the window": (replaced(store(), store(address=INPUT_AT)), "outside the write window"),
    "store too many columns": (replaced(store(), store(x_count=WIDTH + 1)), "columns"),
    "store overlapping pixels": (replaced(store(), store(pixel_bytes=2)), "overlap"),
    "store absent channels": (replaced(store(), store(channel=4)), "channel 4"),
    "store before conv": ((*COMMANDS[:8], load(), store(), conv(), END, HALT), "would wait for ever for row 0"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_verify_refuses(case: str) -> None:
    commands, message = BROKEN[case]
    with pytest.raises(ProgramError, match=message):
        program(*commands).verify()


SAMPLER = dataclasses.replace(TINY, name="sampler", warp_reach=1)
LARGER = buffer(RESULT, 12, rows=2, row_pitch=3, group_pitch=3, width=2 * WIDTH, height=2 * HEIGHT)
STEPS_OF_A_RESIZE = {
    "step_x": numerics.corner_step(WIDTH, 2 * WIDTH),
    "step_y": numerics.corner_step(HEIGHT, 2 * HEIGHT),
}


def resize(**changes: int) -> Command:
    fields = {
        "source": SOURCE,
        "destination": RESULT,
        "words": 1,
        "kernel_rows": 3,
        "pad_rows": 1,
        "enlarge_log2": 1,
        "frame_width": WIDTH,
        "free_source": 1,
        **STEPS_OF_A_RESIZE,
    }
    return command(Opcode.RESIZE, **{**fields, **changes})


def resizing(**changes: int) -> tuple[Command, ...]:
    """A frame at twice its size: two rows of the result for each that is loaded."""
    stored = store(row_stride=2 * WIDTH, x_count=2 * WIDTH, delay=1)
    row = resize(delay=1, **changes)
    source = buffer(SOURCE, 0, rows=4)
    return (SYNC, source, LARGER, LOOP_TWICE, load(), row, stored, row, stored, END, HALT)


LOOP_TWICE = command(Opcode.LOOP, count=HEIGHT + 1)


def test_a_resize_is_sound() -> None:
    """A program with a resize passes; its results are compared elsewhere."""
    program(*resizing(), spec=SAMPLER).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_enable": 1, "add_buffer": SOURCE}, "not configured as an operand"),
        ({"more_sources": 1, "source_1": SOURCE}, "one source"),
        ({"words": 2}, "output groups"),
        ({"frame_width": WIDTH - 1}, "channels or columns"),
        ({"enlarge_log2": 2}, "are not 4 times"),
        ({"step_x": 1}, "a step of 1 does not enlarge 9 pixels 2 times"),
        ({"step_y": 0}, "a step of 0"),
        ({"kernel_rows": 2}, "needs 3 rows"),
        ({"x_offset": 1}, "beyond the frame"),
        ({"x_offset": -1}, "beyond the frame"),
    ],
)
def test_verify_refuses_resizes(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program(*resizing(**changes), spec=SAMPLER).verify()


def test_a_machine_without_a_sampler_resizes_nothing() -> None:
    with pytest.raises(ProgramError, match="no sampler"):
        program(*resizing()).verify()


LOOKS = dataclasses.replace(TINY, name="looks", warp_reach=1, window_beats=2)
FLOW_OF = buffer(SOURCE, 0, groups=1)
WINDOWS = buffer(RESULT, 4, rows=1, row_pitch=6, group_pitch=2, groups=3)


def looking_up(**changes: int) -> tuple[Command, ...]:
    """A window of three rows and columns for every pixel, in maps of two rows of one."""
    fields = {
        "source": SOURCE,
        "destination": RESULT,
        "words": 3,
        "kernel_rows": 1,
        "radius": 1,
        "level": 1,
        "fraction_bits": 8,
        "map_width": 1,
        "map_height": 2,
        "address": INPUT_AT,
        "row_stride": 2 * WIDTH,
        "free_source": 1,
    }
    row = command(Opcode.WINDOW, **{**fields, **changes})
    return (SYNC, FLOW_OF, WINDOWS, LOOP, load(), row, store(), END, HALT)


def test_a_window_is_sound() -> None:
    program(*looking_up(), spec=LOOKS).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_enable": 1, "add_buffer": SOURCE}, "not configured as an operand"),
        ({"more_sources": 1, "source_1": SOURCE}, "one source"),
        ({"pad_rows": -1}, "would wait for ever"),
        ({"kernel_rows": 2}, "would wait for ever"),
        ({"radius": 0}, "radius 0 has not 3 words"),
        ({"radius": 2}, "radius 2 has not 3 words"),
        ({"radius": 5}, "radius 5"),
        ({"words": 2}, "radius 1 has not 2 words"),
        ({"fraction_bits": 9}, "9 fraction bits"),
        ({"level": 8}, "level 8"),
        ({"x_offset": 1}, "columns that windows are made of"),
        ({"x_offset": -1}, "columns that windows are made of"),
        ({"map_width": 0}, "maps of 0 bytes"),
        ({"map_width": 40000}, "maps of 80000 bytes"),
        ({"address": MEMORY - 2 * WIDTH}, "outside the program's memory"),
        ({"address": -1}, "does not fit"),
    ],
)
def test_verify_refuses_windows(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program(*looking_up(**changes), spec=LOOKS).verify()


def test_a_machine_without_windows_makes_none() -> None:
    with pytest.raises(ProgramError, match="no windows"):
        program(*looking_up(), spec=SAMPLER).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_bytes": OUTPUT_AT}, "lie outside"),
        ({"commands_offset": 32}, "aligned to 64"),
        ({"write_end": MEMORY + 1}, "write window"),
        ({"blob_offset": MEMORY}, "weights lie outside"),
    ],
)
def test_verify_refuses_fields(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program(**changes).verify()


def test_delayed_commands_are_left_out_until_their_turn() -> None:
    """A delay of two: the command runs from the third execution of its loop on."""
    commands = (command(Opcode.LOOP, count=4), load(), load(delay=2), END, HALT)
    order = [index for index, _ in program(*commands).walk()]
    assert order == [1, 1, 1, 2, 1, 2, 4]


def test_more_executions_than_rows_do_nothing() -> None:
    commands = replaced(LOOP, command(Opcode.LOOP, count=HEIGHT + 5))
    made = program(*commands)
    made.verify()
    np.testing.assert_array_equal(reference.run(made, {"x": frame(1)})["y"], frame(1))


def test_files_survive(tmp_path: Path) -> None:
    made = program(labels=("copy",))
    made.save(tmp_path / "copy.scanline")
    assert Program.load(tmp_path / "copy.scanline") == made


def test_every_truncation_and_flipped_bit_is_noticed() -> None:
    data = program().to_bytes()
    for size in range(0, len(data), 97):
        with pytest.raises(InputError, match="not a complete Scanline program"):
            Program.from_bytes(data[:size])
    for at in range(0, len(data), 89):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(InputError, match="not a complete Scanline program"):
            Program.from_bytes(bytes(broken))


@pytest.mark.parametrize("header", [b"{}", b"[]", b"not JSON", b"\xff"])
def test_sealed_nonsense_is_refused(header: bytes) -> None:
    body = b"SCANLINE\x01" + len(header).to_bytes(4, "little") + header
    with pytest.raises(InputError, match="not a complete Scanline program"):
        Program.from_bytes(body + hashlib.sha256(body).digest())


def test_inconsistent_spec_in_a_file_is_refused() -> None:
    data = program().to_bytes()[:-32].replace(b'"pixel_lanes": 4', b'"pixel_lanes": 3')
    with pytest.raises(InputError):
        Program.from_bytes(data + hashlib.sha256(data).digest())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the program"):
        Program.load(tmp_path / "absent.scanline")


@pytest.mark.parametrize("x", [np.zeros((HEIGHT, WIDTH), np.int8), np.zeros((HEIGHT, WIDTH, 1), np.uint8), None])
def test_wrong_inputs(x: np.ndarray | None) -> None:
    with pytest.raises(InputError, match="input 'x' must be int8"):
        reference.run(program(), {} if x is None else {"x": x})


def _resealed(change: Any) -> bytes:
    """The copying program's file with another header."""
    data = program().to_bytes()
    start = len(b"SCANLINE\x01") + 4
    size = int.from_bytes(data[start - 4 : start], "little")
    header = json.loads(data[start : start + size])
    change(header)
    text = json.dumps(header).encode()
    body = data[: start - 4] + len(text).to_bytes(4, "little") + text + data[start + size : -32]
    return body + hashlib.sha256(body).digest()


WRONG = (-1, 2**40, 2**70, 10**400, 1.5, "x", None, [], True, math.nan)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_headers_of_wrong_types_and_sizes_are_refused(value: Any) -> None:
    """Sealed by whoever wrote them: no field is trusted."""
    for key in ("commands", "commands_offset", "blob_offset", "blob", "write_first", "write_end", "memory_bytes"):
        with pytest.raises(InputError, match="not a complete Scanline program"):
            Program.from_bytes(_resealed(lambda header, key=key: header.__setitem__(key, value)))
    for slots in ("inputs", "outputs"):
        for key in ("offset", "height", "width", "channels", "zero_point"):
            if (key, value) == ("zero_point", -1):
                continue
            with pytest.raises(InputError, match="not a complete Scanline program"):
                Program.from_bytes(
                    _resealed(lambda header, at=(slots, key): header[at[0]][0].__setitem__(at[1], value))
                )
    for key in ("name", "labels", "inputs", "outputs", "spec"):
        if value in ("x", []) and key in ("name", "labels", "inputs", "outputs"):
            continue
        with pytest.raises(InputError, match="not a complete Scanline program"):
            Program.from_bytes(_resealed(lambda header, key=key: header.__setitem__(key, value)))


def test_scales_are_numbers() -> None:
    for value in (10**400, math.inf, "1", None):
        with pytest.raises(InputError, match="not a complete Scanline program"):
            Program.from_bytes(_resealed(lambda header, value=value: header["inputs"][0].__setitem__("scale", value)))


@pytest.mark.parametrize("kind", [6, 7])
def test_weights_of_no_kind(kind: int) -> None:
    with pytest.raises(ProgramError, match=f"weights of kind {kind}"):
        program(*replaced(WEIGHTS, command(Opcode.LOADW, kind=kind, elements=2, bytes=16))).verify()


def test_loops_that_never_end_are_refused() -> None:
    loops = [command(Opcode.LOOP, count=2**24 - 1)] * 2
    with pytest.raises(ProgramError, match="are executed"):
        program(*BUFFERS, *loops, SYNC, END, END, HALT).verify()


def test_a_header_of_brackets_is_refused() -> None:
    text = b"[" * 200_000
    body = b"SCANLINE\x01" + len(text).to_bytes(4, "little") + text
    with pytest.raises(InputError, match="not a complete Scanline program"):
        Program.from_bytes(body + hashlib.sha256(body).digest())
