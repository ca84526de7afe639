"""Insert the roundings of a quantised network: quantise and dequantise nodes around units, and the weights' codes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from codesign.compile.graph.graph import STATE, Array, Editor, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.quantise.calibration import QuantParams
from codesign.hw.errors import UnsupportedError
from codesign.hw.numerics import INT16_MAX, INT32_MAX, psum_reach, weight_planes

MAX_BIAS = 2**22
"""Largest integer bias with 8 bits: up to here the float32 constant identifies the integer uniquely."""

MAX_WIDE_BIAS = 2**28
"""Largest integer bias with 16 bits of activations or weights, whose units are finer: an eighth of the accumulator."""


def wide_codes(name: str) -> str:
    """The key of the 16-bit codes of ``name`` among the parameters."""
    return f"{name}.wide"


def scalar_params(graph: Graph, node: Node) -> QuantParams:
    """The per-tensor parameters of a quantise or dequantise node."""
    scale, zero_point = (graph.constants.get(name) for name in node.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        raise UnsupportedError(
            "scale and zero point must be constant scalars", where=node.where, hint="Quantise activations per tensor."
        )
    return QuantParams(float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]))


def both_wide(graph: Graph, convolution: Node) -> bool:
    """Whether a convolution of a quantised graph has 16-bit weights and reads 16-bit activations."""
    opened, weight = (graph.by_name[name] for name in convolution.inputs)
    code = graph.by_name.get(opened.inputs[0])
    return graph.constants[weight.inputs[0]].dtype == np.int16 and code is not None and code.dtype == "int16"


def psum_unit(graph: Graph, convolution: Node) -> QuantParams:
    """Scale and zero point of a convolution's source in a quantised graph; the scale times 256 if all have 16 bits."""
    read = scalar_params(graph, graph.by_name[convolution.inputs[0]])
    return QuantParams(256.0 * read.scale, 0) if both_wide(graph, convolution) else read


def insert(
    graph: Graph,
    parts: Sequence[Unit],
    chosen: Mapping[str, QuantParams],
    weights: Mapping[str, tuple[Array, Array]] = MappingProxyType({}),
    wide_weights: Container[str] = (),
) -> Graph:
    """``graph`` with its units between dequantise and quantise, ``chosen`` giving each stored tensor's parameters.

    ``weights`` gives int8 or int16 codes and scales of convolutions, by name, that are settled already;
    ``wide_weights`` names the convolutions whose weights have 16 bits. What is not in ``chosen`` stays float.
    """
    editor = Editor(graph)
    kinds = {unit.name: unit for unit in parts}
    codes: dict[str, str] = {}
    wide: dict[str, str] = {}

    def quantised(name: str, result: str) -> None:
        if wide_codes(name) in chosen and name in kinds and kinds[name].operator.stores_16_bits(kinds[name]):
            wide[name] = _quantize(editor, result, chosen[wide_codes(name)], graph.shape_of(name), dtype="int16")
        else:
            codes[name] = _quantize(editor, result, chosen[name], graph.shape_of(name))

    def opened(name: str, *, all_bits: bool) -> str:
        """The real value of ``name`` to read: its codes dequantised, if it has any, and rounded from 16 bits to 8 on
        request."""
        shape = graph.shape_of(name)
        if name in wide:
            full = _dequantize(editor, wide[name], name, chosen[wide_codes(name)], shape)
            if all_bits:
                return full
            if name not in codes:
                codes[name] = _quantize(editor, full, chosen[name], shape)
        return _dequantize(editor, codes[name], name, chosen[name], shape) if name in codes else name

    if graph.input in chosen:
        quantised(graph.input, graph.input)
    for unit in parts:
        head = unit.head
        if head.op == STATE:
            editor.keep(head)
            quantised(head.name, head.name)
            continue
        if unit.operator.weighs:
            source = head.inputs[0]
            read = chosen[wide_codes(source)] if source in wide else chosen[source]
            kernel = _kernel(
                graph, unit, read, weights.get(head.name), wide_source=source in wide, wide=head.name in wide_weights
            )
            _keep_convolution(editor, unit, opened(source, all_bits=True), kernel)
        else:
            result_wide = wide_codes(unit.name) in chosen and unit.operator.stores_16_bits(unit)
            inputs = [
                opened(name, all_bits=unit.operator.reads_16_bits(unit, which, result_wide=result_wide))
                for which, name in enumerate(head.inputs)
            ]
            if unit.operator.at_a_flow and (flow := head.inputs[1]) not in wide:
                shape, params = graph.shape_of(flow), chosen[wide_codes(flow)]
                rounded = _quantize(editor, inputs[1], params, shape, dtype="int16")
                inputs[1] = _dequantize(editor, rounded, f"{head.name}.flow", params, shape)
            editor.keep(head, inputs=tuple(inputs))
            for node in unit.nodes[1:]:
                editor.keep(node)
        if unit.name in chosen:
            quantised(unit.name, unit.name)
    return editor.graph(opened(graph.output, all_bits=True))


