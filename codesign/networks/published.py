"""Published weights, renamed to this project's layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

State = dict[str, torch.Tensor]


def translate(family: str, state: Mapping[str, torch.Tensor]) -> State:
    """``state`` under this project's names; unchanged where it already has them or no layout is known.

    Tensors that the file lacks are left out, so that the caller can name them.
    """
    if family == "fsrcnn_subpixel1" and any(re.fullmatch(r"f[1-8]", name) for name in state):
        return _fsrcnn(state)
    if family.startswith("srvgg") and not any(name.startswith(("first.", "acts.", "last.")) for name in state):
        return _srvgg(state)
    if family == "spynet" and any(re.match(r"level\d", name) for name in state):
        return _spynet(state)
    return dict(state)


def _spynet(state: Mapping[str, torch.Tensor]) -> State:
    """Levels from 1, the coarsest: ``level1.conv0.weight``."""
    result: State = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"level(\d+)\.conv(\d+)\.(weight|bias)", name):
            result[f"levels.{int(match[1]) - 1}.conv.{match[2]}.{match[3]}"] = tensor
    return result


def _fsrcnn(state: Mapping[str, torch.Tensor]) -> State:
    """FSRCNN_Tensorflow: ``f1..f8`` are HWIO kernels, ``b1..b8`` biases, ``alpha1..alpha7`` slopes."""
    layers = ["first", "shrink", *(f"body.{i}" for i in range(4)), "expand", "tail"]
    result: State = {}
    for index, layer in enumerate(layers, start=1):
        names = {
            f"f{index}": f"{layer}.weight",
            f"b{index}": f"{layer}.bias",
            f"alpha{index}": f"acts.{index - 1}.weight",
        }
        if layer == "tail":
            names[f"b{index}"] = "tail_bias"
        for theirs, ours in names.items():
            if theirs in state:
                tensor = state[theirs]
                kernel = theirs.startswith("f") and tensor.ndim == 4
                result[ours] = tensor.permute(3, 2, 0, 1).contiguous() if kernel else tensor.reshape(-1)
    return result


def _srvgg(state: Mapping[str, torch.Tensor]) -> State:
    """Real-ESRGAN: one sequence of convolutions (even places) and PReLU (odd places)."""
    places: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(?:Conv_|PRelu_|body\.)(\d+)\.(weight|bias|slope)", name):
            places.setdefault(int(match[1]), {})[match[2]] = tensor
    order = sorted(places)
    result: State = {}
    for place in order:
        tensors, index = places[place], place // 2
        if place % 2:
            result[f"acts.{index}.weight"] = tensors.get("slope", tensors.get("weight", torch.zeros(0))).reshape(-1)
            continue
        layer = "first" if place == order[0] else "last" if place == order[-1] else f"body.{index - 1}"
        for part, tensor in tensors.items():
            result[f"{layer}.{part}"] = tensor
    return result
