"""LOADW: weights, steps, fills, parameters, a table or the constants of normalisations from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from codesign.hw import normalise
from codesign.hw.commands.kind import Engine, Kind, Verification
from codesign.hw.errors import ProgramError
from codesign.hw.isa import NORM_BYTES, Command, Opcode, WeightKind, decode_norm
from codesign.hw.numerics import round_up
from codesign.hw.program.tokens import Tokens
from codesign.hw.spec import FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, TABLE_BYTES, AccelSpec, Unit

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine
    from codesign.hw.program.program import Program
    from codesign.hw.timing.engines.engines import Engines


class LoadWeights(Kind):
    opcode: ClassVar[Opcode] = Opcode.LOADW
    engine: ClassVar[Engine | None] = "load"

    def row(self, tokens: Tokens, cmd: Command) -> int | None:
        tokens.weights_loaded += 1
        return None

    def check(self, state: Verification, cmd: Command) -> None:
        _check_elements(state.program.spec, cmd)
        if cmd["address"] + cmd["bytes"] > state.program.memory_bytes:
            raise ProgramError("weights are read outside the program's memory")
        state.tokens.weights_loaded += 1
        if cmd["kind"] == WeightKind.NORM:
            state.statistics.normalise(_records(state.program, cmd), state.tokens.weights_loaded)

    def execute(self, machine: Machine, cmd: Command) -> None:
        data = machine.memory[cmd["address"] : cmd["address"] + cmd["bytes"]].tobytes()
        kind, first, count = WeightKind(cmd["kind"]), cmd["destination"], cmd["elements"]
        spec = machine.spec
        match kind:
            case WeightKind.WEIGHTS:
                size, word = count * spec.bus_bytes, spec.weight_word_bytes
                for number, at in enumerate(range(0, size, word)):
                    flat = machine.weights[first + number * (1 + cmd["gap"])].reshape(-1)
                    flat[: min(word, size - at)] = np.frombuffer(data[at : min(at + word, size)], np.int8)
            case WeightKind.STEPS:
                machine.steps[first : first + count] = np.frombuffer(data[: count * STEP_BYTES], "<u8")
            case WeightKind.FILLS:
                machine.fills[first : first + count] = np.frombuffer(data[: count * FILL_BYTES], "<u4")
            case WeightKind.PARAMETERS:
                start = first * spec.ci_lanes * PARAMETER_BYTES
                machine.parameters[start : start + 8 * count] = data[: 8 * count]
            case WeightKind.NORM:
                _normalise(machine, first * spec.ci_lanes, data[: 8 * count])
            case WeightKind.TABLE:
                machine.tables[cmd["table"], first : first + count] = np.frombuffer(data[:count], np.int8)
        machine.tokens.weights_loaded += 1
        machine.kernels.clear()

    def time(self, engines: Engines, cmd: Command) -> None:
        engines.load.take(cmd, rows=False)


def _check_elements(spec: AccelSpec, cmd: Command) -> None:
    """The elements fit the memory that they are for, and the bytes are theirs."""
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
    if kind is WeightKind.TABLE and cmd["table"] >= spec.tables:
        raise ProgramError(f"table {cmd['table']} of {spec.tables}")
    if cmd["gap"] and (kind is not WeightKind.WEIGHTS or cmd["elements"] % per_word):
        raise ProgramError("only whole words of weights lie apart")
    left_out = cmd["gap"] * (cmd["elements"] // per_word - 1) if cmd["gap"] else 0
    if (cmd["destination"] + left_out) * per_word + cmd["elements"] > words * per_word:
        raise ProgramError(f"{kind.name.lower()} end beyond the memory's {words} words")
    padded = round_up(cmd["elements"] * size, spec.bus_bytes)
    if cmd["elements"] == 0 or cmd["bytes"] != padded or cmd["address"] % spec.bus_bytes:
        raise ProgramError(
            f"{cmd['elements']} elements of {size} bytes need {padded} aligned bytes, not {cmd['bytes']}"
        )


def _records(program: Program, cmd: Command) -> bytes:
    """The constants that a LOADW of kind NORM reads."""
    at, size = cmd["address"] - program.blob_offset, 8 * cmd["elements"]
    if at < 0 or at + size > len(program.blob):
        raise ProgramError("constants of a normalisation lie outside the program's weights")
    return program.blob[at : at + size]


def _normalise(machine: Machine, first: int, records: bytes) -> None:
    """Parameters of the channels from ``first`` on, from the statistics that their records name."""
    for number in range(len(records) // NORM_BYTES):
        constants, word = decode_norm(records[number * NORM_BYTES : (number + 1) * NORM_BYTES])
        channel = word * machine.spec.ci_lanes + number % machine.spec.ci_lanes
        total, squares = int(machine.totals[channel]), int(machine.squares[channel])
        machine.set_parameters(first + number, *normalise.channel_factors(total, squares, constants))
