"""Fine-tuning brings a quantised network nearer to its float original, in the same form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from codesign.compile.importing.model import load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.finetune import Batch, fine_tune, teach
from codesign.compile.quantise.quantise import calibrate, quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.hw.errors import InputError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.act = nn.PReLU(8)
        self.act.weight.data.uniform_(-0.2, 0.5)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        # Two layers whose channels differ by orders of magnitude: what quantisation per tensor suffers from.
        self.first.weight.data *= torch.logspace(-1, 1, 8).view(8, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.first(x))
        return F.pixel_shuffle(self.last(torch.relu(self.body(y)) + y) * 0.1 + x, 2)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Small().eval()


def _images(seed: int, count: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.random((1, 1, 12, 14), dtype=np.float32) for _ in range(count)]


def _batches(network: nn.Module, seed: int, count: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = rng.random((4, 1, 16, 16), dtype=np.float32)
        with torch.no_grad():
            yield x, network(torch.from_numpy(x)).numpy()


def test_the_loss_falls(network: nn.Module) -> None:
    model = load_model(network, width=14, height=12)
    # A tight clip, so that there is an error which training can undo.
    report = calibrate(model.module, _images(1, 4), "percentile", percentile=90.0).quantised()
    quantised = report.module
    source, result = quantised_io(quantised)

    def error(module: object) -> float:
        total = 0.0
        for image in _images(2, 8):
            codes = np.clip(np.rint(image / source.scale) + source.zero_point, -128, 127).astype(np.int8)
            exact = network(torch.from_numpy((codes - np.float32(source.zero_point)) * np.float32(source.scale)))
            found = (evaluate(from_module(module), codes).astype(np.float32) - result.zero_point) * result.scale
            total += float(np.mean((found - exact.detach().numpy()) ** 2))
        return total

    losses: list[float] = []
    tuned = fine_tune(
        quantised,
        _batches(network, 3, 80),
        steps=80,
        lr=3e-4,
        loss="l2",
        start=report.source,
        on_step=lambda _, value: losses.append(value),
    )
    assert len(losses) == 80
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert error(tuned) < error(quantised)
    assert quantised_io(tuned) == (source, result)
    shapes = [(node.op, node.shape) for node in from_module(quantised).nodes]
    assert [(node.op, node.shape) for node in from_module(tuned).nodes] == shapes


def test_the_teacher_is_the_network_itself(network: nn.Module) -> None:
    module = load_model(network, width=14, height=12).module
    images = [np.random.default_rng(i).random((1, 1, 20 + i, 11 + i), dtype=np.float32) for i in range(3)]
    supply = teach(module, images, patch=16, batch=5, seed=2)
    x, target = next(supply)
    assert x.shape == (5, 1, 11, 11), "patches shrink to the smallest image"
    assert all(any(_contains(image[0, 0], patch[0]) for image in images) for patch in x)
    with torch.no_grad():
        np.testing.assert_allclose(target, network(torch.from_numpy(x)).numpy(), atol=1e-5)
    assert not np.array_equal(next(supply)[0], x)


def _contains(image: NDArray[np.float32], patch: NDArray[np.float32]) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)
    return bool((windows == patch).all(axis=(2, 3)).any())


def test_no_steps_change_nothing(network: nn.Module) -> None:
    quantised = calibrate(load_model(network, width=14, height=12).module, _images(1, 2)).quantised().module
    codes = np.random.default_rng(0).integers(-128, 128, (1, 1, 12, 14)).astype(np.int8)
    same = fine_tune(quantised, [], steps=0)
    np.testing.assert_array_equal(evaluate(from_module(same), codes), evaluate(from_module(quantised), codes))


def test_bad_input(network: nn.Module) -> None:
    model = load_model(network, width=14, height=12)
    with pytest.raises(InputError, match="not quantised"):
        fine_tune(model.module, [], steps=1)
    quantised = calibrate(model.module, _images(1, 2)).quantised().module
    with pytest.raises(InputError, match="only 0 batches"):
        fine_tune(quantised, [], steps=1)
    other = Small().eval()
    other.body.weight.data *= 2
    with pytest.raises(InputError, match="not the ones"):
        fine_tune(quantised, [], steps=0, start=load_model(other, width=14, height=12).module)
    patch = np.zeros((1, 1, 8, 8), np.float32)
    with pytest.raises(InputError, match="shape"):
        fine_tune(quantised, [(patch, patch)], steps=1)
