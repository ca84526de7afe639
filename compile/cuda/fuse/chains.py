"""Merge element-wise chains that follow each other, so that the tensors between them never go to memory."""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.cuda.layers import GpuGraph, Operation, Pointwise
from codesign.kernels.chain import Apply, Chain, Read, read

MAX_INPUTS = 6
"""Most sources of a merged chain: all reads of a thread are in flight together."""


def merge_chains(graph: GpuGraph) -> GpuGraph:
    """``graph`` with every chain joined to its reader if that is a chain and the only one."""
    readers = graph.readers()
    operations: list[Operation | None] = []
    place: dict[str, int] = {}
    for operation in graph.operations:
        if isinstance(operation, Pointwise) and isinstance(operation.operator, Chain):
            for name in operation.inputs:
                before = operations[place[name]] if name in place else None
                sole = len(set(readers[name])) == 1 and name != graph.output
                if sole and isinstance(before, Pointwise) and (merged := _merged(before, operation, name, graph)):
                    operations[place[name]] = None
                    operation = merged
        place[operation.output] = len(operations)
        operations.append(operation)
    return replace(graph, operations=tuple(operation for operation in operations if operation is not None))


def _merged(before: Pointwise, after: Pointwise, name: str, graph: GpuGraph) -> Pointwise | None:
    """Both chains as one, or None unless ``after`` reads ``name`` whole and pixel by pixel."""
    first, last = before.operator, after.operator
    if not isinstance(first, Chain) or not isinstance(last, Chain) or first.channels != last.channels:
        return None
    frames = {(graph.tensors[one].height, graph.tensors[one].width) for one in (name, after.output)}
    if len(frames) != 1 or len(first.outputs) != 1 or len(last.outputs) != 1:
        return None
    at = [index for index, one in enumerate(after.inputs) if one == name]
    reads = [step for step in last.steps if isinstance(step, Read) and any(part.tensor in at for part in step.parts)]
    if any(step not in [read(last.channels, index) for index in at] for step in reads):
        return None
    inputs = tuple(dict.fromkeys((*before.inputs, *(one for one in after.inputs if one != name))))
    if len(inputs) > MAX_INPUTS:
        return None
    steps: list[Read | Apply] = [_moved(step, before.inputs, inputs) for step in first.steps]
    renamed: dict[int, int] = {}
    for index, step in enumerate(last.steps):
        if step in reads:
            renamed[index] = first.outputs[0]
            continue
        if isinstance(step, Apply):
            operands = tuple(renamed[o] if isinstance(o, int) else o for o in step.operands)
            step = Apply(step.kind, operands)
        else:
            step = _moved(step, after.inputs, inputs)
        renamed[index] = len(steps)
        steps.append(step)
    channels = dict(zip(before.inputs, first.inputs, strict=True)) | dict(zip(after.inputs, last.inputs, strict=True))
    chain = Chain(
        last.channels,
        tuple(channels[one] for one in inputs),
        tuple(steps),
        (renamed[last.outputs[0]],),
        last.threads,
        last.items,
    )
    return Pointwise(chain, inputs, after.output)


def _moved(step: Read | Apply, old: tuple[str, ...], new: tuple[str, ...]) -> Read | Apply:
    """The same read in another list of inputs."""
    if isinstance(step, Apply):
        return step
    return replace(step, parts=tuple(replace(part, tensor=new.index(old[part.tensor])) for part in step.parts))
