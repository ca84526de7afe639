"""Gates and recurrence on the machine: a ConvGRU without the host, a gate without a copy, both bit-exact."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from codesign.compile.driver import CompiledNetwork, compile_network
from codesign.compile.frontend import load_model
from codesign.compile.integer import evaluate
from codesign.compile.layers import Conv
from codesign.hw import reference, timing
from codesign.hw.spec import TINY
from codesign.sim.run import run

WIDTH, HEIGHT = 22, 13


class ConvGru(nn.Module):
    """Two steps of a convolutional gated recurrent unit (Ballas et al., ICLR 2016) on features of one picture."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = hidden
        self.encode = nn.Conv2d(3, 2 * hidden, 3, padding=1)
        self.update, self.reset, self.candidate = (nn.Conv2d(2 * hidden, hidden, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(hidden, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, context = torch.split(self.encode(x), self.hidden, 1)
        state, context = torch.tanh(state), torch.relu(context)
        for _ in range(2):
            both = torch.cat((state, context), 1)
            update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            candidate = torch.tanh(self.candidate(torch.cat((reset * state, context), 1)))
            state = (1 - update) * state + update * candidate
        return self.head(state)


class Gate(nn.Module):
    """NAFNet's gate (Chen et al., ECCV 2022): one half of the channels times the other."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.chunk(self.widen(x), 2, 1)
        return self.head(left * right)


def checked(network: nn.Module) -> CompiledNetwork:
    """``network`` for tiny; quantised graph, golden model and RTL agree, cycle model and RTL nearly."""
    torch.manual_seed(5)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    rng = np.random.default_rng(5)
    picture = rng.random((1, 3, HEIGHT, WIDTH), dtype=np.float32)
    model = load_model(network.eval(), width=WIDTH, height=HEIGHT, channels=3)
    compiled = compile_network(model, TINY, calibration=[picture], method="minmax")
    assert all(placement.on_accelerator for placement in compiled.placements)
    (region,) = compiled.regions
    codes = rng.integers(-128, 128, picture.shape).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(compiled.quantised, codes)[0].transpose(1, 2, 0))
    assert len(np.unique(golden)) > 50
    result = run(region.program, inputs)
    (measured,) = result.outputs.values()
    np.testing.assert_array_equal(measured, golden)
    assert abs(timing.predict(region.program).cycles / result.counters.cycles - 1.0) <= 0.01
    return compiled


def test_a_recurrent_unit_needs_no_host() -> None:
    checked(ConvGru())


def test_halves_of_a_gate_are_computed_apart() -> None:
    layers = checked(Gate()).regions[0].plan.graph.layers
    assert len(layers) == 3
    assert sum(layer.macs for layer in layers if isinstance(layer, Conv)) == WIDTH * HEIGHT * (3 * 9 * 16 + 8)
