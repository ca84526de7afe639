"""CORR: a row of products of two sources on the array, whose weights are pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw.commands.conv import Conv, taken_lines
from codesign.hw.isa import Command, Opcode
from codesign.hw.model.array_program import decode_products
from codesign.hw.program.tokens import ConvRow
from codesign.hw.spec import Unit

if TYPE_CHECKING:
    from codesign.hw.model.machine import Machine


class Corr(Conv):
    """A CONV but for its psums: sums of products of pixels."""

    opcode: ClassVar[Opcode] = Opcode.CORR
    unit: ClassVar[Unit | None] = Unit.CORRELATOR

    def psums(self, machine: Machine, cmd: Command, at: ConvRow) -> NDArray[np.int64]:
        decoded = machine.decoded(cmd, decode_products)
        width = machine.tokens.buffer(cmd["destination"]).computed_width
        lines = taken_lines(machine, cmd, at, decoded.taps, np.dtype(np.int32))
        along = np.arange(width)[:, None] * cmd["x_stride"]
        first, second = (lines[row, along + column, channel] for row, column, channel in decoded.pairs)
        psum = np.zeros((width, decoded.count), np.int64)
        psum[:, decoded.outputs] = np.add.reduceat(first * second, decoded.starts, axis=1)
        return psum
