"""Passes over graphs: run in the order of a list, each visible by its name.

A stage is one list of named passes. Whoever asks for it (:func:`watching`) is told the graph after each, which is how
``compile --dump`` prints a network at any point of its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from codesign.compile.graph.graph import Graph, Node

Pass = Callable[[Graph], Graph]
"""Takes a graph and returns the same function, spelled another way. Its name is the Python function's."""

Watcher = Callable[[str, str, Graph], None]
"""Told a stage, a pass of it (empty: the whole stage), and the graph after it."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell ``watcher`` the graph after every pass that runs inside the block, in this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def passed(stage: str, graph: Graph, name: str = "") -> Graph:
    """``graph``, which is what the pass ``name`` of ``stage``, or the whole stage, has made; told to who watches."""
    if (watcher := _watcher.get()) is not None:
        watcher(stage, name, graph)
    return graph


def run_passes(stage: str, graph: Graph, passes: Sequence[Pass]) -> Graph:
    """``graph`` after ``passes``, one after another."""
    for transform in passes:
        graph = passed(stage, transform(graph), transform.__name__)
    return graph


def text_of(graph: Graph) -> str:
    """``graph`` in words, one operator a line: result, operator, operands, attributes, type and shape."""
    lines = [f"{graph.input}: {_typed(graph.input_dtype, graph.input_shape)}"]
    lines += [_line(graph, node) for node in graph.nodes]
    return "\n".join([*lines, f"return {graph.output}"])


def _line(graph: Graph, node: Node) -> str:
    operands = ", ".join(_operand(graph, name) for name in node.inputs)
    said = [f"{key}={_value(value)}" for key, value in sorted(node.attributes.items()) if _is_said(key, value)]
    attributes = f" {{{', '.join(said)}}}" if said else ""
    return f"{node.name} = {node.op}({operands}){attributes}: {_typed(node.dtype, node.shape)}"


_PLAIN = {
    "data_layout": "NCHW",
    "kernel_layout": "OIHW",
    "out_layout": "NCHW",
    "layout": "NCHW",
    "out_dtype": "float32",
    "dilation": (1, 1),
    "groups": 1,
    "strides": (1, 1),
    "padding": (0, 0, 0, 0),
    "axis": -1,
}
"""Attributes that are left out of the text where they have these values."""


def _is_said(key: str, value: object) -> bool:
    # An importer's call is kept as an attribute; it says nothing that the others do not.
    return key != "call" and (key not in _PLAIN or _PLAIN[key] != value)


def _operand(graph: Graph, name: str) -> str:
    constant = graph.constants.get(name)
    if constant is None:
        return name
    if constant.size == 1:
        return f"{constant.reshape(-1)[0]:.9g}" if np.issubdtype(constant.dtype, np.number) else str(constant)
    return _typed(str(constant.dtype), constant.shape)


def _value(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _typed(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"
