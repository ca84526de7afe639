"""Images that share a call of an operator have the very values that each has alone."""

import numpy as np
import pytest
import torch
from torch import nn

from codesign.compile.graph.graph import Graph
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import trace
from codesign.compile.ir.relax import from_module
from codesign.compile.ir.together import traced_images


class Block(nn.Module):
    """Convolutions of several kinds and sizes, a gate over the frame, a concatenation, a shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())
        self.join = nn.Conv2d(2 * width, 12, 3, padding=1)
        self.slope = nn.PReLU(12)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.nn.functional.leaky_relu(self.first(x), 0.2)
        deep = torch.nn.functional.gelu(self.depthwise(first))
        joined = torch.cat((first, deep * self.gate(deep)), 1)
        return self.shuffle(self.slope(self.join(joined))) * 0.7


def graph(width: int, side: int) -> Graph:
    torch.manual_seed(width)
    return from_module(load_model(Block(width).eval(), width=side, height=side, channels=3, check=False).module)


@pytest.mark.parametrize(("width", "side"), [(4, 11), (16, 48), (24, 33)])
def test_images_that_run_together_have_the_values_that_each_has_alone(width: int, side: int) -> None:
    network = graph(width, side)
    rng = np.random.default_rng(7)
    images = [rng.random((1, 3, side, side), dtype=np.float32) for _ in range(5)]
    with torch.no_grad():
        alone = [dict(trace(network, torch.from_numpy(image))) for image in images]
        together = dict(traced_images(network, images))
    assert together.keys() == alone[0].keys()
    for name, values in together.items():
        assert len(values) == len(images)
        for value, each in zip(values, alone, strict=True):
            assert torch.equal(value, each[name]), name


def test_a_single_image_comes_by_itself() -> None:
    network = graph(4, 12)
    found = [len(values) for _, values in traced_images(network, [np.zeros((1, 3, 12, 12), np.float32)])]
    assert set(found) == {1}
