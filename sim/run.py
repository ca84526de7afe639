"""Run a program on the RTL: it takes inputs and returns outputs and counters."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.hw.counters import Counters
from codesign.hw.errors import InputError, SimulationError
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.sim.build import Report, Variant
from codesign.sim.checkpoint import Checkpoint
from codesign.sim.model import Dram, Model
from codesign.sim.timeline import Activity

Int8 = NDArray[np.int8]

_CHUNK_CYCLES = 50_000
_HANG_CYCLES = 2_000_000
"""A machine whose counters do not move for this long will not finish: DRAM latencies are far below it."""

SNAPSHOT_SECONDS = 30.0
"""Seconds between two snapshots of a run that is kept in a checkpoint folder."""


@dataclass(frozen=True)
class Waves:
    """A waveform (VCD) of the cycles [``first``, ``end``) of a run."""

    path: Path
    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.end:
            raise InputError(
                f"a window from cycle {self.first} to {self.end} is empty",
                where="waveform",
                hint="Give FIRST:END with FIRST < END.",
            )


@dataclass(frozen=True)
class RunResult:
    """One frame on the RTL."""

    outputs: dict[str, Int8] = field(repr=False)  # int8[H, W, C]
    counters: Counters
    wall_seconds: float  # of the simulation alone
    activity: Activity | None = field(default=None, repr=False)
    """The log of the engines, if it was asked for; see :mod:`codesign.sim.timeline`."""
    started_at: int = 0
    """Cycle of the activity log in which the run began."""

    @property
    def cycles_per_second(self) -> float:
        return self.counters.cycles / self.wall_seconds


def run(
    program: Program,
    inputs: Mapping[str, Int8],
    *,
    dram: Dram | None = None,
    timeline: bool = False,
    waves: Waves | None = None,
    checkpoints: Path | None = None,
    progress: Callable[[int], None] | None = None,
    assertions: bool = True,
    report: Report | None = None,
) -> RunResult:
    """Simulate one frame from start to done. ``inputs[name]: int8[H, W, C]``.

    ``timeline`` keeps the log of the engines. An interrupted run is kept in the folder ``checkpoints``; the same run
    continues from there, cycle for cycle as if it had not been interrupted, and a finished run is not repeated.
    ``progress`` is called with the cycles so far, ``report`` with a line if the model must be built first. Raises
    :class:`SimulationError` if the machine stops with an error, makes no progress, or an assertion of the RTL fails.
    A benchmark of speed leaves the ``assertions`` out.
    """
    if waves is not None and checkpoints is not None:
        raise InputError("a waveform cannot be resumed", where="options", hint="Leave out the checkpoint folder.")
    dram = dram or Dram()
    variant = Variant(trace=waves is not None, assertions=assertions)
    image = reference.initial_memory(program, inputs)
    with Model(program.spec, program.memory_bytes, dram=dram, variant=variant, report=report) as model:
        model.load(program)
        for slot in program.inputs:
            span = slice(slot.offset, slot.offset + slot.size_bytes)
            model.memory[span] = image[span]
        checkpoint = None
        if checkpoints is not None:
            checkpoint = Checkpoint.of(checkpoints, program, model.memory, dram, model.library, timeline)
            if (kept := checkpoint.finished()) is not None:
                return RunResult(**kept)
        first, before = model.cycle, 0.0
        if timeline:
            model.log_activity()
        if checkpoint is not None and (found := checkpoint.restore(model)) is not None:
            first, before = found
        else:
            model.start()
        began = time.perf_counter()

        def seconds() -> float:
            return before + time.perf_counter() - began

        with _snapshots(checkpoint, model, first, seconds) as chunk_done:
            until_done(model, first, progress, waves, chunk_done)
        wall = seconds()
        check_stopped(model)
        outputs = {slot.name: reference.read_tensor(model.memory, slot) for slot in program.outputs}
        result = RunResult(outputs, model.counters(), wall, model.activity() if timeline else None, first)
        if checkpoint is not None:
            checkpoint.keep(vars(result))
        return result


def check_stopped(model: Model) -> None:
    """Raise :class:`SimulationError` if the machine stopped with an error."""
    failure = model.error()
    if failure is not None:
        raise SimulationError(f"the machine stopped: {failure[0].name.lower().replace('_', ' ')} at {failure[1]:#x}")


def until_done(
    model: Model,
    first: int,
    progress: Callable[[int], None] | None = None,
    waves: Waves | None = None,
    chunk_done: Callable[[], None] = lambda: None,
) -> None:
    """Run a machine that was started in cycle ``first``; ``chunk_done`` is called now and then.

    Raises :class:`SimulationError` if it makes no progress.
    """
    alive = (-1, -1)
    since = model.cycle
    tracing = False
    while True:
        at, chunk = model.cycle - first, _CHUNK_CYCLES
        awaited = waves is not None and at < waves.end
        if waves is not None and awaited:
            # The start write has taken some cycles already: a window from 0 begins with the rest of it.
            if at >= waves.first and not tracing:
                model.trace(waves.path)
                tracing = True
            chunk = min(chunk, (waves.first if at < waves.first else waves.end) - at)
        if model.run(chunk):
            break
        if waves is not None and model.cycle - first == waves.end:
            model.trace(None)
        if not awaited:  # looking at registers takes cycles, and the window begins at an exact one
            counters = model.counters()
            now = (counters.busy_cycles, counters.dram_read_bytes + counters.dram_write_bytes)
            if now != alive:
                alive, since = now, model.cycle
            elif model.cycle - since > _HANG_CYCLES:
                raise SimulationError(f"the machine makes no progress after {model.cycle - first} cycles: {counters}")
        chunk_done()
        if progress is not None:
            progress(model.cycle - first)
    if waves is not None:
        model.trace(None)
        if model.cycle - first <= waves.first:
            raise InputError(
                f"the run ended after {model.cycle - first} cycles, before the waveform's window",
                where=f"{waves.first}:{waves.end}",
                hint="Choose an earlier window.",
            )


@contextlib.contextmanager
def _snapshots(
    checkpoint: Checkpoint | None, model: Model, first: int, seconds: Callable[[], float]
) -> Iterator[Callable[[], None]]:
    """Yield a function to call between stretches of the run; it saves now and then, and at an interruption."""
    last = time.perf_counter()

    def chunk_done() -> None:
        nonlocal last
        if checkpoint is not None and time.perf_counter() - last >= SNAPSHOT_SECONDS:
            checkpoint.save(model, first, seconds())
            last = time.perf_counter()

    try:
        yield chunk_done
    except KeyboardInterrupt:
        if checkpoint is not None:
            checkpoint.save(model, first, seconds())
        raise
