"""A program on the RTL: inputs in, outputs and counters out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.hw import reference
from codesign.hw.counters import Counters
from codesign.hw.errors import SimulationError
from codesign.hw.program import Program
from codesign.sim.build import Report
from codesign.sim.model import Dram, Model

Int8 = NDArray[np.int8]

_CHUNK_CYCLES = 50_000
_HANG_CYCLES = 2_000_000
"""A machine whose counters do not move for this long will not finish: DRAM latencies are far below it."""


@dataclass(frozen=True)
class RunResult:
    """One frame on the RTL."""

    outputs: dict[str, Int8] = field(repr=False)  # int8[H, W, C]
    counters: Counters
    wall_seconds: float  # of the simulation alone

    @property
    def cycles_per_second(self) -> float:
        return self.counters.cycles / self.wall_seconds


def run(
    program: Program,
    inputs: Mapping[str, Int8],
    *,
    dram: Dram | None = None,
    progress: Callable[[int], None] | None = None,
    report: Report | None = None,
) -> RunResult:
    """Simulate one frame from start to done. ``inputs[name]: int8[H, W, C]``.

    ``progress`` is called with the cycles so far; ``report`` with a line when the model must be built first. Raises
    :class:`SimulationError` when the machine stops with an error or makes no progress.
    """
    image = reference.initial_memory(program, inputs)
    with Model(program.spec, program.memory_bytes, dram=dram, report=report) as model:
        model.load(program)
        for slot in program.inputs:
            model.memory[slot.offset : slot.offset + slot.size_bytes] = image[
                slot.offset : slot.offset + slot.size_bytes
            ]
        started = time.perf_counter()
        first = model.cycle
        model.start()
        alive = (-1, -1)
        since = model.cycle
        while not model.run(_CHUNK_CYCLES):
            counters = model.counters()
            now = (counters.busy_cycles, counters.dram_read_bytes + counters.dram_write_bytes)
            if now != alive:
                alive, since = now, model.cycle
            elif model.cycle - since > _HANG_CYCLES:
                raise SimulationError(f"the machine makes no progress after {model.cycle - first} cycles: {counters}")
            if progress is not None:
                progress(model.cycle - first)
        wall = time.perf_counter() - started
        failure = model.error()
        if failure is not None:
            raise SimulationError(
                f"the machine stopped: {failure[0].name.lower().replace('_', ' ')} at {failure[1]:#x}"
            )
        outputs = {slot.name: reference.read_tensor(model.memory, slot) for slot in program.outputs}
        return RunResult(outputs, model.counters(), wall)
