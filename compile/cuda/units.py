"""Units that are never cut apart, and the layout of tensors between launches: planar or chunked, with conversions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from codesign.compile.cuda.layers import Convolution, GpuGraph, Operation, Other, Pointwise, Shuffle
from codesign.kernels.layers import CHUNK_CHANNELS, Format
from codesign.kernels.pointwise import ToChunked, ToPlanar


@dataclass(frozen=True)
class Unit:
    """A layer and the shuffle after it, which are never cut apart."""

    operations: tuple[Operation, ...]

    @property
    def first(self) -> Operation:
        return self.operations[0]

    @property
    def output(self) -> str:
        return self.operations[-1].output

    @property
    def shuffle(self) -> int:
        last = self.operations[-1]
        return last.factor if isinstance(last, Shuffle) and len(self.operations) > 1 else 1


def units_of(graph: GpuGraph) -> list[Unit]:
    """The operations in order; shuffles are joined to the convolutions before them."""
    readers = graph.readers()
    units: list[Unit] = []
    for operation in graph.operations:
        if isinstance(operation, Shuffle) and units and len(units[-1].operations) == 1:
            last = units[-1].first
            sole = len(readers[operation.source]) == 1 and operation.source != graph.output
            if isinstance(last, Convolution) and last.output == operation.source and sole:
                units[-1] = Unit((last, operation))
                continue
        units.append(Unit((operation,)))
    return units


def stackable(unit: Unit, graph: GpuGraph) -> bool:
    """Whether a stack can compute the unit: stride 1, no dilation, one source, an output as large as the input."""
    operation = unit.first
    if not isinstance(operation, Convolution) or operation.more or operation.stride != 1 or operation.dilation != 1:
        return False
    ky, kx = operation.conv.weights.shape[:2]
    source, out = graph.tensors[operation.conv.source], graph.tensors[operation.output]
    same = (source.height, source.width) == (out.height, out.width)
    return ky % 2 == 1 and kx % 2 == 1 and operation.padding == (ky // 2, kx // 2) and same


def formats_of(graph: GpuGraph) -> dict[str, Format]:
    """The layout of tensors between launches: planar at the network's ends, next to TVM's operators, and where a kernel
    writes no other form."""
    makers = {operation.output: operation for operation in graph.operations}
    readers = graph.readers()

    def of(name: str) -> Format:
        maker = makers.get(name)
        if isinstance(maker, Pointwise):
            return maker.operator.writes
        foreign = isinstance(maker, Other) or (
            bool(readers[name]) and all(isinstance(reader, Other) for reader in readers[name])
        )
        return "planar" if name in (graph.input, graph.output) or foreign else "chunked"

    return {name: of(name) for name in graph.tensors}


def with_conversions(graph: GpuGraph) -> GpuGraph:
    """``graph`` with kernels between NCHW and chunks wherever a reader wants the other form."""
    if graph.precision == "int8":
        return graph
    operations: list[Operation] = []
    tensors = dict(graph.tensors)
    formats = formats_of(graph)
    converted: dict[tuple[str, str], str] = {}

    def wanted(name: str, form: Format) -> str:
        if name not in tensors or formats[name] == form:
            return name
        if (name, form) not in converted:
            tensor = tensors[name]
            converted[name, form] = copy = f"{name}.{form}"
            tensors[copy] = replace(tensor, name=copy)
            kind = ToChunked if form == "chunked" else ToPlanar
            operations.append(Pointwise(kind(tensor.channels), (name,), copy))
        return converted[name, form]

    for operation in graph.operations:
        match operation:
            case Convolution():
                readable = stackable(Unit((operation,)), graph) and _few(operation, graph, formats)
                sources = [name if readable else wanted(name, "chunked") for name in operation.sources]
                add = operation.conv.add
                add = add if add is None or readable else wanted(add, "chunked")
                conv = replace(operation.conv, source=sources[0], add=add)
                operations.append(replace(operation, conv=conv, more=tuple(sources[1:])))
            case Pointwise():
                operator, forms = operation.operator.taking([formats[name] for name in operation.inputs])
                inputs = tuple(map(wanted, operation.inputs, forms))
                output = operation.output
                if output == graph.output and operator.writes == "chunked":  # the network's result is NCHW
                    output = f"{output}.chunked"
                    tensors[output] = replace(tensors[graph.output], name=output)
                operations.append(Pointwise(operator, inputs, output))
                if output != operation.output:
                    operations.append(Pointwise(ToPlanar(tensors[output].channels), (output,), graph.output))
            case Other():
                renamed = tuple(wanted(name, "planar") for name in operation.node.inputs)
                operations.append(Other(replace(operation.node, inputs=renamed)))
            case _:
                operations.append(operation)
    return replace(graph, tensors=tensors, operations=tuple(operations))


def _few(operation: Convolution, graph: GpuGraph, formats: dict[str, Format]) -> bool:
    """Whether a stack can unfold the planar tensors that the convolution reads."""
    chunk = CHUNK_CHANNELS[graph.precision]
    for name, taps in ((operation.conv.source, operation.conv.weights.shape[1]), (operation.conv.add, 1)):
        if name is not None and formats[name] == "planar" and graph.tensors[name].channels * taps > 2 * chunk:
            return False
    return True
