"""The command set: every value survives its encoding, and nothing else is let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.hw import isa
from codesign.hw.errors import ProgramError
from codesign.hw.isa import FIELDS, Command, Field, Fill, Opcode, Selector, Step
from codesign.hw.spec import BASE, COMMAND_BYTES, PRESETS, STEP_BYTES, TINY, AccelSpec


def bounds(field: Field) -> tuple[int, int]:
    if field.signed:
        return -(1 << field.bits - 1), (1 << field.bits - 1) - 1
    return 0, (1 << field.bits) - 1


@st.composite
def commands(draw: st.DrawFn) -> Command:
    opcode = draw(st.sampled_from(sorted(FIELDS)))
    return Command(opcode, tuple(draw(st.integers(*bounds(field))) for field in FIELDS[opcode]))


@given(commands())
def test_commands_survive(cmd: Command) -> None:
    data = isa.encode(cmd)
    assert len(data) == COMMAND_BYTES
    assert isa.decode(data) == cmd
    assert isa.command(cmd.opcode, **{f.name: cmd[f.name] for f in FIELDS[cmd.opcode]}) == cmd


@pytest.mark.parametrize("opcode", FIELDS)
def test_commands_fit(opcode: Opcode) -> None:
    assert 8 + sum(field.bits for field in FIELDS[opcode]) <= 8 * COMMAND_BYTES
    assert len({field.name for field in FIELDS[opcode]}) == len(FIELDS[opcode])


def test_computed_rows_begin_alike() -> None:
    """The sequencer and the front read a row's own fields before they know its payload."""
    for opcode in isa.COMPUTE:
        assert FIELDS[opcode][: len(isa.ROW_FIELDS)] == isa.ROW_FIELDS


@pytest.mark.parametrize("opcode", FIELDS)
def test_values_that_do_not_fit_are_refused(opcode: Opcode) -> None:
    for field in FIELDS[opcode]:
        low, high = bounds(field)
        for value in (low - 1, high + 1):
            with pytest.raises(ProgramError, match=f"{opcode.name}.{field.name} = {value} does not fit"):
                isa.command(opcode, **{field.name: value})


def test_unknown_names_and_opcodes() -> None:
    with pytest.raises(ProgramError, match="no field 'colour'"):
        isa.command(Opcode.CONV, colour=1)
    with pytest.raises(KeyError, match="no field 'colour'"):
        isa.command(Opcode.CONV)["colour"]
    for opcode in {*range(256)} - {*Opcode}:
        with pytest.raises(ProgramError, match=f"unknown opcode {int(opcode)}"):
            isa.decode(int(opcode).to_bytes(COMMAND_BYTES, "little"))
    with pytest.raises(ProgramError, match="64 bytes, not 63"):
        isa.decode(bytes(63))


@pytest.mark.parametrize("spec", PRESETS.values(), ids=PRESETS)
def test_steps_fit(spec: AccelSpec) -> None:
    top = Step(tuple(Selector(7, 7, 1) for _ in range(spec.selectors)), 15, True)
    assert isa.encode_step(top) < 1 << (8 * STEP_BYTES)


@given(st.data(), st.sampled_from([TINY, BASE]))
def test_steps_survive(data: st.DataObject, spec: AccelSpec) -> None:
    selector = st.builds(Selector, st.integers(0, 7), st.integers(0, 7), st.integers(0, 1))
    step = Step(tuple(data.draw(selector) for _ in range(spec.selectors)), data.draw(st.integers(0, 15)), True)
    assert isa.decode_step(isa.encode_step(step), spec) == step


@given(st.integers(0, 31), st.integers(-256, 255), st.integers(0, 4095))
def test_fills_survive(row: int, column: int, group: int) -> None:
    fill = Fill(row, column, group)
    assert isa.decode_fill(isa.encode_fill(fill)) == fill


def test_fills_that_do_not_fit() -> None:
    with pytest.raises(ProgramError, match="fill column = 256"):
        isa.encode_fill(Fill(0, 256, 0))


def test_registers_do_not_overlap() -> None:
    counters = [isa.counter_address(name) for name in isa.COUNTER_NAMES]
    taken = [*isa.REGISTERS.values(), *counters, *(address + 4 for address in counters)]
    assert len(set(taken)) == len(taken)
    assert all(address % 4 == 0 for address in taken)
