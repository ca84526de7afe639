"""A network compiled for a machine: the model is loaded, a frame is made for it, and both go to the compiler."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import ImportedModel
from codesign.compile.importing.published.restorer import SizeRule
from codesign.compile.importing.value_range import UNIT, Values
from codesign.compile.ir.evaluate import size_free
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import InputError
from codesign.hw.spec import AccelSpec, load_spec
from codesign.sim.model import Dram
from codesign.workflows.frames import (
    CROP,
    TRAINING_PHOTOGRAPHS,
    Frame,
    FrameChoice,
    calibration_frames,
    make_frame,
    photographs,
)
from codesign.workflows.sources import DEFAULT_SIZE, Size, Source, import_source, scale_of, values_of
from codesign.workflows.watch import Say, silent


@dataclass(frozen=True)
class Compiled:
    """A compiled network with the frame that it is run on and judged by."""

    source: Source
    network: CompiledNetwork
    frame: Frame
    seconds: float

    def like_frame(self, given: Path, size: Size | None = None) -> Frame:
        """Another input of the same kind; ``size`` cuts it out of its centre. Raises :class:`InputError`."""
        frame = make_frame(self.frame.tensor.shape[1], self.frame.scale, FrameChoice(size, given=given))
        return frame.fitted(self.source.sides, self.frame.values)

    def input_json(self) -> dict[str, Any]:
        """How the frame was fitted to the network, and the network's card, for machines."""
        shown, values, card = self.frame.shown, self.frame.values, self.source.card
        return {
            "input_values": str(values.range),
            "input_values_reason": values.reason,
            "image_size": f"{shown[0]}x{shown[1]}" if shown else f"{self.frame.width}x{self.frame.height}",
            "model": None if card is None else card.to_json(),
        }

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was done to the frame, in words."""
        shown, values = self.frame.shown, self.frame.values
        padded = (
            [f"The image of {shown[0]}x{shown[1]} is padded to {self.frame.width}x{self.frame.height}, the result cut."]
            if shown
            else []
        )
        return (f"The network is fed {values.range} ({values.reason}).", *padded)


def compile_source(
    source: Source,
    accel: str | AccelSpec = "base",
    choice: FrameChoice = FrameChoice(),
    *,
    quantisation: Quantisation = Quantisation(),
    images: Path | None = None,
    dram_bytes_per_cycle: float | None = None,
    say: Say = silent,
) -> Compiled:
    """Compile for an accelerator. A ``choice`` without size and image takes frames of 64x64.

    ``images``: a folder of photographs to calibrate and fine-tune with, instead of scikit-image's.
    ``dram_bytes_per_cycle``: the bandwidth that the plan is made for; the bus width by default.
    """
    began = time.perf_counter()
    spec = load_spec(accel) if isinstance(accel, str) else accel
    Dram(dram_bytes_per_cycle)  # refuses a bandwidth that no memory has
    say("import")
    model, frame = _load(source, choice)
    channels = frame.tensor.shape[1]
    any_size = model.quantised or size_free(from_module(model.module))
    crop = source.sides.padded((CROP, CROP)) if any_size else frame.size
    crops = calibration_frames(channels, frame.scale, images, crop)
    values = values_of(source, model, crops[0])
    frame = frame.fitted(SizeRule(), values)
    if quantisation.finetune_steps:
        say("read the images")
        training = photographs(channels, frame.scale, folder=images, limit=TRAINING_PHOTOGRAPHS)
        fed = [values.range.encode(source.sides.pad(one)) for one in training]
        quantisation = dataclasses.replace(quantisation, finetune_images=fed)
    network = compile_network(
        model,
        spec,
        calibration=[values.range.encode(one) for one in crops],
        quantisation=dataclasses.replace(quantisation, pixel_output=source.images_out and values.range == UNIT),
        name=source.name,
        dram_bytes_per_cycle=dram_bytes_per_cycle,
        on_stage=say,
    )
    return Compiled(source, network, frame, time.perf_counter() - began)


def _load(source: Source, choice: FrameChoice) -> tuple[ImportedModel, Frame]:
    """The model, and a frame with its channels and scale, in [0, 1]; imported again if the frame has another size."""
    if choice == FrameChoice():
        choice = FrameChoice(DEFAULT_SIZE)
    size = choice.size or DEFAULT_SIZE
    known = choice.size is not None  # else the image says, for which the network's channels and scale must be known
    size = source.sides.padded(size)
    model = import_source(source, size, final=known)
    frame = make_frame(model.input_shape[1], scale_of(source, model), choice).fitted(source.sides, Values())
    return (model if known and frame.size == size else import_source(source, frame.size)), frame


def run_float(compiled: Compiled) -> NDArray[np.float32]:
    """The network in FP32 by torch, for its quality: ``float32[1, C, H, W]``.

    Raises :class:`InputError` for a model file, which has no torch module.
    """
    if compiled.source.module is None:
        raise InputError(
            "FP32 quality needs a torch module",
            where=compiled.source.name,
            hint="Give a reference network or a torch module.",
        )
    with torch.no_grad():
        return np.asarray(compiled.source.module(torch.from_numpy(compiled.frame.tensor)).numpy(), np.float32)
