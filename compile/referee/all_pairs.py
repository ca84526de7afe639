"""Products of all pairs of pixels of two frames.

``psum`` is the sum over channels of products of codes; ``s_w`` is the second tensor's scale times the constant;
requantised as any psum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import within_int32
from codesign.compile.referee.values import Operand, Psum, Rule, tensor


def paired(node: Node, operands: Sequence[Operand]) -> Psum:
    """Products ``[1, h w, H, W]`` of the frames ``[1, C, H, W]`` and ``[1, C, h, w]``."""
    columns, rows = (tensor(operand) for operand in operands)
    by_row, by_column = (one.centred()[0].reshape(one.codes.shape[1], -1) for one in (rows, columns))
    exact = by_row.T.astype(np.float64) @ by_column.astype(np.float64)
    psum = within_int32(exact).reshape(1, -1, *columns.codes.shape[2:])
    return Psum(psum, columns.scale, np.full(len(exact), rows.scale * float(node.attributes["scale"])))


RULES: Mapping[str, Rule] = {"all_pairs": paired}
