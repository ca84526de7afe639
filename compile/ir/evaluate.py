"""Runs a :class:`~codesign.compile.graph.graph.Graph` node by node in torch: calibration, training and tests use it.

Convolutions, element-wise operators and data movement do not depend on the frame's size, so a graph made of them runs
on crops of any size. Whatever torch is not told about here runs as a TVM module of one operator, at the graph's own
size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch
import tvm
from torch import Tensor
from tvm import relax

from codesign.compile.graph.arithmetic import BINARY, SIZE_FREE, computed
from codesign.compile.graph.graph import Array, Graph, Node
from codesign.compile.ir import engine
from codesign.compile.ir.relax import operator_module
from codesign.compile.ir.runnable import runnable
from codesign.compile.operators.registry import COMPOSITES
from codesign.hw.errors import UnsupportedError

Override = Callable[[Node, list[Tensor]], Tensor | None]


def apply(node: Node, inputs: list[Tensor]) -> Tensor:
    """One node on torch tensors; differentiable where torch is.

    Raises :class:`UnsupportedError` for an operator that neither torch nor TVM can evaluate.
    """
    composite = COMPOSITES.get(node.op)
    if node.op.startswith(engine.PREFIX):
        value: Any = _by_engine(node, inputs)
    else:
        value = composite.evaluate(node, inputs) if composite is not None else computed(node, inputs)
    result: Tensor = _by_tvm(node, inputs) if value is None else value
    return result


def _by_engine(node: Node, inputs: list[Tensor]) -> Any:
    operator, *operands = [value.detach().numpy() for value in inputs]
    # Where constants are folded floats have 64 bits; the operator was written for 32.
    narrow = [value.astype(np.float32) if value.dtype == np.float64 else value for value in operands]
    try:
        made = [torch.from_numpy(np.array(one)) for one in engine.computed(operator.tobytes(), narrow)]
    except Exception as error:  # engines raise what they like
        raise UnsupportedError(
            f"this operator cannot be evaluated here ({' '.join(str(error).split())[:200]})",
            where=node.where,
            hint="Calibrate at the network's own size, or export the network without it.",
        ) from error
    return tuple(made) if node.dtype == "tuple" else made[0]


def _by_tvm(node: Node, inputs: list[Tensor]) -> Any:
    """One operator through TVM's own code generator: the definition of whatever torch is not told about here."""
    values = [np.asarray(value.detach().numpy(), order="C") for value in inputs]  # a number stays one
    try:
        result = _machine(node, values)["main"](*map(tvm.runtime.tensor, values))
        if node.dtype == "tuple":
            return tuple(torch.from_numpy(one.numpy()) for one in result)
        return torch.from_numpy(result.numpy())
    except Exception as error:  # TVM raises its own and Python's exceptions alike
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise UnsupportedError(
            f"this operator cannot be evaluated here ({reason})",
            where=node.where,
            hint="Calibrate at the network's own size, or export the network without it.",
        ) from error


_MACHINES: OrderedDict[Hashable, Any] = OrderedDict()
_KEPT = 512
"""Compiled operators that are remembered: to compile one takes a hundred times as long as to run it."""


def _machine(node: Node, values: list[Array]) -> Any:
    """A virtual machine that computes ``node`` of operands like ``values``; nodes alike share one."""
    attributes = {key: value for key, value in node.attributes.items() if key not in ("call", "function")}
    function = node.attributes.get("function")
    kinds = tuple((value.shape, str(value.dtype)) for value in values)
    meaning = None if function is None else function.script()
    key = (node.op, repr(sorted(attributes.items())), meaning, kinds, node.shape, node.dtype)
    if key not in _MACHINES:
        executable = relax.build(runnable(operator_module(node, kinds)), "llvm")
        _MACHINES[key] = relax.VirtualMachine(executable, tvm.cpu())
        if len(_MACHINES) > _KEPT:
            _MACHINES.popitem(last=False)
    _MACHINES.move_to_end(key)
    return _MACHINES[key]


def trace(graph: Graph, x: Tensor, override: Override | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, value)`` of the input and of every node in turn; values are dropped after their last reader.

    ``x: float32[1, C, H, W]``, of any size if the graph is :func:`size_free`. ``override`` may compute a node in its
    own way (return ``None`` for the usual one).
    """
    remaining = {name: len(nodes) for name, nodes in graph.consumers().items()}
    values: dict[str, Tensor] = {name: torch.from_numpy(value.copy()) for name, value in graph.constants.items()}
    values[graph.input] = x
    yield graph.input, x
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        own = override(node, inputs) if override else None
        value = apply(node, inputs) if own is None else own
        values[node.name] = value
        yield node.name, value
        for name in node.inputs:
            remaining[name] -= 1
            if remaining[name] == 0:
                del values[name]


def run(graph: Graph, x: Tensor, override: Override | None = None) -> Tensor:
    """The graph's output on ``x: float32[1, C, H, W]``."""
    result = x
    for name, value in trace(graph, x, override):
        if name == graph.output:
            result = value
    return result


def size_free(graph: Graph) -> bool:
    """Whether the graph runs on frames of any size: no operator and no constant mentions the frame's."""

    def spread(name: str) -> bool:
        return name in graph.constants and any(extent != 1 for extent in graph.constants[name].shape[-2:])

    def free(node: Node) -> bool:
        if (composite := COMPOSITES.get(node.op)) is not None:
            return composite.size_free
        if node.op in (*BINARY, "where", "concat") and any(map(spread, node.inputs)):
            return False
        return node.op in SIZE_FREE or (node.op == "strided_slice" and set(node.attributes["axes"]) <= {1})

    return all(free(node) for node in graph.nodes)
