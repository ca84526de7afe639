"""A region of a quantised network becomes a :class:`LayerGraph`: real scales become the machine's integers.

A unit becomes one layer, mostly: the machine rounds where the graph does. How, its operator says. The rules that turn
scales into integers are those that the files of :mod:`codesign.compile.referee` document.
"""

from __future__ import annotations

from collections import Counter

from codesign.compile.scanline.layers import LayerGraph
from codesign.compile.scanline.lowering import RESULT_READERS, Lowering
from codesign.compile.scanline.partition import Region


def lower(region: Region, name: str) -> LayerGraph:
    """The layers of ``region``, unit by unit; its inputs and outputs come in the region's order.

    Raises :class:`UnsupportedError`, naming the operator, for scales that the machine cannot hold.
    """
    readers = Counter(operand.name for unit in region.units.values() for operand in unit.operands)
    readers.update(dict.fromkeys(region.outputs, RESULT_READERS))
    lowering = Lowering(readers)
    for unit in region.units.values():
        for operand in unit.operands:
            if operand.name in region.inputs:
                lowering.take(operand)
        target = lowering.target(unit)
        unit.operator.lower(unit, target, lowering)
        lowering.make(target)
    return lowering.graph(name, region.inputs, region.outputs)
