"""The flow network that this project trained: its weights, and the training that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from codesign import networks
from codesign.hw.errors import InputError
from codesign.metrics.motion import end_point_error
from codesign.networks.flow_small import FlowSmall, enlarged
from codesign.networks.motion import warp
from codesign.networks.training_flow import (
    Recipe,
    batch,
    error,
    held_out_error,
    mismatch,
    photographs,
    save_weights,
    train,
)
from codesign.networks.training_run import Checkpointing
from codesign.pictures import images


def test_the_shipped_weights_follow_a_camera() -> None:
    """A photograph that moves by whole pixels has a mean error of at most a pixel, also at odd sizes."""
    module = networks.load("flow_small")
    for right, down, (width, height) in ((3, -2, (128, 96)), (-8, 5, (119, 87))):
        whole = images.to_real(np.asarray(data.coffee()))[100:300, 100:400]
        first, second = whole[40 : 40 + height, 60 : 60 + width], whole[40 - down :, 60 - right :][:height, :width]
        pair = np.concatenate([first, second], 2).transpose(2, 0, 1)[None].astype(np.float32)
        with torch.no_grad():
            flow = module(torch.from_numpy(pair.copy()))[0].numpy()
        assert flow.shape == (2, height, width)
        truth = np.stack([np.full((height, width), right), np.full((height, width), down)]).astype(np.float32)
        inside = np.zeros((height, width), bool)
        inside[10:-10, 10:-10] = True
        assert end_point_error(flow, truth, inside).epe_pixels < 1.1


def test_pairs_know_their_flow() -> None:
    """Where nothing is hidden, the second image sampled along the flow equals the first, except for exposure."""
    recipe = Recipe(batch=6, side=96, first_reach=8.0)
    motion = batch(photographs(None), recipe, 0)
    assert motion.pairs.shape == (6, 6, 96, 96)
    assert torch.equal(motion.flow, batch(photographs(None), recipe, 0).flow)
    first, second = motion.pairs[:, :3], motion.pairs[:, 3:]

    def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = (x - torch.nn.functional.avg_pool2d(x, 9, 1, 4) for x in (a, b))
        return float((a * b).mean() / (a.std() * b.std()))

    along, against, still = (likeness(first, warp(second, s * motion.flow)) for s in (1.0, -1.0, 0.0))
    assert along > 0.95
    assert along > max(against, still) + 0.1


def test_errors_by_hand() -> None:
    truth = torch.zeros(1, 2, 8, 8)
    truth[:, 0] = 4.0
    assert float(error(torch.zeros(1, 2, 2, 2), truth)) == pytest.approx(4.0, abs=0.01)
    assert float(error(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2), truth)) < 0.02


def test_training_learns_goes_on_and_saves(tmp_path: Path) -> None:
    images_, recipe = photographs(None), Recipe(steps=3, batch=1, side=64, report=1, warm_up=1, first_reach=4.0)
    checkpoint = tmp_path / "a.checkpoint"
    whole = train(images_, recipe, kept=Checkpointing(tmp_path / "whole.checkpoint"))
    train(images_, Recipe(**{**vars(recipe), "steps": 2}), kept=Checkpointing(checkpoint))
    assert checkpoint.exists()
    net = train(images_, recipe, kept=Checkpointing(checkpoint, resume=True))
    assert set(net.state_dict()) == set(whole.state_dict())
    save_weights(net, tmp_path / "a.npz")
    again = networks.load("flow_small", tmp_path / "a.npz")
    motion = batch(images_, recipe, 9)
    assert held_out_error(again, motion) == pytest.approx(held_out_error(net, motion), rel=0.05)
    (tmp_path / "broken").write_bytes(b"no checkpoint")
    for path in (tmp_path / "absent", tmp_path / "broken"):
        with pytest.raises(InputError):
            train(images_, recipe, kept=Checkpointing(path, resume=True))


def test_a_step_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = FlowSmall()
    model.start()
    motion = batch(photographs(None), Recipe(batch=2, side=64, first_reach=4.0), 3)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        found = model.levels(motion.pairs)
        loss = error(enlarged(found[-1].flow), motion.flow) + 0.3 * mismatch(found[-1], motion.flow)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
