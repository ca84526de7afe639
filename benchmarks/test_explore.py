"""Speed of the analytical model in machines per second: ``make bench-explore``."""

from __future__ import annotations

import time

import numpy as np
import pytest

from codesign.compile.scanline.emit import emit
from codesign.hw.spec import BASE
from codesign.hw.timing import model as timing
from codesign.workflows.compile import compile_source
from codesign.workflows.explore import explore, product
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find

CHOICES = {
    "pixel_lanes": [8, 16],
    "requantise_lanes": [32, 64],
    "scratchpad_bytes": [1024 * k for k in range(64, 1025, 16)],
    "dram_bytes_per_cycle": [1, 2, 3, 4, 6, 8, 10, 12, 14, 16],
    "clock_hz": [1e8 * k for k in range(2, 21)],
}
SAMPLE = 12


@pytest.fixture(scope="module")
def region():
    """FSRCNN x2 at 960x540 on ``base``."""
    return compile_source(find("fsrcnn_x2"), BASE, FrameChoice((960, 540))).network.regions[0]


@pytest.mark.parametrize("search", [False, True], ids=["mapping_kept", "cascades_searched"])
def test_explore_fsrcnn(benchmark, region, search):
    """Target: 100 thousand machines per second with the mapping kept, a thousand with cascades searched."""
    machines = product(BASE, CHOICES)
    found = benchmark.pedantic(
        explore, args=(region.graph, machines), kwargs={"keep": None if search else region.plan}, rounds=3
    )
    errors = []
    feasible = np.flatnonzero(np.isfinite(found.cycles))
    for index in np.random.default_rng(0).choice(feasible, SAMPLE, replace=False).tolist():
        memory = timing.Memory(float(machines.column("dram_bytes_per_cycle")[index]))
        errors.append(found.cycles[index] / timing.predict(emit(found.plan(index)), memory).cycles - 1.0)
    benchmark.extra_info.update(
        machines=len(machines),
        families=4,
        feasible=len(feasible),
        machines_per_second=len(machines) / benchmark.stats.stats.median,
        sample=SAMPLE,
        least_error=min(errors),
        greatest_error=max(errors),
    )


def test_predict_4k_rrdbnet(benchmark):
    """Target: the cycle model predicts a frame of RRDBNet x4 to 3840x2160 in 5 s."""
    program = compile_source(find("rrdbnet_x4"), BASE, FrameChoice((960, 540))).network.regions[0].program
    began = time.perf_counter()
    counters = benchmark.pedantic(timing.predict, args=(program,), rounds=1)
    benchmark.extra_info.update(cycles=counters.cycles, predict_seconds=time.perf_counter() - began)
