"""Operands of concatenations are scaled towards one range, considering the weights' errors; the function stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.graph.graph import Graph
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run, trace
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.alignment import SETTLED_POWER, aligned, is_aligned
from codesign.compile.quantise.equalise import channel_ranges
from codesign.compile.quantise.insertion import quantised_weight
from codesign.compile.quantise.quantise import Calibrated, calibrate
from codesign.compile.quantise.units import units

WIDTH, HEIGHT = 24, 18


class Apart(nn.Module):
    """A feature ``apart`` times as large as the one beside it, which is read by weights ``weights`` times as large.

    ``shared``: the small one has another reader, without weights.
    """

    def __init__(self, apart: float, weights: float, *, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.large, self.small = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.join, self.tail = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.shared = shared
        with torch.no_grad():
            self.large.weight *= apart
            self.large.bias *= apart  # type: ignore[operator]
            self.join.weight[:, 8:] *= weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = torch.tanh(self.small(x)) if self.shared else self.small(x)
        joined = self.join(torch.cat((self.large(x), small), 1))
        return self.tail(joined) + small if self.shared else self.tail(joined)


def images(count: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.random((1, 3, HEIGHT, WIDTH), dtype=np.float32) for _ in range(count)]


def module(network: nn.Module) -> Graph:
    return from_module(load_model(network.eval(), width=WIDTH, height=HEIGHT, channels=3).module)


def scaled(graph: Graph) -> Graph:
    """``graph`` after the alignment alone."""
    names = {name for concat in concats(graph) for name in graph.by_name[concat].inputs}
    names |= {unit.name for unit in units(graph) if unit.operator.weighs}
    return aligned(graph, channel_ranges(graph, images(), names), ())


def values(graph: Graph, image: np.ndarray) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return dict(trace(graph, torch.from_numpy(image)))


def concats(graph: Graph) -> list[str]:
    return [unit.head.name for unit in units(graph) if unit.operator.joins_scales]


def reading(graph: Graph) -> tuple[np.ndarray, torch.Tensor]:
    """The weights of the concatenation's reader, and its input."""
    (concat,) = concats(graph)
    (reader,) = graph.consumers()[concat]
    return graph.constants[reader.inputs[1]], values(graph, images()[0])[concat]


def factor(before: Graph, after: Graph) -> float:
    ratios = (reading(before)[0] / reading(after)[0])[:, 8:]
    assert np.ptp(ratios) == 0.0
    return float(ratios.flat[0])


def noise(graph: Graph, small_times: float) -> float:
    """Measured relative error of the reader's sums with 8 bits for the joined tensor and the weights."""
    weight, joined = reading(graph)
    weight, joined = weight.copy(), joined.clone()
    weight[:, 8:] /= np.float32(small_times)
    joined[:, 8:] *= small_times
    low, high = float(joined.min()), float(joined.max())
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    codes, steps = quantised_weight(weight, 0, step, None)
    rounded = torch.from_numpy(codes * steps[:, None, None, None])
    exact = nn.functional.conv2d(joined, torch.from_numpy(weight), padding=1)
    wrong = nn.functional.conv2d(torch.round(joined / step) * step, rounded, padding=1)
    return float((wrong - exact).square().mean() / exact.square().mean())


@pytest.mark.parametrize(("apart", "weights"), [(64.0, 1.0), (64.0, 64.0), (64.0, 8.0), (4e3, 1.0), (1e4, 1e3)])
def test_the_factor_is_near_the_best_that_can_be_measured(apart: float, weights: float) -> None:
    plain = module(Apart(apart, weights))
    found = factor(plain, scaled(plain))
    joined = torch.cat([values(plain, image)[name] for image in images() for name in concats(plain)])
    ratio = float(joined[:, :8].abs().max() / joined[:, 8:].abs().max())
    powers = range(SETTLED_POWER, int(np.log2(ratio)) + 1)
    errors = {2.0**power: noise(plain, 2.0**power) for power in powers}
    assert errors[found] < 1.25 * min(errors.values())
    if weights == 1.0:  # the root, but for how peaked both are
        assert apart**0.5 / 4.0 <= found <= 4.0 * apart**0.5
    if weights == apart:  # both balance at once
        assert ratio / 2.0 <= found <= ratio


def test_ranges_not_far_apart_become_one() -> None:
    plain = module(Apart(10.0, 1.0))
    assert factor(plain, scaled(plain)) >= 4.0


def test_weights_that_take_a_factor_back_do_not_vanish() -> None:
    weight, _ = reading(scaled(module(Apart(1e4, 1.0))))
    codes, _ = quantised_weight(weight, 0, 1.0, None)
    assert np.count_nonzero(codes[:, 8:]) > 0.2 * codes[:, 8:].size


@pytest.mark.parametrize("shared", [False, True])
def test_the_float_function_keeps_every_bit(shared: bool) -> None:
    plain = module(Apart(300.0, 300.0, shared=shared))
    balanced = scaled(plain)
    assert any(is_aligned(unit) for unit in units(balanced)) == shared
    for image in images():
        assert torch.equal(run(balanced, torch.from_numpy(image)), run(plain, torch.from_numpy(image)))


def test_a_tensor_that_others_read_keeps_its_own_scale() -> None:
    model = load_model(Apart(3000.0, 3.0, shared=True).eval(), width=WIDTH, height=HEIGHT, channels=3)
    network: Calibrated = calibrate(model.module, images(), "minmax")
    (scale,) = (unit for unit in network.parts if is_aligned(unit))
    _, params = network.rounded(network.least)
    source = network.observations[scale.head.inputs[0]]
    assert params[scale.head.inputs[0]].scale == pytest.approx((source.high - source.low) / 255, rel=1e-6)
    multiplied = network.graph.scalar(scale.head.inputs[1])
    assert multiplied is not None
    assert params[scale.name].scale > 4.0 * multiplied * params[scale.head.inputs[0]].scale
