"""The golden model: executes a :class:`Program` command by command in numpy, bit for bit. It defines the machine.

The meaning of each command is in :mod:`codesign.hw.commands`. Integer dot products run on BLAS: in float32 where every
partial sum provably stays below 2**24, else in float64, so they are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from codesign.hw.commands import COMMANDS
from codesign.hw.errors import InputError
from codesign.hw.model.machine import Machine
from codesign.hw.program.program import Program, TensorSlot

Int8 = NDArray[np.int8]


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
    machine = Machine(program.spec, memory)
    total = 0 if progress is None else sum(1 for _ in program.walk())
    for count, (_, cmd) in enumerate(program.walk()):
        COMMANDS[cmd.opcode].execute(machine, cmd)
        if progress is not None and count % 256 == 0:
            progress(count / total)
