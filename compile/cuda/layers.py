"""The GPU's operations before they are cut into launches: convolutions with their epilogues, shuffles, and the rest.

There are two sources: :func:`codesign.compile.cuda.fusion.from_graph` from a canonical float graph (FP16), and
:func:`from_layers` from the machine's integer layers (INT8, so that both targets compute the same bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import Node
from codesign.compile.scanline import layers as machine
from codesign.compile.scanline.kernels import convolution as machine_convolution
from codesign.hw.errors import UnsupportedError
from codesign.hw.numerics import MultiplyRule
from codesign.kernels.correlation import AllPairs
from codesign.kernels.frame_kernel import FrameKernel
from codesign.kernels.layers import Conv, Precision, Requantise


@dataclass(frozen=True)
class Tensor:
    """A feature map; ``scale`` and ``zero_point`` of its int8 codes."""

    name: str
    channels: int
    height: int
    width: int
    scale: float = 1.0
    zero_point: int = 0

    @property
    def bytes(self) -> int:
        """The size in FP16, for estimates."""
        return 2 * self.channels * self.height * self.width


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
class Pointwise:
    """An operator other than a convolution, on chunked tensors."""

    operator: FrameKernel
    inputs: tuple[str, ...]
    output: str


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


Operation = Convolution | Shuffle | Pointwise | Other


@dataclass(frozen=True, eq=False)
class GpuGraph:
    """Operations in execution order."""

    precision: Precision
    tensors: Mapping[str, Tensor] = field(repr=False)
    operations: tuple[Operation, ...]
    input: str
    output: str
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """The constants of operators other than convolutions."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and all pairs, without those of a sub-pixel form's zero taps."""
        total = 0
        for operation in self.operations:
            if isinstance(operation, Convolution):
                out = self.tensors[operation.output]
                total += int(np.count_nonzero(operation.conv.weights)) * out.height * out.width
            elif isinstance(operation, Pointwise) and isinstance(operation.operator, AllPairs):
                first, out = self.tensors[operation.inputs[0]], self.tensors[operation.output]
                total += first.channels * out.channels * out.height * out.width
        return total

    def readers(self) -> dict[str, list[Operation]]:
        """The operations that read each tensor."""
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
    operations: list[Operation] = [
        Shuffle(layer.source, layer.output, layer.factor)
        if isinstance(layer, machine.Shuffle)
        else _convolution(layer, tensors)
        for layer in graph.layers
    ]
    return GpuGraph("int8", tensors, tuple(operations), source, result)


def _convolution(layer: machine.Layer, tensors: Mapping[str, Tensor]) -> Convolution:
    kernel, epilogue = layer.kernel, layer.epilogue
    if (
        not isinstance(kernel, machine_convolution.Convolution)
        or kernel.edge
        or kernel.weights.dtype != np.int8
        or epilogue.planes is not None
    ):
        raise UnsupportedError(
            "resizes, warps, cost volumes, normalisations and 16-bit activations have no INT8 kernel",
            where=layer.name,
            hint="Compile the network in FP16.",
        )
    rule = epilogue.second.rule if epilogue.second is not None else None
    if isinstance(rule, MultiplyRule):
        raise UnsupportedError(
            "a product of two tensors has no INT8 kernel", where=layer.name, hint="Compile the network in FP16."
        )
    broadcast = epilogue.second is not None and epilogue.second.broadcast
    conv = Conv(
        layer.name,
        layer.sources[0],
        layer.output,
        kernel.weights,
        kernel.folded_bias(epilogue.bias, tensors[layer.seen].zero_point),
        add=layer.operand,
        add_channels=(0,) * layer.channels if broadcast else None,
        requantise=Requantise(
            epilogue.multiplier,
            epilogue.negative_multiplier,
            epilogue.shift,
            epilogue.zero_point,
            epilogue.qmin,
            epilogue.qmax,
            epilogue.table,
        ),
        add_rule=rule,
        padding=tensors[layer.output].zero_point,
    )
    return Convolution(conv, kernel.stride, 1, (kernel.pad_top, kernel.pad_left), layer.sources[1:])
