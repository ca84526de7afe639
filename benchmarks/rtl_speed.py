"""What the RTL's assertions cost: cycles per second of CPU time with and without them, in interleaved pairs.

python benchmarks/rtl_speed.py      writes benchmarks/results/rtl_speed.json
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import provenance

from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE, TINY
from codesign.sim.build import Variant
from codesign.sim.model import Dram, Model
from codesign.sim.run import until_done
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find

PAIRS = 7
CASES = (("sesr_m5_x2", TINY, (24, 16)), ("sesr_m5_x2", BASE, (64, 48)))
RESULTS = Path(__file__).parent / "results" / "rtl_speed.json"


def cycles_per_second(program: Program, memory: np.ndarray, assertions: bool) -> tuple[int, float]:
    """The cycles of a run, and cycles per second of CPU time."""
    with Model(program.spec, program.memory_bytes, dram=Dram(), variant=Variant(assertions=assertions)) as model:
        model.load(program)
        model.memory[:] = memory
        started = model.cycle
        model.start()
        began = time.process_time()
        until_done(model, started)
        seconds = time.process_time() - began
        return model.cycle - started, (model.cycle - started) / seconds


def measure(name: str, spec: Any, size: tuple[int, int]) -> dict[str, Any]:
    """One row: medians, and the ratio of every pair."""
    program = compile_source(find(name), spec.name, FrameChoice(size=size)).network.regions[0].program
    rng = np.random.default_rng(0)
    inputs = {
        slot.name: rng.integers(-128, 128, (slot.height, slot.width, slot.channels), dtype=np.int8)
        for slot in program.inputs
    }
    memory = np.array(reference.initial_memory(program, inputs))
    pairs = []
    for index in range(PAIRS + 1):
        order = (True, False) if index % 2 else (False, True)
        speeds = {assertions: cycles_per_second(program, memory, assertions) for assertions in order}
        assert speeds[True][0] == speeds[False][0]
        pairs.append((speeds[False][1], speeds[True][1]))
    pairs = pairs[1:]  # the first builds the models
    return {
        "network": name,
        "accel": spec.name,
        "input_size": f"{size[0]}x{size[1]}",
        "cycles": speeds[True][0],
        "cycles_per_second_without": round(statistics.median(one for one, _ in pairs)),
        "cycles_per_second_with": round(statistics.median(other for _, other in pairs)),
        "ratios": [round(other / one, 3) for one, other in pairs],
        "median_ratio": round(statistics.median(other / one for one, other in pairs), 3),
    }


def main() -> None:
    rows = []
    for case in CASES:
        rows.append(measure(*case))
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "command": "python benchmarks/rtl_speed.py",
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
