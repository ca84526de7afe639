"""Commands one by one: what LOAD, STORE and LOADW move, for drawn geometry, against loops over bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.hw import normalise
from codesign.hw.commands import COMMANDS, COMPUTED
from codesign.hw.commands.beside import Beside
from codesign.hw.commands.kind import Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import (
    COMPUTE,
    FIELDS,
    ROWS,
    Command,
    Opcode,
    WeightKind,
    command,
    encode_norm,
)
from codesign.hw.model.machine import Machine
from codesign.hw.program.statistics import Statistics
from codesign.hw.program.tokens import Tokens
from codesign.hw.spec import BASE, TINY, AccelSpec

MEMORY = 4096
machines = st.sampled_from([TINY, BASE])


def machine(spec: AccelSpec, seed: int = 0) -> Machine:
    return Machine(spec, np.random.default_rng(seed).integers(0, 256, MEMORY).astype(np.uint8))


def state(spec: AccelSpec) -> Verification:
    """Verification of a program that may write everywhere."""
    program: Any = SimpleNamespace(spec=spec, memory_bytes=MEMORY, write_first=0, write_end=MEMORY, blob=b"")
    return Verification(program, Tokens(spec), Statistics(spec))


def buffer(spec: AccelSpec, width: int, groups: int, **changes: int) -> Command:
    pitch = -(-width // spec.banks)
    fields = {
        "id": 3,
        "rows": 2,
        "row_pitch": groups * pitch,
        "group_pitch": pitch,
        "groups": groups,
        "width": width,
        "height": 4,
        "loaded": 1,
        "freed_by_store": 1,
    }
    return command(Opcode.BUFFER, **{**fields, **changes})


def test_every_opcode_has_a_kind() -> None:
    assert set(COMMANDS) == set(Opcode) == set(FIELDS)
    assert all(kind.opcode is opcode for opcode, kind in COMMANDS.items())
    assert set(COMPUTED) == COMPUTE
    assert all((kind.cause is not None) == isinstance(kind, Beside) for kind in COMPUTED.values())
    assert {opcode for opcode, kind in COMMANDS.items() if kind.engine and kind.buffer} == ROWS


@pytest.mark.parametrize("opcode", COMMANDS)
def test_the_buffer_of_a_command_is_a_field(opcode: Opcode) -> None:
    names = {field.name for field in FIELDS[opcode]}
    assert COMMANDS[opcode].buffer in names | {None}


@given(machines, st.data())
def test_a_load_brings_pixels(spec: AccelSpec, data: st.DataObject) -> None:
    """Channel by channel; beyond the row's bytes, and in the rest of the last group, lies the zero point."""
    width, groups = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3))
    count = data.draw(st.integers(1, width))
    channels = data.draw(st.integers(1, groups * spec.ci_lanes))
    overlaps = channels <= spec.ci_lanes
    pitch = data.draw(st.integers(1 if overlaps else channels, channels + 3))
    cmd = command(
        Opcode.LOAD,
        buffer=3,
        address=data.draw(st.integers(200, 400)),
        row_stride=data.draw(st.integers(0, 300)),
        pixel_bytes=channels,
        pixel_pitch=pitch,
        skip=data.draw(st.integers(-20, 20)),
        row_bytes=data.draw(st.integers(0, 300)),
        x_first=data.draw(st.integers(0, width - count)),
        x_count=count,
    )
    one, configured = machine(spec), buffer(spec, width, groups, zero_point=-7)
    COMMANDS[Opcode.BUFFER].execute(one, configured)
    for row in range(2):
        before = one.data[3][row].copy()
        COMMANDS[Opcode.LOAD].execute(one, cmd)
        wanted = before
        for x in range(count):
            wanted[cmd["x_first"] + x, : -(-channels // spec.ci_lanes) * spec.ci_lanes] = -7
            for channel in range(channels):
                at = cmd["skip"] + x * pitch + channel
                if 0 <= at < cmd["row_bytes"]:
                    byte = one.memory[cmd["address"] + row * cmd["row_stride"] + at]
                    wanted[cmd["x_first"] + x, channel] = byte.astype(np.int8)
        np.testing.assert_array_equal(one.data[3][row], wanted)


@given(machines, st.data())
def test_a_store_takes_pixels(spec: AccelSpec, data: st.DataObject) -> None:
    """Sub-row by sub-row; verification accepts it, and refuses it in a narrower write window."""
    width, groups = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    count = data.draw(st.integers(1, width))
    sub_rows = data.draw(st.integers(1, 3))
    channels = data.draw(st.integers(1, max(1, groups * spec.ci_lanes // sub_rows)))
    sub_rows = min(sub_rows, groups * spec.ci_lanes // channels)
    cmd = command(
        Opcode.STORE,
        buffer=3,
        address=data.draw(st.integers(0, 100)),
        row_stride=data.draw(st.integers(0, 300)),
        sub_rows=sub_rows,
        sub_stride=data.draw(st.integers(0, 300)),
        pixel_bytes=channels,
        pixel_pitch=channels + data.draw(st.integers(0, 3)),
        channel_step=channels,
        x_first=data.draw(st.integers(0, width - count)),
        x_count=count,
    )
    one, configured = machine(spec), buffer(spec, width, groups)
    COMMANDS[Opcode.BUFFER].execute(one, configured)
    one.tokens.buffer(3).next_loaded = 1
    one.data[3][0] = np.random.default_rng(1).integers(-128, 128, one.data[3][0].shape)
    wanted, last = one.memory.copy(), 0
    for sub in range(sub_rows):
        for x in range(count):
            for channel in range(channels):
                at = cmd["address"] + sub * cmd["sub_stride"] + x * cmd["pixel_pitch"] + channel
                wanted[at] = one.data[3][0, cmd["x_first"] + x, sub * channels + channel].astype(np.uint8)
                last = max(last, at)
    COMMANDS[Opcode.STORE].execute(one, cmd)
    np.testing.assert_array_equal(one.memory, wanted)
    for end, fits in ((last + 1, True), (last, False)):
        checked = state(spec)
        checked.program.write_end = end  # type: ignore[misc]
        COMMANDS[Opcode.BUFFER].check(checked, configured)
        checked.tokens.buffer(3).next_loaded = 1
        if fits:
            COMMANDS[Opcode.STORE].check(checked, cmd)
        else:
            with pytest.raises(ProgramError, match="write window"):
                COMMANDS[Opcode.STORE].check(checked, cmd)


@given(machines, st.integers(1, 4), st.integers(0, 3), st.integers(0, 20), st.integers(0, 2**16))
def test_words_of_weights_lie_apart(spec: AccelSpec, words: int, gap: int, first: int, seed: int) -> None:
    one, per_word = machine(spec, seed), spec.weight_word_bytes // spec.bus_bytes
    size = words * spec.weight_word_bytes
    one.memory = np.resize(one.memory, 64 + size)
    cmd = command(
        Opcode.LOADW,
        kind=WeightKind.WEIGHTS,
        destination=first,
        gap=gap,
        elements=words * per_word,
        address=64,
        bytes=size,
    )
    before = one.weights.copy()
    COMMANDS[Opcode.LOADW].execute(one, cmd)
    read = one.memory[64 : 64 + size].view(np.int8).reshape(words, spec.co_lanes, spec.ci_lanes)
    places = first + np.arange(words) * (1 + gap)
    np.testing.assert_array_equal(one.weights[places], read)
    np.testing.assert_array_equal(np.delete(one.weights, places, 0), np.delete(before, places, 0))
    assert one.tokens.weights_loaded == 1


@given(st.integers(1, 9), st.lists(st.integers(-128, 127), min_size=8, max_size=8), st.integers(0, 3))
def test_statistics_become_parameters(rows: int, codes: list[int], word: int) -> None:
    """STORE counts, a NORM reads: each channel gets the factors of its own sums."""
    one, lanes = machine(BASE), BASE.ci_lanes
    stored = np.resize(np.array(codes, np.int8), (rows, 5, lanes))
    COMMANDS[Opcode.BUFFER].execute(one, buffer(BASE, 5, 1, rows=rows, height=rows))
    one.tokens.buffer(3).next_loaded = rows
    one.data[3][:] = stored
    cmd = command(
        Opcode.STORE,
        buffer=3,
        row_stride=5 * lanes,
        sub_rows=1,
        pixel_bytes=lanes,
        pixel_pitch=lanes,
        x_count=5,
        statistics=1,
        statistics_begin=1,
        statistics_base=word,
    )
    for _ in range(rows):
        COMMANDS[Opcode.STORE].execute(one, cmd)
    constants = normalise.normalisation(5 * rows, 1e-5, 0.1, 4 / 127)
    records = encode_norm(constants, word) * lanes
    one.memory[: len(records)] = np.frombuffer(records, np.uint8)
    COMMANDS[Opcode.LOADW].execute(
        one, command(Opcode.LOADW, kind=WeightKind.NORM, elements=len(records) // 8, bytes=len(records))
    )
    bias, multiplier, shift = normalise.frame_factors(*normalise.sums(stored), constants)
    found = np.frombuffer(bytes(one.parameters), np.int32).reshape(-1, 4)[:lanes]
    np.testing.assert_array_equal(found, np.stack([bias, multiplier, multiplier, shift], 1))


@pytest.mark.parametrize("opcode", COMPUTED)
@given(y=st.integers(0, 100), pad=st.integers(0, 5), stride=st.integers(1, 2), factor=st.integers(1, 3))
def test_rows_of_the_sources(opcode: Opcode, y: int, pad: int, stride: int, factor: int) -> None:
    """A stride multiplies, a resize divides; rates that match keep the first row in step for ever."""
    wanted = {"stride_rows": stride if opcode in (Opcode.CONV, Opcode.CORR) else 1, "pad_rows": pad}
    if opcode is Opcode.RESIZE:
        wanted = {"enlarge_log2": factor, "pad_rows": pad}
    names = {field.name for field in FIELDS[opcode]}
    kind, cmd = COMPUTED[opcode], command(opcode, **{name: value for name, value in wanted.items() if name in names})
    step, period = wanted.get("stride_rows", 1), 1 << wanted.get("enlarge_log2", 0)
    assert kind.first_row(cmd, y) == y * step // period - pad
    assert kind.rates_match(cmd, step, period)
    assert kind.first_row(cmd, y + period) - kind.first_row(cmd, y) == step
    assert not kind.rates_match(cmd, step + 1, period)


def test_buffers_that_overlap_are_refused() -> None:
    checked, kind = state(TINY), COMMANDS[Opcode.BUFFER]
    kind.check(checked, buffer(TINY, 4, 1, id=0, base=0))
    kind.check(checked, buffer(TINY, 4, 1, id=1, base=2))
    with pytest.raises(ProgramError, match="overlap"):
        kind.check(checked, buffer(TINY, 4, 1, id=2, base=1))
    kind.check(checked, buffer(TINY, 4, 1, id=0, base=4))  # configured anew elsewhere
    COMMANDS[Opcode.SYNC].check(checked, command(Opcode.SYNC))
    kind.check(checked, buffer(TINY, 4, 1, id=2, base=1))
