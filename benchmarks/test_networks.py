"""Cost of compiling and simulating, and the machine's speed: ``make bench``; with ``DATA=DIR`` also quality.

Each benchmark runs once and keeps its figures in ``extra_info``; compare figures only within one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

NETWORKS = (
    "bicubic_x2",
    "espcn_x3",
    "fsrcnn_x2",
    "sesr_m5_x2",
    "abpn_x3",
    "quicksrnet_m_x3",
    "edsr_f32b5_x2",
    "srvgg16_x4",
    "dncnn17",
)


def measured(arguments: list[str], tmp_path: Path) -> tuple[dict, float, int]:
    """Run a command in a process of its own; returns its JSON, wall seconds, and peak memory in bytes."""
    target = tmp_path / "figures.json"
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "codesign", *arguments, "--json", str(target)], stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(target.read_text()), seconds, usage.ru_maxrss * 1024


def test_compile_720p(benchmark, tmp_path):
    """Target: 10 s, 4 GiB."""
    data, seconds, peak = benchmark.pedantic(
        measured, args=(["compile", "sesr_m5_x2", "--size", "1280x720"], tmp_path), rounds=1
    )
    benchmark.extra_info.update(
        compile_seconds=data["compile_seconds"], process_seconds=seconds, peak_bytes=peak, cascades=data["cascades"]
    )
    assert peak < 4 * 2**30


def test_simulate_720p(benchmark, tmp_path):
    """Target: 4 GiB; one whole frame on the RTL, bit-exact."""
    data, seconds, peak = benchmark.pedantic(
        measured, args=(["simulate", "sesr_m5_x2", "--size", "1280x720"], tmp_path), rounds=1
    )
    benchmark.extra_info.update(process_seconds=seconds, peak_bytes=peak, **figures(data))
    assert data["bit_exact"] is True
    assert peak < 4 * 2**30


@pytest.mark.parametrize("accel", ["tiny", "base"])
@pytest.mark.parametrize("name", NETWORKS)
def test_simulate_64x64(benchmark, tmp_path, name, accel):
    data, seconds, peak = benchmark.pedantic(
        measured, args=(["simulate", name, "--accel", accel, "--size", "64x64"], tmp_path), rounds=1
    )
    benchmark.extra_info.update(process_seconds=seconds, peak_bytes=peak, **figures(data))
    assert data["bit_exact"] is True


def figures(data: dict) -> dict:
    names = (
        "cycles",
        "mac_utilization",
        "dram_read_bytes",
        "dram_write_bytes",
        "compulsory_bytes",
        "stalls",
        "sim_cycles_per_second",
        "quality_db",
        "wall_seconds",
        "distinct_output_values",
    )
    return {name: data[name] for name in names}


def test_reference_720p(benchmark):
    """Target: a 720p SESR-M5 frame on the golden model in 5 s."""
    from codesign.compile.scanline.module import Int8
    from codesign.hw.model import reference
    from codesign.workflows.compile import compile_source
    from codesign.workflows.frames import FrameChoice
    from codesign.workflows.sources import find

    compiled = compile_source(find("sesr_m5_x2"), "base", FrameChoice((1280, 720)))
    (region,) = compiled.network.regions
    import numpy as np

    frame: Int8 = np.rint(compiled.frame.tensor[0].transpose(1, 2, 0) * 255 - 128).astype(np.int8)
    inputs = {region.program.inputs[0].name: frame}
    benchmark.pedantic(reference.run, args=(region.program, inputs), rounds=3)


def test_set5_quality(benchmark, data_dir):
    """SESR-M5 x2: FP32 at least 37.2 dB, post-training INT8 at most 0.25 dB below it."""
    import torch

    from codesign import networks
    from codesign.compile.importing.model import load_model
    from codesign.compile.ir import evaluate
    from codesign.compile.ir.relax import from_module
    from codesign.compile.quantise.calibration import PIXELS
    from codesign.compile.quantise.quantise import calibrate
    from codesign.metrics import set5
    from codesign.workflows.frames import calibration_frames

    net = networks.load("sesr_m5_x2")
    model = load_model(net, width=64, height=64, channels=1)
    graph = from_module(
        calibrate(model.module, calibration_frames(1, 2), "percentile", output_params=PIXELS).quantised().module
    )

    def judge() -> tuple[float, float]:
        with torch.no_grad():
            full = set5(lambda x: net(torch.from_numpy(x)).numpy(), data_dir, 2)["mean"]
            int8 = set5(lambda x: evaluate.run(graph, torch.from_numpy(x)).numpy(), data_dir, 2)["mean"]
        return full, int8

    full, int8 = benchmark.pedantic(judge, rounds=1)
    benchmark.extra_info.update(fp32_db=full, int8_db=int8)
    assert full >= 37.2
    assert full - int8 <= 0.25
