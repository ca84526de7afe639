"""The script that trained the shipped weights, on a tiny recipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from codesign import images, networks
from codesign.hw.errors import InputError
from codesign.networks import training
from codesign.networks.soap import Soap

TINY = training.Recipe(steps=40, batch=1, patch=8, warm_up=10, report=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small photographs where the training looks for them."""
    for kind, left in (("train", 60), ("val", 260)):
        (tmp_path / "bsds" / kind).mkdir(parents=True)
        images.save_image(images.reference_photograph()[20:100, left : left + 90], tmp_path / "bsds" / kind / "1.jpg")
    return tmp_path


def test_pairs_are_degraded_as_the_evaluation_does(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    assert len(pairs) == 6
    for low, high in pairs:
        assert high.shape == (2 * low.shape[0], 2 * low.shape[1])
        np.testing.assert_allclose(low * 255.0, np.round(low * 255.0), atol=1e-4)
    with pytest.raises(InputError, match="bsds"):
        training.load_pairs(folder / "bsds")


def test_patches_stay_aligned_and_do_not_depend_on_the_start(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    recipe = replace(TINY, steps=4, batch=8)
    whole = list(training.batches(pairs, recipe))
    later = list(training.batches(pairs, recipe, start=2))
    assert len(whole) == 4
    for (low, high), (low_again, high_again) in zip(whole[2:], later, strict=True):
        assert torch.equal(low, low_again)
        assert torch.equal(high, high_again)
    for low, high in whole:
        assert float((torch.nn.functional.avg_pool2d(high, 2) - low).abs().mean()) < 0.02


def test_soap_solves_a_skewed_problem_that_adam_does_not() -> None:
    """A linear layer seen through correlated inputs of very different sizes."""
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(12, 12))[0]
    inputs = torch.randn(256, 12) * torch.logspace(0, -2, 12) @ turned
    truth = torch.randn(6, 12)

    def loss_after(make: type[torch.optim.Optimizer]) -> float:
        weight = torch.nn.Parameter(torch.zeros(6, 12))
        optimiser = make([weight], lr=0.05)  # type: ignore[call-arg]
        for _ in range(150):
            optimiser.zero_grad()
            loss = ((inputs @ weight.T - inputs @ truth.T) ** 2).mean()
            loss.backward()
            optimiser.step()
        return float(loss)

    assert loss_after(Soap) < 0.5 * loss_after(torch.optim.Adam)


def test_training_learns(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    recipe = replace(TINY, steps=200, batch=4)
    net = training.train(pairs, recipe)
    low, high = next(training.batches(pairs, replace(recipe, batch=32, seed=8)))
    with torch.no_grad():
        error = float(((net(low) - high) ** 2).mean())
    nearest = torch.nn.functional.interpolate(low, scale_factor=2)
    assert error < 0.7 * float(((nearest - high) ** 2).mean())


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = training.load_pairs(folder)
    checkpoint = folder / "a.checkpoint"
    whole = training.train(pairs, TINY)
    batches = training.batches

    def interrupted(*arguments: object) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from itertools.islice(batches(*arguments), 27)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(pairs, TINY, checkpoint=checkpoint)
    monkeypatch.setattr(training, "batches", batches)
    assert torch.load(checkpoint, weights_only=True)["step"] == 20
    resumed = training.train(pairs, TINY, checkpoint=checkpoint, resume=True)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoints_of_something_else_are_refused(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    (folder / "a.checkpoint").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a checkpoint"):
        training.train(pairs, TINY, checkpoint=folder / "a.checkpoint", resume=True)
    with pytest.raises(InputError, match="--resume"):
        training.train(pairs, TINY, checkpoint=folder / "b.checkpoint", resume=True)


def test_the_clock_ends_a_training(folder: Path) -> None:
    training.train(training.load_pairs(folder), replace(TINY, steps=10**9, minutes=0.01))


def test_weights_written_are_weights_that_load(folder: Path) -> None:
    out = folder / "w.npz"
    result = CliRunner().invoke(training.app, ["--data", str(folder), "--out", str(out), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert networks.parameters(networks.load("sesr_m5_x2", out)) == 13_720
    result = CliRunner().invoke(training.app, ["--data", str(folder / "absent"), "--out", str(out)])
    assert result.exit_code == 2
    result = CliRunner().invoke(training.app, ["--data", str(folder), "--out", str(folder / "x.npz"), "--resume"])
    assert result.exit_code == 2
