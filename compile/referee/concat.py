"""Concatenation along the channels: codes are moved.

Where scale, zero point or width change on the way, that operand is first requantised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.values import Format, NoMeaningError, Operand, Rule, Tensor, Value, tensor


@dataclass(frozen=True)
class Concat(Value):
    """Tensors one behind the other along the channels, each with its own scale."""

    parts: tuple[Tensor, ...]

    def rounded(self, to: Format) -> Tensor:
        return to.tensor(np.concatenate([part.rounded(to).codes for part in self.parts], axis=1))


def concatenated(node: Node, operands: Sequence[Operand]) -> Concat:
    if int(node.attributes["axis"]) != 1:
        raise NoMeaningError("concatenation along another axis than the channels")
    return Concat(tuple(tensor(operand) for operand in operands))


RULES: Mapping[str, Rule] = {"concat": concatenated}
