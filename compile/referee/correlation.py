"""Cost volumes: one frame by another that is moved by every displacement within a reach.

``psum`` is the sum over channels of products of codes, beyond the frame 0; ``s_w`` is the second tensor's scale over
the number of channels; requantised as any psum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.values import Operand, Psum, Rule, tensor


def correlated(node: Node, operands: Sequence[Operand]) -> Psum:
    first, second = (tensor(operand) for operand in operands)
    reach = int(node.attributes["reach"])
    around = np.pad(second.centred(), ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    own = first.centred()
    channels, rows, columns = own.shape[1:]
    window = range(2 * reach + 1)
    sums = [(own * around[:, :, dy : dy + rows, dx : dx + columns]).sum(axis=1) for dy in window for dx in window]
    return Psum(np.stack(sums, axis=1), first.scale, np.full(len(sums), second.scale / channels))


RULES: Mapping[str, Rule] = {"correlation": correlated}
