"""Post-training quantisation: every tensor that the accelerator stores becomes int8.

The result is a graph that still takes and returns float32. Its form, from which
:mod:`codesign.compile.quantise.rounded` reads units back, is for each unit ``dequantize`` of each operand, the float
operators, one ``quantize``::

    q = R.quantize(x, scale, zero_point, out_dtype="int8")          scale: const float32 [], zero_point: const int8 []
    d = R.dequantize(q, scale, zero_point)                          one for each reader of q
    w = R.dequantize(const int8, const float32[Cout], const int8 [] = 0, axis=0)     axis=1 (IOHW) when transposed
                                                                    of 16 bits: const int16

    convolution   d, w -> nn.conv2d | nn.conv2d_transpose [-> add(const float32[1, C, 1, 1])]
                       [-> nn.relu | clip | nn.leakyrelu | nn.prelu(const float32[C], axis=1)] -> q
    sum           d, d -> add | subtract [-> nn.relu | clip] -> q        an operand may have one channel
    product       d, d -> multiply [-> nn.relu | clip] -> q
    scale         d -> multiply(const float32 []) [-> activation as above] -> q
    normalisation d -> instance_norm [-> nn.relu | clip] -> q
    activation    d -> nn.relu | clip | nn.leakyrelu | nn.prelu -> q
    correlation   d, d -> correlation [-> activation] -> q
    all pairs     d, d -> all_pairs -> q
    window        d, d16 -> window (of a volume, at a flow) -> q
    warp          d, d16 -> warp -> q                                      d16: the flow, int16 for it alone
    16 bits       d16, d16 -> add -> q16; d16 -> convolution, scale, resampling, movement -> q16, or q; d -> them -> q16
    resampling    d -> nn.avg_pool2d | image.resize2d [-> multiply(const float32 [])] -> q
    table         d -> table -> q
    movement      d -> nn.pixel_shuffle | repeat(axis=1) | tile | strided_slice | pixel_unshuffle -> q
    concat        d, d, ... -> concat(axis=1) -> q; d16, d, ... -> concat -> q16, where d has 256 times the scale
    anything else d, ... -> operators of the host, in float between them -> q

Movement keeps scale and zero point; the operands of a concat share theirs unless one of them is the network's input.
The zero points of what is correlated are 0.
A bias is the float32 nearest to an integer times ``s_in * s_w``, so that the integer can be read back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.compile.canonical.affine import fold_zero_channels, lift_zero_channels
from codesign.compile.graph.graph import Graph
from codesign.compile.graph.passes import passed, run_passes
from codesign.compile.graph.unit import Unit
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.operators.window import compute_flows
from codesign.compile.quantise.alignment import aligned, is_copy
from codesign.compile.quantise.calibration import (
    PIXELS,
    Method,
    Observation,
    QuantParams,
    check_images,
    choose,
    distinct_codes,
    observe,
)
from codesign.compile.quantise.equalise import channel_ranges, equalised
from codesign.compile.quantise.insertion import insert, scalar_params, wide_codes
from codesign.compile.quantise.units import stays_float, units
from codesign.compile.quantise.widths import Widths, flow_tensors, flows, wide_scales, with_consequences
from codesign.hw.errors import InputError, UnsupportedError

STAGE = "quantised"
_PASSES = (lift_zero_channels, fold_zero_channels, compute_flows)
"""Graph passes that join operators which the quantiser treats as one unit; they run before it observes."""


@dataclass(frozen=True)
class Quantised:
    """A quantised module and what calibration saw: per stored tensor its parameters and number of distinct codes.

    ``source`` is the float module with the very weights that were quantised: fine-tuning starts from it.
    """

    module: tvm.IRModule
    source: tvm.IRModule
    params: dict[str, QuantParams]
    codes: dict[str, int]
    widths: Widths
    """The tensors and weights with 16 bits."""


@dataclass(frozen=True)
class Calibrated:
    """A float network that is ready to be quantised in any widths: balanced, and observed on calibration images."""

    graph: Graph
    parts: tuple[Unit, ...]
    stored: frozenset[str]
    observations: Mapping[str, Observation] = field(repr=False)
    method: Method
    percentile: float
    input_params: QuantParams | None
    output_params: QuantParams | None

    @property
    def least(self) -> Widths:
        """The widths with 16 bits only where they are always needed: flows."""
        return Widths(flow_tensors(self.graph, self.parts, self.stored))

    def with_consequences(self, widths: Widths) -> Widths | None:
        """``widths`` with everything that follows from them; None if they are impossible."""
        if not widths.tensors:
            return widths
        tensors = with_consequences(self.graph, self.parts, widths.tensors, self.stored | flows(self.parts))
        fixed = {name for pair in self.graph.carried for name in pair}
        fixed |= {self.graph.result} if self.output_params is not None else set()
        return Widths(tensors, widths.weights) if tensors and not tensors & fixed else None

    def rounded(self, widths: Widths) -> tuple[Graph, dict[str, QuantParams]]:
        """The quantised graph of these (closed) ``widths``, and the parameters of its tensors."""
        wide = frozenset(widths.tensors | flows(self.parts))
        scales = wide_scales(self.graph, self.parts, wide, self.observations)
        chosen = _chosen(self, widths.tensors, scales)
        chosen |= {wide_codes(name): params for name, params in scales.items() if name in wide}
        return insert(self.graph, self.parts, chosen, wide_weights=widths.weights), chosen

    def quantised(self, widths: Widths | None = None) -> Quantised:
        """The network in ``widths`` (by default :attr:`least`)."""
        widths = self.least if widths is None else widths
        result, chosen = self.rounded(widths)
        passed(STAGE, result)
        seen = {name: seen for name, seen in self.observations.items() if name in chosen}
        return Quantised(to_module(result), to_module(self.graph), chosen, distinct_codes(seen, chosen), widths)


def calibrate(
    module: tvm.IRModule,
    calibration: Sequence[NDArray[np.float32]],
    method: Method = "mse",
    *,
    percentile: float = 99.99,
    equalise: bool = True,
    input_params: QuantParams | None = None,
    output_params: QuantParams | None = None,
) -> Calibrated:
    """``module`` (float, canonical) balanced and observed on calibration images, ready to be quantised.

    ``calibration``: float32[1, C, H, W] images, of any size unless the network has operators of fixed size.
    ``equalise`` balances channels between neighbouring convolutions, and the operands of concatenations; the float
    function stays the same. ``input_params``: by default ``scale 1/255, zero point -128`` when the images lie in [0,
    1], else the range that they span. ``output_params`` fixes those of the output (``PIXELS`` for a network that makes
    images). Raises :class:`InputError` for unusable images, :class:`UnsupportedError` for a network that is quantised
    already or has weights computed at run time.
    """
    graph = run_passes(STAGE, from_module(module), _PASSES)
    if any(node.op in ("quantize", "dequantize") for node in graph.nodes):
        raise UnsupportedError("the network is quantised already", where="main", hint="Use it as it is.")
    check_images(graph, calibration)
    parts = units(graph)
    flowing = flow_tensors(graph, parts, {graph.input, *(unit.name for unit in parts)}) | flows(parts)
    for after, state in graph.carried:
        if {after, state} & flowing:
            raise UnsupportedError(
                "a state of 16 bits", where=f"state '{state}'", hint="Carry the features, not the flow that moves them."
            )
    if equalise:
        names = {unit.name for unit in parts if unit.operator.weighs}
        names |= {name for unit in parts if unit.operator.joins_scales for name in unit.head.inputs}
        ranges = channel_ranges(graph, calibration, names)
        graph = passed(STAGE, equalised(graph, ranges), "equalised")
        graph = passed(STAGE, aligned(graph, ranges, flowing), "aligned")
        parts = units(graph)
    stored = frozenset({graph.input, *(unit.name for unit in parts)} - stays_float(graph, parts))
    observations = observe(graph, calibration, stored | flows(parts))
    return Calibrated(graph, parts, stored, observations, method, percentile, input_params, output_params)


def quantised_io(module: tvm.IRModule) -> tuple[QuantParams, QuantParams]:
    """Scale and zero point of a quantised module's input and output. Raises :class:`InputError` for a float module."""
    graph = from_module(module)
    first = [node for node in graph.nodes if node.op == "quantize" and node.inputs[0] == graph.input]
    last = graph.by_name.get(graph.result)
    if len(first) != 1 or last is None or last.op != "dequantize":
        raise InputError("the network is not quantised at its ends", where="main", hint="Quantise it first.")
    return scalar_params(graph, first[0]), scalar_params(graph, last)


