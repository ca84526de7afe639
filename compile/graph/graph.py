"""A network as a value: named nodes in order, plain attributes, numpy constants.

Relax is what the stages hand to each other. Within the front end and the quantiser a rewriting pass is a function
from :class:`Graph` to :class:`Graph`, which is easier to read, and to test, than a visitor over Relax expressions.
A node's name is its name in the user's model, as far as that is known, and becomes the name of its Relax variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Attributes = Mapping[str, Any]
Shape = tuple[int, ...]
NO_ATTRIBUTES: Attributes = MappingProxyType({})
STATE, STEP = "state", "step"
COPY = "_copy"
"""Stands between a name and the number that makes it unique."""


@dataclass(frozen=True)
class Node:
    """One operator application.

    ``op`` is the Relax operator without its ``relax.`` prefix, ``tuple_item``, or an operator of
    :mod:`codesign.compile.operators`, for which Relax has a function; ``inputs`` are names of nodes, of constants or of
    the graph's input.
    A recurrent network has as many :data:`STATE` nodes, of the graph's input in form only, as tensors that the frame
    before left, and a last node :data:`STEP` of its result and of what it leaves for the next frame, in that order.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Attributes
    shape: Shape
    dtype: str = "float32"

    @property
    def where(self) -> str:
        """The place to name in an error."""
        return f"{self.op.removeprefix('nn.')} '{self.name}'"


@dataclass(frozen=True)
class Graph:
    """A dataflow graph with one input and one output, nodes in topological order."""

    input: str
    input_shape: Shape
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    output: str
    input_dtype: str = "float32"
    by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    @property
    def output_shape(self) -> Shape:
        return self.shape_of(self.result)

    @property
    def carried(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a tensor that a recurrent network leaves for the next frame and the state that receives it."""
        last = self.by_name.get(self.output)
        if last is None or last.op != STEP:
            return ()
        states = (node.name for node in self.nodes if node.op == STATE)
        return tuple(zip(last.inputs[1:], states, strict=True))

    @property
    def result(self) -> str:
        """The output, without what a recurrent network leaves."""
        last = self.by_name.get(self.output)
        return last.inputs[0] if last is not None and last.op == STEP else self.output

    def shape_of(self, name: str) -> Shape:
        if name == self.input:
            return self.input_shape
        if name in self.constants:
            return tuple(self.constants[name].shape)
        return self.by_name[name].shape

    def dtype_of(self, name: str) -> str:
        if name == self.input:
            return self.input_dtype
        return str(self.constants[name].dtype) if name in self.constants else self.by_name[name].dtype

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def is_activation(self, name: str) -> bool:
        return name not in self.constants

    def scalar(self, name: str) -> float | None:
        """The value of a one-element constant, else ``None``."""
        value = self.constants.get(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def consumers(self) -> dict[str, list[Node]]:
        """For each name, the nodes that read it (a node that reads it twice is listed twice)."""
        return self._consumers

    @cached_property
    def _consumers(self) -> dict[str, list[Node]]:
        # Passes ask for it at every node, and a graph has thousands.
        readers: dict[str, list[Node]] = {name: [] for name in (self.input, *self.constants, *self.by_name)}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers


class Editor:
    """Collects a new graph while a pass walks an old one: nodes appended, constants added, names replaced."""

    def __init__(self, source: Graph) -> None:
        self.source = source
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = dict(source.constants)
        self.renamed: dict[str, str] = {}
        self._names = {source.input, *source.constants, *source.by_name}

    def resolve(self, name: str) -> str:
        while name in self.renamed:
            name = self.renamed[name]
        return name

    def fresh(self, name: str) -> str:
        """A name that nothing else has, close to ``name``."""
        candidate, count = name, 1
        while candidate in self._names:
            candidate, count = f"{name}{COPY}{count}", count + 1
        self._names.add(candidate)
        return candidate

    def constant(self, name: str, value: Array) -> str:
        name = self.fresh(name)
        self.constants[name] = value
        return name

    def keep(self, node: Node, **changes: Any) -> str:
        """Append ``node``, its inputs renamed as earlier nodes were."""
        inputs = tuple(self.resolve(name) for name in changes.get("inputs", node.inputs))
        if changes or inputs != node.inputs:  # most nodes stay as they are, and passes walk thousands
            node = replace(node, **{**changes, "inputs": inputs})
        self.nodes.append(node)
        return node.name

    def add(
        self,
        name: str,
        op: str,
        inputs: Iterable[str],
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        shape: Shape,
        dtype: str = "float32",
    ) -> str:
        """Append a new node under a fresh name and return that name."""
        return self.keep(Node(self.fresh(name), op, tuple(inputs), attributes, shape, dtype))

    def alias(self, name: str, target: str) -> None:
        """Whoever reads ``name`` reads ``target`` from now on."""
        target = self.resolve(target)
        if name != target:
            self.renamed[name] = target

    def graph(self, output: str | None = None) -> Graph:
        """The new graph, without what its output does not need."""
        result = self.resolve(output or self.source.output)
        needed = {result}
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        return replace(
            self.source,
            nodes=tuple(node for node in self.nodes if node.name in needed),
            constants={name: value for name, value in self.constants.items() if name in needed},
            output=result,
        )
