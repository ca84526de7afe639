"""Run a clip on the RTL, frame after frame in one machine, so that states stay in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.hw.model import reference
from codesign.hw.model.clip import Stream, put
from codesign.sim.build import Report, Variant
from codesign.sim.model import Dram, Model
from codesign.sim.run import RunResult, check_stopped, until_done


def run_stream(
    stream: Stream,
    frames: Sequence[Mapping[str, NDArray[np.int8]]],
    *,
    dram: Dram | None = None,
    progress: Callable[[int], None] | None = None,
    report: Report | None = None,
    assertions: bool = True,
) -> Iterator[RunResult]:
    """Simulate a clip, yielding every frame's result as it is done.

    ``frames`` holds the inputs of each frame by name, without the states. ``progress`` is called with the cycles of all
    frames so far. ``assertions`` and the errors raised are those of :func:`codesign.sim.run.run`.
    """
    image, variant = stream.memory(), Variant(assertions=assertions)
    with Model(stream.turn(0).spec, len(image), dram=dram or Dram(), report=report, variant=variant) as model:
        model.memory[:] = image
        begun = model.cycle
        for number, inputs in enumerate(frames):
            program = stream.turn(number)
            put(model.memory, program, inputs)
            model.select(program)
            first, since = model.cycle, time.perf_counter()
            model.start()
            until_done(model, first, _since(begun, first, progress))
            check_stopped(model)
            outputs = {slot.name: reference.read_tensor(model.memory, slot) for slot in program.outputs}
            yield RunResult(outputs, model.counters(), time.perf_counter() - since)


def _since(begun: int, first: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """``progress`` in cycles from ``begun`` on, for a frame that began in cycle ``first``."""
    return None if progress is None else lambda cycles: progress(first - begun + cycles)
