"""Warps: a frame read where a flow points.

Places by ``sample_places`` of the int16 flow, whose scale is ``2**-bits`` pixels; ``psum`` is ``interpolate`` across,
then down, of ``q - z_in``, which beyond the frame is 0 or the nearest pixel's; ``s_w = 1 / SAMPLE_UNITS``; requantised
as any psum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.arrays import Wide
from codesign.compile.referee.sampling import SAMPLE_SHARE, fraction_bits
from codesign.compile.referee.values import NoMeaningError, Operand, Psum, Rule, tensor
from codesign.hw import numerics


def warped(node: Node, operands: Sequence[Operand]) -> Psum:
    source, flow = (tensor(operand) for operand in operands)
    padding = str(node.attributes["padding_mode"])
    if padding not in ("zeros", "border"):
        raise NoMeaningError("a warp that reads something else beyond the frame than zeros or the border")
    bits = fraction_bits(flow)
    values = source.centred()[0]
    height, width = values.shape[1:]
    codes = np.clip(flow.codes[0], numerics.INT16_MIN, numerics.INT16_MAX)
    (across, right), (down, below) = (numerics.sample_places(one, bits) for one in codes)
    x, y = np.arange(width) + across, np.arange(height)[:, None] + down

    def pixels(rows: Wide, columns: Wide) -> Wide:
        found: Wide = values[:, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return found if padding == "border" else np.where(inside, found, 0)

    upper, lower = (numerics.interpolate(pixels(rows, x), pixels(rows, x + 1), right) for rows in (y, y + 1))
    scales = np.full(len(values), SAMPLE_SHARE)
    return Psum(numerics.interpolate(upper, lower, below)[None], source.scale, scales)


RULES: Mapping[str, Rule] = {"warp": warped}
