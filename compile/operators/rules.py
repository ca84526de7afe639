"""Conditions that several operators share. A docstring is the sentence that the user reads."""

from __future__ import annotations

from collections.abc import Callable

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit

MAX_ROWS, MAX_COLUMNS, MAX_PADDING, MAX_SIDE = 63, 128, 63, 65535


def batch_is_one(graph: Graph, node: Node) -> bool:
    """The batch must be one."""
    return node.shape[0] == 1


def frame_fits(graph: Graph, node: Node) -> bool:
    """A frame may have 65535 pixels a side."""
    return max(node.shape[2:]) <= MAX_SIDE


def stride_is_one_or_two(graph: Graph, node: Node) -> bool:
    """Strides must be 1 or 2 and the same in both directions."""
    return tuple(int(s) for s in node.attributes["strides"]) in ((1, 1), (2, 2))


FRAME = (batch_is_one, frame_fits)


def clips_to_8_bits(unit: RoundedUnit) -> bool:
    """Whether a clip of ``unit``, if it has one, makes 8 bits: the requantiser limits no others."""
    return unit.result.bits == 8 or all(node.op != "clip" for node in unit.nodes)


def out_of_range(parameters: Callable[[RoundedUnit], object], unit: RoundedUnit) -> str | None:
    """Why the machine cannot hold the ``parameters`` of ``unit``, which then raise ``ValueError``; None if it can."""
    try:
        parameters(unit)
    except ValueError as error:
        return f"The machine cannot hold its scales: {error}."
    return None
