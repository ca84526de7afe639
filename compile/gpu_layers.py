"""What the GPU computes, before it is cut into launches: convolutions with what follows them, shuffles, and the rest.

Two ways lead here: :func:`from_graph` from a canonical float graph (FP16), :func:`from_layers` from the machine's
integer layers (INT8, so that both targets compute the same bits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile import layers as machine
from codesign.compile.affine import is_bias
from codesign.compile.graph import Graph, Node
from codesign.compile.transposed import subpixel_weights
from codesign.kernels.layers import CHUNK_CHANNELS, AddRule, Conv, Precision, Requantise


@dataclass(frozen=True)
class Tensor:
    """A feature map; ``scale`` and ``zero_point`` of its int8 codes."""

    name: str
    channels: int
    height: int
    width: int
    scale: float = 1.0
    zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution; ``more`` are further sources, whose channels follow the first one's."""

    conv: Conv
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)  # top, left
    more: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.conv.source, *self.more)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.sources if self.conv.add is None else (*self.sources, self.conv.add)

    @property
    def output(self) -> str:
        return self.conv.output


@dataclass(frozen=True)
class Shuffle:
    """Depth to space by ``factor``."""

    source: str
    output: str
    factor: int

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Other:
    """An operator that TVM schedules."""

    node: Node

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.node.inputs

    @property
    def output(self) -> str:
        return self.node.name


Operation = Convolution | Shuffle | Other


@dataclass(frozen=True, eq=False)
class GpuGraph:
    """Operations in execution order."""

    precision: Precision
    tensors: Mapping[str, Tensor] = field(repr=False)
    operations: tuple[Operation, ...]
    input: str
    output: str
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """Of the other operators."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions, without those of a sub-pixel form's zero taps."""
        total = 0
        for operation in self.operations:
            if isinstance(operation, Convolution):
                out = self.tensors[operation.output]
                total += int(np.count_nonzero(operation.conv.weights)) * out.height * out.width
        return total

    def readers(self) -> dict[str, list[Operation]]:
        """Who reads each tensor."""
        found: dict[str, list[Operation]] = {name: [] for name in self.tensors}
        for operation in self.operations:
            for name in operation.inputs:
                if name in found:
                    found[name].append(operation)
        return found


def from_layers(graph: machine.LayerGraph) -> GpuGraph:
    """The integer layers of a whole network with one input and one output."""
    (source,), (result,) = graph.inputs, graph.outputs
    tensors = {
        name: Tensor(name, t.channels, t.height, t.width, t.scale, t.zero_point) for name, t in graph.tensors.items()
    }
    operations: list[Operation] = []
    for layer in graph.layers:
        if isinstance(layer, machine.Shuffle):
            operations.append(Shuffle(layer.source, layer.output, layer.factor))
            continue
        rule = Requantise(
            layer.multiplier, layer.negative_multiplier, layer.shift, layer.zero_point, layer.qmin, layer.qmax,
            layer.table,
        )  # fmt: skip
        add = layer.add
        add_rule = None
        if add is not None:
            add_rule = AddRule(
                layer.zero_point, tensors[add.other].zero_point, add.multiplier, add.other_multiplier, add.shift,
                add.zero_point, add.qmin, add.qmax,
            )  # fmt: skip
        conv = Conv(
            layer.name, layer.source, layer.output, layer.weights, _folded_bias(layer, tensors),
            add=add.other if add else None,
            add_channels=(0,) * layer.channels if add is not None and add.broadcast else None,
            requantise=rule, add_rule=add_rule, padding=tensors[layer.output].zero_point,
        )  # fmt: skip
        operations.append(Convolution(conv, layer.stride, 1, (layer.pad_top, layer.pad_left), layer.more))
    return GpuGraph("int8", tensors, tuple(operations), source, result)


