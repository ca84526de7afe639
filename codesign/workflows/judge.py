"""Whether what ran is what the quantised graph says, computed from it in integers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.compile.driver import CompiledNetwork
from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.referee.integer import evaluate, evaluate_region
from codesign.hw.errors import UnsupportedError
from codesign.hw.program.program import Program


@dataclass(frozen=True)
class Execution:
    """What an accelerator region was given and gave, by tensor name: ``int8[H, W, C]``."""

    program: Program
    inputs: dict[str, NDArray[np.int8]]
    outputs: dict[str, NDArray[np.int8]]


def mismatches(
    network: CompiledNetwork, frame: NDArray[np.float32], output: NDArray[np.float32], executions: Sequence[Execution]
) -> int:
    """Values of the ``output [1, C, H, W]`` for a ``frame`` that differ from the quantised graph's, in integers.

    Of the whole graph where it has an integer meaning. What the host computes is rounded from floats, whether integers
    could say it or not, so a mixed network is judged region by region.
    """
    if any(not placement.on_accelerator for placement in network.placements):
        return sum(_of_region(network, execution) for execution in executions)
    entry, leave = quantised_io(network.quantised)
    codes = np.clip(np.rint(frame / np.float32(entry.scale)) + entry.zero_point, -128, 127).astype(np.int8)
    try:
        expected = evaluate(network.quantised, codes)
    except UnsupportedError:
        return sum(_of_region(network, execution) for execution in executions)
    got = np.rint(output / np.float32(leave.scale)).astype(np.int64) + leave.zero_point
    return int(np.count_nonzero(got != expected))


def _of_region(network: CompiledNetwork, execution: Execution) -> int:
    program = execution.program
    symbol = next(region.symbol for region in network.regions if region.program == program)
    expected = evaluate_region(
        dict(network.partitioned.regions)[symbol],
        [execution.inputs[slot.name].transpose(2, 0, 1)[None] for slot in program.inputs],
    )
    return sum(
        int(np.count_nonzero(execution.outputs[slot.name].transpose(2, 0, 1)[None] != codes))
        for slot, codes in zip(program.outputs, expected, strict=True)
    )
