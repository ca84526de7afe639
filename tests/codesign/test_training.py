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

from codesign import networks
from codesign.hw.errors import InputError
from codesign.networks import training
from codesign.networks.soap import Soap
from codesign.networks.training_run import Checkpointing
from codesign.pictures import images

TINY = training.Recipe(steps=40, batch=1, patch=8, warm_up=10, report=10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs where the training looks for them."""
    for kind, left in (("train", 60), ("val", 190)):
        (tmp_path / "bsds" / kind).mkdir(parents=True)
        images.save_image(images.reference_photograph()[20:330, left : left + 310], tmp_path / "bsds" / kind / "1.jpg")
    return tmp_path


def test_pairs_are_degraded_as_the_evaluation_does(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    assert len(pairs) == 4
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


def losses(make: type[torch.optim.Optimizer], inputs: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Losses of fitting a matrix by full-batch steps."""
    weight = torch.nn.Parameter(torch.zeros_like(truth))
    optimiser = make([weight], lr=0.05)  # type: ignore[call-arg]
    result = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = ((inputs @ (weight - truth).T) ** 2).mean()
        loss.backward()
        optimiser.step()
        result.append(loss.item())
    return result


def test_soap_does_not_mind_how_the_inputs_are_turned() -> None:
    """SOAP takes Adam's steps in the eigenbasis of the problem."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, 8)
    truth = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    straight, turned = losses(Soap, inputs, truth), losses(Soap, inputs @ turn, truth @ turn)
    np.testing.assert_allclose(straight, turned, rtol=1e-2)
    assert straight[-1] < 0.01 * straight[0]
    adam, adam_turned = losses(torch.optim.Adam, inputs, truth), losses(torch.optim.Adam, inputs @ turn, truth @ turn)
    assert abs(adam[-1] / adam_turned[-1] - 1.0) > 0.1


def test_training_learns(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    recipe = replace(TINY, steps=300, batch=4, patch=12)
    net = training.train(pairs, recipe)
    low, high = next(training.batches(pairs, replace(recipe, batch=16, seed=8)))
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
        training.train(pairs, TINY, kept=Checkpointing(checkpoint))
    monkeypatch.setattr(training, "batches", batches)
    assert torch.load(checkpoint, weights_only=True)["step"] == 20
    resumed = training.train(pairs, TINY, kept=Checkpointing(checkpoint, resume=True))
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoints_of_something_else_are_refused(folder: Path) -> None:
    pairs = training.load_pairs(folder)
    (folder / "a.checkpoint").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a checkpoint"):
        training.train(pairs, TINY, kept=Checkpointing(folder / "a.checkpoint", resume=True))
    with pytest.raises(InputError, match="--resume"):
        training.train(pairs, TINY, kept=Checkpointing(folder / "b.checkpoint", resume=True))


def test_the_loss_is_in_decibels() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    assert float(training.decibels(truth, truth)) == pytest.approx(np.log(1e-4))
    output = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.2)])
    assert float(training.decibels(output, truth)) == pytest.approx((np.log(0.0101) + np.log(0.0401)) / 2)


def test_photographs_smaller_than_a_patch_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="patch"):
        training.train(training.load_pairs(folder), replace(TINY, patch=160))


def test_the_clock_ends_a_training(folder: Path) -> None:
    trained = training.train(training.load_pairs(folder), replace(TINY, steps=10**9, minutes=0.01))
    assert all(bool(torch.isfinite(values).all()) for values in trained.parameters())


def test_weights_written_are_weights_that_load(folder: Path) -> None:
    out = folder / "w.npz"
    result = CliRunner().invoke(training.app, ["--data", str(folder), "--out", str(out), "--steps", "1"])
    assert result.exit_code == 0, result.output
    assert networks.parameters(networks.load("sesr_m5_x2", out)) == 13_716
    again = ["--data", str(folder), "--out", str(folder / "again.npz"), "--steps", "1", "--start", str(out)]
    assert CliRunner().invoke(training.app, again).exit_code == 0
    first, second = (networks.load("sesr_m5_x2", path).last.weight for path in (out, folder / "again.npz"))
    assert torch.equal(first, second)  # the optimiser's first step only measures
    result = CliRunner().invoke(training.app, ["--data", str(folder / "absent"), "--out", str(out)])
    assert result.exit_code == 2
    result = CliRunner().invoke(training.app, ["--data", str(folder), "--out", str(folder / "x.npz"), "--resume"])
    assert result.exit_code == 2
