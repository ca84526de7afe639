"""Seeded weights for untrained networks: the same on every machine, and varied enough to test a machine with.

Random kernels alone would not do: through a deep stack their features fade, blow up or no longer depend on the place
in the picture, and then a fault in the hardware hides behind flat numbers. So one pass over a synthetic picture sets
every layer's scale and offset (Mishkin and Matas, "All you need is a good init", ICLR 2016), and a network that has no
skip around it carries the picture through its first channels, so that its output is the picture with texture added.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from codesign.networks.basicvsr import BasicVsr
from codesign.networks.deep import DenseBlock, Edsr, ResidualBlock, RrdbNet
from codesign.networks.flow import SpyNet
from codesign.networks.nafnet import NafBlock, NafNet
from codesign.networks.pwcnet import Decoder, PwcNet
from codesign.networks.raft import Raft
from codesign.networks.rife import Block, Rife
from codesign.networks.small import Espcn, Fsrcnn, QuickSrNet

SPREAD = 0.25
"""Standard deviation of a layer's result before its activation."""

TEXTURE = 0.04
"""Standard deviation of the texture that the network adds to the picture."""

_GRID = 256.0  # scales and offsets are rounded to this, so that the last bit of a machine's sums cannot show

Conv = nn.Conv2d | nn.ConvTranspose2d

_SIZES: dict[type[nn.Module], int] = {SpyNet: 256, NafNet: 128, PwcNet: 128, Raft: 128, Rife: 128}
"""Side of the picture for networks whose pyramid's coarsest level needs several pixels to calibrate."""


