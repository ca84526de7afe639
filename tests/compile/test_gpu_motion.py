"""Flow networks on the emulator: cost volumes, warps and resizes in this project's kernels, against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import tvm
from torch import nn

from codesign.compile.correlations import recognise_correlations
from codesign.compile.frontend import load_model
from codesign.compile.gpu_fusion import from_graph
from codesign.compile.gpu_launches import plan_launches
from codesign.compile.gpu_layers import Other, Pointwise
from codesign.compile.relax_form import from_module
from codesign.networks.motion import correlate, warp
from tests.compile.test_gpu_module import code_of, machine
from tests.kernels.fake_driver import build_driver


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
    others = {o.node.op for o in graph.operations if isinstance(o, Other)}
    assert others <= {"strided_slice"}  # the images out of the pair
    made = plan_launches(graph, "sm_90a")
    runner = machine(made, code_of(made, tmp_path), build_driver(tmp_path), tmp_path)
    frame = np.random.default_rng(7).random((1, 6, 20, 36)).astype(np.float16)
    got = runner["main"](tvm.runtime.tensor(frame)).numpy().astype(np.float64)
    with torch.no_grad():
        want = module.double()(torch.from_numpy(frame.astype(np.float64))).numpy()
    assert np.abs(want).max() > 1.0
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


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
    found = [node for node in recognise_correlations(graph).nodes if node.op == "correlation"]
    assert len(found) == (kind in ("volume", "plain"))
    if found:
        assert found[0].attributes["reach"] == 1
        assert found[0].shape == (1, 9, 7, 9)