def _quantize(editor: Editor, name: str, params: QuantParams, shape: tuple[int, ...], *, dtype: str = "int8") -> str:
    operands = _scalars(editor, name, params)
    attributes = {"axis": -1, "out_dtype": dtype}
    return editor.add(f"{name}.q", "quantize", (name, *operands), attributes, shape=shape, dtype=dtype)


def _dequantize(editor: Editor, code: str, name: str, params: QuantParams, shape: tuple[int, ...]) -> str:
    operands = _scalars(editor, name, params)
    attributes = {"axis": -1, "out_dtype": "float32"}
    return editor.add(f"{name}.dq", "dequantize", (code, *operands), attributes, shape=shape)


def _scalars(editor: Editor, name: str, params: QuantParams) -> tuple[str, str]:
    scale = editor.constant(f"{name}.scale", np.array(params.scale, np.float32))
    return scale, editor.constant(f"{name}.zero_point", np.array(params.zero_point, np.int8))


@dataclass(frozen=True)
class Kernel:
    """A convolution's weights and bias in integers."""

    codes: Array  # int8 or int16
    scales: Array  # float32[Cout]
    bias: Array | None  # float64[C], whole numbers
    unit: float  # of the psum, without the weight's scale


def _kernel(
    graph: Graph,
    unit: Unit,
    source: QuantParams,
    settled: tuple[Array, Array] | None = None,
    *,
    wide_source: bool = False,
    wide: bool = False,
) -> Kernel:
    """The integer weights of ``unit`` for a source with the parameters ``source``.

    ``wide_source`` says that the source has 16 bits, ``wide`` that the weights shall have 16. If the sums of 16-bit
    activations would exceed 32 bits, the weights get 16 bits as well, because the unit of their sums is 256 times as
    large.
    """
    head = unit.head
    weight = graph.constants.get(head.inputs[1])
    if weight is None:
        raise UnsupportedError(
            "a convolution whose weights are computed at run time", where=head.where, hint="Give it constant weights."
        )
    biased = len(unit.nodes) > 1 and unit.nodes[1].op == "add"
    bias = graph.constants[unit.nodes[1].inputs[1]].reshape(-1) if biased else None
    axis = weight_axis(head)
    most = MAX_WIDE_BIAS if wide_source else MAX_BIAS
    codes: Array
    if settled is not None:
        codes, scales = settled[0], np.broadcast_to(settled[1], (weight.shape[axis],)).astype(np.float32)
    else:
        codes, scales = quantised_weight(weight, axis, source.scale, bias, most)
    reach = int(psum_reach(np.moveaxis(codes, axis, 3)).max()) * (257 if wide_source else 1)
    unit_ = source.scale
    if wide or (wide_source and reach + MAX_WIDE_BIAS > INT32_MAX):
        if wide_source:
            source = QuantParams(256.0 * source.scale, 0)
        codes, scales = quantised_wide_weight(weight, axis, source, bias, wide_source=wide_source)
        unit_ = source.scale
    integers = None if bias is None else np.rint(bias.astype(np.float64) / bias_scale(unit_, scales, len(bias)))
    return Kernel(codes, scales, integers, unit_)


