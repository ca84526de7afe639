"""Networks as the user names them: found, and imported for one frame size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from codesign import networks
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.hw.errors import InputError

Size = tuple[int, int]
"""(width, height) in pixels."""

DEFAULT_SIZE: Size = (64, 64)


@dataclass(frozen=True)
class Source:
    """A reference network, a model file, or a torch module of the user's own."""

    name: str
    network: networks.Network | None
    module: torch.nn.Module | None
    path: Path | None
    trained: bool
    checked: bool = True
    """Whether its import is held against its own engine."""

    @property
    def channels(self) -> int | None:
        return None if self.network is None else self.network.channels

    @property
    def images_out(self) -> bool:
        return self.network is not None and self.network.task != "flow"


def find(source: str | Path | torch.nn.Module, weights: str | Path | None = None, *, check: bool = True) -> Source:
    """A network by name (``sesr_m5_x2``), a model file (``.onnx``, ``.pt2``), or a torch module.

    ``check``: whether what is imported of it is held against its own engine.

    Raises :class:`InputError` for an unknown name, or weights given with a model that has its own.
    """
    if isinstance(source, torch.nn.Module):
        return Source(type(source).__name__.lower(), None, source.eval(), None, True, check)
    text = str(source)
    if Path(text).suffix or "/" in text:
        if weights is not None:
            raise InputError("a model file contains its weights", where="--weights", hint="Leave --weights out.")
        return Source(Path(text).stem, None, None, Path(text), True, check)
    network = networks.get(text)
    module = networks.load(text, weights)
    return Source(network.name, network, module, None, network.trained or weights is not None, check)


def import_source(source: Source, size: Size, *, final: bool = True) -> ImportedModel:
    """The network as one Relax function for frames of ``size``; not checked unless it is the ``final`` one."""
    model = source.module if source.module is not None else source.path
    assert model is not None
    return load_model(model, width=size[0], height=size[1], channels=source.channels, check=source.checked and final)


def scale_of(source: Source, model: ImportedModel) -> int:
    """Ratio of the output's width to the input's; 1 for an output that is smaller, such as a flow."""
    if source.network is not None:
        return source.network.scale
    return max(1, model.output_shape[3] // model.input_shape[3])
