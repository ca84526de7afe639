"""The state of the machine in the golden model, and the steps that all computed rows take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.hw.isa import Command, Plane
from codesign.hw.model.array_program import Kernel, Products
from codesign.hw.program.tokens import Tokens
from codesign.hw.spec import PARAMETER_BYTES, TABLE_BYTES, AccelSpec

Int8 = NDArray[np.int8]
Decoded = TypeVar("Decoded", Kernel, Products)
Decode = Callable[[AccelSpec, Command, Int8, NDArray[np.uint64], NDArray[np.uint32]], Decoded]

_PARAMETERS = np.dtype([("bias", "<i4"), ("m", "<i4"), ("n", "<i4"), ("shift", "<u4")])

_DECIDE = (
    "steps_base",
    "steps_count",
    "fills_base",
    "fills_count",
    "fills_repeat",
    "words",
    "lane_groups_log2",
    "x_stride",
    "more_sources",
)
"""Fields that decide how the array multiplies, besides its memories."""


class Machine:
    """Memories of a machine. ``memory: uint8[bytes]`` is the program's, changed in place."""

    def __init__(self, spec: AccelSpec, memory: NDArray[np.uint8]) -> None:
        self.spec, self.memory = spec, memory
        self.tokens = Tokens(spec)
        self.data: dict[int, Int8] = {}  # by buffer: int8[rows, width, channels]
        self.weights = np.zeros((spec.weight_words, spec.co_lanes, spec.ci_lanes), np.int8)
        self.steps = np.zeros(spec.weight_words, np.uint64)
        self.fills = np.zeros(spec.fill_words, np.uint32)
        self.parameters = bytearray(spec.parameter_channels * PARAMETER_BYTES)
        self.tables = np.zeros((spec.tables, TABLE_BYTES), np.int8)
        self.totals, self.squares = np.zeros((2, spec.statistic_channels), np.int64)
        self.kernels: dict[tuple[object, ...], Kernel | Products] = {}

    def decoded(self, cmd: Command, decode: Decode[Decoded]) -> Decoded:
        """The array's program for ``cmd``, decoded once for the present weights."""
        key = (decode, *(cmd[name] for name in _DECIDE))
        if key not in self.kernels:
            self.kernels[key] = decode(self.spec, cmd, self.weights, self.steps, self.fills)
        found: Decoded = self.kernels[key]  # type: ignore[assignment]
        return found

    def set_parameters(self, channel: int, bias: int, multiplier: int, shift: int) -> None:
        """The requantisation of a channel without a slope of its own for negative psums."""
        record = np.array([(bias, multiplier, multiplier, shift)], _PARAMETERS).tobytes()
        self.parameters[channel * PARAMETER_BYTES : (channel + 1) * PARAMETER_BYTES] = record

    def requantised(self, cmd: Command, psum: NDArray[np.int64]) -> Int8:
        """Psums to codes, bias and table included. ``psum: int64[n, C]``."""
        first = cmd["parameters_base"] * self.spec.ci_lanes
        fields = np.frombuffer(bytes(self.parameters), _PARAMETERS)[first : first + psum.shape[1]]
        # Accumulators have 32 bits and wrap; the compiler proves that they never do.
        psums = (psum + fields["bias"]).astype(np.int32)
        factors = {"multiplier": fields["m"], "negative_multiplier": fields["n"], "shift": fields["shift"] & 63}
        result = numerics.requantise(psums, **factors, zero_point=cmd["zero_point"], qmin=cmd["qmin"], qmax=cmd["qmax"])
        planes = fields["shift"] >> 6 & 3
        if planes.any():
            high, low = np.split(numerics.byte_planes(numerics.requantise_wide(psums, **factors)), 2, axis=1)
            result = np.where(planes == Plane.HIGH, high, np.where(planes == Plane.LOW, low, result))
        return numerics.apply_table(result, self.tables[cmd["table"]]) if cmd["table_enable"] else result

    def write(self, cmd: Command, y: int, result: Int8) -> None:
        """Put row ``y`` into its buffer, behind the halo. ``result: int8[n, C]``."""
        destination = self.tokens.buffer(cmd["destination"])
        base, outputs = cmd["group"] * self.spec.ci_lanes, cmd["words"] * self.spec.ci_lanes
        self.data[cmd["destination"]][y % destination.rows][destination.halo :, base : base + outputs] = result
