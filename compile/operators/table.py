"""Functions of one value at a time: any of them is a table of 256 entries.

A ``table`` node has one operand and the attribute ``steps``: a function as :mod:`codesign.hw.numerics.tables` has it.
:func:`recognise_tables` makes one of every maximal region of pointwise operators that depends on one tensor and is more
than a slope and limits, so a new activation function needs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tvm import relax

from codesign.compile.graph.arithmetic import BINARY, UNARY
from codesign.compile.graph.graph import Editor, Graph, Node
from codesign.compile.graph.unit import RoundedUnit
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.operators.operator import Bind, Composite
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.kernels.chain import Apply, Kind, each_value
from codesign.kernels.frame_kernel import FrameKernel

TABLE = "table"

MOST_STEPS = 64
"""Of a table. A longer function stays several."""

_LINEAR = ("nn.relu", "clip", "nn.leakyrelu", "negative")
_BY_NUMBERS = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
"""Of a tensor and a number these are slopes, offsets and limits."""

_COMPARISONS = ("greater", "greater_equal", "less", "less_equal")

_POINTWISE = frozenset({*UNARY, *BINARY, "clip", "nn.leakyrelu", "where", TABLE})


class Table(Composite):
    """Any function of each value by itself, in 256 entries of 8 bits computed in float64."""

    ops = (TABLE,)
    rank = 1  # it would take parts of the others
    cuda = "joins a convolution, or an element-wise chain, where its functions have CUDA code"
    spellings = (
        "torch and ONNX: sigmoid, tanh, GELU, SiLU, Mish, Hardswish, ELU, Softplus, exp, log, sqrt, ..., and whatever "
        "arithmetic, comparisons and where make of one tensor and numbers",
    )
    size_free = True

    def recognise(self, graph: Graph) -> Graph:
        return recognise_tables(graph)

    def evaluate(self, node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
        (x,) = inputs
        results: list[torch.Tensor] = []
        for step in node.attributes["steps"]:
            name, *operands = step.split()
            values = [_value(one, x, results) for one in operands]
            results.append(_torch(name, [torch.as_tensor(value, dtype=x.dtype) for value in values]))
        return results[-1].to(x.dtype)

    def body(self, node: Node, inputs: list[Any], bind: Bind) -> Any:
        results: list[Any] = []
        steps = node.attributes["steps"]
        for number, step in enumerate(steps):
            name, *operands = step.split()
            values = [_value(one, inputs[0], results) for one in operands]
            label = node.name if number == len(steps) - 1 else f"{node.name}.{name}{number}"
            results.append(bind(label, _relax(name, values, node.dtype)))
        return results[-1]

    def kernels(self, graph: Graph, node: Node, activation: Node | None = None) -> tuple[FrameKernel, ...]:
        applied = _chain_steps(node.attributes["steps"])
        return () if applied is None else (each_value(node.shape[1], applied),)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        steps = unit.head.attributes["steps"]
        table = numerics.function_table(steps, source.scale, source.zero_point, target.scale, target.zero_point)
        made = lowering.unjoined(source.name)
        if made is not None and made.epilogue.table is None:
            lowering.replace_layer(made, replace(made, output=target.name).with_table(table))
        else:
            copy = copy_layer(unit.name, source, replace(source, name=target.name))
            lowering.layers.append(copy.with_table(table))


def _value(operand: str, x: Any, results: list[Any]) -> Any:
    return x if operand == "x" else results[int(operand)] if operand.isdigit() else float(operand)


def _op(name: str) -> str:
    """The Relax operator of a function."""
    return f"nn.{name}" if f"nn.{name}" in UNARY or name == "leakyrelu" else name


def _torch(name: str, values: list[torch.Tensor]) -> torch.Tensor:
    op = _op(name)
    if op in UNARY:
        return UNARY[op](values[0])
    if op in BINARY:
        return BINARY[op](values[0], values[1])
    match name:
        case "clip":
            return values[0].clamp(float(values[1]), float(values[2]))
        case "leakyrelu":
            return torch.where(values[0] >= 0, values[0], values[0] * values[1])
        case _:
            return torch.where(values[0] != 0, values[1], values[2])


def _relax(name: str, values: list[Any], dtype: str) -> Any:
    if name == "clip":
        return relax.op.clip(values[0], values[1], values[2])
    if name == "leakyrelu":
        return relax.op.nn.leakyrelu(values[0], values[1])
    operands = [relax.const(value, dtype) if isinstance(value, float) else value for value in values]
    if name == "where":
        return relax.op.where(relax.op.not_equal(operands[0], relax.const(0.0, dtype)), *operands[1:])
    function: Any = relax.op
    for part in _op(name).split("."):
        function = getattr(function, part)
    result = function(*operands)
    return relax.op.astype(result, dtype) if name in _COMPARISONS else result


def recognise_tables(graph: Graph) -> Graph:
    """``graph`` with every maximal pointwise function of one tensor as a ``table``."""
    regions = _Regions(graph)
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    inside: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in inside or node.name not in regions.sources:
            continue
        source = regions.source(node)
        if source is not None:
            members = regions.between(source, node)
            found[node.name] = source, _steps(graph, source, members)
            inside |= regions.private(members)
    editor = Editor(graph)
    for node in graph.nodes:
        if node.name in found:
            source, steps = found[node.name]
            editor.keep(node, op=TABLE, inputs=(source,), attributes={"steps": steps})
        else:
            editor.keep(node)
    return editor.graph()


class _Regions:
    """For every pointwise node, the tensors that alone it depends on: ``sources``, the nearest first."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.consumers()
        self.places = {node.name: place for place, node in enumerate(graph.nodes)}
        self.sources: dict[str, list[str]] = {}
        for node in graph.nodes:
            operands = [name for name in node.inputs if graph.is_activation(name)]
            if not operands or not self._pointwise(node):
                continue
            behind = [[name, *self.sources.get(name, ())] for name in operands]
            common = [name for name in behind[0] if all(name in one for one in behind[1:])]
            common = [name for name in common if graph.shape_of(name) == node.shape][:MOST_STEPS]
            if common:
                self.sources[node.name] = common

    def _pointwise(self, node: Node) -> bool:
        constants = [name for name in node.inputs if self.graph.is_constant(name)]
        plain = node.op in _POINTWISE and len(node.shape) == 4 and node.shape[0] == 1
        return plain and all(_number(self.graph, name) is not None for name in constants)

    def between(self, source: str, last: Node) -> list[Node]:
        """The nodes from ``source``, which is left out, to ``last``, in order."""
        span = self.graph.nodes[self.places.get(source, -1) + 1 : self.places[last.name] + 1]
        needed = {last.name}
        for node in reversed(span):
            if node.name in needed:
                needed.update(node.inputs)
        return [node for node in span if node.name in needed]

    def private(self, members: list[Node]) -> set[str]:
        """Those of ``members`` that only members read."""
        names = {member.name for member in members}
        alone = (name for name in names if all(reader.name in names for reader in self.readers[name]))
        return {name for name in alone if name != self.graph.output and self.readers[name]}

    def source(self, last: Node) -> str | None:
        """The tensor of which a table should make ``last``; None where slopes and limits do as well.

        It is the farthest one past which nobody reads what lies between. Slopes and limits at the beginning are left
        to the layer before, where that takes them for nothing.
        """
        if self.graph.dtype_of(last.name) != "float32":
            return None
        chain = self.sources[last.name]
        depth = 0
        while depth + 1 < len(chain) and self._ends_at(chain[depth], chain[depth + 1], last):
            depth += 1
        whole = self.between(chain[depth], last)
        curved = not all(map(self._is_linear, whole))
        if not curved and all(node.op != "clip" for node in whole):
            return None  # 16 bits can have slopes and offsets, not tables
        activated = False
        while depth and self._fuses(chain[depth], activated) and self._linear(chain[depth], chain[depth - 1]):
            activated = activated or self._activates(chain[depth], chain[depth - 1])
            depth -= 1
        rest = self.between(chain[depth], last)
        if not curved and not activated:
            return None  # one unit has a slope, an offset and limits
        steps = sum(len(node.attributes["steps"]) if node.op == TABLE else 1 for node in rest)
        return chain[depth] if steps <= MOST_STEPS else None

    def _ends_at(self, inner: str, outer: str, last: Node) -> bool:
        """Whether nobody else reads tensor ``inner``, so that it need not be stored if ``outer`` is the source."""
        within = {node.name for node in self.between(outer, last)}
        return inner != self.graph.output and all(reader.name in within for reader in self.readers[inner])

    def _linear(self, outer: str, inner: str) -> bool:
        return all(map(self._is_linear, self.between(outer, self.graph.by_name[inner])))

    def _is_linear(self, node: Node) -> bool:
        numbers = sum(self.graph.is_constant(name) for name in node.inputs)
        by_number = node.op in _BY_NUMBERS and numbers == 1
        return node.op in _LINEAR or (
            by_number and not (node.op == "divide" and self.graph.is_constant(node.inputs[0]))
        )

    def _activates(self, outer: str, inner: str) -> bool:
        return any(node.op in _LINEAR for node in self.between(outer, self.graph.by_name[inner]))

    def _fuses(self, name: str, activated: bool) -> bool:
        """Whether the layer that makes ``name`` takes a slope and an offset after it, then slopes or limits, once."""
        node = self.graph.by_name.get(name)
        made = node is not None and node.op in (*CONVOLUTIONS, "add", "subtract", "multiply", "correlation", *_LINEAR)
        return made and not activated


