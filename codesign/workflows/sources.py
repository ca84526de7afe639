"""Networks as the user names them: found, and imported for one frame size."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codesign import networks
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.importing.published.restorer import ModelCard, Restorer, SizeRule
from codesign.compile.importing.published.weights_file import SUFFIXES, read_weights_file
from codesign.compile.importing.value_range import UNIT, ValueRange, Values, tried_values
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import CodesignError, InputError, UnsupportedError

Size = tuple[int, int]
"""(width, height) in pixels."""

DEFAULT_SIZE: Size = (64, 64)


@dataclass(frozen=True)
class Source:
    """A reference network, a model file, a network from a weights file, or a torch module of the user's own.

    ``network`` says what it takes and makes, where that is known; ``card`` describes a network that was recognised by
    its weights. ``values``: what the user says of its images, None: to be guessed.
    """

    name: str
    network: networks.Network | None
    module: torch.nn.Module | None
    path: Path | None
    trained: bool
    checked: bool = True
    """Whether its import is held against its own engine."""
    card: ModelCard | None = None
    values: ValueRange | None = None

    @property
    def channels(self) -> int | None:
        return None if self.network is None else self.network.channels

    @property
    def images_out(self) -> bool:
        return self.network is not None and self.network.task != "flow"

    @property
    def sides(self) -> SizeRule:
        """Sizes that the network takes; model files say that when they are imported."""
        return SizeRule() if self.card is None else self.card.sides


def find(
    source: str | Path | torch.nn.Module,
    weights: str | Path | None = None,
    values: ValueRange | None = None,
    *,
    check: bool = True,
) -> Source:
    """A network by name (``sesr_m5_x2``), a model file (``.onnx``, ``.pt2``, ``.pth``), or a torch module.

    ``check``: whether what is imported of it is held against its own engine.

    Raises :class:`InputError` for an unknown name, or weights given with a model that has its own.
    """
    found = _found(source, weights, check)
    return found if values is None else dataclasses.replace(found, values=values)


def _found(source: str | Path | torch.nn.Module, weights: str | Path | None, check: bool) -> Source:
    if isinstance(source, torch.nn.Module):
        return Source(type(source).__name__.lower(), None, source.eval(), None, True, check)
    text = str(source)
    if Path(text).suffix or "/" in text:
        if weights is not None:
            raise InputError("a model file contains its weights", where="--weights", hint="Leave --weights out.")
        if Path(text).suffix.lower() in SUFFIXES:
            return _from_weights(Path(text), check)
        return Source(Path(text).stem, None, None, Path(text), True, check)
    network = networks.get(text)
    module = networks.load(text, weights)
    return Source(network.name, network, module, None, network.trained or weights is not None, check)


def _from_weights(path: Path, check: bool) -> Source:
    """The network that the weights in ``path`` are recognised as."""
    opened = read_weights_file(path)
    card, module = opened.card, opened.module
    if card.channels not in ((1, 1), (3, 3)):
        raise UnsupportedError(
            f"takes {card.channels[0]} channels and makes {card.channels[1]}",
            where=str(path),
            hint="Networks from grey to grey and from RGB to RGB are supported.",
        )
    network = networks.Network(
        path.stem,
        card.architecture,
        "denoise" if card.scale == 1 else "upscale",
        card.scale,
        card.channels[0],
        f"{card.architecture}, by its weights",
        lambda: module,
    )
    return Source(path.stem, network, module, path, True, check, card)


def import_source(source: Source, size: Size, *, final: bool = True) -> ImportedModel:
    """The network as one Relax function for frames of ``size``, which its rule of sizes must allow.

    It is not checked unless it is the ``final`` one.
    """
    model = source.module if source.module is not None else source.path
    assert model is not None
    try:
        return load_model(
            model, width=size[0], height=size[1], channels=source.channels, check=source.checked and final
        )
    except CodesignError as error:
        if source.card is not None and error.where in ("", Restorer.__name__.lower()):
            error.where = str(source.path)  # where no operator is named
        raise


def values_of(source: Source, model: ImportedModel, image: NDArray[np.float32]) -> Values:
    """What the user says, what is known of the network, what its first operators tell, or how it treats ``image``.

    ``image``: a photograph ``float32[1, C, H, W]`` in [0, 1] of a size that the network takes.
    """
    if source.values is not None:
        return Values(source.values, "as asked")
    if source.card is not None:
        return Values(UNIT, "as spandrel feeds it")
    if source.network is not None:
        return Values(UNIT, "as it was trained")
    if model.values is not None:
        return model.values
    if model.quantised:
        return Values(UNIT, "assumed: its codes are symmetric")
    return tried_values(from_module(model.module), image)


def scale_of(source: Source, model: ImportedModel) -> int:
    """Ratio of the output's width to the input's; 1 for an output that is smaller, such as a flow."""
    if source.network is not None:
        return source.network.scale
    if len(model.output_shape) != 4:
        raise UnsupportedError(
            f"the network's result is a tensor {list(model.output_shape)}, not an image",
            where=source.name,
            hint="The network must return images as [1, C, H, W].",
        )
    return max(1, model.output_shape[3] // model.input_shape[3])
