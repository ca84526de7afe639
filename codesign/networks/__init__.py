"""The reference networks: torch definitions, shipped or seeded weights, counts.

A name is a family and its scale: ``sesr_m5_x2``, ``espcn_x4``. Only this package and those below it import torch.
"""

from __future__ import annotations

import copy
import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from codesign.hw.errors import InputError
from codesign.networks import basicvsr, deep, flow, flow_small, nafnet, pwcnet, raft, rife, small
from codesign.networks.published import translate
from codesign.networks.seeds import seed
from codesign.networks.sesr import Sesr
from codesign.pictures.images import check_size

Task = Literal["upscale", "denoise", "flow", "interpolate"]


@dataclass(frozen=True)
class Network:
    """A reference network. ``channels``: 1 takes luma, 3 n take n RGB images, in [0, 1]."""

    name: str
    family: str
    task: Task
    scale: int
    channels: int
    reference: str
    build: Callable[[], nn.Module]

    @property
    def images(self) -> int:
        """Number of input images."""
        return max(1, self.channels // 3)

    @property
    def results(self) -> int:
        """Number of frames made at a time; a clip network makes all frames of the clip."""
        return self.images if self.task in ("upscale", "denoise") else 1

    @property
    def trained(self) -> bool:
        """Whether it has weights trained by this project, or fixed kernels."""
        return self.family == "bicubic" or _shipped(self.name) is not None


@dataclass(frozen=True)
class _Family:
    pattern: str
    task: Task
    channels: int
    scales: range
    reference: str
    make: Callable[[int], nn.Module]


_UP = range(2, 5)
_FAMILIES = (
    _Family("bicubic", "upscale", 1, _UP, "Keys, IEEE TASSP 1981", small.Bicubic),
    _Family("espcn", "upscale", 1, _UP, "Shi et al., CVPR 2016", small.Espcn),
    _Family("fsrcnn", "upscale", 1, _UP, "Dong et al., ECCV 2016", small.Fsrcnn),
    _Family("sesr_m5", "upscale", 1, _UP, "Bhardwaj et al., MLSys 2022", lambda s: Sesr(5, s)),
    _Family("sesr_m11", "upscale", 1, _UP, "Bhardwaj et al., MLSys 2022", lambda s: Sesr(11, s)),
    _Family("abpn", "upscale", 3, _UP, "Du et al., CVPRW 2021", small.Abpn),
    _Family("quicksrnet_s", "upscale", 3, _UP, "Berger et al., CVPRW 2023", lambda s: small.QuickSrNet(32, 2, s)),
    _Family("quicksrnet_m", "upscale", 3, _UP, "Berger et al., CVPRW 2023", lambda s: small.QuickSrNet(32, 5, s)),
    _Family("quicksrnet_l", "upscale", 3, _UP, "Berger et al., CVPRW 2023", lambda s: small.QuickSrNet(64, 11, s)),
    _Family("edsr_f32b5", "upscale", 3, _UP, "Lim et al., CVPRW 2017; MLPerf Mobile", lambda s: deep.Edsr(32, 5, (s,))),
    _Family(
        "edsr_baseline",
        "upscale",
        3,
        _UP,
        "Lim et al., CVPRW 2017",
        lambda s: deep.Edsr(64, 16, (2, 2) if s == 4 else (s,)),
    ),
    _Family("rrdbnet", "upscale", 3, range(4, 5), "Wang et al., ECCVW 2018", lambda s: deep.RrdbNet()),
    _Family("rrdbnet6", "upscale", 3, range(4, 5), "Wang et al., ECCVW 2018; 6 blocks", lambda s: deep.RrdbNet(6)),
    _Family("srvgg16", "upscale", 3, _UP, "Wang et al., ICCVW 2021", lambda s: deep.Srvgg(16, s)),
    _Family("srvgg32", "upscale", 3, _UP, "Wang et al., ICCVW 2021", lambda s: deep.Srvgg(32, s)),
)

_DEFAULT_SCALES = {
    "bicubic": 2,
    "espcn": 3,
    "fsrcnn": 2,
    "sesr_m5": 2,
    "sesr_m11": 2,
    "abpn": 3,
    "quicksrnet_s": 3,
    "quicksrnet_m": 3,
    "quicksrnet_l": 3,
    "edsr_f32b5": 2,
    "edsr_baseline": 4,
    "rrdbnet": 4,
    "rrdbnet6": 4,
    "srvgg16": 4,
    "srvgg32": 4,
}


CLIP = 3
"""Frames that the catalogue's video networks take at a time."""

_SINGLE = (
    Network(
        "fsrcnn_x2_subpixel1",
        "fsrcnn_subpixel1",
        "upscale",
        2,
        1,
        "Dong et al., ECCV 2016; 1x1 sub-pixel tail",
        lambda: small.Fsrcnn(2, subpixel=True),
    ),
    Network("dncnn17", "dncnn17", "denoise", 1, 1, "Zhang et al., IEEE TIP 2017", deep.DnCnn),
    Network("nafnet32", "nafnet32", "denoise", 1, 3, "Chen et al., ECCV 2022", nafnet.NafNet),
    Network("spynet", "spynet", "flow", 1, 6, "Ranjan and Black, CVPR 2017", flow.SpyNet),
    Network("pwcnet", "pwcnet", "flow", 1, 6, "Sun et al., CVPR 2018", pwcnet.PwcNet),
    Network("raft", "raft", "flow", 1, 6, "Teed and Deng, ECCV 2020", raft.Raft),
    Network("raft_small", "raft_small", "flow", 1, 6, "Teed and Deng, ECCV 2020", lambda: raft.Raft(raft.RAFT_SMALL)),
    Network("flow_small", "flow_small", "flow", 1, 6, "this project", flow_small.FlowSmall),
    Network("rife", "rife", "interpolate", 1, 6, "Huang et al., ECCV 2022", rife.Rife),
    Network(
        "basicvsr_x4",
        "basicvsr",
        "upscale",
        4,
        3 * CLIP,
        f"Chan et al., CVPR 2021; {CLIP} frames",
        lambda: basicvsr.BasicVsr(CLIP),
    ),
)


def catalogue() -> tuple[Network, ...]:
    """Every family at its usual scale."""
    names = [f"{family.pattern}_x{_DEFAULT_SCALES[family.pattern]}" for family in _FAMILIES]
    return (*(get(name) for name in names), *_SINGLE)


def get(name: str) -> Network:
    """A network by name. Raises :class:`InputError`, with near names, for an unknown one."""
    for network in _SINGLE:
        if network.name == name:
            return network
    if match := re.fullmatch(r"(\w+)_x(\d)", name):
        pattern, scale = match[1], int(match[2])
        for family in _FAMILIES:
            if family.pattern == pattern and scale in family.scales:
                build = functools.partial(family.make, scale)
                return Network(name, pattern, family.task, scale, family.channels, family.reference, build)
    known = [f"{family.pattern}_x{scale}" for family in _FAMILIES for scale in family.scales]
    known += [network.name for network in _SINGLE]
    near = difflib.get_close_matches(name, known, 3) or ["sesr_m5_x2"]
    raise InputError(
        f"unknown network {name!r}",
        hint=f"Did you mean {' or '.join(near)}? `python -m codesign networks` lists all; files end in .onnx or .pt2.",
    )


def load(name: str, weights: str | Path | None = None) -> nn.Module:
    """The network in evaluation mode with the given weights (.npz, .pt or .pth), else the shipped, else seeded ones.

    Raises :class:`InputError` for unreadable files and for tensors that do not fit, naming the first.
    """
    network = get(name)
    module = network.build().eval()
    if weights is None:
        weights = _shipped(name)
    if weights is not None:
        _fill(module, network, _read(Path(weights)), str(weights))
    elif network.family != "bicubic":
        seed(module, name, network.channels)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, width: int, height: int, channels: int | None = None) -> int:
    """Multiply-accumulates of one input: every convolution's taps at every output, border taps included.

    A transposed convolution counts its kernel at every input position; products of two matrices count (RAFT's
    correlation of all pairs); local cost volumes and element-wise operators do not. ``width`` and
    ``height`` are the input's, in pixels; ``channels`` are its planes, by default those of the first convolution.
    Nothing is computed and ``module`` is left as it was. Raises :class:`InputError` for a frame without pixels or a
    module without convolutions.
    """
    check_size(width, height)
    twin = _without_values(module)
    layers = [layer for layer in twin.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    if not layers:
        raise InputError(
            "has no convolution, so no multiply-accumulates to count",
            where=type(module).__name__,
            hint="Give a network with convolutions.",
        )
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        positions = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output).shape[2:].numel()
        total += positions * layer.weight.numel()

    for layer in layers:
        layer.register_forward_hook(count)
    products = _Products()
    with torch.no_grad(), products:
        twin(torch.zeros(1, channels or layers[0].in_channels, height, width, device="meta"))
    return total + products.macs


