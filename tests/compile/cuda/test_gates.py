"""A half of the channels times the other half is one kernel, however it is spelled; other products are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.cuda.fusion import from_graph
from codesign.compile.cuda.launches import plan_launches
from codesign.compile.cuda.layers import GpuGraph, Other, Pointwise
from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.kernels.pointwise import Depthwise
from tests.compile.cuda.test_gpu_launches import emulated

SPELLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "chunk": lambda x: torch.mul(*x.chunk(2, 1)),
    "split": lambda x: torch.mul(*torch.split(x, 8, -3)),
    "sections": lambda x: torch.mul(*torch.split(x, [8, 8], 1)),
    "slices": lambda x: x[:, :8] * x[:, 8:],
    "the other way round": lambda x: x[:, -8:] * x[:, :-8],
}

OTHERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one half": lambda x: x[:, :8] * x[:, :8],
    "every second channel": lambda x: x[:, ::2] * x[:, 1::2],
    "overlapping": lambda x: x[:, :8] * x[:, 4:12],
    "a sum": lambda x: x[:, :8] + x[:, 8:],
    "half a chunk": lambda x: x[:, :4] * x[:, 4:8],
}


class Gated(nn.Module):
    """A convolution, a depthwise one or none after it, ``function`` of 16 channels, and a convolution."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], depthwise: bool, channels: int = 8) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1, groups=16) if depthwise else nn.Tanh()
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.middle(self.first(x))))


def lowered(module: nn.Module) -> GpuGraph:
    graph = from_graph(from_module(load_model(module.eval(), width=20, height=12, channels=3).module))
    assert not any(isinstance(operation, Other) for operation in graph.operations)
    return graph


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_gate_is_found_however_it_is_spelled(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Gated(SPELLINGS[name], depthwise=False)
    graph = lowered(module)
    (gate,) = [operation for operation in graph.operations if isinstance(operation, Pointwise)]
    assert (gate.operator.channels, len(gate.inputs)) == (8, 1)
    if name == "chunk":
        frame = np.random.default_rng(6).random((3, 12, 20)).astype(np.float16)
        with torch.no_grad():
            want = module.double()(torch.from_numpy(frame[None].astype(np.float64)))[0].numpy()
        got = emulated(plan_launches(graph, "sm_90a"), frame, tmp_path).astype(np.float64)
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-2


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_depthwise_convolution_takes_its_gate(name: str) -> None:
    graph = lowered(Gated(SPELLINGS[name], depthwise=True))
    (one,) = [operation.operator for operation in graph.operations if isinstance(operation, Pointwise)]
    assert isinstance(one, Depthwise)
    assert one.gate


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_are_no_gates(name: str) -> None:
    channels = 4 if name == "half a chunk" else 8
    kinds = [
        operation.operator
        for operation in lowered(Gated(OTHERS[name], depthwise=True, channels=channels)).operations
        if isinstance(operation, Pointwise)
    ]
    assert not any(isinstance(one, Depthwise) and one.gate for one in kinds)
    assert len(kinds) > 1
