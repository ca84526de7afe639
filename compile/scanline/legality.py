"""What the machine can run: one rule a function. A rule's docstring is the reason the user reads.

A rule takes a node of a quantised graph and answers whether the machine's conditions hold. Rules speak of the operator
alone; whether a legal network fits on chip is the planner's business.
"""

from __future__ import annotations

from collections.abc import Callable

from codesign.compile.canonical.resample import corner_factor, resize_factor
from codesign.compile.ir.arithmetic import UNARY
from codesign.compile.ir.graph import Graph, Node
from codesign.compile.operators.warp import PADDINGS
from codesign.compile.quantise.rounded import RoundedUnit
from codesign.compile.quantise.units import AT_A_FLOW, MOVEMENT, Kind, keeps_corners
from codesign.hw.isa import MAX_LEVEL, MAX_MAP_BYTES
from codesign.hw.normalise import COUNT_BITS
from codesign.hw.spec import AccelSpec, Unit
from codesign.hw.windows import MAX_RADIUS

MAX_CONCAT = 16
"""A concatenation of more tensors stays on the host."""

MAX_ROWS, MAX_COLUMNS, MAX_PADDING, MAX_REACH, MAX_SIDE = 63, 128, 63, 15, 65535
UNSHUFFLES = (2, 4, 8)

Rule = Callable[[Graph, Node], bool]


def batch_is_one(graph: Graph, node: Node) -> bool:
    """The batch must be one."""
    return node.shape[0] == 1


def frame_fits(graph: Graph, node: Node) -> bool:
    """A frame may have 65535 pixels a side."""
    return max(node.shape[2:]) <= MAX_SIDE


def stride_is_one_or_two(graph: Graph, node: Node) -> bool:
    """Strides must be 1 or 2 and the same in both directions."""
    return tuple(int(s) for s in node.attributes["strides"]) in ((1, 1), (2, 2))


def kernel_fits(graph: Graph, node: Node) -> bool:
    """A kernel, dilation included, may have 63 rows and 128 columns, with at most 63 rows and columns of padding."""
    rows, columns = graph.shape_of(node.inputs[1])[2:]
    step_y, step_x = (int(d) for d in node.attributes["dilation"])
    return (
        (rows - 1) * step_y < MAX_ROWS
        and (columns - 1) * step_x < MAX_COLUMNS
        and max(int(p) for p in node.attributes["padding"]) <= MAX_PADDING
    )


def transposed_is_exact(graph: Graph, node: Node) -> bool:
    """A transposed convolution must up-scale by its stride exactly, alike in both directions, undilated, ungrouped."""
    strides = tuple(int(s) for s in node.attributes["strides"])
    height, width = graph.shape_of(node.inputs[0])[2:]
    return (
        strides[0] == strides[1]
        and 1 <= strides[0] <= 8
        and node.shape[2:] == (height * strides[0], width * strides[0])
        and all(int(d) == 1 for d in node.attributes["dilation"])
        and int(node.attributes["groups"]) == 1
    )


def operands_match(graph: Graph, node: Node) -> bool:
    """Both operands must have the result's shape, or one channel of it."""
    batch, channels, height, width = node.shape
    shapes = [graph.shape_of(name) for name in node.inputs]
    allowed = ((batch, channels, height, width), (batch, 1, height, width))
    return (all(shape in allowed for shape in shapes) and shapes != [allowed[1]] * 2) or channels == 1


def moves_channels(graph: Graph, node: Node) -> bool:
    """Only channels may be repeated, tiled or sliced."""
    match node.op:
        case "repeat":
            return node.attributes["axis"] is not None and int(node.attributes["axis"]) == 1
        case "tile":
            times = [int(t) for t in node.attributes["repeats"]]
            return len(times) == 4 and times[0] == times[2] == times[3] == 1
        case _:
            return [int(axis) for axis in node.attributes["axes"]] == [1]


def concatenates_channels(graph: Graph, node: Node) -> bool:
    """Only channels may be concatenated, of at most 16 tensors."""
    return node.attributes["axis"] is not None and int(node.attributes["axis"]) == 1 and len(node.inputs) <= MAX_CONCAT


def shuffle_fits(graph: Graph, node: Node) -> bool:
    """Pixels may be shuffled by a factor of at most 8."""
    return 1 <= int(node.attributes["upscale_factor"]) <= 8


def unshuffles(graph: Graph, node: Node) -> bool:
    """Pixels may be unshuffled by 2, 4 or 8."""
    return int(node.attributes["downscale_factor"]) in UNSHUFFLES


def factors_match(graph: Graph, node: Node) -> bool:
    """A tensor may be multiplied by one constant, or by a tensor of its shape; one of two may have one channel."""
    return graph.scalar(node.inputs[1]) is not None or (batch_is_one(graph, node) and operands_match(graph, node))


def averages_plainly(graph: Graph, node: Node) -> bool:
    """An average pool must divide by its whole window, by floor of the frame, in strides of 1 or 2."""
    counted = bool(node.attributes["count_include_pad"]) or not any(int(p) for p in node.attributes["padding"])
    plain = not node.attributes["ceil_mode"] and all(int(d) == 1 for d in node.attributes["dilation"])
    rows, columns = (int(extent) for extent in node.attributes["pool_size"])
    fits = rows < MAX_ROWS and columns < MAX_COLUMNS and max(int(p) for p in node.attributes["padding"]) <= MAX_PADDING
    return counted and plain and fits and stride_is_one_or_two(graph, node)


