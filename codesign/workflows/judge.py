"""Values of a run that differ from the golden model's and from the quantised graph's, the latter in integers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.compile.driver import CompiledNetwork
from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.referee.integer import evaluate, evaluate_region
from codesign.hw.counters import Counters
from codesign.hw.errors import UnsupportedError
from codesign.hw.program.program import Program
from codesign.sim.run import RunResult

Tensors = dict[str, NDArray[np.int8]]
"""``int8[H, W, C]`` by tensor name."""


@dataclass(frozen=True)
class Execution:
    """One run of an accelerator region."""

    program: Program
    inputs: Tensors
    outputs: Tensors
    counters: Counters
    golden: Tensors = field(default_factory=dict)
    """The golden model's outputs to compare with; empty where it ran alone."""
    rtl: RunResult | None = None


def mismatches(
    network: CompiledNetwork, frame: NDArray[np.float32], output: NDArray[np.float32], executions: Sequence[Execution]
) -> int:
    """Number of values that differ anywhere: regions from the golden model, the output from the quantised graph.

    ``output [1, C, H, W]`` is compared as a whole where the whole graph can be evaluated in integers. The host's
    operators round from floats, so a network with a part on the host is compared region by region.
    """
    return sum(_from_golden(one) for one in executions) + _from_graph(network, frame, output, executions)


def _from_golden(execution: Execution) -> int:
    return sum(int(np.count_nonzero(execution.outputs[name] != golden)) for name, golden in execution.golden.items())


def _from_graph(
    network: CompiledNetwork, frame: NDArray[np.float32], output: NDArray[np.float32], executions: Sequence[Execution]
) -> int:
    if any(not placement.on_accelerator for placement in network.placements):
        return sum(_of_region(network, execution) for execution in executions)
    entry, leave = quantised_io(network.quantised)
    codes = np.clip(np.rint(frame / np.float32(entry.scale)) + entry.zero_point, -128, 127).astype(np.int8)
    try:
        expected = evaluate(network.partitioned.graph, codes)
    except UnsupportedError:
        return sum(_of_region(network, execution) for execution in executions)
    got = np.rint(output / np.float32(leave.scale)).astype(np.int64) + leave.zero_point
    return int(np.count_nonzero(got != expected))


def _of_region(network: CompiledNetwork, execution: Execution) -> int:
    program = execution.program
    part = next(region.part for region in network.regions if region.program == program)
    inputs = [execution.inputs[slot.name].transpose(2, 0, 1)[None] for slot in program.inputs]
    expected = evaluate_region(part.graph, dict(zip(part.inputs, inputs, strict=True)), part.outputs)
    return sum(
        int(np.count_nonzero(execution.outputs[slot.name].transpose(2, 0, 1)[None] != codes))
        for slot, codes in zip(program.outputs, expected, strict=True)
    )
