"""Imported quantise/dequantise graphs, brought to the form that our own quantiser makes.

The graph is taken apart into a float graph, the parameters of every tensor that was rounded, and the weights' own
codes; then the quantiser's :func:`~codesign.compile.quantise.insertion.insert` puts it together again, rounding exactly
where the imported model did. uint8 becomes int8 by an offset of 128. What the model leaves in float between two
roundings, before the first or after the last, stays float, and the host computes it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

import numpy as np

from codesign.compile.graph.graph import Array, Editor, Graph, Node
from codesign.compile.graph.unit import Unit
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.operators.host import HOST
from codesign.compile.quantise.calibration import QuantParams
from codesign.compile.quantise.insertion import MAX_BIAS, insert, weight_axis
from codesign.compile.quantise.units import units
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.numerics import INT16_MAX, INT32_MAX, psum_reach

_OFFSETS = {"uint8": 128, "int8": 0}

_COARSE_BITS, _FINE_BITS = 6, 14
"""Binary digits of the weight of a channel that is scaled and shifted: with 8 bits and with 16. They are the digits of
its bias behind the point, in steps of the source."""

_EXACT = 1e-3
"""How far a bias may lie from a whole number, in units of the psum, to count as one."""

_HIDDEN = 1 / 32
"""Error of a bias, in steps of the result, that roundings hide; less would cost most convolutions twice the steps."""

_LIMITS = ("nn.relu", "clip")


def is_quantised(graph: Graph) -> bool:
    """Whether the graph carries quantisation of activations."""
    return any(node.op == "quantize" for node in graph.nodes)


def normalise_qdq(graph: Graph) -> Graph:
    """The same network in canonical quantise/dequantise form.

    Weights with a zero point get the 16 bits that hold their differences from it. Raises :class:`UnsupportedError`,
    naming the operator, for activations that are not 8 bits per tensor, and :class:`InputError` for scales that none
    can have.
    """
    bare, chosen, weights = _apart(graph)
    bare, chosen = _completed(bare, units(bare, stored=chosen), dict(chosen))
    parts, settled = _settled(bare, units(bare, stored=chosen), chosen, weights)
    return insert(bare, parts, chosen, settled)


Weights = dict[str, tuple[Array, Array]]


def _apart(graph: Graph) -> tuple[Graph, dict[str, QuantParams], Weights]:
    """The float graph, the parameters of its rounded tensors, and codes and scales by convolution."""
    editor = Editor(graph)
    readers = graph.consumers()
    chosen: dict[str, QuantParams] = {}
    copies: dict[tuple[str, QuantParams], str] = {}
    weights: Weights = {}

    def read_in_float(name: str) -> bool:
        return name == graph.output or any(reader.op != "quantize" for reader in readers[name])

    for node in graph.nodes:
        source = editor.resolve(node.inputs[0])
        if node.op == "quantize":
            params = _params(graph, node, node.dtype)
            if source not in chosen and not read_in_float(node.inputs[0]):
                chosen[source] = params
            if chosen.get(source) == params:
                editor.alias(node.name, source)
                continue
            # Rounded a second time with another scale, or read without rounding too: an operator of its own.
            if (source, params) not in copies:
                copies[source, params] = _copied(editor, f"{node.name}.rescaled", source, node.shape)
                chosen[copies[source, params]] = params
            editor.alias(node.name, copies[source, params])
        elif node.op == "dequantize" and graph.is_constant(node.inputs[0]):
            codes, scales, real = _weight(graph, node)
            if codes is not None:
                weights[node.name] = codes, scales
            editor.alias(node.name, editor.constant(f"{node.name}.real", real))
        elif node.op == "dequantize":
            params = _params(graph, node, graph.dtype_of(node.inputs[0]))
            if chosen.get(source) != params:
                raise UnsupportedError(
                    "codes are read with another scale than they were written with",
                    where=node.where,
                    hint="Quantise the model again.",
                )
            editor.alias(node.name, source)
        else:
            editor.keep(node)
    by_convolution = {
        node.name: weights[node.inputs[1]]
        for node in graph.nodes
        if node.op in CONVOLUTIONS and node.inputs[1] in weights and _along_outputs(graph, node)
    }
    return editor.graph(), chosen, by_convolution


def _copied(editor: Editor, name: str, source: str, shape: tuple[int, ...]) -> str:
    """A new operator that changes nothing, to be rounded by itself."""
    one = editor.constant(f"{name}.one", np.array(1.0, np.float32))
    return editor.add(name, "multiply", (source, one), shape=shape)


def _along_outputs(graph: Graph, convolution: Node) -> bool:
    """Whether the scales of the weights are one a channel of the output, or one in all."""
    node = graph.by_name[convolution.inputs[1]]
    axis = int(node.attributes["axis"]) % len(node.shape)
    return graph.constants[node.inputs[1]].size == 1 or axis == weight_axis(convolution)


def _params(graph: Graph, node: Node, dtype: str) -> QuantParams:
    scale, zero_point = (graph.constants.get(name) for name in node.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1 or zero_point.size != 1:
        raise UnsupportedError(
            "activations must have one constant scale and zero point",
            where=node.where,
            hint="Quantise activations statically and per tensor.",
        )
    if dtype not in _OFFSETS:
        raise UnsupportedError(
            f"activations of type {dtype}, with the zero point {int(zero_point.reshape(-1)[0])}",
            where=node.where,
            hint="Quantise activations to int8 or uint8, or give the float model: --error-budget finds the tensors "
            "that need 16 bits.",
        )
    zero = int(zero_point.reshape(-1)[0]) - _OFFSETS[dtype]
    try:
        return QuantParams(float(np.float32(scale.reshape(-1)[0])), zero)
    except ValueError as error:
        raise InputError(str(error), where=node.where, hint="Quantise the model again.") from error


def _weight(graph: Graph, node: Node) -> tuple[Array | None, Array, Array]:
    """Codes, ``float32[Cout]`` scales and the real values of a weight's dequantise node.

    The codes are ``int8``, or ``int16`` where their differences from a zero point need it; None for other weights.
    """
    codes, scale, zero_point = (graph.constants[name] for name in node.inputs[:3])
    if str(codes.dtype) not in _OFFSETS:
        raise UnsupportedError(f"weights of type {codes.dtype}", where=node.where, hint="Quantise weights to int8.")
    axis = int(node.attributes["axis"]) % max(codes.ndim, 1)
    shape = [1] * codes.ndim
    if scale.size > 1:
        shape[axis] = scale.size
    zeros = zero_point.reshape(shape if zero_point.size > 1 else [1] * codes.ndim)
    scales = scale.reshape(-1).astype(np.float32)
    centred = codes.astype(np.int64) - zeros.astype(np.int64)
    real = (centred * scales.reshape(shape).astype(np.float64)).astype(np.float32)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        return None, scales, real
    narrow = centred.min(initial=0) >= -128 and centred.max(initial=0) <= 127
    return centred.astype(np.int8 if narrow else np.int16), scales, real


def _completed(
    graph: Graph, parts: Sequence[Unit], chosen: dict[str, QuantParams]
) -> tuple[Graph, dict[str, QuantParams]]:
    """Parameters for tensors that data movement shares with its source or result, as a model may round only one.

    Limits on what was rounded make the same codes, or one at the limit, so that a result which they end needs no
    rounding of its own.
    """
    copied = {unit.name for unit in parts if unit.operator.keeps_scale}
    movement = {unit.name: unit.head for unit in parts if unit.name in copied or _selects(graph, unit)}
    readers = graph.consumers()
    ends = _towards_output(graph, movement)
    for unit in parts:
        node = unit.head
        limits = len(unit.nodes) == 1 and node.op in _LIMITS and node.name in ends
        if (node.name in movement or limits) and node.inputs[0] in chosen:
            chosen.setdefault(node.name, chosen[node.inputs[0]])
    for node in reversed(movement.values()):
        source, params = node.inputs[0], chosen.get(node.name)
        alike = all(reader.name in movement and chosen.get(reader.name) == params for reader in readers[source])
        if params is not None and alike and source != graph.output:
            chosen.setdefault(source, params)
    editor = Editor(graph)
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.name in copied and node.name in chosen and chosen.get(source) not in (None, chosen[node.name]):
            source = _copied(editor, f"{node.name}.rescaled", source, graph.shape_of(source))
            chosen[source] = chosen[node.name]
            editor.keep(node, inputs=(source, *node.inputs[1:]))
        else:
            editor.keep(node)
    return editor.graph(), chosen


def _selects(graph: Graph, unit: Unit) -> bool:
    """Whether a convolution only takes channels, each as it is: what an exporter's order of channels becomes."""
    factors = _one_a_channel(graph, unit.head)
    return len(unit.nodes) == 1 and factors is not None and bool(np.all(factors[1] == 1.0))