def _number(graph: Graph, name: str) -> float | None:
    """The value of a constant that is the same everywhere; None for any other tensor."""
    value = graph.constants.get(name)
    if value is None or value.size == 0 or not np.all(value == value.flat[0]):
        return None
    return float(value.flat[0])


def _steps(graph: Graph, source: str, members: list[Node]) -> tuple[str, ...]:
    """The function that ``members`` compute of ``source``."""
    steps: list[str] = []
    places = {source: "x"}

    def operand(name: str) -> str:
        number = _number(graph, name)
        return places[name] if number is None else repr(number)

    for node in members:
        attributes = node.attributes
        match node.op:
            case "table":
                steps += _shifted(attributes["steps"], operand(node.inputs[0]), len(steps))
            case "clip":
                limits = (repr(float(attributes[end])) for end in ("min", "max"))
                steps.append(" ".join(("clip", operand(node.inputs[0]), *limits)))
            case "nn.leakyrelu":
                steps.append(f"leakyrelu {operand(node.inputs[0])} {float(attributes['alpha'])!r}")
            case op:
                steps.append(" ".join((op.removeprefix("nn."), *map(operand, node.inputs))))
        places[node.name] = str(len(steps) - 1)
    return tuple(steps)


def _shifted(steps: tuple[str, ...], x: str, count: int) -> list[str]:
    """``steps`` of ``x`` after ``count`` others."""

    def moved(operand: str) -> str:
        return x if operand == "x" else str(int(operand) + count) if operand.isdigit() else operand

    return [" ".join((name, *map(moved, operands))) for name, *operands in map(str.split, steps)]


