"""Post-training quantisation: every tensor that the accelerator stores becomes int8.

The result is a Relax function that still takes and returns float32. Its form, which the lowering matches, is for each
unit ``dequantize`` of each operand, the float operators, one ``quantize``::

    q = R.quantize(x, scale, zero_point, out_dtype="int8")          scale: const float32 [], zero_point: const int8 []
    d = R.dequantize(q, scale, zero_point)                          one for each reader of q
    w = R.dequantize(const int8, const float32[Cout], const int8 [] = 0, axis=0)     axis=1 (IOHW) when transposed

    convolution   d, w -> nn.conv2d | nn.conv2d_transpose [-> add(const float32[1, C, 1, 1])]
                       [-> nn.relu | clip | nn.leakyrelu | nn.prelu(const float32[C], axis=1)] -> q
    sum           d, d -> add | subtract [-> nn.relu | clip] -> q        an operand may have one channel
    product       d, d -> multiply [-> nn.relu | clip] -> q
    scale         d -> multiply(const float32 []) [-> activation as above] -> q
    normalisation d -> nn.instance_norm(ones, zeros) [-> nn.relu | clip] -> q
    activation    d -> nn.relu | clip | nn.leakyrelu | nn.prelu -> q
    correlation   d, d -> correlation (nn.conv2d, repeat, multiply, reshape, mean) [-> activation] -> q
    pairs         d, d -> pairs (reshape, permute_dims, matmul, reshape, multiply) -> q
    warp          d, d16 -> warp (multiply, add, image.grid_sample) -> q          d16: the flow, int16 for it alone
    16 bits       flows, and what is added, scaled or resized into them: d16, d16 -> add -> q16; convolutions -> q16
    resampling    d -> nn.avg_pool2d | image.resize2d [-> multiply(const float32 [])] -> q
    look-up       d -> tanh | sigmoid | nn.gelu | nn.silu | ... -> q
    movement      d -> nn.pixel_shuffle | repeat(axis=1) | tile | strided_slice | (reshape, permute_dims, reshape) -> q
    concat        d, d, ... -> concat(axis=1) -> q
    anything else d, ... -> operators of the host, in float between them -> q

Movement keeps scale and zero point; the operands of a concat share theirs unless one of them is the network's input.
The zero points of what is correlated are 0.
A bias is the float32 nearest to an integer times ``s_in * s_w``, so that the integer can be read back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.compile.calibration import (
    PIXELS,
    Method,
    Observation,
    QuantParams,
    check_images,
    choose,
    distinct_codes,
    observe,
)
from codesign.compile.correlations import recognise_correlations
from codesign.compile.equalize import equalised
from codesign.compile.graph import STATE, Array, Editor, Graph, Node
from codesign.compile.instance_norm import recognise_norms
from codesign.compile.movement import recognise_movement, slice_splits
from codesign.compile.pairs import read_pairs, recognise_pairs
from codesign.compile.relax_form import from_module, to_module
from codesign.compile.units import Kind, Unit, float_only, units, wide_results
from codesign.compile.warps import recognise_warps
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.numerics import FLOW_FRACTION_BITS, INT16_MAX

_CENTRED = (Kind.CORRELATION, Kind.PAIRS)
"""What multiplies tensors with each other and sums: their zero points are 0."""

MAX_BIAS = 2**22
"""Largest integer bias: below it the float32 constant names the integer without doubt."""


@dataclass(frozen=True)
class Quantised:
    """A quantised module and what calibration saw: per stored tensor its parameters and number of distinct codes.

    ``source`` is the float module with the very weights that were quantised: fine-tuning starts from it.
    """

    module: tvm.IRModule
    source: tvm.IRModule
    params: dict[str, QuantParams]
    codes: dict[str, int]


def quantise(
    module: tvm.IRModule,
    calibration: Sequence[NDArray[np.float32]],
    method: Method = "mse",
    *,
    percentile: float = 99.99,
    equalise: bool = True,
    input_params: QuantParams | None = None,
    output_params: QuantParams | None = None,
) -> tvm.IRModule:
    """``module`` (float, canonical) with quantise/dequantise inserted; see the module's docstring for the form.

    ``calibration``: float32[1, C, H, W] images, of any size unless the network has operators of fixed size.
    ``equalise`` first balances channels between neighbouring convolutions, which leaves the float function as it is.
    ``input_params``: by default ``scale 1/255, zero point -128`` when the images lie in [0, 1], else what covers them.
    ``output_params`` fixes the output's (``PIXELS`` for a network that makes images). Raises :class:`InputError` for
    unusable images, :class:`UnsupportedError` for a network that is quantised already or has weights computed at run
    time.
    """
    return quantise_reported(
        module,
        calibration,
        method,
        percentile=percentile,
        equalise=equalise,
        input_params=input_params,
        output_params=output_params,
    ).module


def quantise_reported(
    module: tvm.IRModule,
    calibration: Sequence[NDArray[np.float32]],
    method: Method = "mse",
    *,
    percentile: float = 99.99,
    equalise: bool = True,
    input_params: QuantParams | None = None,
    output_params: QuantParams | None = None,
) -> Quantised:
    """As :func:`quantise`, with the calibration's findings."""
    graph = slice_splits(recognise_pairs(read_canonical(module)))
    if any(node.op in ("quantize", "dequantize") for node in graph.nodes):
        raise UnsupportedError("the network is quantised already", where="main", hint="Use it as it is.")
    parts = units(graph)
    stored = {graph.input, *(unit.name for unit in parts)} - float_only(graph, parts)
    flows = {unit.head.inputs[1] for unit in parts if unit.kind is Kind.WARP} | (wide_results(graph, parts) & stored)
    for after, state in graph.carried:
        if {after, state} & flows:
            raise UnsupportedError(
                "a state of 16 bits", where=f"state '{state}'", hint="Carry the features, not the flow that moves them."
            )
    if equalise:
        check_images(graph, calibration)
        graph = equalised(graph, calibration)
        parts = units(graph)
    observations = observe(graph, calibration, stored)
    chosen = _chosen(graph, parts, observations, method, percentile, input_params, output_params)
    chosen |= {wide_codes(name): _flow_params(flow) for name, flow in observe(graph, calibration, flows).items()}
    result = insert(graph, parts, chosen)
    return Quantised(to_module(result), to_module(graph), chosen, distinct_codes(observations, chosen))


