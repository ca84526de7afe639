"""Parts of flow and video networks computed by hand; and the networks through the front end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.networks.basicvsr import BasicVsr
from codesign.networks.motion import all_pairs, correlate, estimated_resized, grown, pixel_places, warp, windows
from codesign.networks.pwcnet import PwcNet
from codesign.networks.raft import RAFT, RAFT_SMALL, Raft
from codesign.networks.rife import Rife


def test_warp_by_whole_and_half_pixels() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    right = torch.zeros(1, 2, 3, 4)
    right[:, 0] = 1.0
    np.testing.assert_allclose(warp(image, right)[0, 0], [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]], atol=1e-5)
    np.testing.assert_allclose(warp(image, right, "zeros")[0, 0, 0], [1, 2, 3, 0], atol=1e-5)
    down = torch.zeros(1, 2, 3, 4)
    down[:, 1] = 0.5
    np.testing.assert_allclose(warp(image, down)[0, 0], [[2, 3, 4, 5], [6, 7, 8, 9], [8, 9, 10, 11]], atol=1e-5)


def test_correlation_finds_where_a_point_went() -> None:
    first, second = torch.zeros(1, 4, 7, 9), torch.zeros(1, 4, 7, 9)
    first[0, :, 3, 2] = 2.0
    second[0, :, 1, 5] = 3.0  # by (3, -2)
    costs = correlate(first, second, 3)
    assert costs.shape == (1, 49, 7, 9)
    assert torch.nonzero(costs).tolist() == [[0, (-2 + 3) * 7 + 3 + 3, 3, 2]]
    assert costs.max() == 6.0


def test_windows_of_all_pairs() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(1, 4, 5, 6), torch.randn(1, 4, 5, 6)
    pyramid = all_pairs(first, second, 3)
    assert [tuple(level.shape) for level in pyramid] == [(30, 1, 5, 6), (30, 1, 2, 3), (30, 1, 1, 1)]
    product = float((first[0, :, 1, 1] * second[0, :, 3, 4]).sum())
    assert pyramid[0][7, 0, 3, 4] == pytest.approx(product / 4**0.5, abs=1e-5)
    assert pyramid[1][7, 0, 1, 2] == pytest.approx(float(pyramid[0][7, 0, 2:4, 4:6].mean()), abs=1e-5)
    found = windows(pyramid, pixel_places(first), 1)
    assert found.shape == (1, 27, 5, 6)
    # Channel of (dx, dy) = (1, 0) at pixel (2, 3): its product with (3, 3).
    wanted = float((first[0, :, 3, 2] * second[0, :, 3, 3]).sum()) / 2.0
    assert found[0, 2 * 3 + 1, 3, 2] == pytest.approx(wanted, abs=1e-4)
    assert found[0, 1 * 3 + 0, 0, 2] == pytest.approx(0.0, abs=1e-4)  # above the frame
    # The level of one pixel: at pixel (2, 1), place (0.5, 0.25) of it; half and three quarters of its value.
    assert found[0, 18 + 1 * 3 + 1, 1, 2] == pytest.approx(0.5 * 0.75 * float(pyramid[2][8, 0, 0, 0]), abs=1e-4)


def test_borders_grow_outwards() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert grown(x, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert grown(x, 1) is x
    assert grown(x, 1, least=3).shape == (1, 1, 3, 3)


def test_a_flow_is_scaled_back_with_its_frame() -> None:
    def estimate(pair: torch.Tensor) -> torch.Tensor:
        assert pair.shape[2:] == (64, 128)
        return torch.ones(1, 2, 64, 128)

    flow = estimated_resized(torch.zeros(1, 6, 48, 100), 64, estimate)
    assert flow.shape == (1, 2, 48, 100)
    np.testing.assert_allclose(flow[0, 0], 100 / 128, rtol=1e-6)
    np.testing.assert_allclose(flow[0, 1], 48 / 64, rtol=1e-6)


SMALL = [
    ("pwcnet", PwcNet(reach=1), (64, 64), 6),
    ("raft", Raft(RAFT, 1), (72, 64), 6),
    ("raft_small", Raft(RAFT_SMALL, 1), (70, 45), 6),
    ("rife", Rife(), (61, 47), 6),
    ("basicvsr", BasicVsr(2, features=8, blocks=1), (64, 32), 6),
]


@pytest.mark.parametrize(("name", "module", "size", "channels"), SMALL, ids=[case[0] for case in SMALL])
def test_the_front_end_keeps_the_function(name: str, module: nn.Module, size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(1)
    module.eval()
    graph = from_module(load_model(module, width=size[0], height=size[1], channels=channels).module)
    given = torch.rand(1, channels, size[1], size[0])
    with torch.no_grad():
        want, got = module(given), run(graph, given)
    assert got.shape == want.shape
    assert float((got - want).abs().max()) < 1e-4 * max(1.0, float(want.abs().max()))
