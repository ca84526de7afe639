"""Random networks through everything: torch, quantiser, referee, planner, golden model, RTL, cycle model."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import reject
from hypothesis import strategies as st
from torch import nn

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.quantise import Calibrated
from codesign.compile.quantise.widths import Widths
from codesign.compile.referee.integer import evaluate
from codesign.hw import numerics
from codesign.hw.counters import Counters
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Opcode
from codesign.hw.model import reference
from codesign.hw.spec import BASE, EDGE, LARGE, TINY, AccelSpec, Unit
from codesign.hw.timing import model as timing
from codesign.networks.motion import all_pairs, correlate, pixel_places, warp, windows
from codesign.networks.nafnet import LayerNorm2d
from codesign.sim.model import Dram
from codesign.sim.run import run

POOL: dict[str, AccelSpec] = {
    spec.name: spec
    for spec in (
        TINY,
        EDGE,
        BASE,
        LARGE,
        # Every unit, and so small that nearly every frame is computed in strips.
        dataclasses.replace(
            TINY,
            name="narrow",
            scratchpad_bytes=4096,
            **dict.fromkeys((unit.value for unit in Unit), 1)
            | {"warp_reach": 2, "window_beats": 16, "statistic_channels": 32},
        ),
        # No lane grouping, no tap packing, a wide bus, few pixels at a time.
        dataclasses.replace(EDGE, name="plain", channel_parts=1, lane_groups=1, bus_bytes=32, scratchpad_bytes=65536),
    )
}
"""All machines that tests simulate random networks on: six builds, kept between runs."""

REGRESSIONS = Path(__file__).parent / "regressions"

KINDS = (
    "conv",
    "conv",
    "conv",
    "strided",
    "depthwise",
    "dilated",
    "transposed",
    "residual",
    "residual",
    "concat",
    "concat",
    "shuffle",
    "unshuffle",
    "mask",
    "look-up",
    "scale",
    "slice",
    "product",
    "product",
    "gate",
    "complement",
    "average",
    "enlarge",
    "halve",
    "corners",
    "warp",
    "warp",
    "correlate",
    "windows",
    "windows",
    "norm",
    "norm",
    "layer norm",
    "layer norm",
)
ACTIVATIONS = ("none", "relu", "clip", "leaky", "prelu")
MOST_PIXELS = 48 * 48


@dataclass(frozen=True)
class NodeDraw:
    """The choices for one operator; if a choice is impossible (nothing to add), a convolution takes its place."""

    kind: str
    channels: int
    kernel: int
    activation: str
    back: int  # how many tensors before the last one the source is
    gain: int  # log2 of a factor on the weights


@dataclass(frozen=True)
class NetworkDraw:
    accel: str
    width: int
    height: int
    channels: int
    nodes: tuple[NodeDraw, ...]
    calm: bool  # calibrated on quiet pictures: the loud ones that follow saturate
    bytes_per_cycle: float | None
    latency: int
    stalls: float
    seed: int
    wide: float = 0.0  # share of what may have 16 bits that has

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> NetworkDraw:
        fields: dict[str, Any] = json.loads(text)
        return NetworkDraw(**{**fields, "nodes": tuple(NodeDraw(**node) for node in fields["nodes"])})


def network_draws(accels: tuple[str, ...] = tuple(POOL), nodes: int = 7) -> st.SearchStrategy[NetworkDraw]:
    """Networks of up to ``nodes`` operators on small frames of any shape."""
    node = st.builds(
        NodeDraw,
        kind=st.sampled_from(KINDS),
        channels=st.integers(1, 36),
        kernel=st.sampled_from([1, 3, 3, 5]),
        activation=st.sampled_from(ACTIVATIONS),
        back=st.sampled_from([0, 0, 0, 1, 2, 3]),
        gain=st.sampled_from([0, 0, -6, 5]),
    )
    return st.builds(
        NetworkDraw,
        accel=st.sampled_from(accels),
        width=st.integers(1, 40),
        height=st.integers(1, 24),
        channels=st.sampled_from([1, 3, 3, 4]),
        nodes=st.lists(node, min_size=1, max_size=nodes).map(tuple),
        calm=st.booleans(),
        bytes_per_cycle=st.sampled_from([None, None, 0.5, 3.0]),
        latency=st.sampled_from([1, 20, 100, 700]),
        stalls=st.sampled_from([0.0, 0.0, 0.1, 0.6]),
        seed=st.integers(0, 2**16),
        wide=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    )


class Net(nn.Module):
    """The network of a draw. Shapes are followed while it is built, so that every choice made is a legal one."""

    def __init__(self, draw: NetworkDraw) -> None:
        super().__init__()
        torch.manual_seed(draw.seed)
        self.accel = draw.accel
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, int, int, int, str, int]] = []  # kind, source, other, layer, activation, parameter
        self.shapes = [(draw.channels, draw.height, draw.width)]
        for node in draw.nodes:
            self._choose(node)
        # The result reads the last tensor, and as many channels as the smallest picture has.
        self._conv(NodeDraw("conv", 1, 1, "none", 0, 0), len(self.shapes) - 1)

    def _choose(self, node: NodeDraw) -> None:
        source = max(0, len(self.shapes) - 1 - node.back)
        c, h, w = self.shapes[source]
        same = [i for i, shape in enumerate(self.shapes) if shape == (c, h, w) and i != source]
        alike = [i for i, shape in enumerate(self.shapes) if shape[1:] == (h, w) and i != source and shape[0] + c <= 64]
        match node.kind:
            case "residual" | "product" if same:
                self._step(node, source, same[-1], -1, (c, h, w))
            case "concat" if alike:
                self._step(node, source, alike[-1], -1, (c + self.shapes[alike[-1]][0], h, w))
            case "shuffle" if c % 4 == 0 and 4 * h * w <= MOST_PIXELS:
                self._step(node, source, 0, -1, (c // 4, 2 * h, 2 * w))
            case "unshuffle" if h % 2 == 0 and w % 2 == 0 and 4 * c <= 64:
                self._step(node, source, 0, -1, (4 * c, h // 2, w // 2))
            case "mask" if c > 1:
                self.layers.append(nn.Conv2d(c, 1, 1))
                self._step(node, source, 0, len(self.layers) - 1, (c, h, w))
            case "average" if min(h, w) >= node.kernel:
                stride = 1 + node.channels % 2
                pad = node.kernel // 2 * (node.channels % 3 > 0)
                size = ((extent + 2 * pad - node.kernel) // stride + 1 for extent in (h, w))
                self.layers.append(nn.AvgPool2d(node.kernel, stride, pad))
                self._step(node, source, 0, len(self.layers) - 1, (c, *size))
            case "enlarge" if (2 + node.channels % 2) ** 2 * h * w <= MOST_PIXELS:
                factor = 2 + node.channels % 2
                self._step(node, source, 0, -1, (c, factor * h, factor * w))
            case "corners" if 4 * h * w <= MOST_PIXELS and POOL[self.accel].warp_reach:
                factor = 4 if node.channels % 2 and 16 * h * w <= MOST_PIXELS else 2
                self._step(dataclasses.replace(node, channels=factor), source, 0, -1, (c, factor * h, factor * w))
            case "halve" if h % 2 == w % 2 == 0:
                self._step(node, source, 0, -1, (c, h // 2, w // 2))
            case "warp" if min(h, w) > 1 and POOL[self.accel].warp_reach:
                self.layers.extend([nn.Conv2d(c, 2, 3, padding=1), nn.Conv2d(c, 2, 1)])
                self._step(node, source, 0, len(self.layers) - 2, (c, h, w))
            case "correlate" if same and POOL[self.accel].correlator and h * w <= 200:
                side = 2 * (1 + node.channels % 3) + 1
                self._step(node, source, same[-1], -1, (side * side, h, w))
            case "windows" if POOL[self.accel].window_beats and h * w <= 200:
                levels = min(1 + node.channels % 3, min(h, w).bit_length())
                # Products are of tensors without a zero point, as a picture has one.
                self.layers.extend([nn.Conv2d(c, 2, 1), nn.Conv2d(c, 5, 1), nn.Conv2d(c, 5, 1)])
                radius = 1 + node.kernel // 2 + node.channels % 2
                step = dataclasses.replace(node, channels=10 * radius + levels)
                self._step(step, source, 0, len(self.layers) - 3, (levels * (2 * radius + 1) ** 2, h, w))
            case "norm" if h * w > 1 and c <= POOL[self.accel].statistic_channels:
                self.layers.append(nn.InstanceNorm2d(c, affine=node.channels % 3 == 0))
                self._step(node, source, 0, len(self.layers) - 1, (c, h, w))
            case "layer norm" if POOL[self.accel].layer_norm:
                self.layers.append(LayerNorm2d(c))
                self._step(node, source, 0, len(self.layers) - 1, (c, h, w))
            case "gate" if c % 2 == 0:
                self._step(node, source, 0, -1, (c // 2, h, w))
            case "look-up" | "scale" | "complement":
                self._step(node, source, 0, -1, (c, h, w))
            case "slice" if c > 1:
                self._step(node, source, 0, -1, (-(-c // 2), h, w))
            case "transposed" if 4 * h * w <= MOST_PIXELS:
                kernel = 2 if node.kernel == 1 else 4
                self._layer(
                    node, source, nn.ConvTranspose2d(c, node.channels, kernel, 2, kernel // 2 - 1), 2 * h, 2 * w
                )
            case _:
                plain = node.kind not in ("strided", "dilated", "depthwise")
                self._conv(dataclasses.replace(node, kind="conv") if plain else node, source)

    def _conv(self, node: NodeDraw, source: int) -> None:
        c, h, w = self.shapes[source]
        kernel, stride, dilation, groups, outputs = node.kernel, 1, 1, 1, node.channels
        if node.kind == "strided":
            stride = 2
        elif node.kind == "dilated":
            dilation = 2
        elif node.kind == "depthwise":
            groups = outputs = c
        pad = dilation * (kernel // 2)
        layer = nn.Conv2d(c, outputs, kernel, stride, pad, dilation, groups, bias=node.gain < 5)
        self._layer(node, source, layer, (h - 1) // stride + 1, (w - 1) // stride + 1)

    def _layer(
        self, node: NodeDraw, source: int, layer: nn.Conv2d | nn.ConvTranspose2d, height: int, width: int
    ) -> None:
        layer.weight.data *= 2.0**node.gain
        self.layers.append(layer)
        self._step(node, source, 0, len(self.layers) - 1, (layer.out_channels, height, width))

    def _step(self, node: NodeDraw, source: int, other: int, layer: int, shape: tuple[int, int, int]) -> None:
        slope = -1
        if node.activation == "prelu" and layer >= 0:
            self.layers.append(nn.PReLU(shape[0]))
            self.layers[-1].weight.data.uniform_(-0.5, 1.5)
            slope = len(self.layers) - 1
        kind = node.kind
        if layer >= 0 and kind not in ("mask", "average", "warp", "windows"):
            kind = "layer"
        self.steps.append((kind, source, other, layer, node.activation, slope if slope >= 0 else node.channels))
        self.shapes.append(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for kind, source, other, layer, activation, parameter in self.steps:
            y = values[source]
            match kind:
                case "layer":
                    y = self._activated(self.layers[layer](y), activation, parameter)
                case "residual":
                    y = y + values[other] if parameter % 2 else y - values[other]
                    y = torch.relu(y) if activation == "relu" else y
                case "product":
                    y = y * (torch.sigmoid(values[other]) if parameter % 2 else values[other])
                    y = torch.relu(y) if activation == "relu" else y
                case "average":
                    y = self.layers[layer](y)
                case "enlarge" | "halve":
                    factor = 0.5 if kind == "halve" else 2 + parameter % 2
                    y = F.interpolate(y, scale_factor=factor, mode="bilinear", align_corners=False)
                case "corners":
                    y = F.interpolate(y, scale_factor=parameter, mode="bilinear", align_corners=True)
                case "warp":
                    flow = 8.0 * self.layers[layer](y)
                    if parameter % 4 == 3 and y.shape[2] % 2 == y.shape[3] % 2 == 0:
                        coarse = F.avg_pool2d(flow, 2)
                        flow = 2.0 * F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
                    elif parameter % 3 == 1:
                        flow = flow - self.layers[layer + 1](y)
                    elif parameter % 3 == 2:
                        flow = 0.5 * (flow + self.layers[layer + 1](y))
                    y = warp(y, flow, "border" if parameter % 2 else "zeros")
                case "correlate":
                    y = correlate(y, values[other], 1 + parameter % 3)
                    y = F.leaky_relu(y, 0.1) if activation == "leaky" else y
                case "windows":
                    place = pixel_places(y) + 4.0 * self.layers[layer](y)
                    pair = (self.layers[layer + 1](y), self.layers[layer + 2](y))
                    y = windows(all_pairs(*pair, parameter % 10), place, parameter // 10)
                case "gate":
                    y = y[:, : y.shape[1] // 2] * y[:, y.shape[1] // 2 :]
                case "complement":
                    y = 1 - torch.sigmoid(y) if parameter % 2 else 0.5 - y
                case "concat":
                    y = torch.cat([y, values[other]], 1)
                case "shuffle":
                    y = F.pixel_shuffle(y, 2)
                case "unshuffle":
                    y = F.pixel_unshuffle(y, 2)
                case "mask":
                    y = y + self.layers[layer](y)
                case "look-up":
                    y = (torch.tanh, torch.sigmoid, F.gelu, F.silu)[parameter % 4](y)
                case "scale":
                    y = y * (0.37 if parameter % 2 else -1.7)
                case "slice":
                    y = y[:, ::2]
            values.append(y)
        return values[-1]

    def _activated(self, y: torch.Tensor, activation: str, parameter: int) -> torch.Tensor:
        match activation:
            case "relu":
                return torch.relu(y)
            case "clip":
                return torch.clamp(y, -0.3, 0.6)
            case "leaky":
                return F.leaky_relu(y, 0.1)
            case "prelu":
                result: torch.Tensor = self.layers[parameter](y)
                return result
            case _:
                return y


def compiled(draw: NetworkDraw) -> CompiledNetwork:
    """The draw's network, quantised and compiled for its machine."""
    rng = np.random.default_rng(draw.seed)
    picture = rng.random((1, draw.channels, draw.height, draw.width), dtype=np.float32)
    if draw.calm:
        picture = np.float32(0.4) + picture * np.float32(0.05)
    model = load_model(Net(draw).eval(), width=draw.width, height=draw.height, channels=draw.channels)
    return compile_network(
        model,
        POOL[draw.accel],
        calibration=[picture],
        quantisation=Quantisation("minmax", widths=lambda network: drawn_widths(network, draw.wide, draw.seed)),
        dram_bytes_per_cycle=draw.bytes_per_cycle,
    )


