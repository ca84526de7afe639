"""Space to depth: blocks of pixels become channels. Exporters spell it as two reshapes around a permutation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from tvm import relax

from codesign.compile.ir.graph import Node
from codesign.compile.operators.composite import Bind, Composite


class PixelUnshuffle(Composite):
    """Pixel ``(f y + i, f x + j)`` of channel ``c`` becomes channel ``c f^2 + i f + j``; ``downscale_factor``: f."""

    op = "pixel_unshuffle"
    size_free = True

    def evaluate(self, node: Node, inputs: list[Tensor]) -> Tensor:
        return F.pixel_unshuffle(inputs[0], int(node.attributes["downscale_factor"]))

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        _, channels, height, width = node.shape
        factor = int(node.attributes["downscale_factor"])
        split = relax.op.reshape(inputs[0], (1, channels // factor**2, height, factor, width, factor))
        split = bind(f"{node.name}.split", split)
        turned = bind(f"{node.name}.turn", relax.op.permute_dims(split, (0, 1, 3, 5, 2, 4)))
        return bind(node.name, relax.op.reshape(turned, node.shape))
