"""Gates and recurrence on the machine: a ConvGRU without the host, a gate without a copy, clips whose states stay in
memory from frame to frame, all bit-exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from whole_networks import POOL

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.referee.integer import evaluate
from codesign.compile.scanline.layers import computed
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.model import reference
from codesign.hw.model.clip import Carried, Stream
from codesign.hw.spec import TINY, AccelSpec
from codesign.hw.timing import model as timing
from codesign.networks.motion import warp
from codesign.networks.recurrent import StateShapes
from codesign.sim.run import run
from codesign.workflows.clip import compile_clip, moving_photograph, simulate_clip
from codesign.workflows.sources import find

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
    compiled = compile_network(model, TINY, calibration=[picture], quantisation=Quantisation("minmax"))
    assert all(placement.on_accelerator for placement in compiled.placements)
    (region,) = compiled.regions
    codes = rng.integers(-128, 128, picture.shape).astype(np.int8)
    inputs = {region.program.inputs[0].name: np.ascontiguousarray(codes[0].transpose(1, 2, 0))}
    (golden,) = reference.run(region.program, inputs).values()
    np.testing.assert_array_equal(golden, evaluate(compiled.partitioned.graph, codes)[0].transpose(1, 2, 0))
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
    assert sum(layer.macs for layer in computed(layers)) == WIDTH * HEIGHT * (3 * 9 * 16 + 8)


class Remembering(nn.Module):
    """A ConvGRU cell at half the frame's size, whose state goes from frame to frame."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.hidden = hidden
        self.encode = nn.Conv2d(3, hidden, 3, 2, 1)
        self.update, self.candidate = (nn.Conv2d(2 * hidden, hidden, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(hidden, 12, 3, padding=1)

    def state_shapes(self, width: int, height: int) -> StateShapes:
        return [(self.hidden, height // 2, width // 2)]

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat((torch.relu(self.encode(frame)), state), 1)
        update = torch.sigmoid(self.update(both))
        state = (1 - update) * state + update * torch.tanh(self.candidate(both))
        return F.pixel_shuffle(self.head(state), 2) + frame, state


class Propagating(nn.Module):
    """BasicVSR's propagation through a clip: the features of the frame before, warped along the flow between the
    two."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        self.features = features
        self.flow = nn.Conv2d(6, 2, 3, padding=1)
        self.extract = nn.Conv2d(3 + features, features, 3, padding=1)
        self.head = nn.Conv2d(features, 3, 3, padding=1)

    def state_shapes(self, width: int, height: int) -> StateShapes:
        return [(3, height, width), (self.features, height, width)]

    def forward(self, frame: torch.Tensor, before: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flow = 6.0 * self.flow(torch.cat((before, frame), 1))
        state = torch.relu(self.extract(torch.cat((frame, warp(state, flow, "zeros")), 1)))
        return self.head(state), frame, state


def seeded(network: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.4, 0.4)
    return network.eval()


@pytest.mark.parametrize(
    ("network", "spec", "states"),
    [(Remembering(), TINY, 1), (Propagating(), POOL["narrow"], 2)],
    ids=["gated", "warped"],
)
def test_states_stay_in_memory(network: nn.Module, spec: AccelSpec, states: int) -> None:
    """RTL and golden model keep states in their memories, the referee is given them: all values of all frames agree."""
    size = (24, 14)
    clip = moving_photograph(size, 5)
    compiled = compile_clip(find(seeded(network)), spec, size, calibration=clip, quantisation=Quantisation("minmax"))
    assert len(compiled.program.carried) == states
    frames = list(simulate_clip(compiled, clip))
    assert [frame.mismatches for frame in frames] == [0] * len(clip)
    state = [torch.zeros(1, *shape) for shape in network.state_shapes(*size)]
    for frame, picture in zip(frames, clip, strict=True):
        with torch.no_grad():
            wanted, *state = network(torch.from_numpy(picture), *state)
        error = np.abs(frame.output - wanted.numpy())
        assert error.mean() < 0.05 * float(wanted.max() - wanted.min())
    # What came before matters: the same frame at another time gives another result.
    (alone,) = simulate_clip(compiled, clip[-1:])
    assert np.any(alone.output != frames[-1].output)
    assert frames[-1].counters.commands == frames[0].counters.commands


def test_a_clip_on_the_golden_model_is_the_rtls() -> None:
    compiled = compile_clip(find(seeded(Remembering())), TINY, (24, 14), quantisation=Quantisation("minmax"))
    clip = moving_photograph((24, 14), 3)
    measured = list(simulate_clip(compiled, clip))
    for frame, other in zip(simulate_clip(compiled, clip, backend="reference"), measured, strict=True):
        np.testing.assert_array_equal(frame.output, other.output)
        assert frame.mismatches is None
        assert abs(frame.counters.cycles / other.counters.cycles - 1.0) < 0.02


class Mixing(Remembering):
    """A module with an operator on the host, which would need the state."""

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        picture, state = super().forward(frame, state)
        return F.interpolate(picture, scale_factor=1.5, mode="bilinear"), state


class Forgetful(Remembering):
    """A module that returns a state of another shape."""

    def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        picture, state = super().forward(frame, state)
        return picture, state[:, 1:]


def test_what_is_no_clips_network_says_so() -> None:
    with pytest.raises(InputError, match="keeps no state"):
        compile_clip(find("sesr_m5_x2"), TINY, (24, 14))
    with pytest.raises(UnsupportedError, match="the host runs a part"):
        compile_clip(find(Mixing()), TINY, (24, 14))
    with pytest.raises(InputError, match="must leave what it takes"):
        compile_clip(find(Forgetful()), TINY, (24, 14))


def test_only_tensors_alike_are_carried() -> None:
    compiled = compile_clip(find(seeded(Remembering())), TINY, (24, 14), quantisation=Quantisation("minmax"))
    clip = compiled.program
    (one,) = clip.carried
    for wrong in ([Carried(clip.result, one.before)], [Carried("absent", one.before)], [one, one], [one[::-1]]):
        with pytest.raises(InputError, match="carr"):
            Stream.of(clip.program, [Carried(*pair) for pair in wrong])
