"""Kernel launches with everything known before the frame, as embedded in modules and given to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.layers import CHUNK_CHANNELS, Format, Precision


@dataclass(frozen=True)
class Stored:
    """A tensor in global memory between launches."""

    name: str
    precision: Precision
    format: Format
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as an array of elements, batch first."""
        if self.format == "planar":
            return 1, self.channels, self.height, self.width
        chunk = CHUNK_CHANNELS[self.precision]
        return 1, -(-self.channels // chunk), self.height, self.width, chunk

    @property
    def dtype(self) -> str:
        return "float16" if self.precision == "fp16" else "int8"

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def pack(self, value: NDArray[Any]) -> NDArray[Any]:
        """``[C, H, W]`` values in memory layout, with zeros beyond the channels."""
        if self.format == "planar":
            return np.ascontiguousarray(value[None])
        _, planes, height, width, chunk = self.shape
        padded = np.zeros((planes * chunk, height, width), value.dtype)
        padded[: self.channels] = value
        return np.ascontiguousarray(padded.reshape(1, planes, chunk, height, width).transpose(0, 1, 3, 4, 2))

    def unpack(self, memory: NDArray[Any]) -> NDArray[Any]:
        """The inverse of :meth:`pack`: ``[C, H, W]``."""
        if self.format == "planar":
            return np.asarray(memory[0])
        _, planes, height, width, chunk = self.shape
        return np.asarray(memory[0].transpose(0, 3, 1, 2).reshape(planes * chunk, height, width)[: self.channels])


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel on one frame. Its arguments: inputs, outputs, the parameter blob unless empty, ``integers``."""

    kernel: str  # name in the source text
    source: str = field(repr=False)  # CUDA text of this kernel, with its includes
    parameters: bytes = field(repr=False)
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    integers: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...] = ()  # names of the user's layers
    macs: int = 0

    @property
    def pointers(self) -> int:
        """Number of arguments that are addresses."""
        return len(self.inputs) + len(self.outputs) + bool(self.parameters)


Run = Callable[[Launch, list[NDArray[Any]]], None]
"""Executes a launch over arrays: inputs, outputs (written), parameters."""


def run_launches(
    launches: list[Launch], stored: Mapping[str, Stored], inputs: Mapping[str, NDArray[Any]], run: Run
) -> dict[str, NDArray[Any]]:
    """Execute ``launches`` in order; returns every tensor by name in memory layout."""
    from codesign.kernels.runtime.emulate import aligned

    memory: dict[str, NDArray[Any]] = {}
    for name, value in inputs.items():
        memory[name] = aligned(value.shape, value.dtype)
        memory[name][...] = value
    for launch in launches:
        for name in launch.outputs:
            poison = np.nan if stored[name].precision == "fp16" else 85
            memory[name] = aligned(stored[name].shape, stored[name].dtype, poison)
        arrays = [memory[name] for name in (*launch.inputs, *launch.outputs)]
        if launch.parameters:
            arrays.append(aligned((len(launch.parameters),), np.uint8))
            arrays[-1][...] = np.frombuffer(launch.parameters, np.uint8)
        run(launch, arrays)
    return memory