def wide_codes(name: str) -> str:
    """What the 16-bit codes of the flow ``name`` are called among the parameters."""
    return f"{name}.wide"


def _flow_params(flow: Observation) -> QuantParams:
    """A scale of ``2**-bits`` pixels, with room for flows twice as long as those that were seen."""
    longest = max(abs(flow.low), abs(flow.high), 1.0)
    bits = int(np.clip(np.floor(np.log2(INT16_MAX / (2.0 * longest))), 0, FLOW_FRACTION_BITS))
    return QuantParams(2.0**-bits, 0)


def read_canonical(module: tvm.IRModule) -> Graph:
    """The graph of a canonical module, the operators that Relax spells as several put together again."""
    return recognise_norms(read_pairs(recognise_correlations(recognise_warps(recognise_movement(from_module(module))))))


def quantised_io(module: tvm.IRModule) -> tuple[QuantParams, QuantParams]:
    """Scale and zero point of a quantised module's input and output. Raises :class:`InputError` for a float module."""
    graph = from_module(module)
    first = [node for node in graph.nodes if node.op == "quantize" and node.inputs[0] == graph.input]
    last = graph.by_name.get(graph.result)
    if len(first) != 1 or last is None or last.op != "dequantize":
        raise InputError("the network is not quantised at its ends", where="main", hint="Quantise it first.")
    return scalar_params(graph, first[0]), scalar_params(graph, last)