def _folded_bias(layer: machine.Conv, tensors: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """The bias, less what the sources' zero points add to every psum."""
    bias = layer.bias.astype(np.int64)
    first = 0
    for name in layer.convolved:
        last = first + tensors[name].channels
        bias = bias - tensors[name].zero_point * layer.weights[:, :, first:last].astype(np.int64).sum((0, 1, 2))
        first = last
    return bias


def from_graph(graph: Graph) -> GpuGraph:
    """A canonical float graph in FP16: biases, activations, clips and additions join the convolution before them."""
    return _Fuser(graph).fuse()


@dataclass
class _Pending:
    """A convolution that may still take what follows it."""

    conv: Conv
    stride: int
    dilation: int
    padding: tuple[int, int]
    more: tuple[str, ...]
    factor: int = 1  # of the shuffle after it: a transposed convolution


class _Fuser:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.consumers()
        self.pending: dict[str, _Pending] = {}
        self.copies: dict[str, tuple[str, tuple[int, ...]]] = {}  # of channels: source, and which of its channels
        self.joined: dict[str, tuple[str, ...]] = {}
        self.operations: list[Operation] = []
        self.tensors: dict[str, Tensor] = {}
        self.lazy: dict[str, Node] = {}

    def fuse(self) -> GpuGraph:
        graph = self.graph
        self._tensor(graph.input, graph.input_shape)
        for node in graph.nodes:
            self._node(node)
        self._use(graph.output)
        used = {name for operation in self.operations for name in operation.inputs}
        constants = {name: value for name, value in graph.constants.items() if name in used}
        return GpuGraph("fp16", self.tensors, tuple(self.operations), graph.input, graph.output, constants)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 4:
            self.tensors[name] = Tensor(name, *shape[1:])

    def _sole(self, name: str) -> bool:
        return len(self.readers[name]) == 1 and name != self.graph.output

    def _use(self, name: str) -> str:
        """Emits what computes ``name``, if it is not there yet."""
        if (waiting := self.pending.pop(name, None)) is not None:
            conv = waiting.conv
            if waiting.factor > 1:
                conv = replace(conv, output=f"{name}.phases")
                height, width = self.graph.shape_of(name)[2:]
                shape = (1, conv.channels, height // waiting.factor, width // waiting.factor)
                self._tensor(conv.output, shape)
            self.operations.append(Convolution(conv, waiting.stride, waiting.dilation, waiting.padding, waiting.more))
            if waiting.factor > 1:
                self.operations.append(Shuffle(conv.output, name, waiting.factor))
            self._tensor(name, self.graph.shape_of(name))
        elif (node := self.lazy.pop(name, None)) is not None:
            self._other(node)
        return name

    def _other(self, node: Node) -> None:
        for name in node.inputs:
            if self.graph.is_activation(name):
                self._use(name)
        self.operations.append(Other(node))
        self._tensor(node.name, node.shape)

    def _node(self, node: Node) -> None:
        """Takes a node into a pending convolution, keeps it for its reader, or leaves it to TVM."""
        if node.op == "nn.conv2d" and self._begin(node):
            return
        if node.op == "nn.conv2d_transpose" and self._begin_transposed(node):
            return
        producer = self.pending.get(node.inputs[0])
        if node.op in ("add", "subtract") and self.graph.is_activation(node.inputs[1]):
            if self._add(node):
                return
        elif producer is not None and self._sole(node.inputs[0]) and self._extend(producer, node):
            self.pending[node.name] = self.pending.pop(node.inputs[0])
            self.pending[node.name].conv = replace(producer.conv, output=node.name)
            return
        if node.op == "nn.pixel_shuffle":
            source = self._use(node.inputs[0])
            self.operations.append(Shuffle(source, node.name, int(node.attributes["upscale_factor"])))
            self._tensor(node.name, node.shape)
        elif node.op in ("repeat", "tile") and (channels := self._copied(node)) is not None:
            self.copies[node.name] = (node.inputs[0], channels)
            self.lazy[node.name] = node
        elif node.op == "concat" and self._concatenation(node):
            self.joined[node.name] = node.inputs
            self.lazy[node.name] = node
        else:
            self._other(node)

    def _begin(self, node: Node) -> bool:
        attributes = node.attributes
        weights = self.graph.constants.get(node.inputs[1])
        strides, dilation, padding = (tuple(attributes[key]) for key in ("strides", "dilation", "padding"))
        plain = weights is not None and int(attributes["groups"]) == 1 and len(set(strides)) == len(set(dilation)) == 1
        if not plain or weights is None:
            return False
        sources = self.joined.get(node.inputs[0], (node.inputs[0],))
        for name in sources:
            self._use(name)
        conv = Conv(
            node.name, sources[0], node.name, weights.transpose(2, 3, 1, 0), np.zeros(weights.shape[0], np.float32)
        )
        self.pending[node.name] = _Pending(
            conv, int(strides[0]), int(dilation[0]), (int(padding[0]), int(padding[1])), sources[1:]
        )
        return True

    def _begin_transposed(self, node: Node) -> bool:
        attributes = node.attributes
        weights = self.graph.constants.get(node.inputs[1])
        strides, dilation, padding = (tuple(attributes[key]) for key in ("strides", "dilation", "padding"))
        if weights is None or int(attributes["groups"]) != 1 or set(dilation) != {1} or len(set(strides)) != 1:
            return False
        factor = int(strides[0])
        source = self.graph.shape_of(node.inputs[0])
        if factor == 1 or node.shape[2:] != (source[2] * factor, source[3] * factor):
            return False
        dense, pads = subpixel_weights(weights, factor, (int(padding[0]), int(padding[1])))
        conv = Conv(node.name, self._use(node.inputs[0]), node.name, dense, np.zeros(dense.shape[3], np.float32))
        self.pending[node.name] = _Pending(conv, 1, 1, pads, (), factor)
        return True

    def _extend(self, pending: _Pending, node: Node) -> bool:
        """Whether the convolution takes ``node``: a bias, an activation or a clip."""
        conv = pending.conv
        square = pending.factor**2
        untouched = conv.activation == "linear" and conv.add is None and math.isinf(conv.low) and math.isinf(conv.high)
        if is_bias(self.graph, node) and untouched:
            bias = np.repeat(self.graph.constants[node.inputs[1]].reshape(-1), square)
            pending.conv = replace(conv, bias=conv.bias + bias)
            return True
        if node.op == "nn.relu" and conv.add is None and untouched:
            pending.conv = replace(conv, activation="relu")
            return True
        if node.op in ("nn.relu", "clip") and math.isinf(conv.low) and math.isinf(conv.high):
            low, high = (0.0, math.inf) if node.op == "nn.relu" else (node.attributes["min"], node.attributes["max"])
            pending.conv = replace(conv, low=float(low), high=float(high))
            return True
        if node.op in ("nn.leakyrelu", "nn.prelu") and untouched:
            slope = (
                np.full(conv.channels // square, node.attributes["alpha"])
                if node.op == "nn.leakyrelu"
                else self.graph.constants[node.inputs[1]].reshape(-1)
            )
            pending.conv = replace(conv, activation="prelu", slope=np.repeat(slope, square).astype(np.float32))
            return True
        if node.op in ("tanh", "sigmoid") and untouched:
            pending.conv = replace(conv, activation=node.op)  # type: ignore[arg-type]
            return True
        return False

    def _add(self, node: Node) -> bool:
        """Whether one operand's convolution takes the other as its second operand."""
        order = {name: index for index, name in enumerate((self.graph.input, *self.graph.by_name))}
        for name, other in sorted((node.inputs, node.inputs[::-1]), key=lambda pair: -order[pair[0]]):
            pending = self.pending.get(name)
            if pending is None or not self._sole(name) or pending.factor > 1 or name == other:
                continue
            conv = pending.conv
            if conv.add is not None or not math.isinf(conv.low) or not math.isinf(conv.high):
                continue
            if node.op == "subtract":
                if name != node.inputs[1] or conv.activation != "linear":
                    continue
                conv = replace(conv, weights=-conv.weights, bias=-conv.bias)
            source, channels = self.copies.get(other, (other, None))
            shape = self.graph.shape_of(other)
            if shape[2:] != node.shape[2:] or len(shape) != 4 or self.graph.shape_of(name) != node.shape:
                continue
            if channels is None and shape[1] != node.shape[1]:
                if shape[1] != 1:
                    continue
                channels = (0,) * node.shape[1]
            del self.pending[name]
            self._use(source)
            if channels is not None:
                self.lazy.pop(other, None)
            pending.conv = replace(conv, add=source, add_channels=channels, output=node.name)
            self.pending[node.name] = pending
            return True
        return False

    def _copied(self, node: Node) -> tuple[int, ...] | None:
        """The channels that a repetition along the channels takes, if nothing but additions read it."""
        if any(reader.op != "add" for reader in self.readers[node.name]) or node.name == self.graph.output:
            return None
        shape = self.graph.shape_of(node.inputs[0])
        times = node.shape[1] // shape[1]
        if node.shape != (1, shape[1] * times, *shape[2:]):
            return None
        if node.op == "repeat":
            return tuple(c // times for c in range(node.shape[1]))
        return tuple(c % shape[1] for c in range(node.shape[1]))

    def _concatenation(self, node: Node) -> bool:
        """Whether every reader can read the parts: convolutions of one group, parts of whole chunks."""
        chunk = CHUNK_CHANNELS["fp16"]
        widths = [self.graph.shape_of(name)[1] for name in node.inputs]
        return (
            int(node.attributes["axis"]) in (1, -3)
            and all(width % chunk == 0 for width in widths[:-1])
            and all(self.graph.is_activation(name) for name in node.inputs)
            and node.name != self.graph.output
            and all(reader.op == "nn.conv2d" and int(reader.attributes["groups"]) == 1 and
                    reader.inputs[1] in self.graph.constants for reader in self.readers[node.name])
        )  # fmt: skip