def _one_a_channel(graph: Graph, node: Node) -> tuple[Array, Array] | None:
    """For a convolution of which every channel is one of its source times a factor: which, and ``float64`` factors."""
    weight = graph.constants.get(node.inputs[1]) if node.op == "nn.conv2d" else None
    if weight is None or weight.shape[2:] != (1, 1) or int(node.attributes["groups"]) != 1:
        return None
    matrix = weight[:, :, 0, 0].astype(np.float64)
    if (np.count_nonzero(matrix, axis=1) > 1).any():
        return None
    which = np.abs(matrix).argmax(axis=1)
    return which, matrix[np.arange(len(matrix)), which]


def _towards_output(graph: Graph, movement: Container[str]) -> set[str]:
    """The output, and what only moves on its way to it and is read by nothing else."""
    readers, name, found = graph.consumers(), graph.output, {graph.output}
    while name in movement:
        name = graph.by_name[name].inputs[0]
        if len(readers[name]) != 1:
            break
        found.add(name)
    return found


def _settled(
    graph: Graph, parts: Sequence[Unit], chosen: Mapping[str, QuantParams], weights: Weights
) -> tuple[list[Unit], Weights]:
    """Units, those that the model leaves in float as the host's, and the codes and scales of all others that weigh."""
    settled: Weights = {}
    found = []
    for unit in parts:
        source = unit.head.inputs[0] if unit.head.inputs else ""
        rounded = unit.name in chosen and source in chosen
        if unit.operator.weighs:
            own = weights.get(unit.head.name) or (_exact(graph, unit, chosen[source]) if rounded else None)
            if rounded and own is not None:
                settled[unit.head.name] = _finer(graph, unit, own, chosen[source], chosen[unit.name])
            else:
                unit = replace(unit, operator=HOST)
        elif unit.operator.at_a_flow:  # of 16 bits on the machine
            unit = replace(unit, operator=HOST)
        found.append(unit)
    return found, settled


