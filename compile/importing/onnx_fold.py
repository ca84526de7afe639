"""Computes, before import, what an ONNX model computes from constants and from its now fixed sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from codesign.compile.graph.graph import Array
from codesign.compile.importing.limits import most_values
from codesign.hw.errors import UnsupportedError

MAX_ELEMENTS = 1 << 16
"""Larger results are weights, which stay operators until the graph's own folding."""

_KEPT = ("QuantizeLinear", "DequantizeLinear", "If", "Loop", "Scan", "RandomNormal", "RandomUniform")


def with_sizes_folded(model: onnx.ModelProto, source: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    """``model`` with input ``source`` pinned to ``shape`` and its shape arithmetic replaced by initialisers."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for value in model.graph.input:
        if value.name == source:
            for dim, extent in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.dim_value = extent
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    # Each round lets shape inference see further, through reshapes that the last round made constant.
    for _ in range(4):
        before = len(model.graph.node)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        _check_sizes(inferred.graph, most_values(shape[3], shape[2]))
        model = _fold(inferred)
        if len(model.graph.node) == before:
            break
    return model


def _check_sizes(graph: Any, most: int) -> None:
    """Raise :class:`UnsupportedError` for a result of more than ``most`` values, before anything computes it."""
    makers = {name: node for node in graph.node for name in node.output}
    for value in (*graph.value_info, *graph.output):
        extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name in makers and (math.prod(extents) > most or min(extents, default=0) < 0):
            node = makers[value.name]
            raise UnsupportedError(
                f"makes a tensor of {'x'.join(map(str, extents))} values",
                where=f"{node.op_type} '{node.name}'",
                hint="Check its sizes and factors; export the model again.",
            )


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = model.graph
    known: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {value.name: _static(value) for value in (*graph.input, *graph.value_info)}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kept: list[Any] = []
    for node in graph.node:
        value = _value(node, known, shapes, opsets)
        if value is None:
            kept.append(node)
            continue
        known[node.output[0]] = value
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    return model


def _static(value: Any) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    return tuple(int(dim.dim_value) for dim in kind.shape.dim)


def _value(
    node: Any, known: dict[str, Array], shapes: dict[str, tuple[int, ...] | None], opsets: dict[str, int]
) -> Array | None:
    """The result of ``node`` if it is a small constant."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT or len(node.output) != 1:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = known[node.input[0]].shape if node.input[0] in known else shapes.get(node.input[0])
        if shape is None:
            return None
        if node.op_type == "Size":
            return np.array(math.prod(shape), np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)
    inputs = [name for name in node.input if name]
    if any(name not in known or known[name].size > MAX_ELEMENTS for name in inputs):
        return None
    try:
        (result,) = ReferenceEvaluator(node, opsets=opsets).run(None, {name: known[name] for name in inputs})
    except Exception:  # an operator that the evaluator lacks is left for the importer to judge
        return None
    value = np.asarray(result)
    return value if value.size <= MAX_ELEMENTS and value.dtype != object else None
