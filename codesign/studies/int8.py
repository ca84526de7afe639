"""INT8 compared with FP16, network by network: speed, energy and picture quality.

Speed and energy are those of one GPU in both precisions, measured where there are records, else by the roofline; and
those of Scanline, which has INT8 alone. Quality is measured: the quantised network's own output on the reference
photograph.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.energy.account import DRAMS, EnergyAccount, Evidence, account
from codesign.energy.gpu import GpuFigures, on_gpu
from codesign.energy.interval import Interval
from codesign.hw.spec import AccelSpec
from codesign.studies.costing import Costing, cost, prefixed
from codesign.workflows.compile import Compiled, compile_source, run_float
from codesign.workflows.frames import FrameChoice, judge
from codesign.workflows.recorded import RESULTS
from codesign.workflows.sources import find
from codesign.workflows.watch import Say, silent

NETWORKS = ("sesr_m5_x2", "quicksrnet_m_x3", "edsr_f32b5_x2", "srvgg16_x4", "dncnn17")
"""Networks studied by default: those that the integer referee evaluates as a whole, in seconds."""

QUALITY_SIZE = (128, 128)
"""Input size at which quality is measured, cut from the centre of the photograph."""

CLAIMED_SPEEDUP = (3.0, 4.0)
"""Claimed speed of INT8 over FP16."""


@dataclass(frozen=True)
class Loss:
    """Loss by quantisation on one picture. PSNRs against the truth are None without trained weights."""

    fp32_db: float | None
    fp16_db: float | None
    int8_db: float | None
    int8_over_fp32_db: float
    """PSNR of the INT8 output against the FP32 output, meaningful for any weights."""
    fp16_over_fp32_db: float

    @property
    def lost_db(self) -> float | None:
        return None if self.fp16_db is None or self.int8_db is None else self.fp16_db - self.int8_db


@dataclass(frozen=True)
class Int8Row:
    """One network. ``fp16`` and ``int8`` are the GPU's; ``account`` is Scanline's."""

    costing: Costing
    fp16: GpuFigures
    int8: GpuFigures
    account: EnergyAccount = field(repr=False)
    loss: Loss

    @property
    def measured(self) -> bool:
        """Whether both of the GPU's figures are measurements."""
        return self.fp16.evidence is Evidence.HARDWARE and self.int8.evidence is Evidence.HARDWARE

    @property
    def speedup(self) -> Interval:
        """FP16's time over INT8's. If both are modelled, they reach the same share of their rooflines: the ratio is
        exact."""
        if self.fp16.evidence is Evidence.MODEL and self.int8.evidence is Evidence.MODEL:
            return Interval.exact(self.fp16.seconds.value / self.int8.seconds.value)
        return self.fp16.seconds / self.int8.seconds

    @property
    def energy_ratio(self) -> Interval:
        """FP16's joules over INT8's on the GPU, bound by bound, since common inputs vary together."""
        ratios = sorted(
            (
                self.fp16.joules.low / self.int8.joules.low,
                self.fp16.joules.high / self.int8.joules.high,
                self.fp16.joules.value / self.int8.joules.value,
            )
        )
        return Interval(self.fp16.joules.value / self.int8.joules.value, ratios[0], ratios[-1])

    @property
    def scanline_ratio(self) -> Interval:
        """The GPU's INT8 joules over Scanline's."""
        return self.int8.joules / self.account.system_j


@dataclass(frozen=True)
class Int8Study:
    """A study of several networks. ``size``: of the input frame whose time and energy are compared."""

    size: tuple[int, int]
    gpu: str
    rows: tuple[Int8Row, ...]
    command: str

    @property
    def verdict(self) -> str:
        """Whether the claim of three to four times holds, and the loss of quality."""
        speeds = [row.speedup.value for row in self.rows]
        joules = [row.energy_ratio.value for row in self.rows]
        low, high = CLAIMED_SPEEDUP
        kind = (
            "measured" if all(row.measured for row in self.rows) else "at most, both at the same share of their peaks"
        )
        reached = [row.costing.network.name for row in self.rows if row.speedup.value >= low]
        holds = (
            f"{low:g} to {high:g} times holds for {', '.join(reached)}"
            if reached
            else (f"{low:g} to {high:g} times holds for none")
        )
        lost = {row.costing.network.name: row.loss.lost_db for row in self.rows if row.loss.lost_db is not None}
        quality = "; ".join(f"{name} loses {loss:.2f} dB" for name, loss in lost.items())
        return (
            f"INT8 is {_range(speeds)} times as fast as FP16 on an {self.gpu} ({kind}) and takes {_range(joules)} "
            f"times less energy: {holds}. Quality: {quality or 'no trained weights, so none can be stated'}."
        )


