"""The compiler, stage by stage: a model in, a program per accelerator region and a runnable module out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.compile.importing.model import ImportedModel
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.budget import Mixed, within
from codesign.compile.quantise.calibration import PIXELS, Method
from codesign.compile.quantise.finetune import fine_tune, teach
from codesign.compile.quantise.quantise import Calibrated, Quantised, calibrate
from codesign.compile.quantise.widths import Widths
from codesign.compile.scanline.emit import compulsory_bytes, emit
from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.lower import lower
from codesign.compile.scanline.module import build_module
from codesign.compile.scanline.partition import Partitioned, Placement, partition
from codesign.compile.scanline.partition import Region as Part
from codesign.compile.scanline.plan.cascade import Plan, make_plan
from codesign.hw.errors import InputError
from codesign.hw.program.program import Program
from codesign.hw.spec import AccelSpec

HOST_MACS_WARNING = 0.01
"""Share of the MACs on the host above which the user is warned."""


@dataclass(frozen=True)
class Quantisation:
    """Options of the quantisation of a float network to 8 and 16 bits.

    ``error_budget``: how far, in the output's units and per pixel, the quantised network's result may lie from the
    float one's on the calibration images; the costliest tensors get 16 bits until it does
    (:mod:`codesign.compile.quantise.budget`). ``widths`` chooses the tensors of 16 bits instead. ``finetune_steps`` of
    quantisation-aware training bring the quantised network nearer to its float original on ``finetune_images``
    (the calibration's, when there are none). ``pixel_output``: the output is an image in [0, 1] and keeps the scale of
    8-bit pixels.
    """

    method: Method = "percentile"
    error_budget: float | None = None
    widths: Callable[[Calibrated], Widths] | None = None
    finetune_steps: int = 0
    finetune_images: Sequence[NDArray[np.float32]] = field(default=(), repr=False)
    pixel_output: bool = False

    def check_float(self, model: ImportedModel) -> None:
        """Raise :class:`InputError` if this asks for the float original of a ``model`` that came quantised."""
        hint = None
        if self.finetune_steps:
            hint = "Fine-tune the float model."
        if self.error_budget is not None:
            hint = "Give the float model to keep an error budget."
        if hint is not None:
            raise InputError("the model came quantised, its float original is unknown", where=model.name, hint=hint)


@dataclass(frozen=True)
class Region:
    """A part of the network that runs on the accelerator."""

    part: Part = field(repr=False)
    """The part of the quantised network it computes; inputs and outputs are in the order of the program's slots."""
    graph: LayerGraph = field(repr=False)
    """The user's layers; the plan has them as rewritten for the machine."""
    plan: Plan = field(repr=False)
    program: Program = field(repr=False)

    @property
    def symbol(self) -> str:
        return self.part.symbol


@dataclass(frozen=True)
class CompiledNetwork:
    """The result of :func:`compile_network`. Shapes are ``(1, C, H, W)``."""

    name: str
    spec: AccelSpec
    source: ImportedModel = field(repr=False)
    quantised: tvm.IRModule = field(repr=False)
    partitioned: Partitioned = field(repr=False)
    regions: tuple[Region, ...]
    codes: dict[str, int] = field(repr=False)
    """Number of distinct int8 codes per stored tensor in calibration; empty for a model that came quantised."""
    mixed: Mixed | None = field(default=None, repr=False)
    """Tensors of 16 bits, with reasons; None without an error budget."""

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
        """Bytes of inputs, outputs and weights of the accelerator regions, as dense int8."""
        return sum(compulsory_bytes(region.graph) for region in self.regions)

    def executable(self) -> Any:
        """The mixed TVM module, to be exported with :func:`codesign.compile.scanline.module.export`."""
        return build_module(self.partitioned, {region.symbol: region.program for region in self.regions})


def compile_network(
    model: ImportedModel,
    spec: AccelSpec,
    *,
    calibration: Sequence[NDArray[np.float32]] = (),
    quantisation: Quantisation = Quantisation(),
    name: str | None = None,
    dram_bytes_per_cycle: float | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> CompiledNetwork:
    """Quantise (unless ``model`` came quantised), partition, lower, plan and emit.

    ``calibration``: images ``float32[1, C, H, W]``. ``dram_bytes_per_cycle``: the bandwidth that the plan is made for;
    the bus width by default. ``on_stage`` is told each stage's name as it begins.

    Raises :class:`InputError` for a float model without calibration images and for a quantised one that is to be
    fine-tuned, :class:`UnsupportedError` for a layer that ``spec`` cannot hold.
    """
    codes: dict[str, int] = {}
    mixed: Mixed | None = None
    if model.quantised:
        quantisation.check_float(model)
        quantised = model.module
    else:
        if not calibration:
            raise InputError(
                "a float model needs calibration images",
                where=model.name,
                hint="Give images like those that the network will see.",
            )
        result, mixed = _quantise(model, calibration, quantisation, on_stage)
        quantised, codes = result.module, result.codes
        if quantisation.finetune_steps:
            quantised = _fine_tune(result, quantisation, calibration, on_stage)
    on_stage("partition")
    partitioned = partition(from_module(quantised), spec)
    regions = []
    for part in partitioned.regions:
        on_stage(f"lower {part.symbol}")
        graph = lower(part, name or model.name)
        on_stage(f"plan {part.symbol}")
        plan = make_plan(spec, graph, dram_bytes_per_cycle)
        on_stage(f"emit {part.symbol}")
        regions.append(Region(part, graph, plan, emit(plan)))
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


def _quantise(
    model: ImportedModel,
    calibration: Sequence[NDArray[np.float32]],
    quantisation: Quantisation,
    on_stage: Callable[[str], None],
) -> tuple[Quantised, Mixed | None]:
    on_stage("quantise")
    output_params = PIXELS if quantisation.pixel_output else None
    network = calibrate(model.module, calibration, quantisation.method, output_params=output_params)
    mixed, widths = None, network.least
    if quantisation.error_budget is not None:
        mixed = within(network, quantisation.error_budget, calibration, lambda text: on_stage(f"quantise, {text}"))
        widths = mixed.widths
    if quantisation.widths is not None:
        widths = quantisation.widths(network)
    return network.quantised(widths), mixed


def _fine_tune(
    quantised: Quantised,
    quantisation: Quantisation,
    calibration: Sequence[NDArray[np.float32]],
    on_stage: Callable[[str], None],
) -> tvm.IRModule:
    steps = quantisation.finetune_steps
    return fine_tune(
        quantised.module,
        teach(quantised.source, quantisation.finetune_images or calibration),
        steps=steps,
        loss="l2",
        start=quantised.source,
        on_step=lambda step, _: on_stage(f"fine-tune, step {step + 1} of {steps}"),
    )