def _without_values(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose tensors have shapes alone; no weight is copied."""
    shapes = {id(tensor): tensor.to("meta") for tensor in module.buffers()}
    shapes |= {id(weight): nn.Parameter(weight.to("meta"), weight.requires_grad) for weight in module.parameters()}
    return copy.deepcopy(module, dict(shapes))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-accumulates of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.grid_sampler_2d.default:  # torch would spell it out, which takes long
            image, grid = args[:2]
            return image.new_empty(*image.shape[:2], *grid.shape[1:3])
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.macs += result.numel() * args[0].shape[-1]
        return result


def _shipped(name: str) -> Path | None:
    path = Path(str(resources.files(__package__))) / "weights" / f"{name}.npz"
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: torch.from_numpy(np.asarray(archive[name], np.float32)) for name in archive.files}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError("no such weights file", where=str(path), hint="Check the path.") from error
    except Exception as error:  # readers of foreign files raise anything
        raise InputError(
            f"is not a readable weights file ({type(error).__name__})",
            where=str(path),
            hint="Give an .npz of arrays, or a .pt state dictionary without code.",
        ) from error
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError("does not hold a state dictionary", where=str(path), hint="Save module.state_dict().")
    for name, value in state.items():
        counts = str(name).endswith("num_batches_tracked")  # batch norm's, which nothing reads
        if value.layout is not torch.strided or not (value.is_floating_point() or counts):
            raise InputError(
                f"tensor {str(name)!r} is no dense tensor of floating point ({value.dtype}, {value.layout})",
                where=str(path),
                hint="Save module.state_dict().",
            )
    return {str(name): value.float() for name, value in state.items()}


def _fill(module: nn.Module, network: Network, state: dict[str, torch.Tensor], where: str) -> None:
    state = translate(network.family, state)
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in state:
            raise InputError(
                f"lacks the tensor {name!r}", where=where, hint=f"These are not weights of {network.name}."
            )
        if state[name].shape != tensor.shape:
            raise InputError(
                f"tensor {name!r} is {list(state[name].shape)}, {network.name} needs {list(tensor.shape)}",
                where=where,
                hint="Give weights of exactly this network.",
            )
        if not torch.isfinite(state[name]).all():
            raise InputError(
                f"tensor {name!r} holds values that are not finite",
                where=where,
                hint="Train again, or give other weights.",
            )
    if extra := sorted(set(state) - set(wanted)):
        raise InputError(
            f"holds an unknown tensor {extra[0]!r}", where=where, hint="Give weights of exactly this network."
        )
    module.load_state_dict(state)


__all__ = ["Network", "Task", "catalogue", "count_macs", "get", "load", "parameters"]
