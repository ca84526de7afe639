"""Convolutions of a float network on their way to the GPU: each waits for what follows it and takes what it can."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.canonical.affine import is_bias
from codesign.compile.cuda.layers import Convolution, Operation, Other, Pointwise, Shuffle, Tensor
from codesign.compile.graph.graph import Graph, Node
from codesign.compile.operators.pair import GATE
from codesign.compile.operators.subpixel import subpixel_weights
from codesign.compile.operators.table import fast_kind
from codesign.kernels.channels import Channels, Constant
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.implicit_gemm import MAX_SOURCES
from codesign.kernels.layers import Conv
from codesign.kernels.pointwise import Depthwise


@dataclass
class _Pending:
    """A convolution that may still take what follows it."""

    conv: Conv
    stride: int
    dilation: int
    padding: tuple[int, int]
    more: tuple[str, ...]
    factor: int = 1  # of the shuffle after it: a transposed convolution


class Convolutions:
    """What is pending, and the operations and tensors so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.consumers()
        self.pending: dict[str, _Pending] = {}
        self.copies: dict[str, tuple[str, tuple[int, ...]]] = {}  # of channels: source, and which of its channels
        self.joined: dict[str, tuple[str, ...]] = {}
        self.operations: list[Operation] = []
        self.tensors: dict[str, Tensor] = {}
        self.lazy: dict[str, Node] = {}
        self.depthwise: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}  # source is its node's
        self.depthwise_source: dict[str, str] = {}

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
        elif name in self.depthwise:
            self._pointwise(Depthwise(*self.depthwise.pop(name)), (self.depthwise_source.pop(name),), name)
        elif name in self.joined and name in self.lazy:
            self._arrange(self.lazy.pop(name))
        elif (node := self.lazy.pop(name, None)) is not None:
            self._other(node)
        elif name in self.graph.constants and name not in self.tensors:
            value = self.graph.constants[name]
            self._tensor(name, value.shape)
            self.operations.append(Pointwise(Constant(value[0].astype(np.float16)), (), name))
        return name

    def _begin(self, node: Node) -> bool:
        attributes = node.attributes
        weights = self.graph.constants.get(node.inputs[1])
        strides, dilation, padding = (tuple(attributes[key]) for key in ("strides", "dilation", "padding"))
        plain = weights is not None and int(attributes["groups"]) == 1 and len(set(strides)) == len(set(dilation)) == 1
        if not plain or weights is None:
            return False
        sources, kernel = self._sources(node.inputs[0], weights.transpose(2, 3, 1, 0))
        conv = Conv(node.name, sources[0], node.name, kernel, np.zeros(weights.shape[0], np.float32))
        self.pending[node.name] = _Pending(
            conv, int(strides[0]), int(dilation[0]), (int(padding[0]), int(padding[1])), sources[1:]
        )
        return True

    def _sources(self, name: str, weights: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[Any]]:
        """The tensors that ``name`` joins, without those that are zero, and their weights ``[.., Cin, Cout]``."""
        kept: list[str] = []
        parts: list[NDArray[Any]] = []
        first = 0
        for source in self.joined.get(name, (name,)):
            last = first + self.graph.shape_of(source)[1]
            if source not in self.graph.constants or np.any(self.graph.constants[source]):
                kept.append(self._use(source))
                parts.append(weights[:, :, first:last])
            first = last
        if not kept:
            return (self._use(name),), weights
        return tuple(kept), np.concatenate(parts, 2)

    def _begin_depthwise(self, node: Node) -> bool:
        attributes = node.attributes
        weights = self.graph.constants.get(node.inputs[1])
        strides, dilation, padding = (tuple(attributes[key]) for key in ("strides", "dilation", "padding"))
        channels = node.shape[1]
        plain = set(strides) == {1} and set(dilation) == {1} and set(padding) == {1}
        if weights is None or weights.shape != (channels, 1, 3, 3) or not plain:
            return False
        self.depthwise[node.name] = weights[:, 0], np.zeros(channels, np.float32)
        self.depthwise_source[node.name] = node.inputs[0]
        return True

    def _extend_depthwise(self, node: Node) -> bool:
        """Whether the depthwise convolution that ``node`` alone reads takes it: a bias, or a gate, which ends it."""
        source = node.inputs[0]
        if is_bias(self.graph, node):
            weights, bias = self.depthwise.pop(source)
            self.depthwise[node.name] = weights, bias + self.graph.constants[node.inputs[1]].reshape(-1)
            self.depthwise_source[node.name] = self.depthwise_source.pop(source)
        elif node.op == GATE:
            whole = Depthwise(*self.depthwise.pop(source), gate=True)
            self._pointwise(whole, (self.depthwise_source.pop(source),), node.name)
        else:
            return False
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
        sources, dense = self._sources(node.inputs[0], dense)
        conv = Conv(node.name, sources[0], node.name, dense, np.zeros(dense.shape[3], np.float32))
        self.pending[node.name] = _Pending(conv, 1, 1, pads, sources[1:], factor)
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
        if node.op == "table" and untouched and (kind := fast_kind(node.attributes["steps"])) in ("tanh", "sigmoid"):
            pending.conv = replace(conv, activation=kind)
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
        """Whether every reader can read the parts: convolutions of one group."""
        return (
            int(node.attributes["axis"]) in (1, -3)
            and len(node.inputs) <= MAX_SOURCES
            and len(node.shape) == 4
            and node.name != self.graph.output
            and all(
                reader.op in ("nn.conv2d", "nn.conv2d_transpose")
                and int(reader.attributes["groups"]) == 1
                and reader.inputs[1] in self.graph.constants
                for reader in self.readers[node.name]
            )
        )

    def _pointwise(self, operator: FrameKernel, inputs: tuple[str, ...], output: str) -> None:
        sources = tuple(self._use(name) for name in inputs)
        self.operations.append(Pointwise(operator, sources, output))
        if output in self.graph.by_name:
            self._tensor(output, self.graph.shape_of(output))

    def _arrange(self, node: Node) -> None:
        """Emits a concatenation, slice or other order of channels as a copy."""
        widths = tuple(self.graph.shape_of(name)[1] for name in node.inputs)
        chosen: tuple[tuple[int, int], ...] = node.attributes.get("chosen", ())
        if node.op == "concat":
            chosen = tuple((index, channel) for index, width in enumerate(widths) for channel in range(width))
        elif node.op in ("repeat", "tile"):
            times = node.shape[1] // widths[0]
            chosen = tuple((0, c // times if node.op == "repeat" else c % widths[0]) for c in range(node.shape[1]))
        self._pointwise(Channels(widths, chosen, (False,) * len(widths)), node.inputs, node.name)

    def _other(self, node: Node) -> None:
        for name in node.inputs:
            if self.graph.is_activation(name):
                self._use(name)
        self.operations.append(Other(node))
        self._tensor(node.name, node.shape)
