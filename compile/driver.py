"""The compiler, stage by stage: a model in, a program per accelerator region and a runnable module out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.compile.importing.model import ImportedModel
from codesign.compile.quantise.budget import Mixed, within
from codesign.compile.quantise.calibration import PIXELS, Method
from codesign.compile.quantise.finetune import fine_tune, teach
from codesign.compile.quantise.quantise import Calibrated, calibrate
from codesign.compile.quantise.widths import Widths
from codesign.compile.scanline.emit import compulsory_bytes, emit
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.lower import lower
from codesign.compile.scanline.module import build_module
from codesign.compile.scanline.partition import Partitioned, Placement, partition
from codesign.compile.scanline.plan.cascade import Plan, make_plan
from codesign.hw.errors import InputError
from codesign.hw.program.program import Program
from codesign.hw.spec import AccelSpec

HOST_MACS_WARNING = 0.01
"""Share of the MACs on the host above which the user is warned."""


@dataclass(frozen=True)
class Region:
    """A part of the network on the accelerator."""

    symbol: str
    graph: LayerGraph = field(repr=False)
    """The user's layers; the plan has them as rewritten for the machine."""
    plan: Plan = field(repr=False)
    program: Program = field(repr=False)


@dataclass(frozen=True)
class CompiledNetwork:
    """What :func:`compile_network` made. Shapes are ``(1, C, H, W)``."""

    name: str
    spec: AccelSpec
    source: ImportedModel = field(repr=False)
    quantised: tvm.IRModule = field(repr=False)
    partitioned: Partitioned = field(repr=False)
    regions: tuple[Region, ...]
    codes: dict[str, int] = field(repr=False)
    """Distinct int8 codes that calibration saw per stored tensor; empty for a model that came quantised."""
    mixed: Mixed | None = field(default=None, repr=False)
    """What has 16 bits and why; None without an error budget."""

    @property
    def placements(self) -> tuple[Placement, ...]:
        return self.partitioned.placements

    @property
    def macs(self) -> int:
        return self.partitioned.macs

    @property
    def host_mac_share(self) -> float:
        return self.partitioned.host_macs / self.macs if self.macs else 0.0

    @property
    def compulsory_bytes(self) -> int:
        """Inputs, outputs and weights of the accelerator regions, dense int8."""
        return sum(compulsory_bytes(region.graph) for region in self.regions)

    def executable(self) -> Any:
        """The mixed TVM module, to be exported with :func:`codesign.compile.scanline.module.export`."""
        return build_module(self.partitioned, {region.symbol: region.program for region in self.regions})


def compile_network(
    model: ImportedModel,
    spec: AccelSpec,
    *,
    calibration: Sequence[NDArray[np.float32]] = (),
    method: Method = "percentile",
    name: str | None = None,
    pixel_output: bool = False,
    dram_bytes_per_cycle: float | None = None,
    error_budget: float | None = None,
    widths: Callable[[Calibrated], Widths] | None = None,
    finetune_steps: int = 0,
    finetune_images: Sequence[NDArray[np.float32]] = (),
    on_stage: Callable[[str], None] | None = None,
) -> CompiledNetwork:
    """Quantise (unless ``model`` came quantised), partition, lower, plan and emit.

    ``calibration``: images ``float32[1, C, H, W]``. ``pixel_output``: the output is an image in [0, 1] and keeps the
    scale of 8-bit pixels. ``error_budget``: how far, in the output's units and per pixel, the quantised network's
    result may lie from the float one's on the calibration images; what costs most gets 16 bits until it does
    (:mod:`codesign.compile.quantise.budget`). ``widths`` decides instead what has 16 bits.
    ``dram_bytes_per_cycle``: the bandwidth that the plan is made for; the bus width by default. ``finetune_steps`` of
    quantisation-aware training bring the quantised network nearer to its float original on ``finetune_images`` (the
    calibration's, when there are none). ``on_stage`` is told each stage's name as it begins.

    Raises :class:`InputError` for a float model without calibration images and for a quantised one that is to be
    fine-tuned, :class:`UnsupportedError` for a layer that ``spec`` cannot hold.
    """

    def stage(text: str) -> None:
        if on_stage is not None:
            on_stage(text)

    codes: dict[str, int] = {}
    mixed: Mixed | None = None
    if model.quantised:
        if error_budget is not None:
            raise InputError(
                "the model came quantised, its float original is unknown",
                where=model.name,
                hint="Give the float model to keep an error budget.",
            )
        if finetune_steps:
            raise InputError(
                "the model came quantised, its float original is unknown",
                where=model.name,
                hint="Fine-tune the float model.",
            )
        quantised = model.module
    else:
        if not calibration:
            raise InputError("a float model needs calibration images", where=model.name, hint="Give some images.")
        stage("quantise")
        network = calibrate(model.module, calibration, method, output_params=PIXELS if pixel_output else None)
        if error_budget is not None:
            mixed = within(network, error_budget, calibration, lambda text: stage(f"quantise, {text}"))
        chosen = network.least if mixed is None else mixed.widths
        result = network.quantised(chosen if widths is None else widths(network))
        quantised, codes = result.module, result.codes
        if finetune_steps:
            quantised = fine_tune(
                quantised,
                teach(result.source, finetune_images or calibration),
                steps=finetune_steps,
                loss="l2",
                start=result.source,
                on_step=lambda step, _: stage(f"fine-tune, step {step + 1} of {finetune_steps}"),
            )
    stage("partition")
    partitioned = partition(quantised, spec)
    regions = []
    for symbol, function in partitioned.regions:
        stage(f"lower and plan {symbol}")
        graph = lower(function, name or model.name)
        plan = make_plan(spec, graph, dram_bytes_per_cycle)
        regions.append(Region(symbol, graph, plan, emit(plan)))
    return CompiledNetwork(
        name=name or model.name,
        spec=spec,
        source=model,
        quantised=quantised,
        partitioned=partitioned,
        regions=tuple(regions),
        codes=codes,
        mixed=mixed,
    )
