"""A float network as GPU operations: what follows a convolution joins it, what remains is an element-wise kernel.

Only operators that no kernel here computes are left to TVM.
"""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.canonical.affine import is_bias
from codesign.compile.cuda.fuse.chains import merge_chains
from codesign.compile.cuda.fuse.channel_moves import arrange_channels
from codesign.compile.cuda.fuse.convolutions import Convolutions
from codesign.compile.cuda.fuse.gates import GATE, recognise_gates
from codesign.compile.cuda.fuse.tables import chain_steps
from codesign.compile.cuda.fuse.windows import PAIR_MAPS, WINDOWS, merge_windows
from codesign.compile.cuda.layers import GpuGraph, Pointwise, Shuffle, Tensor
from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.passes import passed, run_passes
from codesign.compile.operators.registry import named
from codesign.kernels import chain
from codesign.kernels.chain import Apply, Chain, Kind, PerChannel
from codesign.kernels.channels import Channels
from codesign.kernels.correlation import AllPairs, Window
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.pointwise import (
    Depthwise,
    LayerNorm,
    SegmentAverage,
    SegmentSums,
)
from codesign.kernels.resize import Resize


def from_graph(graph: Graph) -> GpuGraph:
    """A canonical float graph in FP16: biases, activations, clips and additions join the convolution before them."""
    passes = (merge_windows, recognise_gates, arrange_channels)
    graph = passed("cuda", run_passes("cuda", graph, passes))
    return merge_chains(_Fuser(graph).fuse())


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
        if node.op == "nn.conv2d" and (self._begin(node) or self._begin_depthwise(node)):
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
        elif node.inputs[0] in self.depthwise and is_bias(self.graph, node) and self._sole(node.inputs[0]):
            weights, bias = self.depthwise.pop(node.inputs[0])
            self.depthwise[node.name] = weights, bias + self.graph.constants[node.inputs[1]].reshape(-1)
            self.depthwise_source[node.name] = self.depthwise_source.pop(node.inputs[0])
            return
        if (
            self._by_operator(node)
            or self._all_pairs(node)
            or self._normalisation(node)
            or self._gate(node)
            or self._elementwise(node)
            or self._nearest(node)
        ):
            return
        if node.op == "nn.pixel_shuffle":
            source = self._use(node.inputs[0])
            self.operations.append(Shuffle(source, node.name, int(node.attributes["upscale_factor"])))
            self._tensor(node.name, node.shape)
        elif node.op == "repeat" and self._grows(node):
            self.lazy[node.name] = node
        elif node.op in ("repeat", "tile") and (channels := self._copied(node)) is not None:
            self.copies[node.name] = (node.inputs[0], channels)
            self.lazy[node.name] = node
        elif node.op == "concat" and self._concatenation(node):
            self.joined[node.name] = node.inputs
            self.lazy[node.name] = node
        elif node.op == "channels" or (node.op == "concat" and self._joins_channels(node)):
            self._arrange(node)
        else:
            self._other(node)

    def _normalisation(self, node: Node) -> bool:
        """Whether ``node`` is part of a layer normalisation over the channels, between two permutations."""
        axes = tuple(node.attributes.get("axes") or ())
        source = self.graph.by_name.get(node.inputs[0])
        if node.op == "permute_dims" and axes == (0, 2, 3, 1):
            if all(reader.op == "nn.layer_norm" for reader in self.readers[node.name]):
                self.lazy[node.name] = node
                return True
        elif node.op == "nn.layer_norm" and axes in ((-1,), (3,)) and node.inputs[0] in self.lazy:
            readers = self.readers[node.name]
            if all(r.op == "permute_dims" and tuple(r.attributes["axes"]) == (0, 3, 1, 2) for r in readers):
                self.lazy[node.name] = node
                return True
        elif (
            node.op == "permute_dims"
            and source is not None
            and source.op == "nn.layer_norm"
            and source.name in self.lazy
        ):
            scale, shift = (self.graph.constants[name] for name in source.inputs[1:3])
            first = self.graph.by_name[source.inputs[0]].inputs[0]
            self._pointwise(LayerNorm(scale, shift, float(source.attributes["epsilon"])), (first,), node.name)
            return True
        return False

    def _by_operator(self, node: Node) -> bool:
        """Whether kernels that its operator names compute ``node``, or what it activates."""
        operator = named(node.op)
        if operator.kernels(self.graph, node):
            if self._sole(node.name) and self.readers[node.name][0].op in operator.cuda_fuses:
                self.lazy[node.name] = node
            else:
                self._run(node, operator.kernels(self.graph, node), node.name)
            return True
        before = self.lazy.get(node.inputs[0])
        if before is not None and node.op in named(before.op).cuda_fuses:
            del self.lazy[before.name]
            self._run(before, named(before.op).kernels(self.graph, before, node), node.name)
            return True
        return False

    def _run(self, node: Node, kernels: tuple[FrameKernel, ...], output: str) -> None:
        """Append the kernels that compute ``node`` into ``output``, the first one's sums in a tensor of their own."""
        inputs = tuple(self._use(name) for name in node.inputs)
        *sums, last = kernels
        for kernel in sums:
            name = f"{node.name}.moments"
            self._pointwise(kernel, inputs, name)
            self.tensors[name] = Tensor(name, kernel.channels, kernel.rows, 1)
            inputs = (*inputs, name)
        self.operations.append(Pointwise(last, inputs, output))
        self._tensor(output, node.shape)

    def _all_pairs(self, node: Node) -> bool:
        """Whether ``node`` is one of RAFT's own: volumes of all pairs, their look-up."""
        attributes = node.attributes
        shapes = [self.graph.shape_of(name) for name in node.inputs]
        if node.op == PAIR_MAPS:
            self._pointwise(AllPairs(shapes[0][1], attributes["scale"]), node.inputs, node.name)
        elif node.op == WINDOWS:
            windows = Window(len(shapes) - 1, attributes["radius"], "fp16", absolute=False, chunked=True)
            self._pointwise(windows, node.inputs, node.name)
        else:
            return False
        return True

    def _joins_channels(self, node: Node) -> bool:
        return int(node.attributes["axis"]) in (1, -3) and len(node.shape) == 4 and node.shape[0] == 1

    def _gate(self, node: Node) -> bool:
        """Whether ``node`` is a gate, which a depthwise convolution before it takes."""
        if node.op != GATE:
            return False
        (source,) = node.inputs
        if source in self.depthwise and self._sole(source):
            weights, bias = self.depthwise.pop(source)
            first = self.depthwise_source.pop(source)
            self._pointwise(Depthwise(weights, bias, gate=True), (first,), node.name)
        else:
            self._pointwise(chain.simple_gate(2 * node.shape[1]), (source,), node.name)
        return True

    def _elementwise(self, node: Node) -> bool:
        """Whether an element-wise kernel computes ``node``: an average, an activation, an operation on two tensors."""
        if len(node.shape) != 4 or node.dtype != "float32" or node.shape[0] != 1:
            return False
        channels = node.shape[1]
        source = node.inputs[0]
        shape = self.graph.shape_of(source)
        if node.op == "mean" and tuple(sorted(a % 4 for a in node.attributes["axis"] or ())) == (2, 3):
            if not node.attributes["keepdims"]:
                return False
            sums = SegmentSums(channels)
            self._pointwise(sums, (source,), f"{node.name}.sums")
            self.tensors[f"{node.name}.sums"] = Tensor(f"{node.name}.sums", channels, sums.rows, 1)
            self.operations.append(Pointwise(SegmentAverage(channels), (source, f"{node.name}.sums"), node.name))
            self._tensor(node.name, node.shape)
            return True
        applied = self._activation(node)
        if applied is not None and shape == node.shape:
            whole = Chain(channels, (channels,), (chain.read(channels), *applied), (len(applied),))
            self._pointwise(whole, (source,), node.name)
            return True
        if node.op not in ("add", "subtract", "multiply", "maximum", "minimum"):
            return False
        other = node.inputs[1]
        if shape == node.shape and self.graph.is_constant(other):
            value = self.graph.constants[other].reshape(-1)
            if value.size != 1 and self.graph.shape_of(other)[-3:] != (channels, 1, 1):
                return False
            operand = float(value[0]) if value.size == 1 else PerChannel(tuple(float(v) for v in value))
            step = Apply(node.op, (0, operand))  # type: ignore[arg-type]
            self._pointwise(Chain(channels, (channels,), (chain.read(channels), step), (1,)), (source,), node.name)
            return True
        if not self.graph.is_activation(source) or not self.graph.is_activation(other):
            return False
        shapes = shape, self.graph.shape_of(other)
        if shapes == (node.shape, node.shape):
            reads = (chain.read(channels), chain.read(channels, 1))
            kind: Kind = node.op  # type: ignore[assignment]
            both = Chain(channels, (channels, channels), (*reads, Apply(kind, (0, 1))), (2,))
            self._pointwise(both, (source, other), node.name)
            return True
        vector = (1, channels, 1, 1)
        if node.op == "multiply" and vector in shapes and node.shape in shapes and vector != node.shape:
            ordered = (source, other) if shapes[0] == node.shape else (other, source)
            self._pointwise(chain.scale_channels(channels), ordered, node.name)
            return True
        plane = (1, 1, *node.shape[2:])
        if plane in shapes and node.shape in shapes:  # one channel with every channel
            wide = tuple(
                self._widened(name, channels, f"{node.name}.operand{index}") if size == plane else name
                for index, (name, size) in enumerate(zip((source, other), shapes, strict=True))
            )
            kind = node.op  # type: ignore[assignment]
            steps = (chain.read(channels), chain.read(channels, 1), Apply(kind, (0, 1)))
            self._pointwise(Chain(channels, (channels, channels), steps, (2,)), wide, node.name)
            return True
        return False

    def _widened(self, name: str, channels: int, output: str) -> str:
        """A copy of the one channel of ``name`` for each of ``channels``."""
        self._pointwise(Channels((1,), ((0, 0),) * channels, (False,)), (name,), output)
        self.tensors[output] = Tensor(output, channels, *self.graph.shape_of(name)[2:])
        return output

    def _activation(self, node: Node) -> tuple[Apply, ...] | None:
        """The steps after reading its operand that compute ``node``, a function of each value by itself."""
        attributes = node.attributes
        match node.op:
            case "table":
                return chain_steps(attributes["steps"], 0)
            case "nn.relu":
                return (Apply("relu", (0,)),)
            case "clip":
                return (Apply("clip", (0, float(attributes["min"]), float(attributes["max"]))),)
            case "nn.leakyrelu":
                return (Apply("leaky_relu", (0, float(attributes["alpha"]))),)
            case "nn.prelu" if self.graph.is_constant(node.inputs[1]):
                slopes = tuple(float(value) for value in self.graph.constants[node.inputs[1]].reshape(-1))
                return (Apply("prelu", (0, PerChannel(slopes))),)
            case _:
                return None

    def _grows(self, node: Node) -> bool:
        """Whether ``node`` repeats every channel for one pixel shuffle: nearest up-scaling."""
        readers = self.readers[node.name]
        if len(readers) != 1 or readers[0].op != "nn.pixel_shuffle" or node.name == self.graph.output:
            return False
        factor = int(readers[0].attributes["upscale_factor"])
        return node.shape[1] == self.graph.shape_of(node.inputs[0])[1] * factor**2

    def _nearest(self, node: Node) -> bool:
        source = self.graph.by_name.get(node.inputs[0])
        if node.op != "nn.pixel_shuffle" or source is None or source.op != "repeat" or source.name not in self.lazy:
            return False
        first = source.inputs[0]
        operator = Resize(self.graph.shape_of(first)[1], "nearest", int(node.attributes["upscale_factor"]))
        del self.lazy[source.name]
        self._pointwise(operator, (first,), node.name)
        return True
