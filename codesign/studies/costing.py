"""Cycles, bytes and energy of one frame of a reference network on a machine, without trained weights and without a run.

Cycles, bytes and joules do not depend on the weights' values, so the network is built as torch initialises it and
calibrated on one crop. All figures are the cycle model's (``modelled``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch

from codesign import networks
from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import size_free
from codesign.compile.ir.relax import from_module
from codesign.energy.gpu import Layer, Workload
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.spec import AccelSpec
from codesign.hw.timing import model as timing
from codesign.workflows.compare import gpu_layers
from codesign.workflows.frames import calibration_frames
from codesign.workflows.watch import Say, silent

CROP = (48, 48)
"""Size of the single image that a network is calibrated on."""

WHOLE_FRAME_PIXELS = 600_000
"""Largest frame at which a network is compiled whose graph depends on the frame's size, since it is calibrated on whole
frames; the figures of larger frames are scaled by MACs."""


@dataclass(frozen=True)
class Costing:
    """One frame of a network on ``spec``. Sizes are (width, height)."""

    network: networks.Network
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    spec: AccelSpec = field(repr=False)
    counters: Counters = field(repr=False)
    host_mac_share: float
    """MACs that the machine does not run; their time and energy are not in the counters."""
    workload: Workload = field(repr=False)
    modelled_size: tuple[int, int]
    """Size of the frame that was compiled; if it is smaller, the figures were scaled by the ratio of MACs."""

    @property
    def seconds(self) -> float:
        return self.counters.cycles / self.spec.clock_hz


def size_in(network: networks.Network, resolution: tuple[int, int]) -> tuple[int, int]:
    """The input size from which ``network`` makes frames of ``resolution`` (width, height). Raises
    :class:`InputError`."""
    if any(side % network.scale for side in resolution):
        raise InputError(
            f"{resolution[0]}x{resolution[1]} is not divisible by the scale {network.scale}",
            where=network.name,
            hint=f"Choose a width and height divisible by {network.scale}.",
        )
    return resolution[0] // network.scale, resolution[1] // network.scale


def cost(name: str, input_size: tuple[int, int], spec: AccelSpec, say: Say = silent) -> Costing:
    """Compile and predict one frame. Raises :class:`InputError` for an unknown network and
    :class:`UnsupportedError` for one that runs entirely on the host.
    """
    network = networks.get(name)
    torch.manual_seed(0)
    module = network.build().eval()
    width, height = input_size
    model = load_model(module, width=width, height=height, channels=network.channels)
    compiled_size, crop, times = input_size, CROP, 1.0
    if not size_free(from_module(model.module)):
        divisor = math.ceil(math.sqrt(width * height / WHOLE_FRAME_PIXELS))
        compiled_size = crop = (-(-width // divisor), -(-height // divisor))
        if divisor > 1:
            small = load_model(module, width=crop[0], height=crop[1], channels=network.channels)
            times = networks.count_macs(module, width, height, network.channels) / networks.count_macs(
                module, *crop, network.channels
            )
            model = small
    compiled = compile_network(
        model,
        spec,
        calibration=calibration_frames(network.channels, network.scale, None, crop)[:1],
        quantisation=Quantisation(pixel_output=network.task != "flow"),
        name=name,
        on_stage=say,
    )
    if not compiled.regions:
        raise UnsupportedError("no operator runs on the accelerator", where=name, hint="See `compile` for the reasons.")
    counted = [timing.predict(region.program) for region in compiled.regions]
    total = {one.name: sum(getattr(part, one.name) for part in counted) for one in dataclasses.fields(Counters)}
    output_size = tuple(
        round(side * input_size[k] / compiled_size[k]) for k, side in enumerate(model.output_shape[:1:-1])
    )
    return Costing(
        network=network,
        input_size=input_size,
        output_size=(output_size[0], output_size[1]),
        spec=spec,
        counters=Counters(**{name: round(count * times) for name, count in total.items()}),
        host_mac_share=compiled.host_mac_share,
        workload=Workload(
            network=name,
            input_size=f"{width}x{height}",
            output_size=f"{output_size[0]}x{output_size[1]}",
            macs=round(compiled.macs * times),
            compulsory_values=round(compiled.compulsory_bytes * times),
            layers=tuple(Layer(round(one.feature_values * times), one.weight_values) for one in gpu_layers(compiled)),
        ),
        modelled_size=compiled_size,
    )


def prefixed(say: Say, name: str) -> Say:
    """Progress reports of one network among several."""
    return lambda text: say(f"{name}: {text}")