def scalar_params(graph: Graph, node: Node) -> QuantParams:
    """The per-tensor parameters of a quantise or dequantise node."""
    scale, zero_point = (graph.constants.get(name) for name in node.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        raise UnsupportedError(
            "scale and zero point must be constant scalars", where=node.where, hint="Quantise activations per tensor."
        )
    return QuantParams(float(scale.reshape(-1)[0]), int(zero_point.reshape(-1)[0]))


class _Classes:
    """Tensors that must share one scale and zero point."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        while (parent := self._parent.get(name, name)) != name:
            name = parent
        return name

    def join(self, first: str, second: str) -> None:
        self._parent[self.find(first)] = self.find(second)


def _chosen(
    graph: Graph,
    parts: Sequence[Unit],
    observations: dict[str, Observation],
    method: Method,
    percentile: float,
    input_params: QuantParams | None,
    output_params: QuantParams | None,
) -> dict[str, QuantParams]:
    """Parameters of the input and of every stored tensor."""
    classes = _Classes()
    for unit in parts:
        if unit.kind is Kind.MOVEMENT:
            classes.join(unit.name, unit.head.inputs[0])
    for unit in parts:
        if unit.kind is Kind.CONCAT:
            for name in unit.head.inputs:
                if classes.find(name) != classes.find(graph.input):
                    classes.join(name, unit.name)
    for after, state in graph.carried:  # what one frame leaves is what the next one finds, code for code
        classes.join(state, after)
    own = observations[graph.input]
    if input_params is None:
        input_params = PIXELS if own.low >= 0.0 and own.high <= 1.0 else choose(own, "minmax")
    fixed = {classes.find(graph.input): input_params}
    if output_params is not None:
        fixed.setdefault(classes.find(graph.result), output_params)
    sources = {unit.name for unit in parts if unit.kind not in (Kind.MOVEMENT, Kind.CONCAT)} & observations.keys()
    seen: dict[str, Observation] = {}
    for name in sorted(sources):
        root = classes.find(name)
        seen[root] = seen[root].joined(observations[name]) if root in seen else observations[name]
    centred = {classes.find(name) for unit in parts if unit.kind in _CENTRED for name in unit.head.inputs}
    chosen: dict[str, QuantParams] = {}
    for name in observations:
        root = classes.find(name)
        params = fixed.get(root) or _for_class(seen, observations, root, name, method, percentile)
        chosen[name] = params.centred() if root in centred and root not in fixed else params
    return chosen


def _for_class(
    seen: dict[str, Observation],
    observations: dict[str, Observation],
    root: str,
    name: str,
    method: Method,
    percentile: float,
) -> QuantParams:
    # A concat of nothing but the network's input has no source of its own in its class.
    return choose(seen.get(root, observations[name]), method, percentile)


def insert(
    graph: Graph,
    parts: Sequence[Unit],
    chosen: Mapping[str, QuantParams],
    weights: Mapping[str, tuple[Array, Array]] = MappingProxyType({}),
) -> Graph:
    """``graph`` with its units between dequantise and quantise, ``chosen`` giving each stored tensor's parameters.

    ``weights`` gives int8 codes and scales of convolutions, by name, that are settled already.
    """
    editor = Editor(graph)
    wide_parts = {
        unit.name for unit in parts
        if unit.kind in (Kind.SUM, Kind.SCALE, Kind.RESAMPLING) and wide_codes(unit.name) in chosen
    }  # fmt: skip
    codes: dict[str, str] = {}
    wide: dict[str, str] = {}

    def quantised(name: str, result: str) -> None:
        if wide_codes(name) in chosen and name in chosen:
            wide[name] = _quantize(editor, result, chosen[wide_codes(name)], graph.shape_of(name), dtype="int16")
        else:
            codes[name] = _quantize(editor, result, chosen[name], graph.shape_of(name))

    def opened(name: str, *, all_bits: bool) -> str:
        """The real value of ``name`` to read: of its codes, if it has any; 8 bits of 16 are rounded when asked for."""
        shape = graph.shape_of(name)
        if name in wide:
            full = _dequantize(editor, wide[name], name, chosen[wide_codes(name)], shape)
            if all_bits:
                return full
            if name not in codes:
                codes[name] = _quantize(editor, full, chosen[name], shape)
        return _dequantize(editor, codes[name], name, chosen[name], shape) if name in codes else name

    quantised(graph.input, graph.input)
    for unit in parts:
        head = unit.head
        if head.op == STATE:
            editor.keep(head)
            quantised(head.name, head.name)
            continue
        all_bits = unit.kind is Kind.HOST or unit.name in wide_parts
        inputs = [
            opened(name, all_bits=all_bits or (unit.kind is Kind.WARP and which == 1))
            for which, name in enumerate(head.inputs)
        ]
        if unit.kind is Kind.WARP and (flow := head.inputs[1]) not in wide:
            shape, params = graph.shape_of(flow), chosen[wide_codes(flow)]
            rounded = _quantize(editor, inputs[1], params, shape, dtype="int16")
            inputs[1] = _dequantize(editor, rounded, f"{head.name}.flow", params, shape)
        if unit.kind is Kind.CONVOLUTION:
            _keep_convolution(editor, unit, inputs, chosen[head.inputs[0]], weights.get(head.name))
        else:
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


def _keep_convolution(
    editor: Editor, unit: Unit, inputs: list[str], source: QuantParams, settled: tuple[Array, Array] | None
) -> None:
    head = unit.head
    graph = editor.source
    weight = graph.constants.get(head.inputs[1])
    if weight is None:
        raise UnsupportedError(
            "a convolution whose weights are computed at run time", where=head.where, hint="Give it constant weights."
        )
    biased = len(unit.nodes) > 1 and unit.nodes[1].op == "add"
    bias = graph.constants[unit.nodes[1].inputs[1]].reshape(-1) if biased else None
    axis = weight_axis(head)
    if settled is None:
        codes, scales = quantised_weight(weight, axis, source.scale, bias)
    else:
        codes, scales = settled[0], np.broadcast_to(settled[1], (weight.shape[axis],)).astype(np.float32)
    named = editor.add(
        f"{head.name}.weight",
        "dequantize",
        (
            editor.constant(f"{head.name}.codes", codes),
            editor.constant(f"{head.name}.scales", scales),
            editor.constant(f"{head.name}.zero", np.array(0, np.int8)),
        ),
        {"axis": axis, "out_dtype": "float32"},
        shape=tuple(weight.shape),
    )
    editor.keep(head, inputs=(inputs[0], named))
    for node in unit.nodes[1:]:
        if biased and node is unit.nodes[1] and bias is not None:
            integers = np.rint(bias.astype(np.float64) / bias_scale(source.scale, scales, len(bias)))
            named = editor.constant(f"{head.name}.bias", bias_constant(integers, source.scale, scales))
            editor.keep(node, inputs=(head.name, named))
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
    weight: Array, axis: int, input_scale: float, bias: Array | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes in -127..127 and their scales along ``axis``.

    A scale is widened where an almost empty channel would need a bias beyond :data:`MAX_BIAS`.
    """
    wide = np.moveaxis(weight.astype(np.float64), axis, 0)
    largest = np.abs(wide).reshape(wide.shape[0], -1).max(axis=1) / 127.0
    if bias is not None:
        grouped = np.abs(bias.astype(np.float64)).reshape(-1, wide.shape[0]).max(axis=0)
        largest = np.maximum(largest, grouped / (input_scale * (MAX_BIAS - 1)))
    scales = np.where(largest > 0, np.maximum(largest, 1e-20), 1.0).astype(np.float32)
    codes = np.rint(wide / scales.astype(np.float64).reshape(-1, *[1] * (wide.ndim - 1)))
    return np.moveaxis(np.clip(codes, -127, 127), 0, axis).astype(np.int8), scales
