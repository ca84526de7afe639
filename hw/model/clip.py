"""A clip through one program: a frame finds in memory the tensors that the frame before left there.

A state has two places in memory and two programs take turns: frames 0, 2, 4, ... read the first and write the second,
the others the other way round. So no row is overwritten that a later row, or a warp, still reads, and nothing is
copied. A state may be the frame itself: then the next frame is put where the state was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.hw.isa import Command, command
from codesign.hw.model import reference
from codesign.hw.numerics import round_up
from codesign.hw.program.program import Program, TensorSlot
from codesign.hw.spec import COMMAND_BYTES

_PAGE = 4096


class Carried(NamedTuple):
    """A tensor of a program, by name, that is the input ``before`` of the next frame."""

    after: str  # an output, or an input that the host writes
    before: str


@dataclass(frozen=True)
class Stream:
    """A program in its two turns, over one memory."""

    turns: tuple[Program, Program]
    carried: tuple[Carried, ...]

    @staticmethod
    def of(program: Program, carried: Sequence[Carried]) -> Stream:
        """Raises :class:`InputError` for tensors that the program has not, or that differ in shape, scale or use."""
        slots = {slot.name: slot for slot in (*program.inputs, *program.outputs)}
        swaps: list[tuple[TensorSlot, TensorSlot]] = []
        for one in carried:
            pair = slots.get(one.after), slots.get(one.before)
            if pair[0] is None or pair[1] is None or pair[1] not in program.inputs or _kind(pair[0]) != _kind(pair[1]):
                raise InputError(f"cannot carry {one.after!r} over to {one.before!r}", where=program.name)
            swaps.append((pair[0], pair[1]))
        if len({slot.name for swap in swaps for slot in swap}) != 2 * len(swaps):
            raise InputError("a tensor is carried twice", where=program.name)
        at = round_up(program.memory_bytes, _PAGE)
        size = at + len(program.commands) * COMMAND_BYTES
        written = [before.offset for after, before in swaps if after in program.outputs]
        even = dataclasses.replace(program, memory_bytes=size, write_first=min([program.write_first, *written]))
        places = {a.name: b.offset for a, b in swaps} | {b.name: a.offset for a, b in swaps}

        def moved(slot: TensorSlot) -> TensorSlot:
            return dataclasses.replace(slot, offset=places.get(slot.name, slot.offset))

        odd = dataclasses.replace(
            even,
            commands=tuple(_swapped(cmd, swaps) for cmd in program.commands),
            commands_offset=at,
            inputs=tuple(map(moved, program.inputs)),
            outputs=tuple(map(moved, program.outputs)),
        )
        for turn in (even, odd):
            turn.verify()
        return Stream((even, odd), tuple(carried))

    def turn(self, frame: int) -> Program:
        return self.turns[frame % 2]

    def memory(self) -> NDArray[np.uint8]:
        """Memory before the first frame: both command streams, the weights, and states of zeros."""
        even, odd = self.turns
        zeros = {
            slot.name: np.full((slot.height, slot.width, slot.channels), slot.zero_point, np.int8)
            for slot in even.inputs
        }
        memory = reference.initial_memory(even, zeros)
        commands = odd.encoded_commands()
        memory[odd.commands_offset : odd.commands_offset + len(commands)] = np.frombuffer(commands, np.uint8)
        return memory


def put(memory: NDArray[np.uint8], program: Program, inputs: Mapping[str, NDArray[np.int8]]) -> None:
    """Write some of a program's inputs, ``int8[H, W, C]`` by name, into its memory. Raises :class:`InputError`."""
    slots = {slot.name: slot for slot in program.inputs}
    for name, tensor in inputs.items():
        slot = slots.get(name)
        if slot is None or tensor.shape != (slot.height, slot.width, slot.channels) or tensor.dtype != np.int8:
            raise InputError(f"{name!r} of {tensor.dtype}{list(tensor.shape)} is no input", where=program.name)
        memory[slot.offset : slot.offset + slot.size_bytes] = np.ascontiguousarray(tensor).view(np.uint8).reshape(-1)


def run(stream: Stream, frames: Sequence[Mapping[str, NDArray[np.int8]]]) -> Iterator[dict[str, NDArray[np.int8]]]:
    """The golden model on a clip: the outputs of every frame. ``frames``: each frame's inputs that are not carried."""
    memory = stream.memory()
    for number, inputs in enumerate(frames):
        program = stream.turn(number)
        put(memory, program, inputs)
        reference.execute(program, memory)
        yield {slot.name: reference.read_tensor(memory, slot) for slot in program.outputs}


def _kind(slot: TensorSlot) -> tuple[object, ...]:
    return slot.height, slot.width, slot.channels, slot.scale, slot.zero_point


def _swapped(cmd: Command, swaps: Sequence[tuple[TensorSlot, TensorSlot]]) -> Command:
    """``cmd`` on the other place of each pair."""
    if "address" not in cmd.names:
        return cmd
    for pair in swaps:
        for here, there in (pair, pair[::-1]):
            if here.offset <= cmd["address"] < here.offset + here.size_bytes:
                fields = {name: cmd[name] for name in cmd.names}
                return command(cmd.opcode, **{**fields, "address": cmd["address"] + there.offset - here.offset})
    return cmd
