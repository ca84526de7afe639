"""A float network as GPU operations: what follows a convolution joins it, what remains is an element-wise kernel.

Operators name their own kernels; only those that no kernel here computes are left to TVM.
"""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.cuda.fuse.chains import merge_chains
from codesign.compile.cuda.fuse.channel_moves import arrange_channels
from codesign.compile.cuda.fuse.convolutions import Convolutions
from codesign.compile.cuda.fuse.elementwise import chain_of
from codesign.compile.cuda.layers import GpuGraph, Pointwise, Shuffle, Tensor
from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.passes import Pass, passed, run_passes
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.registry import OPERATORS, named
from codesign.kernels.channels import Channels
from codesign.kernels.frame_kernel import FrameKernel


def _merger(operator: Operator) -> Pass:
    def merge(graph: Graph) -> Graph:
        return operator.for_cuda(graph)

    merge.__name__ = f"merge_{operator.title.replace(' ', '_')}"
    return merge


MERGED: tuple[Pass, ...] = tuple(_merger(one) for one in OPERATORS if type(one).for_cuda is not Operator.for_cuda)
"""A pass an operator with kernels that compute several nodes at once."""


def from_graph(graph: Graph) -> GpuGraph:
    """A canonical float graph in FP16: biases, activations, clips and additions join the convolution before them."""
    graph = passed("cuda", run_passes("cuda", graph, (*MERGED, arrange_channels)))
    return merge_chains(_Fuser(graph).fuse())


def _is_frame(node: Node) -> bool:
    """Whether the kernels of frames can make ``node``."""
    return len(node.shape) == 4 and node.shape[0] == 1 and node.dtype == "float32"


class _Fuser(Convolutions):
    def fuse(self) -> GpuGraph:
        graph = self.graph
        self._tensor(graph.input, graph.input_shape)
        for node in graph.nodes:
            self._node(node)
        self._use(graph.output)
        used = {name for operation in self.operations for name in operation.inputs}
        constants = {name: value for name, value in graph.constants.items() if name in used}
        return GpuGraph("fp16", self.tensors, tuple(self.operations), graph.input, graph.output, constants)

    def _node(self, node: Node) -> None:
        """Takes a node into a pending convolution, keeps it for its reader, or leaves it to TVM."""
        if self._by_convolution(node) or (_is_frame(node) and self._by_operator(node)):
            return
        if (_is_frame(node) and self._elementwise(node)) or self._moved(node):
            return
        self._other(node)

    def _by_convolution(self, node: Node) -> bool:
        """Whether ``node`` is a convolution, or joins one that waits."""
        if node.op == "nn.conv2d" and (self._begin(node) or self._begin_depthwise(node)):
            return True
        if node.op == "nn.conv2d_transpose" and self._begin_transposed(node):
            return True
        if node.op in ("add", "subtract") and self.graph.is_activation(node.inputs[1]):
            return self._add(node)
        source = node.inputs[0]
        if not self._sole(source):
            return False
        producer = self.pending.get(source)
        if producer is not None and self._extend(producer, node):
            self.pending[node.name] = self.pending.pop(source)
            self.pending[node.name].conv = replace(producer.conv, output=node.name)
            return True
        return source in self.depthwise and self._extend_depthwise(node)

    def _by_operator(self, node: Node) -> bool:
        """Whether kernels that its operator names compute ``node``, or what it activates."""
        before = self.lazy.get(node.inputs[0])
        if before is not None and node.op in named(before.op).cuda_fuses:
            del self.lazy[before.name]
            self._run(before, named(before.op).kernels(self.graph, before, node), node.name)
            return True
        operator = named(node.op)
        kernels = operator.kernels(self.graph, node)
        if kernels and self._sole(node.name) and self.readers[node.name][0].op in operator.cuda_fuses:
            self.lazy[node.name] = node
        elif kernels:
            self._run(node, kernels, node.name)
        return bool(kernels)

    def _run(self, node: Node, kernels: tuple[FrameKernel, ...], output: str) -> None:
        """Append the kernels that compute ``node`` into ``output``, the first one's sums in a tensor of their own."""
        inputs = tuple(self._use(name) for name in node.inputs[: named(node.op).cuda_reads])
        *sums, last = kernels
        for kernel in sums:
            name = f"{node.name}.moments"
            self._pointwise(kernel, inputs, name)
            self.tensors[name] = Tensor(name, kernel.channels, kernel.rows, 1)
            inputs = (*inputs, name)
        self.operations.append(Pointwise(last, inputs, output))
        self._tensor(output, node.shape)

    def _elementwise(self, node: Node) -> bool:
        """Whether an element-wise chain computes ``node``."""
        made = chain_of(self.graph, node)
        if made is None:
            return False
        chain, inputs = made
        wide = (
            name
            if self.graph.shape_of(name)[1] == channels
            else self._widened(name, channels, f"{node.name}.operand{i}")
            for i, (name, channels) in enumerate(zip(inputs, chain.inputs, strict=True))
        )
        self._pointwise(chain, tuple(wide), node.name)
        return True

    def _widened(self, name: str, channels: int, output: str) -> str:
        """A copy of the one channel of ``name`` for each of ``channels``."""
        self._pointwise(Channels((1,), ((0, 0),) * channels, (False,)), (name,), output)
        self.tensors[output] = Tensor(output, channels, *self.graph.shape_of(name)[2:])
        return output

    def _moved(self, node: Node) -> bool:
        """Whether ``node`` moves data: pixels shuffled, channels copied, joined or in another order."""
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
        elif node.op == "channels" or (node.op == "concat" and self._joins_channels(node)):
            self._arrange(node)
        else:
            return False
        return True

    def _joins_channels(self, node: Node) -> bool:
        return int(node.attributes["axis"]) in (1, -3) and len(node.shape) == 4 and node.shape[0] == 1
