"""Estimate how much of a network's error comes from rounding each tensor and each convolution's weights.

To first order, a rounding error ``e`` of a tensor changes the output ``y`` by ``J e``, where ``J`` is the derivative of
``y`` by the tensor. One backward pass from random signs ``v`` on the output gives ``J^T v`` for all tensors at once,
and the mean of ``(v^T J e)^2`` over signs is ``|J e|^2`` (Hutchinson 1989). Errors of single values are taken as
independent, which makes a few passes enough: ``sum e_i^2 (J^T v)_i^2``. A weight's error counts as the change of its
convolution's result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codesign.compile.graph.graph import Graph
from codesign.compile.graph.unit import Unit
from codesign.compile.ir.evaluate import apply, trace
from codesign.compile.quantise.calibration import QuantParams
from codesign.compile.quantise.insertion import quantised_weight, weight_axis
from codesign.hw.numerics import INT8_MAX, INT8_MIN


@dataclass(frozen=True)
class Damage:
    """Mean square error of an output value that 8 bits cause, by stored tensor and by convolution."""

    tensors: Mapping[str, float] = field(repr=False)
    weights: Mapping[str, float] = field(repr=False)


def damage(
    graph: Graph,
    parts: Sequence[Unit],
    params: Mapping[str, QuantParams],
    images: Sequence[NDArray[np.float32]],
    names: Collection[str],
    *,
    probes: int = 2,
    seed: int = 0,
) -> Damage:
    """The damage that 8 bits of the tensors ``names``, and of all weights, do to the float ``graph`` on ``images``.

    ``params``: the tensors' 8-bit parameters. ``probes``: backward passes an image; they cost twice a forward pass.
    """
    read = {unit.head.inputs[0] for unit in parts if unit.operator.weighs}
    generator = torch.Generator().manual_seed(seed)
    heads = {unit.head.name: unit for unit in parts if unit.operator.weighs}
    tensors = dict.fromkeys(names, 0.0)
    weights = dict.fromkeys(heads, 0.0)
    for image in images:
        values: dict[str, Tensor] = {}
        with torch.enable_grad():
            x = torch.from_numpy(np.ascontiguousarray(image)).requires_grad_()
            output = x
            for name, value in trace(graph, x):
                if (name in tensors or name in heads or name in read) and value.requires_grad:
                    values[name] = value
                output = value if name == graph.output else output
        asked = [name for name in values if name in tensors or name in heads]
        if not asked:
            continue
        errors = {name: _rounding(values[name].detach(), params[name]) for name in tensors if name in values}
        for name, unit in heads.items():
            if name in values:
                errors[name] = _weight_error(graph, unit, params, values, x.detach())
        for probe in range(probes):
            signs = torch.randint(0, 2, output.shape, generator=generator).to(output.dtype) * 2.0 - 1.0
            slopes = torch.autograd.grad(
                output, [values[name] for name in asked], signs, retain_graph=probe + 1 < probes, allow_unused=True
            )
            share = 1.0 / (len(images) * probes * output.numel())
            for name, slope in zip(asked, slopes, strict=True):
                if slope is None:
                    continue
                into = weights if name in heads else tensors
                into[name] += share * float((errors[name] * slope).square().sum())
    return Damage(tensors, weights)


def _rounding(value: Tensor, params: QuantParams) -> Tensor:
    """The rounding error of ``value`` in 8 bits."""
    codes = torch.clamp(torch.round(value / params.scale) + params.zero_point, INT8_MIN, INT8_MAX)
    return (codes - params.zero_point) * params.scale - value


def _weight_error(
    graph: Graph, unit: Unit, params: Mapping[str, QuantParams], values: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """The error of the sums of ``unit`` that its 8-bit weights cause."""
    head, source = unit.head, unit.head.inputs[0]
    weight, axis = graph.constants[head.inputs[1]], weight_axis(head)
    codes, scales = quantised_weight(weight, axis, params[source].scale, None)
    shape = [1] * 4
    shape[axis] = -1
    error = codes * scales.reshape(shape) - weight
    read = values[source].detach() if source in values else x
    return apply(head, [read, torch.from_numpy(error.astype(np.float32))])
