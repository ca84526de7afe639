"""Quantisation-aware fine-tuning: trains the quantised graph itself, with roundings that let gradients pass.

The network that is trained rounds where the machine rounds. Rounding passes gradients straight through, clamping stops
them (straight-through estimator; Bengio, Léonard and Courville 2013, arXiv:1308.3432). Weights, biases and PReLU slopes
learn; activations keep their scales, and a weight's scales follow its largest values at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tvm
from numpy.typing import NDArray
from torch import Tensor

from codesign.compile.canonical.affine import is_bias
from codesign.compile.graph.arithmetic import per_axis
from codesign.compile.graph.graph import Array, Graph, Node
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module, to_module
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.quantise.insertion import (
    bias_constant,
    bias_scale,
    both_wide,
    psum_unit,
    quantised_weight,
    quantised_wide_weight,
)
from codesign.compile.quantise.quantise import quantised_io
from codesign.hw.errors import InputError

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]
Loss = Literal["l1", "l2"]

_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


@dataclass(frozen=True)
class _Parameters:
    """The trained parameters: kernels and biases by convolution, slopes by PReLU."""

    kernels: dict[str, Tensor]
    biases: dict[str, Tensor]
    slopes: dict[str, Tensor]

    def all(self) -> list[Tensor]:
        return [*self.kernels.values(), *self.biases.values(), *self.slopes.values()]


def fine_tune(
    module: tvm.IRModule,
    batches: Iterable[Batch],
    *,
    steps: int,
    lr: float = 1e-4,
    loss: Loss = "l1",
    start: tvm.IRModule | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> tvm.IRModule:
    """Train the quantised ``module`` for ``steps`` steps of Adam and return it in the same form.

    ``batches``: pairs ``(input, target)``, float32[N, C, H, W] each, taken in turn; at least ``steps`` of them, patches
    of any size. ``lr`` decays to 0 along a cosine. ``start``: the float module whose weights were quantised
    (``Quantised.source``): training then begins there instead of at the rounded values. ``on_step(step, loss)`` is
    called after each step. Raises :class:`InputError` for a module that is not quantised, other weights in ``start``,
    too few batches or wrong shapes.
    """
    quantised_io(module)
    graph = from_module(module)
    learned = _parameters(graph, from_module(start) if start is not None else None)
    optimiser = torch.optim.Adam(learned.all(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    override = _fake_quantised(graph, learned)
    measure = _LOSSES[loss]
    supply = iter(batches)
    for step in range(steps):
        batch = next(supply, None)
        if batch is None:
            raise InputError(f"only {step} batches for {steps} steps", where="fine-tuning", hint="Give more batches.")
        x, target = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in batch)
        # A generator that yields inside `torch.no_grad()` would leave gradients off here.
        with torch.enable_grad():
            result = run(graph, x, override)
        if result.shape != target.shape:
            raise InputError(
                f"a target of shape {list(target.shape)} for an output of {list(result.shape)}",
                where="fine-tuning",
                hint="Cut input and target patches by the network's scale.",
            )
        optimiser.zero_grad()
        with torch.enable_grad():
            error = measure(result, target)
            error.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, float(error.detach()))
    return to_module(_with(graph, learned))


def teach(
    module: tvm.IRModule, images: Sequence[NDArray[np.float32]], *, patch: int = 48, batch: int = 16, seed: int = 0
) -> Iterator[Batch]:
    """Endless batches for :func:`fine_tune`: random patches of ``images`` and the float ``module``'s results for them.

    The network itself is the teacher, so no ground truth is needed; on a trained network the result is also nearer to
    the float network's quality than after training towards the truth (SESR-M5: ``docs/decisions/fine-tuning.md``).
    ``images``: float32[1, C, H, W] of any sizes; patches are ``patch`` pixels square, or as large as the smallest
    image.
    """
    graph = from_module(module)
    side = min(patch, *(min(image.shape[2:]) for image in images))
    rng = np.random.default_rng(seed)

    def cut() -> NDArray[np.float32]:
        image = images[int(rng.integers(len(images)))]
        top, left = (int(rng.integers(extent - side + 1)) for extent in image.shape[2:])
        return image[:, :, top : top + side, left : left + side]

    while True:
        x = np.concatenate([cut() for _ in range(batch)])
        with torch.no_grad():
            target = run(graph, torch.from_numpy(x)).numpy()
        yield x, target


def _parameters(graph: Graph, start: Graph | None) -> _Parameters:
    kernels: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op in CONVOLUTIONS:
            origin = start.by_name.get(node.name) if start is not None else None
            if origin is not None and start is not None and origin.inputs[1] in start.constants:
                value = start.constants[origin.inputs[1]]
                _check_origin(graph, node, value)
            else:
                value = _real_weight(graph, graph.by_name[node.inputs[1]])
            kernels[node.name] = _learning(value)
        elif is_bias(graph, node):
            biases[node.name] = _learning(graph.constants[node.inputs[1]])
        elif node.op == "nn.prelu":
            slopes[node.name] = _learning(graph.constants[node.inputs[1]])
    return _Parameters(kernels, biases, slopes)


def _check_origin(graph: Graph, node: Node, value: Array) -> None:
    """Check that the rounded weights are those of ``value``, give or take one code."""
    weight = graph.by_name[node.inputs[1]]
    rounded = _real_weight(graph, weight)
    largest = float(graph.constants[weight.inputs[1]].max())
    if value.shape != rounded.shape or float(np.abs(value - rounded).max()) > largest:
        raise InputError(
            "the weights to start from are not the ones that were quantised",
            where=node.where,
            hint="Start from Quantised.source of calibrate(...).quantised().",
        )


def _learning(value: Array) -> Tensor:
    tensor: Tensor = torch.from_numpy(value.astype(np.float32)).clone()
    return tensor.requires_grad_(True)


def _real_weight(graph: Graph, node: Node) -> Array:
    codes, scales = (graph.constants[name] for name in node.inputs[:2])
    shape = [1] * codes.ndim
    shape[node.attributes["axis"]] = scales.size
    return np.asarray(codes.astype(np.float32) * scales.reshape(shape))


def _rounded(x: Tensor) -> Tensor:
    """Round half to even; gradients pass unchanged."""
    return x + (torch.round(x) - x).detach()


def _fake_quantised(graph: Graph, learned: _Parameters) -> Callable[[Node, list[Tensor]], Tensor | None]:
    """How the nodes of ``graph`` are computed while training."""
    kernel_of = {node.inputs[1]: learned.kernels[node.name] for node in graph.nodes if node.op in CONVOLUTIONS}

    def override(node: Node, inputs: list[Tensor]) -> Tensor | None:
        if node.op == "quantize":
            x, scale, zero_point = inputs
            limits = torch.iinfo(getattr(torch, node.dtype))
            return torch.clamp(_rounded(x / scale) + zero_point, limits.min, limits.max)
        if node.op == "dequantize" and node.name in kernel_of:
            if graph.constants[node.inputs[0]].dtype == np.int16:
                return kernel_of[node.name]
            return _rounded_kernel(kernel_of[node.name], node.attributes["axis"])
        if node.name in learned.biases:
            return inputs[0] + learned.biases[node.name]
        if node.name in learned.slopes:
            x = inputs[0]
            return torch.where(x < 0, x * per_axis(learned.slopes[node.name], x, 1), x)
        return None

    return override


def _rounded_kernel(kernel: Tensor, axis: int) -> Tensor:
    others = [position for position in range(kernel.dim()) if position != axis]
    scale = kernel.detach().abs().amax(dim=others, keepdim=True).clamp(min=1e-20) / 127.0
    return _rounded(kernel / scale) * scale


def _with(graph: Graph, learned: _Parameters) -> Graph:
    """``graph`` with the learned values as its constants."""
    constants: dict[str, Any] = dict(graph.constants)
    bias_of = {node.inputs[0]: node for node in graph.nodes if node.name in learned.biases}
    for node in graph.nodes:
        if node.name in learned.kernels:
            source = psum_unit(graph, node)
            weight = graph.by_name[node.inputs[1]]
            kernel = learned.kernels[node.name].detach().numpy()
            follower = bias_of.get(node.name)
            bias = learned.biases[follower.name].detach().numpy().reshape(-1) if follower is not None else None
            axis = weight.attributes["axis"]
            codes: Array
            if constants[weight.inputs[0]].dtype == np.int16:
                wide = both_wide(graph, node)
                codes, scales = quantised_wide_weight(kernel, axis, source, bias, wide_source=wide)
            else:
                codes, scales = quantised_weight(kernel, axis, source.scale, bias)
            constants[weight.inputs[0]], constants[weight.inputs[1]] = codes, scales
            if follower is not None and bias is not None:
                integers = np.rint(bias.astype(np.float64) / bias_scale(source.scale, scales, bias.size))
                constants[follower.inputs[1]] = bias_constant(integers, source.scale, scales)
        elif node.name in learned.slopes:
            constants[node.inputs[1]] = learned.slopes[node.name].detach().numpy().copy()
    return replace(graph, constants=constants)
