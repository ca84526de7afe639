"""Small random quantised networks for property tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
import tvm
from hypothesis import strategies as st
from torch import nn

from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.quantise.quantise import calibrate


@dataclass(frozen=True)
class Draw:
    """Hypothesis' choices for a network; every field is small and prints well when a test fails."""

    operation: str
    channels: int
    outputs: int
    kernel: int
    stride: int
    groups: int
    dilation: int
    activation: str
    width: int
    height: int
    seed: int


OPERATIONS = ("conv", "transposed", "add", "subtract", "product", "scale", "concat", "look-up", "movement", "bare")
ACTIVATIONS = ("none", "relu", "clip", "leaky", "prelu")

draws = st.builds(
    Draw,
    operation=st.sampled_from(OPERATIONS),
    channels=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    groups=st.integers(1, 2),
    dilation=st.integers(1, 2),
    activation=st.sampled_from(ACTIVATIONS),
    width=st.integers(1, 11),
    height=st.integers(1, 11),
    seed=st.integers(0, 2**16),
)


class Network(nn.Module):
    """Two stored operands, one operation, one activation."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        torch.manual_seed(draw.seed)
        self.draw = draw
        channels, outputs = draw.channels * draw.groups, draw.outputs * draw.groups
        self.left = nn.Conv2d(draw.channels, channels, 1)
        self.right = nn.Conv2d(draw.channels, channels, 1)
        pad = draw.dilation * (draw.kernel - 1) // 2
        last = channels
        if draw.operation == "conv":
            self.main = nn.Conv2d(
                channels, outputs, draw.kernel, draw.stride, pad, draw.dilation, draw.groups, bias=draw.seed % 3 > 0
            )
            last = outputs
        elif draw.operation == "transposed":
            extra = draw.seed % draw.stride
            pad = min(pad, (draw.dilation * (draw.kernel - 1) + extra) // 2)
            self.main = nn.ConvTranspose2d(
                channels,
                outputs,
                draw.kernel,
                draw.stride,
                pad,
                extra,
                draw.groups,
                bias=draw.seed % 3 > 0,
                dilation=draw.dilation,
            )
            last = outputs
        elif draw.operation == "concat":
            last = 2 * channels
        elif draw.operation == "movement":
            last = channels * 2
        self.prelu = nn.PReLU(last)
        self.prelu.weight.data.uniform_(-0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._activated(self._operated(x))

    def _operated(self, x: torch.Tensor) -> torch.Tensor:
        left = self.left(x)
        match self.draw.operation:
            case "conv" | "transposed":
                return self.main(left)
            case "add":
                return left + 3 * self.right(x)
            case "subtract":
                return left - self.right(x)[:, :1] * 0.25
            case "product":
                return left * self.right(x)
            case "scale":
                return (left + self.right(x)) * (0.37 if self.draw.seed % 2 else -1.7)
            case "concat":
                return torch.cat([left, torch.tanh(self.right(x)) * 5], 1)
            case "look-up":
                functions = (torch.tanh, torch.sigmoid, F.gelu, F.silu, torch.exp)
                return functions[self.draw.seed % len(functions)](left * 2)
            case "movement":
                up = F.pixel_shuffle(torch.repeat_interleave(left, 4, 1), 2)
                return (
                    F.pixel_unshuffle(up.repeat(1, 2, 1, 1), 2)[:, ::4]
                    if self.draw.seed % 2
                    else left.repeat(1, 2, 1, 1)
                )
            case _:
                return left

    def _activated(self, y: torch.Tensor) -> torch.Tensor:
        match self.draw.activation:
            case "relu":
                return torch.relu(y)
            case "clip":
                return torch.clamp(y, -0.3, 0.6)
            case "leaky":
                return F.leaky_relu(y, 0.1)
            case "prelu":
                return self.prelu(y)
            case _:
                return y


def quantised(draw: Draw) -> tvm.IRModule | None:
    """The quantised network of ``draw``; ``None`` when its kernel does not fit the frame."""
    network = Network(draw).eval()
    image = np.random.default_rng(draw.seed).random((1, draw.channels, draw.height, draw.width), dtype=np.float32)
    try:
        with torch.no_grad():
            network(torch.from_numpy(image))
    except RuntimeError:
        return None
    model = load_model(network, width=draw.width, height=draw.height, channels=draw.channels)
    return calibrate(model.module, [image], "minmax").quantised().module


def rescaled(module: tvm.IRModule, seed: int) -> tvm.IRModule:
    """The same graph with scales and zero points far from what calibration would choose."""
    rng = np.random.default_rng(seed)
    graph = from_module(module)
    constants = dict(graph.constants)
    for node in graph.nodes:
        if node.op != "quantize":
            continue
        factor = np.float32(2.0 ** rng.integers(-6, 7)) if rng.random() < 0.5 else np.float32(rng.uniform(0.2, 5.0))
        zero_point = np.int8(rng.choice([-128, 127, 0, rng.integers(-128, 128)]))
        for reader in (node, *(other for other in graph.nodes if other.inputs[0] == node.name)):
            scale, zero = reader.inputs[1:3]
            constants[scale] = np.float32(graph.constants[scale] * factor).reshape(())
            constants[zero] = zero_point.reshape(())
    return to_module(replace(graph, constants=constants))