def int8_study(
    names: Sequence[str],
    size: tuple[int, int],
    spec: AccelSpec,
    gpu: str,
    *,
    weights: Mapping[str, Path] | None = None,
    dram: str = DRAMS[0],
    results: Path = RESULTS,
    command: str = "",
    say: Say = silent,
) -> Int8Study:
    """Study ``names`` (NETWORKS when empty) at ``size`` of the input; ``weights`` by network's name.

    Raises :class:`codesign.hw.errors.InputError` for unknown networks and GPUs,
    :class:`codesign.hw.errors.UnsupportedError` for a network that the referee cannot evaluate as a whole.
    """
    recorded = sorted((results / "gpu").glob("*.json"))
    rows = []
    for name in names or NETWORKS:
        say(f"{name}: quality")
        loss = measure_loss(compile_source(find(name, (weights or {}).get(name)), spec, FrameChoice(QUALITY_SIZE)))
        costing = cost(name, size, spec, prefixed(say, name))
        rows.append(
            Int8Row(
                costing=costing,
                fp16=on_gpu(costing.workload, gpu, recorded, "FP16"),
                int8=on_gpu(costing.workload, gpu, recorded, "INT8"),
                account=account(costing.counters, spec, dram=dram),
                loss=loss,
            )
        )
    return Int8Study(size, gpu, tuple(rows), command)


def measure_loss(compiled: Compiled) -> Loss:
    """Losses of one frame in FP16 (weights and activations rounded, sums in FP32) and in the quantised graph.

    Raises :class:`codesign.hw.errors.UnsupportedError` for a graph that the referee cannot evaluate in integers.
    """
    network, frame = compiled.network, compiled.frame
    full = run_float(compiled)
    half = run_half(compiled)
    entry, leave = quantised_io(network.quantised)
    codes = np.clip(np.rint(frame.tensor / np.float32(entry.scale)) + entry.zero_point, -128, 127).astype(np.int8)
    found = evaluate(network.partitioned.graph, codes).astype(np.float32)
    values = (found - leave.zero_point) * np.float32(leave.scale)
    trained = compiled.source.trained
    return Loss(
        fp32_db=judge(frame, full).psnr_db if trained else None,
        fp16_db=judge(frame, half).psnr_db if trained else None,
        int8_db=judge(frame, values).psnr_db if trained else None,
        int8_over_fp32_db=nearness_db(values, full),
        fp16_over_fp32_db=nearness_db(half, full),
    )


def run_half(compiled: Compiled) -> NDArray[np.float32]:
    """The network as FP16 kernels compute it: every weight and every layer's result rounded to FP16."""
    module = compiled.source.module
    assert module is not None

    def rounded(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.half().float()

    half = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in half.parameters():
            parameter.copy_(parameter.half().float())
        handles = [one.register_forward_hook(rounded) for one in half.modules() if not list(one.children())]
        output = half(torch.from_numpy(compiled.frame.tensor).half().float())
        for handle in handles:
            handle.remove()
    return np.asarray(output.numpy(), np.float32)


def nearness_db(values: NDArray[np.float32], of: NDArray[np.float32]) -> float:
    """PSNR of ``values`` with ``of`` as the truth and its range as the peak; infinite if they are equal."""
    error = float(np.mean((values.astype(np.float64) - of) ** 2))
    peak = float(of.max() - of.min())
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(peak**2 / error))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def to_json(study: Int8Study) -> dict[str, Any]:
    """The study for machines."""
    return {
        "schema": "codesign.int8/1",
        "command": study.command,
        "input_size": f"{study.size[0]}x{study.size[1]}",
        "quality_size": f"{QUALITY_SIZE[0]}x{QUALITY_SIZE[1]}",
        "gpu": study.gpu,
        "verdict": study.verdict,
        "networks": [
            {
                "network": row.costing.network.name,
                "macs": row.costing.workload.macs,
                "gpu": {
                    figures.precision: {
                        "ms_per_frame": (figures.seconds * 1e3).to_json(),
                        "j_per_frame": figures.joules.to_json(),
                        "evidence": figures.evidence.value,
                        "records": list(figures.records),
                    }
                    for figures in (row.fp16, row.int8)
                },
                "scanline": {
                    "ms_per_frame": row.costing.seconds * 1e3,
                    "j_per_frame": row.account.system_j.to_json(),
                    "evidence": Evidence.MODEL.value,
                },
                "speedup": row.speedup.to_json(),
                "j_ratio": row.energy_ratio.to_json(),
                "j_ratio_scanline": row.scanline_ratio.to_json(),
                "quality_db": {"fp32": row.loss.fp32_db, "fp16": row.loss.fp16_db, "int8": row.loss.int8_db},
                "lost_db": row.loss.lost_db,
                "int8_over_fp32_db": row.loss.int8_over_fp32_db,
                "fp16_over_fp32_db": row.loss.fp16_over_fp32_db,
            }
            for row in study.rows
        ],
    }