def picture(channels: int, size: int = 32) -> NDArray[np.float64]:
    """A synthetic picture in [0, 1] with edges, gradients, waves and grain: ``float64[1, channels, size, size]``."""
    rng = np.random.Generator(np.random.PCG64(1))
    y, x = np.mgrid[0:size, 0:size] / size
    planes = []
    for plane in range(channels):
        image = 0.25 + 0.3 * x + 0.1 * np.sin(20.0 * (x + y) + plane) + 0.03 * rng.standard_normal((size, size))
        image += 0.3 * ((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.07 + 0.02 * plane) - 0.2 * (y > 0.75)
        planes.append(np.clip(image, 0.0, 1.0))
    return np.stack(planes)[None]


def seed(module: nn.Module, name: str, channels: int) -> None:
    """Fill ``module`` in place with weights drawn from ``name``; ``channels`` are the planes of its input."""
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")))
    blocks = [block for block in module.modules() if isinstance(block, NafBlock)]
    attentions = {block.attention for block in blocks}  # on one pixel, which has no spread
    layers = [layer for layer in module.modules() if isinstance(layer, Conv)]
    if isinstance(module, BasicVsr):  # its flow network takes a larger picture
        seed(module.flow, f"{name}.flow", 2 * channels // module.frames)
        inside = set(module.flow.modules())
        layers = [layer for layer in layers if layer not in inside]
    convs = [layer for layer in layers if layer not in attentions]
    module.double()
    with torch.no_grad():
        for layer in layers:
            fan_in = layer.weight.numel() // layer.out_channels
            layer.weight.copy_(torch.from_numpy(rng.normal(0.0, fan_in**-0.5, tuple(layer.weight.shape))))
        for act in module.modules():
            if isinstance(act, nn.PReLU):
                act.weight.copy_(torch.from_numpy(rng.uniform(0.1, 0.3, act.num_parameters)))
        for block in blocks:
            block.attention.weight.mul_(0.5)
            block.attention.bias.fill_(1.0)  # type: ignore[union-attr]
            block.beta.fill_(0.25)
            block.gamma.fill_(0.25)
        carried = _carry(module, channels)
        heads = {convs[-1], *_flow_heads(module)}
        for layer in convs:
            calm = {"spread": TEXTURE, "offset": 0.0} if layer in heads else {}
            # In place of the layer's own: with a hook its result would be computed once more, for nothing.
            layer.__dict__["forward"] = _Calibrator(layer, rng, carried.get(layer, 0), **calm)
        module(torch.from_numpy(picture(channels, _SIZES.get(type(module), 32))))
        for layer in convs:
            del layer.__dict__["forward"]
        _show(module, convs[-1], channels)
    module.float()


def _flow_heads(module: nn.Module) -> list[nn.Module]:
    """Layers that make flows, in networks that sum them over levels or iterations: large flows would leave the
    frame."""
    if isinstance(module, PwcNet):
        decoders = [decoder for decoder in module.decoders if isinstance(decoder, Decoder)]
        ups = [decoder.up_flow for decoder in decoders if decoder.up_flow is not None]
        return [*(decoder.flow for decoder in decoders), *ups, module.context[-1]]
    if isinstance(module, Raft):
        return [module.head2]
    if isinstance(module, Rife):
        return [block.up for block in module.blocks if isinstance(block, Block)]
    return []


class _Calibrator:
    """A layer's computation that rescales it so that its result has the wanted spread, channel by channel.

    The first ``carried`` channels are left alone; a layer that is used again keeps its first setting. A layer whose
    first input is zero, such as RAFT's first flow, stays as it was drawn, which keeps the size of its input: there is
    no spread to measure, and large gains on a flow saturate the gates behind it and make the iterations chaotic.
    """

    def __init__(
        self, layer: Conv, rng: np.random.Generator, carried: int = 0, *, spread: float = SPREAD, offset: float = 0.25
    ) -> None:
        self.layer, self.computed = layer, layer.forward
        self.rng, self.carried, self.spread, self.offset = rng, carried, spread, offset
        self.done = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        if self.done:
            return self.computed(x)
        self.done = True
        if layer.bias is None:  # a 1x1 layer: its kernels are made blind to the mean of its input instead
            mean = x.mean(dim=(0, 2, 3))
            kernels = layer.weight[:, :, 0, 0]
            layer.weight[:, :, 0, 0] = kernels - torch.outer(kernels @ mean / (mean @ mean), mean)
        else:
            layer.bias.zero_()
        output = self.computed(x)
        if not x.any():
            return output
        scale = self.spread / output.std(dim=(0, 2, 3)).clamp_min(1e-3)
        scale[: self.carried] = 1.0
        scale = torch.round(scale * _GRID).clamp_min(1.0) / _GRID
        layer.weight.mul_(
            scale[None, :, None, None] if isinstance(layer, nn.ConvTranspose2d) else scale[:, None, None, None]
        )
        if layer.bias is not None:
            target = torch.from_numpy(self.rng.uniform(0.0, 1.0, layer.out_channels)) * self.offset
            bias = target - output.mean(dim=(0, 2, 3)) * scale
            bias[: self.carried] = 0.0
            layer.bias.copy_(torch.round(bias * _GRID) / _GRID)
        return self.computed(x)


def _carry(module: nn.Module, channels: int) -> dict[nn.Module, int]:
    """Let the first features of a network without a skip be the picture; returns how many each layer carries."""
    carried: dict[nn.Module, int] = {}
    if isinstance(module, Edsr):
        _pass(module.head, channels)
        for block in module.body:
            assert isinstance(block, ResidualBlock)
            _pass(block.conv2, channels, gain=0.0)  # the skips carry it
            carried[block.conv2] = channels
        _pass(module.body_end, channels, gain=0.0)
        carried |= {module.head: channels, module.body_end: channels}
        for up in module.ups:
            assert isinstance(up, nn.Conv2d)
            copies = up.out_channels // up.in_channels
            _pass(up, channels, copies=copies)
            carried[up] = channels * copies
        return carried
    if isinstance(module, RrdbNet):
        for block in module.modules():
            if isinstance(block, DenseBlock):
                _pass(block.conv5, channels, gain=0.0)  # the skips carry it
                carried[block.conv5] = channels
        _pass(module.conv_body, channels, gain=0.0)
        tail = (module.conv_first, module.conv_up1, module.conv_up2, module.conv_hr)
        for layer in tail:
            _pass(layer, channels)
        return carried | dict.fromkeys((*tail, module.conv_body), channels)
    chain: list[nn.Conv2d] = []
    if isinstance(module, Espcn):
        chain = [module.conv1, module.conv2]
    elif isinstance(module, Fsrcnn):
        chain = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer is not module.tail]
    elif isinstance(module, QuickSrNet):
        chain = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer is not module.last]
    for layer in chain:
        # Halved before the first tanh, which is nearly linear there; _show doubles it.
        _pass(layer, channels, gain=0.5 if isinstance(module, Espcn) and layer is chain[0] else 1.0)
        carried[layer] = channels
    return carried


def _pass(layer: nn.Conv2d, channels: int, *, gain: float = 1.0, copies: int = 1) -> None:
    """Make the first outputs of ``layer`` repeat its first inputs, each ``copies`` times."""
    middle = layer.kernel_size[0] // 2
    layer.weight[: channels * copies] = 0.0
    for output in range(channels * copies):
        layer.weight[output, output // copies, middle, middle] = gain


def _show(module: nn.Module, last: Conv, channels: int) -> None:
    """Add the picture that the features carry to the output, as its nearest neighbours."""
    if isinstance(last, nn.ConvTranspose2d):
        first, stride = int(last.padding[0]), last.stride[0]
        last.weight[0, 0, first : first + stride, first : first + stride] += 1.0
    elif isinstance(module, Edsr | RrdbNet | Espcn | Fsrcnn | QuickSrNet):
        middle, copies = last.kernel_size[0] // 2, last.out_channels // channels
        for output in range(last.out_channels):
            last.weight[output, output // copies, middle, middle] += 2.2 if isinstance(module, Espcn) else 1.0