def drawn_widths(network: Calibrated, share: float, seed: int) -> Widths:
    """About ``share`` of what the network may have in 16 bits: tensors, and convolutions' weights."""
    rng = np.random.default_rng(seed)
    widths = network.least
    for unit in network.parts:
        if rng.random() < share and (more := network.with_consequences(Widths(frozenset({unit.name})))) is not None:
            widths |= more
        if unit.operator.weighs and rng.random() < share:
            widths |= Widths(weights=frozenset({unit.head.name}))
    return widths


COUNTS = [field.name for field in dataclasses.fields(Counters) if not field.name.endswith(("cycles", "stall_cycles"))]


def check(draw: NetworkDraw) -> None:
    """Check that quantised graph, golden model and RTL agree on every value, and cycle model and RTL on every count."""
    try:
        network = compiled(draw)
    except UnsupportedError as error:
        # What the smallest machine cannot hold: a row, the weights of one set of output channels, so many sums.
        small = ("does not fit the 4 KiB scratchpad", "weight words at once", "needs the sums of")
        if any(what in str(error) for what in small):
            assert draw.accel in ("narrow", "tiny")
            reject()
        raise
    hosted = [placement for placement in network.placements if not placement.on_accelerator]
    if any("zero points" in placement.reason for placement in hosted):
        reject()  # a cost volume of a picture's own values, which have a zero point
    assert not hosted, hosted
    (region,) = network.regions
    rng = np.random.default_rng(draw.seed + 1)
    shape = (1, draw.channels, draw.height, draw.width)
    codes = np.where(rng.random(shape) < 0.1, rng.choice([-128, 127], shape), rng.integers(-128, 128, shape))
    codes = codes.astype(np.int8)
    expected = evaluate(network.partitioned.graph, codes)[0].transpose(1, 2, 0)
    if expected.dtype == np.int16:
        expected = numerics.byte_planes(expected)
    inputs = {slot.name: np.ascontiguousarray(codes[0].transpose(1, 2, 0)) for slot in region.program.inputs}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, expected, err_msg="golden model against quantised graph")
    dram = Dram(draw.bytes_per_cycle, draw.latency, draw.stalls, draw.seed + 1)
    result = run(region.program, inputs, dram=dram)
    (measured,) = result.outputs.values()
    np.testing.assert_array_equal(measured, golden, err_msg="RTL against golden model")
    counters = result.counters
    assert counters.busy_cycles + sum(counters.stalls.values()) == counters.cycles
    predicted = timing.predict(region.program, timing.Memory.of(network.spec, draw.bytes_per_cycle, draw.latency))
    # What is gathered, and where a sample's pixels coincide, depends on the flow.
    by_flow = {
        opcode
        for opcode in (Opcode.WARP, Opcode.WINDOW)
        if any(cmd.opcode is opcode for cmd in region.program.commands)
    }
    unknown = {"dram_gather_read_bytes", "gathered_reads"} if by_flow else set[str]()
    unknown |= {"scratchpad_read_words"} if Opcode.WARP in by_flow else set()
    for name in {*COUNTS, "busy_cycles"} - unknown:
        assert getattr(predicted, name) == getattr(counters, name), name
    # The model knows no random stalls; frames of a few pixels are all start and end.
    if draw.stalls == 0.0 and not counters.gathered_reads and Opcode.WINDOW not in by_flow:
        assert abs(predicted.cycles - counters.cycles) <= 0.1 * counters.cycles + 100, (predicted, counters)
