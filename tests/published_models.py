"""Weights files in the layouts in which networks are published, with seeded weights and small settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

State = dict[str, torch.Tensor]


def esrgan(**settings: Any) -> nn.Module:
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(**{"num_filters": 8, "num_blocks": 1, "scale": 4} | settings)


def compact(**settings: Any) -> nn.Module:
    from spandrel.architectures.Compact import Compact

    return Compact(**{"num_feat": 16, "num_conv": 2, "upscale": 2} | settings)


def span(**settings: Any) -> nn.Module:
    from spandrel.architectures.SPAN import SPAN

    return SPAN(**{"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2} | settings)


def swinir(**settings: Any) -> nn.Module:
    from spandrel.architectures.SwinIR import SwinIR

    small = {"img_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "mlp_ratio": 2}
    return SwinIR(**small | {"upscale": 2, "upsampler": "pixelshuffledirect"} | settings)


def dat(**settings: Any) -> nn.Module:
    from spandrel.architectures.DAT import DAT

    small = {"img_size": 32, "embed_dim": 16, "split_size": [8, 8], "depth": [2], "num_heads": [2]}
    return DAT(**small | {"expansion_factor": 2, "upscale": 2, "upsampler": "pixelshuffledirect"} | settings)


def dncnn(**settings: Any) -> nn.Module:
    from spandrel.architectures.DnCNN import DnCNN

    return DnCNN(**{"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 9, "act_mode": "R"} | settings)


def seeded(build: Callable[..., nn.Module], **settings: Any) -> nn.Module:
    """The network in evaluation mode, with the weights of one seed."""
    from codesign.compile.importing.published.restorer import spandrel

    spandrel()  # imports torchvision wherever it can be
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build(**settings).eval()


def as_real_esrgan(state: State) -> State:
    """ESRGAN's names since Real-ESRGAN, of a network of scale 4."""
    return _renamed(state, "body", "rdb", "conv_body", ("conv_up1", "conv_up2", "conv_hr"))


def as_bsrgan(state: State) -> State:
    """ESRGAN's names in BSRGAN and RealSR, of a network of scale 4."""
    return _renamed(state, "RRDB_trunk", "RDB", "trunk_conv", ("upconv1", "upconv2", "HRconv"))


def _renamed(state: State, trunk: str, dense: str, after: str, tail: tuple[str, str, str]) -> State:
    blocks = max(int(match[1]) for name in state if (match := re.match(r"model\.1\.sub\.(\d+)\.", name)))
    plain = {"model.0": "conv_first", f"model.1.sub.{blocks}": after, "model.10": "conv_last"}
    plain |= dict(zip(("model.3", "model.6", "model.8"), tail, strict=True))
    result: State = {}
    for name, weight in state.items():
        layer, _, kind = name.rpartition(".")
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", layer):
            layer = f"{trunk}.{match[1]}.{dense}{match[2]}.conv{match[3]}"
        else:
            layer = plain[layer]
        result[f"{layer}.{kind}"] = weight
    return result
