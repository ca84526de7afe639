"""Networks of the catalogue as modules to be stored: float as imported, and quantised as calibrated here."""

from __future__ import annotations

import tvm
from torch import nn

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.calibration import PIXELS
from codesign.compile.quantise.quantise import calibrate
from codesign.networks.basicvsr import BasicVsr
from codesign.networks.blocks import block_input
from codesign.networks.seeds import seed
from codesign.workflows.frames import calibration_frames

SHALLOW = networks.Network(
    "basicvsr_b2_x4", "basicvsr", "upscale", 4, 9, "2 blocks instead of 30", lambda: BasicVsr(3, blocks=2)
)
"""BasicVSR with all that it consists of, but fewer of the blocks that are alike: the whole takes 0.8 MB to store."""


def modules_of(name: str, size: tuple[int, int], block: str) -> dict[str, tvm.IRModule]:
    """The modules ``float`` and ``quantised`` of a network, or of a ``block`` inside it, for frames of ``size``."""
    network, module = _loaded("spynet" if name == "spynet_level" else name)
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


def _loaded(name: str) -> tuple[networks.Network, nn.Module]:
    if name != SHALLOW.name:
        return networks.get(name), networks.load(name)
    module = SHALLOW.build().eval()
    seed(module, name, SHALLOW.channels)
    return SHALLOW, module.requires_grad_(False)
