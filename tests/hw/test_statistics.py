"""Rules of a program that make every sum for a normalisation that of a whole frame."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hw_programs import (
    BLOB_AT,
    BUFFERS,
    END,
    HALT,
    HEIGHT,
    LOADWS,
    LOOP,
    OUTPUT_AT,
    PARAMETERS,
    SYNC,
    WIDTH,
    blob,
    conv,
    frame,
    load,
    program,
    store,
    weights,
)

from codesign.hw import isa
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, WeightKind
from codesign.hw.model import reference
from codesign.hw.normalise import Normalisation, normalisation
from codesign.hw.program.program import Program
from codesign.hw.spec import TINY

COUNTING = dataclasses.replace(TINY, name="counting", statistic_channels=8)
CONSTANTS = normalisation(HEIGHT * WIDTH, 1e-5, 0.5, 0.03)
COUNTS = store(statistics=1, statistics_begin=1)
NORM = weights(WeightKind.NORM, 96, 2, 16)
TWICE = (SYNC, *BUFFERS, *LOADWS)


def counting(*commands: Command, constants: Normalisation = CONSTANTS, word: int = 0) -> Program:
    """A program on a machine of two statistics words; its one record stands behind the weights."""
    return program(*commands, spec=COUNTING, blob=blob() + isa.encode_norm(constants, word))


def frames(*rows: Command) -> tuple[Command, ...]:
    return (*TWICE, LOOP, load(), conv(), *rows, END)


def test_records_survive() -> None:
    constants = Normalisation(2**24 - 1, 2**31 - 1, 31, 2**55 - 1, 8)
    assert isa.decode_norm(isa.encode_norm(constants, 255)) == (constants, 255)
    with pytest.raises(ProgramError, match="normalisation count = 16777216"):
        isa.encode_norm(dataclasses.replace(constants, count=2**24), 0)


def test_sums_become_parameters() -> None:
    """A second pass runs with the parameters that the first one's sums made."""
    again = (
        *BUFFERS,
        *(one for one in LOADWS if one is not PARAMETERS),
        NORM,
        LOOP,
        load(address=OUTPUT_AT),
        conv(),
        store(),
        END,
    )
    made = counting(*frames(COUNTS), SYNC, *again, HALT)
    made.verify()
    x = frame(3)
    # The program's weight is 1, not a normalised layer's 2^22: what is left of it all is the mean.
    mean = -x.mean() / np.sqrt(x.astype(int).var() + 1e-5 / 0.5**2) / 0.03
    assert 2 < abs(mean) < 100
    np.testing.assert_array_equal(reference.run(made, {"x": x})["y"], np.full(x.shape, np.rint(mean)))


BROKEN: dict[str, tuple[tuple[Command, ...], str]] = {
    "read before a SYNC": ((*frames(COUNTS), NORM, HALT), "may still add to"),
    "read before they begin": ((SYNC, NORM, HALT), "0 were added up"),
    "never begun": ((*frames(store(statistics=1)), HALT), "never begun"),
    "half a frame": (
        (
            *frames(COUNTS)[:-5],
            isa.command(isa.Opcode.LOOP, count=HEIGHT - 1),
            load(),
            conv(),
            COUNTS,
            END,
            SYNC,
            NORM,
            HALT,
        ),
        "normalises by 54 pixels, 45",
    ),
    "too many words": (
        (*frames(store(statistics=1, statistics_begin=1, statistics_base=2)), HALT),
        "words 2 to 2 of 2",
    ),
    "shuffled": ((*frames(store(statistics=1, statistics_begin=1, channel=1)), HALT), "do not begin a word"),
    "read while others begin": (
        (*frames(COUNTS), SYNC, NORM, *BUFFERS, *LOADWS, LOOP, load(), conv(weights_needed=0), COUNTS, END, HALT),
        "may still read",
    ),
    "half a record": ((*frames(COUNTS), SYNC, weights(WeightKind.NORM, 96, 1, 8), HALT), "half a record"),
    "constants elsewhere": (
        (*frames(COUNTS), SYNC, weights(WeightKind.NORM, OUTPUT_AT - BLOB_AT, 2, 16), HALT),
        "outside the program's weights",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_verify_refuses(case: str) -> None:
    commands, message = BROKEN[case]
    with pytest.raises(ProgramError, match=message):
        counting(*commands).verify()


def test_a_norm_before_others_begin() -> None:
    """Sums may replace those read by a LOADW, once their rows have waited for it."""
    waits = (*frames(COUNTS), SYNC, NORM, *BUFFERS, *LOADWS, LOOP, load(), conv(weights_needed=1), COUNTS, END, HALT)
    counting(*waits).verify()


@pytest.mark.parametrize(
    ("changes", "word", "message"),
    [
        ({"count": 53}, 0, "normalises by 53 pixels, 54"),
        ({"epsilon": 0}, 0, "64 bits"),
        ({"places": 9}, 0, "64 bits"),
        ({}, 2, "statistics word 2 of 2"),
    ],
)
def test_verify_reads_records(changes: dict[str, int], word: int, message: str) -> None:
    constants = dataclasses.replace(CONSTANTS, **changes)
    with pytest.raises(ProgramError, match=message):
        counting(*frames(COUNTS), SYNC, NORM, HALT, constants=constants, word=word).verify()


def test_a_machine_without_statistics_refuses() -> None:
    with pytest.raises(ProgramError, match="no statistics"):
        program(SYNC, NORM, HALT).verify()
    with pytest.raises(ProgramError, match="words 0 to 0 of 0"):
        program(*frames(COUNTS), HALT).verify()