class _Classes:
    """Tensors whose scales are tied: ``scale = factor x scale of the class``; they share one zero point."""

    def __init__(self) -> None:
        self._parent: dict[str, tuple[str, float]] = {}

    def find(self, name: str) -> tuple[str, float]:
        """The class of ``name``, and its factor."""
        factor = 1.0
        while name in self._parent:
            name, own = self._parent[name]
            factor *= own
        return name, factor

    def join(self, first: str, second: str, factor: float = 1.0) -> None:
        """Tie the scale of ``first`` to ``factor`` times that of ``second``."""
        (one, mine), (other, its) = self.find(first), self.find(second)
        if one != other:
            self._parent[one] = other, factor * its / mine


def _chosen(network: Calibrated, wide: frozenset[str], scales: Mapping[str, QuantParams]) -> dict[str, QuantParams]:
    """8-bit parameters of the input and of every stored tensor, those of 16 bits too: some read them rounded."""
    graph, parts, observations = network.graph, network.parts, network.observations
    classes = _Classes()
    for unit in parts:
        if unit.operator.keeps_scale:
            classes.join(unit.name, unit.head.inputs[0])
    for unit in parts:
        if unit.operator.joins_scales:
            for name in unit.head.inputs:
                if classes.find(name)[0] != classes.find(graph.input)[0]:
                    classes.join(name, unit.name)
    for after, state in graph.carried:  # the next frame finds the codes that this one leaves
        classes.join(state, after)
    for unit in parts:
        if is_copy(graph, unit) and unit.head.inputs[0] not in wide:
            factor = graph.scalar(unit.head.inputs[1])
            if factor is not None and classes.find(unit.head.inputs[0])[0] != classes.find(graph.input)[0]:
                classes.join(unit.head.inputs[0], unit.name, 1.0 / factor)
    own = observations[graph.input]
    input_params = network.input_params
    if input_params is None:
        input_params = PIXELS if own.low >= 0.0 and own.high <= 1.0 else choose(own, "minmax")
    fixed = {classes.find(graph.input)[0]: input_params}
    if network.output_params is not None:
        root, factor = classes.find(graph.result)
        fixed.setdefault(root, _scaled(network.output_params, 1.0 / factor))
    for unit in parts:
        # Next to operands of 16 bits, an operand of 8 bits is the high byte of 16.
        if unit.operator.joins_scales and unit.name in wide and unit.name in scales:
            root, factor = classes.find(unit.name)
            fixed.setdefault(root, _scaled(scales[unit.name], 256.0 / factor))
    sources = {
        unit.name for unit in parts if not (unit.operator.keeps_scale or unit.operator.joins_scales)
    } & network.stored
    seen: dict[str, list[Observation]] = {}
    for name in sorted(sources):
        root, factor = classes.find(name)
        seen.setdefault(root, []).append(observations[name].scaled(1.0 / factor))
    centred = {classes.find(name)[0] for unit in parts if unit.operator.centred for name in unit.head.inputs}
    settled: dict[str, QuantParams] = dict(fixed)
    chosen: dict[str, QuantParams] = {}
    for name in observations:
        if name not in network.stored:
            continue
        root, factor = classes.find(name)
        if root not in settled:
            # A concat of nothing but the network's input has no source of its own in its class.
            parts_seen = seen.get(root) or [observations[name].scaled(1.0 / factor)]
            params = choose(Observation.joined(parts_seen), network.method, network.percentile)
            settled[root] = params.centred() if root in centred else params
        chosen[name] = _scaled(settled[root], factor)
    return chosen


def _scaled(params: QuantParams, factor: float) -> QuantParams:
    return params if factor == 1.0 else QuantParams(float(np.float32(params.scale * factor)), params.zero_point)
