"""Networks of the catalogue as modules to be stored: float as imported, and quantised as calibrated here."""

from __future__ import annotations

import numpy as np
import torch
import tvm
from numpy.typing import NDArray
from torch import nn

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.calibration import PIXELS
from codesign.compile.quantise.quantise import calibrate
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
        crops = [_fed(module, inner, crop) for crop in crops]
        module, channels = inner, crops[0].shape[1]
    model = load_model(module, width=size[0], height=size[1], channels=channels)
    images = not block and network.task != "flow"
    found = calibrate(model.module, crops, "minmax", output_params=PIXELS if images else None)
    return {"float": model.module, "quantised": found.quantised().module}


class _FoundError(Exception):
    """Ends a network's evaluation when the block's input is known."""


def _fed(net: nn.Module, block: nn.Module, frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ``block`` is fed when ``net`` runs on ``frame``."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _FoundError

    handle = block.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            net(torch.from_numpy(frame))
    except _FoundError:
        pass
    finally:
        handle.remove()
    return np.ascontiguousarray(found[0].numpy())
