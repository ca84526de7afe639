"""What the accelerator computes between two roundings: an operator and what fuses into it.

A unit reads int8 tensors and stores one; it rounds once. Everything about which operators belong together is here, so
that quantiser, importer and exporter agree.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import Enum

from codesign.compile.canonical.affine import CONVOLUTIONS, is_bias
from codesign.compile.canonical.resample import corner_factor, resize_factor
from codesign.compile.ir.arithmetic import UNARY
from codesign.compile.ir.graph import STEP, Graph, Node

SLOPES = ("nn.leakyrelu", "nn.prelu")
CLIPS = ("nn.relu", "clip")
PIECEWISE_LINEAR = (*SLOPES, *CLIPS)
MOVEMENT = ("nn.pixel_shuffle", "pixel_unshuffle", "repeat", "tile", "strided_slice")
LOOK_UPS = tuple(op for op in UNARY if op != "nn.relu")


class Kind(Enum):
    """What a unit is, by its first operator."""

    CONVOLUTION = "convolution"
    SUM = "sum of two tensors"
    PRODUCT = "product of two tensors"
    SCALE = "scale by a constant"
    WARP = "image sampled at a flow"
    CORRELATION = "local cost volume of two tensors"
    PAIRS = "products of all pairs of pixels"
    WINDOWS = "windows of every pixel's map at a flow"
    NORM = "instance normalisation"
    RESAMPLING = "average pool or bilinear resize"
    ACTIVATION = "piecewise-linear activation alone"
    LOOK_UP = "look-up"
    MOVEMENT = "data movement"
    CONCAT = "concatenation"
    HOST = "float operator"


AT_A_FLOW = (Kind.WARP, Kind.WINDOWS)
"""What samples its first operand at its second, a flow of 16 bits."""


@dataclass(frozen=True)
class Unit:
    """``nodes`` in order: the head, then bias and activation where they fuse; the last one's result is stored."""

    kind: Kind
    nodes: tuple[Node, ...]

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def name(self) -> str:
        return self.nodes[-1].name


def kind_of(graph: Graph, node: Node) -> Kind:
    """The kind of unit that ``node`` begins."""
    if len(node.shape) != 4:
        return Kind.HOST
    activations = [name for name in node.inputs if graph.is_activation(name)]
    if node.op in CONVOLUTIONS:
        return Kind.CONVOLUTION
    if node.op in ("add", "subtract") and len(activations) == 2 and _joins(graph, node):
        return Kind.SUM
    if node.op == "multiply" and len(activations) == 2 and _joins(graph, node):
        return Kind.PRODUCT
    if node.op == "multiply" and len(activations) == 1 and graph.scalar(node.inputs[1]) is not None:
        return Kind.SCALE
    if node.op == "warp" and len(activations) == 2:
        return Kind.WARP
    if node.op == "correlation" and len(activations) == 2:
        return Kind.CORRELATION
    if node.op == "all_pairs" and len(activations) == 2:
        return Kind.PAIRS
    if node.op == "window" and len(activations) == 2:
        return Kind.WINDOWS
    if node.op == "instance_norm":
        return Kind.NORM
    if _resamples(graph, node):
        return Kind.RESAMPLING
    if node.op in PIECEWISE_LINEAR:
        return Kind.ACTIVATION
    if node.op in MOVEMENT:
        return Kind.MOVEMENT
    if node.op == "concat" and node.attributes["axis"] == 1 and len(activations) == len(node.inputs):
        return Kind.CONCAT
    return Kind.LOOK_UP if node.op in LOOK_UPS else Kind.HOST


def _joins(graph: Graph, node: Node) -> bool:
    """Whether both operands have the result's shape, or one channel of it."""
    batch, _, height, width = node.shape
    allowed = (node.shape, (batch, 1, height, width))
    return all(graph.shape_of(name) in allowed for name in node.inputs)


