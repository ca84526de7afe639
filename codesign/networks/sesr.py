"""SESR: super-efficient super-resolution by collapsed linear blocks (Bhardwaj et al., MLSys 2022)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Sesr(nn.Module):
    """The collapsed network: ``float32[1, 1, H, W]`` luma in [0, 1] to ``[1, 1, s H, s W]``.

    A 5x5 layer, ``layers`` 3x3 layers with a skip around them, a 5x5 layer, the input added to every sub-pixel, and
    depth to space. PReLU follows every layer but the last.
    """

    def __init__(self, layers: int, scale: int, features: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, features, 5, padding=2)
        self.first_act = nn.PReLU(features)
        self.body = nn.ModuleList(nn.Conv2d(features, features, 3, padding=1) for _ in range(layers))
        self.body_act = nn.ModuleList(nn.PReLU(features) for _ in range(layers))
        self.last = nn.Conv2d(features, scale * scale, 5, padding=2)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip: torch.Tensor = self.first_act(self.first(x))
        h = skip
        for conv, act in zip(self.body, self.body_act, strict=True):
            h = act(conv(h))
        result: torch.Tensor = self.shuffle(self.last(h + skip) + x)
        return result


class LinearBlock(nn.Module):
    """A k x k convolution to ``hidden`` features and a 1x1 one back, collapsed before every use.

    The product of the two is one small kernel; training it through its factors reaches a better optimum, and collapsing
    first makes a step as cheap as the small network's (section 3.3 of the paper).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Parameter(torch.empty(hidden, inputs, kernel, kernel))
        self.project = nn.Parameter(torch.empty(outputs, hidden))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_normal_(self.expand, nonlinearity="linear")
        nn.init.kaiming_normal_(self.project, nonlinearity="linear")
        self.short_skip = inputs == outputs

    def kernel(self) -> torch.Tensor:
        """``[outputs, inputs, k, k]``, the short skip folded in as an identity tap."""
        kernel = torch.einsum("oh,hiyx->oiyx", self.project, self.expand)
        if self.short_skip:
            middle = kernel.shape[-1] // 2
            identity = torch.zeros_like(kernel)
            index = torch.arange(kernel.shape[0])
            identity[index, index, middle, middle] = 1.0
            kernel = kernel + identity
        return kernel


class TrainableSesr(nn.Module):
    """The over-parametrised network that is trained; :meth:`collapse` gives the :class:`Sesr` it equals."""

    def __init__(self, layers: int, scale: int, features: int = 16, hidden: int = 128) -> None:
        super().__init__()
        self.layers, self.scale, self.features = layers, scale, features
        sizes = [(1, features, 5), *[(features, features, 3)] * layers, (features, scale * scale, 5)]
        self.blocks = nn.ModuleList(LinearBlock(i, o, k, hidden) for i, o, k in sizes)
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((features,), 0.1)) for _ in range(layers + 1))
        with torch.no_grad():  # start as nearest-neighbour up-scaling
            last = self.blocks[-1]
            assert isinstance(last, LinearBlock)
            last.project.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        skip = x
        for index, block in enumerate(self.blocks):
            assert isinstance(block, LinearBlock)
            kernel = block.kernel()
            if index == len(self.blocks) - 1:
                h = h + skip
            h = F.conv2d(h, kernel, block.bias, padding=kernel.shape[-1] // 2)
            if index < len(self.slopes):
                h = F.prelu(h, self.slopes[index])
            if index == 0:
                skip = h
        return F.pixel_shuffle(h + x, self.scale)

    def collapse(self) -> Sesr:
        """The same function as small convolutions."""
        net = Sesr(self.layers, self.scale, self.features)
        convs = [net.first, *net.body, net.last]
        acts = [net.first_act, *net.body_act]
        with torch.no_grad():
            for block, conv in zip(self.blocks, convs, strict=True):
                assert isinstance(block, LinearBlock)
                assert isinstance(conv, nn.Conv2d)
                assert conv.bias is not None
                conv.weight.copy_(block.kernel())
                conv.bias.copy_(block.bias)
            for slope, act in zip(self.slopes, acts, strict=True):
                assert isinstance(act, nn.PReLU)
                act.weight.copy_(slope)
        return net.eval()