def _exact(graph: Graph, unit: Unit, source: QuantParams) -> tuple[Array, Array] | None:
    """Codes and scales of a factor and an offset a channel, which are a convolution with a diagonal kernel here but
    were none in the model: the factor exact, the offset finer than roundings show. None for other convolutions."""
    found = _one_a_channel(graph, unit.head)
    if found is None:
        return None
    which, factors = found
    offset = _offset(graph, unit, len(factors))
    magnitudes = np.where(factors == 0.0, 1.0, np.abs(factors))
    steps = np.abs(offset) / (source.scale * magnitudes)
    coarse = steps * 2**_COARSE_BITS
    exact = bool(np.all(np.abs(coarse - np.rint(coarse)) <= _EXACT))
    room = int(np.floor(np.log2(MAX_BIAS / max(float(steps.max(initial=0.0)), 1.0))))
    digits = _COARSE_BITS if exact else min(_FINE_BITS, room)
    if digits < _COARSE_BITS or coarse.max(initial=0.0) > MAX_BIAS:
        return None
    codes = np.zeros(graph.shape_of(unit.head.inputs[1]))
    codes[np.arange(len(factors)), which, 0, 0] = np.sign(factors) * 2**digits
    scales = (magnitudes / 2**digits).astype(np.float32)
    return codes.astype(np.int8 if digits == _COARSE_BITS else np.int16), scales


def _offset(graph: Graph, unit: Unit, channels: int) -> Array:
    """The bias of a convolution, ``float64``."""
    biased = len(unit.nodes) > 1 and unit.nodes[1].op == "add"
    if not biased:
        return np.zeros(channels)
    return graph.constants[unit.nodes[1].inputs[1]].reshape(-1).astype(np.float64)


def _finer(
    graph: Graph, unit: Unit, weights: tuple[Array, Array], source: QuantParams, result: QuantParams
) -> tuple[Array, Array]:
    """``weights``, in 16 bits and smaller units where the psum's are too large for a bias that the model left in float.

    A whole number of units must be nearer to it than roundings of the result show.
    """
    codes, scales = weights
    unit_of_psum = source.scale * scales.astype(np.float64)
    channels = unit.head.shape[1]
    offset = _offset(graph, unit, channels) / np.tile(unit_of_psum, channels // len(scales))
    error = np.abs(offset - np.rint(offset)) * unit_of_psum.max() / result.scale
    axis = weight_axis(unit.head)
    reach = 256 * int(psum_reach(np.moveaxis(codes, axis, 3)).max(initial=0))
    fits = [
        digits
        for digits in range(1, 8)
        if reach << digits <= INT32_MAX - MAX_BIAS
        and np.abs(offset).max(initial=0.0) * 2**digits <= MAX_BIAS
        and int(np.abs(codes.astype(np.int64)).max(initial=0)) << digits <= INT16_MAX
    ]
    if error.max(initial=0.0) <= _HIDDEN or not fits:
        return weights
    digits = fits[-1]
    return (codes.astype(np.int16) << digits).astype(np.int16), (scales / np.float32(2**digits)).astype(np.float32)