def _resamples(graph: Graph, node: Node) -> bool:
    """Whether the machine can average or interpolate as ``node`` does."""
    attributes = node.attributes
    if node.op == "nn.avg_pool2d":
        counted = attributes["count_include_pad"] or not any(attributes["padding"])
        return counted and not attributes["ceil_mode"] and attributes["layout"] == "NCHW"
    if node.op != "image.resize2d" or attributes["layout"] != "NCHW":
        return False
    (height, width), (rows, columns) = graph.shape_of(node.inputs[0])[2:], node.shape[2:]
    how = attributes["method"], attributes["coordinate_transformation_mode"]
    frames = (height, width), (rows, columns)
    return resize_factor(*frames, *how) != 0 or corner_factor(*frames, *how) != 0


def turns_sign(graph: Graph, kind: Kind, node: Node) -> bool:
    """A negative factor: the machine chooses the slope by the psum's sign, which is not the result's then."""
    factor = graph.scalar(node.inputs[1]) if kind is Kind.SCALE else None
    return factor is not None and factor < 0


_FUSES: dict[Kind, tuple[str, ...]] = {
    Kind.CONVOLUTION: PIECEWISE_LINEAR,
    Kind.SCALE: PIECEWISE_LINEAR,
    Kind.CORRELATION: PIECEWISE_LINEAR,
    Kind.SUM: CLIPS,
    Kind.PRODUCT: CLIPS,
    Kind.NORM: CLIPS,
}


def fuses(kind: Kind) -> tuple[str, ...]:
    """The activations that join a unit of ``kind``."""
    return _FUSES.get(kind, ())


def units(graph: Graph, stored: Container[str] = ()) -> tuple[Unit, ...]:
    """The float graph cut into units, in topological order of their heads.

    An activation joins the operator before it when nothing else reads that operator's result, and when that is not
    among the tensors that must be ``stored``.
    """
    consumers = graph.consumers()
    taken: set[str] = set()
    found: list[Unit] = []

    def sole_reader(node: Node) -> Node | None:
        readers = consumers[node.name]
        alone = len(readers) == 1 and node.name != graph.output and node.name not in stored
        return readers[0] if alone else None

    for node in graph.nodes:
        if node.name in taken:
            continue
        kind = kind_of(graph, node)
        nodes = [node]
        reader = sole_reader(node)
        if kind is Kind.CONVOLUTION and reader is not None and is_bias(graph, reader):
            nodes.append(reader)
            reader = sole_reader(reader)
        if kind is Kind.RESAMPLING and reader is not None and kind_of(graph, reader) is Kind.SCALE:
            nodes.append(reader)
            reader = None
        if reader is not None and reader.op in fuses(kind) and not turns_sign(graph, kind, node):
            nodes.append(reader)
        taken.update(member.name for member in nodes)
        found.append(Unit(kind, tuple(nodes)))
    return tuple(found)


def keeps_corners(node: Node) -> bool:
    """Whether ``node`` resizes with aligned corners: the sampler does, 8 bits to 8 and 16 to 16."""
    return node.attributes.get("coordinate_transformation_mode") == "align_corners"


def float_only(graph: Graph, parts: tuple[Unit, ...]) -> frozenset[str]:
    """Results that stay float: those that only operators of the host read, or what samples at a flow as that."""
    kinds = {node.name: unit.kind for unit in parts for node in unit.nodes}
    consumers = graph.consumers()

    def stays(unit: Unit) -> bool:
        if unit.head.op == STEP:
            return True
        if unit.kind is not Kind.HOST or unit.name == graph.output:
            return False
        readers = consumers[unit.name]
        flow = all(kinds[reader.name] not in AT_A_FLOW or reader.inputs[0] != unit.name for reader in readers)
        return flow and all(kinds[reader.name] in (Kind.HOST, *AT_A_FLOW) for reader in readers)

    return frozenset(unit.name for unit in parts if stays(unit))