def resizes_alike(graph: Graph, node: Node) -> bool:
    """A bilinear resize must be by 1/2, 2, 3, 4 or 5 with half-pixel centres, or by 2, 4 or 8 with aligned corners."""
    height, width = graph.shape_of(node.inputs[0])[2:]
    rows, columns = node.shape[2:]
    how = str(node.attributes["method"]), str(node.attributes["coordinate_transformation_mode"])
    frames = (height, width), (rows, columns)
    return resize_factor(*frames, *how) != 0 or corner_factor(*frames, *how) != 0


def normalises_channels(graph: Graph, node: Node) -> bool:
    """An instance normalisation must be of frames of less than 2^24 pixels."""
    height, width = node.shape[2:]
    return height * width < 1 << COUNT_BITS


def samples_pixels(graph: Graph, node: Node) -> bool:
    """A warp must read zeros or the border's values beyond the frame."""
    return str(node.attributes["padding_mode"]) in PADDINGS


def reach_fits(graph: Graph, node: Node) -> bool:
    """A cost volume may reach 15 pixels at most."""
    return int(node.attributes["reach"]) <= MAX_REACH


def window_fits(graph: Graph, node: Node) -> bool:
    """A window may reach 7 pixels, on levels 0 to 7, in maps of less than 65536 pixels."""
    rows, columns = node.attributes["map"]
    radius, level = int(node.attributes["radius"]), int(node.attributes["level"])
    return 1 <= radius <= MAX_RADIUS and 0 <= level <= MAX_LEVEL and rows * columns <= MAX_MAP_BYTES


def is_command(graph: Graph, node: Node) -> bool:
    """The machine has no command for this operator."""
    return node.op in RULES or node.op in TABLES


TABLES = tuple(op for op in UNARY if op != "nn.relu")
"""Operators that a 256-entry table computes."""

RULES: dict[str, tuple[Rule, ...]] = {
    "nn.conv2d": (batch_is_one, frame_fits, stride_is_one_or_two, kernel_fits),
    "nn.conv2d_transpose": (batch_is_one, frame_fits, transposed_is_exact),
    "add": (batch_is_one, operands_match),
    "subtract": (batch_is_one, operands_match),
    "multiply": (factors_match,),
    "nn.pixel_shuffle": (batch_is_one, frame_fits, shuffle_fits),
    "pixel_unshuffle": (batch_is_one, frame_fits, unshuffles),
    "nn.avg_pool2d": (batch_is_one, frame_fits, averages_plainly),
    "image.resize2d": (batch_is_one, frame_fits, resizes_alike),
    "warp": (batch_is_one, frame_fits, samples_pixels),
    "correlation": (batch_is_one, frame_fits, reach_fits),
    "all_pairs": (batch_is_one, frame_fits),
    "window": (batch_is_one, frame_fits, window_fits),
    "instance_norm": (batch_is_one, frame_fits, normalises_channels),
    "concat": (batch_is_one, concatenates_channels),
    "repeat": (moves_channels,),
    "tile": (moves_channels,),
    "strided_slice": (moves_channels,),
    "nn.relu": (),
    "nn.leakyrelu": (),
    "nn.prelu": (),
    "clip": (),
}
"""The rules of every operator that a unit may consist of; look-up activations have none."""


def violated(graph: Graph, node: Node, spec: AccelSpec) -> str | None:
    """Why a machine of ``spec`` cannot run ``node``, or None."""
    if (missing := _missing(graph, node, spec)) is not None:
        return missing
    for rule in (is_command, *RULES.get(node.op, ())):
        if not rule(graph, node):
            return (rule.__doc__ or "").strip()
    return None


def _missing(graph: Graph, node: Node, spec: AccelSpec) -> str | None:
    """The unit that ``node`` needs and ``spec`` lacks, in words; None if there is none."""
    if node.op == "correlation" and Unit.CORRELATOR not in spec.units:
        return "This machine has no correlator."
    if node.op == "instance_norm" and node.shape[1] > spec.statistic_channels:
        return f"This machine keeps the sums of {spec.statistic_channels} channels (statistic_channels)."
    if node.op == "window" and Unit.WINDOWS not in spec.units:
        return "This machine makes no windows (window_beats)."
    if (node.op == "warp" or keeps_corners(node)) and Unit.SAMPLER not in spec.units:
        return "This machine has no sampler (warp_reach)."
    return None


_WITH_16_BITS = frozenset(
    {"add", "nn.conv2d", "nn.conv2d_transpose", "multiply", "nn.avg_pool2d", "image.resize2d", "concat"}
    | {"nn.relu", "nn.leakyrelu", "nn.prelu", *MOVEMENT}
)
"""What computes with 16-bit activations and weights."""


def bits_fit(unit: RoundedUnit) -> bool:
    """Operands or result have bits or zero points with which the machine does not compute this operator."""
    if unit.kind in (Kind.CORRELATION, Kind.PAIRS):
        return unit.narrow and not any(operand.zero_point for operand in unit.operands)
    bits = [operand.bits for operand in unit.operands]
    if unit.kind in AT_A_FLOW:
        return bits == [8, 16] and unit.result.bits == 8
    if unit.kind is Kind.RESAMPLING and keeps_corners(unit.head):
        return bits == [unit.result.bits] and (unit.narrow or unit.head.shape[1] == 2)
    if unit.narrow:
        return True
    operators = {node.op for node in unit.nodes}
    if unit.result.bits == 8:  # the clamp is the requantiser's, to 8 bits
        operators -= {"clip"}
    if unit.kind in (Kind.SUM, Kind.PRODUCT):
        alike = len({operand.shape for operand in unit.operands}) == 1
        return alike and operators <= {"add", "subtract"} and bits == [16, 16]
    return operators <= _WITH_16_BITS
