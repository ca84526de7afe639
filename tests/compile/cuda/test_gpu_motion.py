"""Flow networks on the emulator: cost volumes, warps and resizes in this project's kernels, against float64."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import nn

from codesign import networks
from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import plan_launches
from codesign.compile.cuda.layers import Other, Pointwise
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.networks.motion import correlate, warp
from codesign.networks.raft import Form, InstanceNorm, Raft
from tests.compile.cuda.test_gpu_launches import emulated
from tests.compile.cuda.test_gpu_module import machine
from tests.kernels.fake_driver import build_driver, code_of


class Pair(nn.Module):
    """Two images' features, a cost volume, a flow, the flow where it leads, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.guess = nn.Conv2d(25, 2, 3, padding=1)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        one, two = torch.tanh(self.features(pair[:, :3])), torch.tanh(self.features(pair[:, 3:]))
        costs = nn.functional.leaky_relu(correlate(one, two, 2), 0.1)
        flow = 9.0 * self.guess(costs)
        flow = flow + warp(flow, flow)
        return 2.0 * nn.functional.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)


def test_a_flow_network_in_our_kernels(tmp_path: Path) -> None:
    torch.manual_seed(2)
    module = Pair().eval()
    graph = from_graph(from_module(load_model(module, width=36, height=20, channels=6).module))
    kinds = [type(o.operator).__name__ for o in graph.operations if isinstance(o, Pointwise)]
    assert {"Correlation", "BackwardWarp", "Resize"} <= set(kinds)
    assert not any(isinstance(o, Other) for o in graph.operations)
    made = plan_launches(graph, "sm_90a")
    runner = machine(made, code_of(made.launches, tmp_path), build_driver(tmp_path), tmp_path)
    frame = np.random.default_rng(7).random((1, 6, 20, 36)).astype(np.float16)
    got = runner["main"](tvm.runtime.tensor(frame)).numpy().astype(np.float64)
    with torch.no_grad():
        want = module.double()(torch.from_numpy(frame.astype(np.float64))).numpy()
    assert np.abs(want).max() > 1.0
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


def small_raft() -> Raft:
    """RAFT's recurrence, look-up and up-sampling, with encoders of one layer: a kernel takes long to build here."""
    form = Form(False, (8, 16, 16), 16, 16, 8, 1, (16,), (16, 8), 14, ((1, 5), (5, 1)), 16, True)
    net = Raft(form, 2)
    torch.manual_seed(1)
    pools = nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))
    net.feature_encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), pools, InstanceNorm(16), nn.ReLU())
    net.context_encoder = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), pools)
    with torch.no_grad():
        net.head2.weight *= 30.0  # displacements of pixels
    return net.eval()


def test_raft_in_our_kernels(tmp_path: Path) -> None:
    """Volumes of all pairs, their look-up from the first flow of zeros on, instance norm, gates, convex up-sampling."""
    net = small_raft()
    graph = from_graph(from_module(load_model(net, width=72, height=64, channels=6).module))
    assert not any(isinstance(operation, Other) for operation in graph.operations)
    kinds = Counter(type(o.operator).__name__ for o in graph.operations if isinstance(o, Pointwise))
    assert (kinds["AllPairs"], kinds["Window"], kinds["ConvexUpsample"], kinds["InstanceNorm"]) == (4, 2, 1, 2)
    plan = plan_launches(graph, "sm_90a")
    assert sum(launch.macs for launch in plan.launches if "pairs" in launch.layers[0]) == 72 * 16 * (72 + 16 + 4 + 1)
    frame = np.random.default_rng(3).random((6, 64, 72)).astype(np.float16)
    got = emulated(plan, frame, tmp_path).astype(np.float64)
    with torch.no_grad():
        want = net.double()(torch.from_numpy(frame[None].astype(np.float64)))[0].numpy()
    assert np.abs(want).max() > 8.0  # a pixel of the coarse frame
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


@pytest.mark.parametrize(
    ("name", "size"), [("pwcnet", (64, 64)), ("spynet", (64, 64)), ("flow_small", (64, 64)), ("raft_small", (64, 64))]
)
def test_flow_networks_leave_nothing_to_tvm(name: str, size: tuple[int, int]) -> None:
    network = networks.get(name)
    model = load_model(networks.load(name), width=size[0], height=size[1], channels=network.channels)
    graph = from_graph(from_module(model.module))
    assert [o.node.op for o in graph.operations if isinstance(o, Other)] == []


class Volume(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.first(x), self.second(x)
        if self.kind == "volume":
            return correlate(one, two, 1)
        around = nn.functional.pad(two, (1, 1, 1, 1), value=0.5 if self.kind == "padded" else 0.0)
        height, width = x.shape[2:]
        places = [(dy, dx) for dy in range(3) for dx in range(3)]
        if self.kind == "columns first":
            places = [(dx, dy) for dy, dx in places]
        terms = []
        for dy, dx in places:
            left = two if self.kind == "not the same" and (dy, dx) == (1, 2) else one
            terms.append((around[:, :, dy : dy + height, dx : dx + width] * left).mean(1, keepdim=True))
        return torch.cat(terms, 1)


@pytest.mark.parametrize("kind", ["volume", "plain", "padded", "columns first", "not the same"])
def test_only_cost_volumes_are_taken_for_one(kind: str) -> None:
    """Another border, order or operand is another function."""
    torch.manual_seed(4)
    graph = from_module(load_model(Volume(kind).eval(), width=9, height=7, channels=3).module)
    found = [node for node in graph.nodes if node.op == "correlation"]
    assert len(found) == (kind in ("volume", "plain"))
    if found:
        assert found[0].attributes["reach"] == 1
        assert found[0].shape == (1, 9, 7, 9)
