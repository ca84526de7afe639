"""A block inside a network, with the input that the network gives it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class _FoundError(Exception):
    """Raised to end a network's evaluation once the block's input is known."""


def block_input(network: nn.Module, block: nn.Module, frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """First input of ``block`` when ``network`` runs on ``frame``: both ``float32[1, C, H, W]``.

    Raises :class:`ValueError` when the network does not call the block.
    """
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _FoundError

    handle = block.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            network(torch.from_numpy(frame))
    except _FoundError:
        return np.ascontiguousarray(found[0].numpy())
    finally:
        handle.remove()
    raise ValueError("the network does not call this block")
