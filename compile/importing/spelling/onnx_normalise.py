"""An ONNX model respelled before import: nodes in order, float32 throughout, pads in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def sort_nodes(graph: Any, known: frozenset[str] = frozenset()) -> None:
    """Put the nodes of ``graph``, and of graphs within, in an order in which each is computed after its operands.

    ``known`` is computed outside. Nodes of a cycle, and those behind it, stay last, in their order.
    """
    known = known | {value.name for value in (*graph.input, *graph.initializer)}
    made = {name for node in graph.node for name in node.output if name}
    waiting, done, ordered = list(graph.node), set(known), []
    while waiting:
        later = []
        for node in waiting:
            if all(name not in made or name in done for name in _reads(node)):
                ordered.append(node)
                done.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            break
        waiting = later
    for node in graph.node:
        for inner in graphs_of(node):
            sort_nodes(inner, known | made)
    if ordered != list(graph.node):
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*ordered, *waiting)]
        del graph.node[:]
        graph.node.extend(nodes)


def graphs_of(node: Any) -> Iterator[Any]:
    """The graphs that ``node`` has as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _reads(node: Any) -> set[str]:
    """Names that ``node`` reads, also within its graphs."""
    found = {name for name in node.input if name}
    for inner in graphs_of(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own.update(name for one in inner.node for name in one.output)
        for one in inner.node:
            found |= _reads(one) - own
        found |= {value.name for value in inner.output} - own
    return found


def to_float32(graph: Any) -> None:
    """Make every float of 16 bits in ``graph`` one of 32: stored tensors, inputs, outputs, and what nodes cast to."""
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _widen(attribute.t)
        for inner in graphs_of(node):
            to_float32(inner)


def _widen(tensor: Any) -> None:
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


_PADDED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")


def with_explicit_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, of static shapes, with numbers in place of ``auto_pad`` and of a transposed convolution's
    ``output_shape``, by the formulas of ONNX's operator documentation."""
    implicit = [node for node in model.graph.node if node.op_type in _PADDED and _implicit(node)]
    if not implicit:
        return model
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in implicit:
        data = shapes.get(node.input[0], [])
        if len(data) > 2 and 0 not in data:
            _set_pads(node, data[2:], shapes.get(node.input[1], [])[2:] if len(node.input) > 1 else [])
    return model


def _implicit(node: Any) -> bool:
    given = {attribute.name: attribute for attribute in node.attribute}
    padded = "auto_pad" in given and given["auto_pad"].s not in (b"", b"NOTSET")
    return padded or (node.op_type == "ConvTranspose" and "output_shape" in given)


def _set_pads(node: Any, data: Sequence[int], weights: Sequence[int]) -> None:
    """Pads of ``node``, which reads ``data`` (the extents of its image) and ``weights`` (of its kernel)."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rank = len(data)
    kernel = given.get("kernel_shape", weights)
    strides, dilations = given.get("strides", [1] * rank), given.get("dilations", [1] * rank)
    mode = given.get("auto_pad", b"NOTSET")
    pads = [(0, 0)] * rank
    if mode == b"VALID":
        pass
    elif node.op_type == "ConvTranspose":
        extra = given.get("output_padding", [0] * rank)
        wanted = given.get("output_shape", [n * stride for n, stride in zip(data, strides, strict=True)])[-rank:]
        sums = [
            stride * (n - 1) + more + (k - 1) * dilation + 1 - out
            for n, stride, more, k, dilation, out in zip(data, strides, extra, kernel, dilations, wanted, strict=True)
        ]
        if min(sums) < 0:  # more output than products: left to the importer, and to the check behind it
            return
        pads = [_halves(total, first_smaller=mode == b"SAME_UPPER") for total in sums]
    else:
        for axis, (n, stride, k, dilation) in enumerate(zip(data, strides, kernel, dilations, strict=True)):
            total = max((-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n, 0)
            pads[axis] = _halves(total, first_smaller=mode == b"SAME_UPPER")
    kept = [one for one in node.attribute if one.name not in ("auto_pad", "pads", "output_shape")]
    kept.append(helper.make_attribute("pads", [first for first, _ in pads] + [last for _, last in pads]))
    del node.attribute[:]
    node.attribute.extend(kept)


def _halves(total: int, *, first_smaller: bool) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if first_smaller else (large, small)
