"""Networks of the catalogue as modules to be stored: float as imported, and quantised as calibrated here."""

from __future__ import annotations

import tvm

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.calibration import PIXELS
from codesign.compile.quantise.quantise import calibrate
from codesign.networks.blocks import block_input
from codesign.workflows.frames import calibration_frames


def modules_of(name: str, size: tuple[int, int], block: str) -> dict[str, tvm.IRModule]:
    """The modules ``float`` and ``quantised`` of a network, or of a ``block`` inside it, for frames of ``size``."""
    network = networks.get("spynet" if name == "spynet_level" else name)
    module = networks.load(network.name)
    channels = network.channels
    grown = tuple(2 * extent for extent in size) if name == "spynet_level" else size
    crops = calibration_frames(channels, network.scale, size=(grown[0], grown[1]))[:2]
    if block:
        inner = module.get_submodule(block)
        crops = [block_input(module, inner, crop) for crop in crops]
        module, channels = inner, crops[0].shape[1]
    model = load_model(module, width=size[0], height=size[1], channels=channels)
    images = not block and network.task != "flow"
    found = calibrate(model.module, crops, "minmax", output_params=PIXELS if images else None)
    return {"float": model.module, "quantised": found.quantised().module}