def _keep_convolution(editor: Editor, unit: Unit, source: str, kernel: Kernel) -> None:
    head = unit.head
    named = editor.add(
        f"{head.name}.weight",
        "dequantize",
        (
            editor.constant(f"{head.name}.codes", kernel.codes),
            editor.constant(f"{head.name}.scales", kernel.scales),
            editor.constant(f"{head.name}.zero", np.array(0, np.int8)),
        ),
        {"axis": weight_axis(head), "out_dtype": "float32"},
        shape=tuple(kernel.codes.shape),
    )
    editor.keep(head, inputs=(source, named))
    for node in unit.nodes[1:]:
        if node is unit.nodes[1] and node.op == "add" and kernel.bias is not None:
            bias = bias_constant(kernel.bias, kernel.unit, kernel.scales)
            editor.keep(node, inputs=(head.name, editor.constant(f"{head.name}.bias", bias)))
        else:
            editor.keep(node)


def weight_axis(node: Node) -> int:
    """The axis of the output channels: OIHW, or IOHW when transposed."""
    return 0 if node.op == "nn.conv2d" else 1


def bias_scale(input_scale: float, scales: Array, channels: int) -> NDArray[np.float64]:
    """The real value of one unit of the psum, ``float64[channels]``: grouped transposed weights share their scales."""
    repeated = np.tile(scales.astype(np.float64), channels // len(scales))
    return np.asarray(repeated * float(np.float32(input_scale)), np.float64)


def bias_constant(integers: Array, input_scale: float, scales: Array) -> NDArray[np.float32]:
    """The float32[1, C, 1, 1] that stands for the integer biases ``integers: [C]``."""
    real = integers.astype(np.float64) * bias_scale(input_scale, scales, len(integers))
    return real.astype(np.float32).reshape(1, -1, 1, 1)


def quantised_weight(
    weight: Array, axis: int, input_scale: float, bias: Array | None, most: int = MAX_BIAS
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes in -127..127 and their scales along ``axis``.

    A scale is widened where an almost empty channel would need a bias beyond ``most``.
    """
    scales = _weight_scales(weight, axis, input_scale, bias, most, 127)
    return _weight_codes(weight, axis, scales, 127).astype(np.int8), scales


def quantised_wide_weight(
    weight: Array, axis: int, source: QuantParams, bias: Array | None, *, wide_source: bool = False
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Int16 codes and scales like :func:`quantised_weight`'s; a channel uses as many codes as its 32-bit sums permit.

    ``source`` holds the parameters of the tensor read; for a tensor of 16 bits (``wide_source``) the scale is 256 times
    its own.
    """
    scales = _weight_scales(weight, axis, source.scale, bias, MAX_WIDE_BIAS, INT16_MAX)
    while True:
        codes = _weight_codes(weight, axis, scales, INT16_MAX).astype(np.int16)
        by_output = np.moveaxis(codes, axis, 3)
        folded = np.abs(source.zero_point * by_output.astype(np.int64).sum(axis=(0, 1, 2)))
        reach = psum_reach(by_output)
        if wide_source:  # low bytes by the weights' high ones
            reach = reach + psum_reach(weight_planes(by_output)[0])
        over = reach + folded + MAX_WIDE_BIAS > INT32_MAX
        if not over.any():
            return codes, scales
        scales = np.where(over, scales * np.float32(1.125), scales).astype(np.float32)


def _weight_scales(
    weight: Array, axis: int, input_scale: float, bias: Array | None, most: int, limit: int
) -> NDArray[np.float32]:
    """A scale per channel of ``axis`` with which no code exceeds ``limit`` and no bias exceeds ``most``."""
    wide = np.moveaxis(weight.astype(np.float64), axis, 0)
    largest = np.abs(wide).reshape(wide.shape[0], -1).max(axis=1) / limit
    if bias is not None:
        grouped = np.abs(bias.astype(np.float64)).reshape(-1, wide.shape[0]).max(axis=0)
        largest = np.maximum(largest, grouped / (input_scale * (most - 1)))
    return np.where(largest > 0, np.maximum(largest, 1e-20), 1.0).astype(np.float32)


def _weight_codes(weight: Array, axis: int, scales: NDArray[np.float32], limit: int) -> NDArray[np.float64]:
    wide = np.moveaxis(weight.astype(np.float64), axis, 0)
    codes = np.rint(wide / scales.astype(np.float64).reshape(-1, *[1] * (wide.ndim - 1)))
    return np.moveaxis(np.clip(codes, -limit, limit), 0, axis)