_FAST: Mapping[str, Kind] = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "gelu": "gelu_erf",
    "silu": "silu",
    "gelu_tanh": "gelu_tanh",
}
"""Functions that chains compute in one step, whatever they were written as."""

_STEPS: Mapping[str, Kind] = {
    **_FAST,
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "maximum": "maximum",
    "minimum": "minimum",
    "clip": "clip",
    "leakyrelu": "leaky_relu",
}

_PLACES = np.linspace(-9.0, 9.0, 181)
_CLOSE = 1e-5


@lru_cache(maxsize=256)
def fast_kind(steps: tuple[str, ...]) -> Kind | None:
    """The one step that computes the function of ``steps``; None if there is none. Found by what it computes."""
    values = np.array([numerics.evaluate_steps(steps, float(x)) for x in _PLACES])
    for name, kind in _FAST.items():
        wanted = np.array([numerics.evaluate_steps((f"{name} x",), float(x)) for x in _PLACES])
        if np.allclose(values, wanted, rtol=0.0, atol=_CLOSE):
            return kind
    return None


def _chain_steps(steps: tuple[str, ...]) -> tuple[Apply, ...] | None:
    """``steps`` of a chain's first value, as its steps after that; None for a function without CUDA code."""
    if (kind := fast_kind(steps)) is not None:
        return (Apply(kind, (0,)),)
    found = []
    for name, *operands in map(str.split, steps):
        if name == "negative":
            name, operands = "multiply", [*operands, "-1.0"]
        if name == "divide" and not operands[1].isdigit() and operands[1] != "x" and float(operands[1]) != 0.0:
            name, operands = "multiply", [operands[0], repr(1.0 / float(operands[1]))]
        if name not in _STEPS:
            return None
        found.append(Apply(_STEPS[name], tuple(map(_chain_operand, operands))))
    return tuple(found)


def _chain_operand(operand: str) -> int | float:
    if operand == "x":
        return 0
    return int(operand) + 1 if operand.isdigit() else float(operand)
