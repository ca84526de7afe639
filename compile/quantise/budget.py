"""Choose widths by an error budget: 16 bits where 8 harm the result most, until the error is within the budget.

The damage done by the 8 bits of each tensor and each convolution is estimated (see :mod:`.sensitivity`). Tensors and
convolutions are ordered by the damage that widening removes for each product it adds. How many of them must be widened
is measured: the quantised network's own error on calibration images, at a few points of the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.graph.graph import Graph
from codesign.compile.graph.unit import Unit
from codesign.compile.ir.evaluate import run
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.quantise.alignment import groups, is_aligned, is_copy
from codesign.compile.quantise.quantise import Calibrated
from codesign.compile.quantise.sensitivity import damage
from codesign.compile.quantise.widths import Widths
from codesign.hw.errors import InputError

FREE_SHARE = 0.002
"""Least share of all products that a choice counts as adding, so that nearly free choices are ordered by damage."""

NEAR_ENOUGH = 1.1
"""If no widths keep the budget, the cheapest ones within this factor of the least error are taken."""

STEPS = 5
"""The error is measured at no more points than this after the first two."""


@dataclass(frozen=True)
class Choice:
    """Tensors or weights that get 16 bits together: their name in the network, and the effect."""

    name: str
    widths: Widths
    damage: float  # mean square error of an output value that its 8 bits cause, estimated
    macs: int  # products that it adds


@dataclass(frozen=True)
class Refusal:
    """A tensor that stays at 8 bits, however much damage that does."""

    name: str
    reason: str


@dataclass(frozen=True)
class Mixed:
    """The chosen widths. Errors are in the output's units: the mean distance per pixel to the float network's result on
    calibration images, which for a flow is the end-point error."""

    widths: Widths
    budget: float
    error_before: float
    error: float
    choices: tuple[Choice, ...]  # that were taken, the first one first
    refusals: tuple[Refusal, ...]
    macs_before: int
    macs: int  # products of the array, every byte's

    @property
    def met(self) -> bool:
        return self.error <= self.budget

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON values; damages are root mean squares."""
        return {
            "budget": self.budget,
            "met": self.met,
            "error_before": self.error_before,
            "error": self.error,
            "products_before": self.macs_before,
            "products": self.macs,
            "widened": [{"name": one.name, "rms": one.damage**0.5, "products_added": one.macs} for one in self.choices],
            "refused": [{"name": one.name, "reason": one.reason} for one in self.refusals],
        }


def within(
    network: Calibrated,
    budget: float,
    images: Sequence[NDArray[np.float32]],
    on_step: Callable[[str], None] | None = None,
) -> Mixed:
    """The widths with which ``network`` stays within ``budget`` on ``images``; if none do, cheap ones near the best.

    Raises :class:`InputError` for a budget that is not positive.
    """
    if not (np.isfinite(budget) and budget > 0):
        raise InputError(f"an error budget of {budget}", where="--error-budget", hint="Give a positive error.")

    def say(text: str) -> None:
        if on_step is not None:
            on_step(text)

    say("float network")
    wanted = [_result(network.graph, image) for image in images]
    measured: dict[int, tuple[float, Widths]] = {}
    ranked: list[Choice] = []
    refusals: tuple[Refusal, ...] = ()

    def error(count: int) -> float:
        if count not in measured:
            widths = network.least
            for choice in ranked[:count]:
                widths = widths | choice.widths
            graph, _ = network.rounded(widths)
            found = [_distance(_result(graph, image), one) for image, one in zip(images, wanted, strict=True)]
            measured[count] = float(np.mean(found)), widths
            say(f"{count} of {len(ranked)} widened: error {measured[count][0]:.4g}")
        return measured[count][0]

    before = error(0)
    if before > budget:
        say("sensitivity")
        ranked, refusals = _ranked(network, images)
        _search(error, budget, [choice.damage for choice in ranked])
    nearest = NEAR_ENOUGH * min(found for found, _ in measured.values())
    count = min(count for count, (found, _) in measured.items() if found <= max(budget, nearest))
    found, widths = measured[count]
    return Mixed(
        widths,
        budget,
        before,
        found,
        tuple(ranked[:count]),
        refusals,
        products(network, network.least),
        products(network, widths),
    )


def _search(error: Callable[[int], float], budget: float, damages: Sequence[float]) -> None:
    """Measure ``error`` at a few counts of widened choices, around the count at which the estimate meets the budget."""
    rest = np.sqrt(np.append(np.cumsum(np.asarray(damages[::-1], np.float64))[::-1], 0.0))
    low, high = 0, len(damages)
    if not high or error(high) > budget:
        # Widening more does not help; fewer choices may still be nearer, because errors also cancel.
        for count in (high // 4, high // 2):
            error(count)
        return
    scale = error(0) / max(float(rest[0]), 1e-30)
    floor = error(high)
    at = int(np.argmax(np.hypot(rest * scale, floor) <= budget))  # the first that meets it; 0: none
    for _ in range(STEPS):
        if high - low <= max(1, len(damages) // 50):
            return
        at = min(max(at, low + 1), high - 1)
        if error(at) <= budget:
            high = at
        else:
            low = at
        at = (low + high) // 2


def products(network: Calibrated, widths: Widths) -> int:
    """Multiply-accumulates of one frame's convolutions, every byte's counted."""
    total = 0
    for unit in network.parts:
        head = unit.head
        if head.op not in CONVOLUTIONS:
            continue
        shape = network.graph.shape_of(head.inputs[1])
        transposed = head.op == "nn.conv2d_transpose"
        _, outputs, height, width = network.graph.shape_of(head.inputs[0]) if transposed else head.shape
        bytes_ = 1 + (head.inputs[0] in widths.tensors) + (head.name in widths.weights)
        own = height * width * outputs * shape[1] * shape[2] * shape[3]
        total += own * bytes_ * (1 + (unit.name in widths.tensors))
    return total


def _ranked(network: Calibrated, images: Sequence[NDArray[np.float32]]) -> tuple[list[Choice], tuple[Refusal, ...]]:
    """Everything that may be widened, ordered by its gain for each product added; and the tensors that may not."""
    least = network.least
    base = products(network, least)
    sets, refusals = _sets(network)
    _, params = network.rounded(least)
    names = {name for widths in sets.values() for name in widths.tensors} - _copies(network)
    found = damage(network.graph, network.parts, params, images, names)
    choices = [
        Choice(
            name,
            widths,
            sum(found.tensors.get(one, 0.0) for one in widths.tensors),
            products(network, least | widths) - base,
        )
        for name, widths in sets.items()
    ]
    choices += [
        Choice(f"weights of {name}", widths, cost, products(network, least | widths) - base)
        for name, cost in found.weights.items()
        if (widths := Widths(weights=frozenset({name})))
    ]
    free = FREE_SHARE * base or 1.0  # a network without convolutions
    ranked = sorted((one for one in choices if one.damage > 0), key=lambda one: -one.damage / (one.macs + free))
    return ranked, refusals


def _sets(network: Calibrated) -> tuple[dict[str, Widths], tuple[Refusal, ...]]:
    """The sets that are widened together, by name."""
    graph, parts, least = network.graph, network.parts, network.least
    by_name = {unit.name: unit for unit in parts}
    mixable = {node.name for group in groups(graph, parts) if group.partner is None for node in group.concats}
    sets: dict[str, Widths] = {}
    refusals: list[Refusal] = []
    for unit in parts:
        if unit.name not in network.stored or unit.name in least.tensors:
            continue
        if unit.operator.keeps_scale or unit.operator.joins_scales or (is_aligned(unit) and not _flow(unit, least)):
            continue
        if not unit.operator.stores_16_bits(unit):
            refusals.append(Refusal(unit.name, f"{unit.operator.title}: it makes 8 bits"))
            continue
        wanted = {unit.name}
        for reader in parts:
            if is_aligned(reader) and reader.head.inputs[0] in wanted and reader.name in network.stored:
                wanted.add(reader.name)
        for _ in range(2):  # a concatenation may be read by another
            wanted |= {reader.name for reader in parts if reader.name in mixable and wanted & set(reader.head.inputs)}
        closed = network.with_consequences(Widths(frozenset(wanted)))
        if closed is None:
            refusals.append(Refusal(unit.name, "what it is added to or moved with has 8 bits"))
        elif not _read(graph, parts, by_name, closed.tensors):
            refusals.append(Refusal(unit.name, "everything that reads it reads 8 bits"))
        elif all(one.tensors != closed.tensors for one in sets.values()):
            sets[unit.name] = closed
    return sets, tuple(refusals)


def _flow(unit: Unit, least: Widths) -> bool:
    return unit.head.inputs[0] in least.tensors


def _copies(network: Calibrated) -> set[str]:
    """Tensors that are moved, or only scaled for a reader: they have the rounding of their source."""
    least = network.least
    moved = {unit.name for unit in network.parts if unit.operator.keeps_scale or unit.operator.joins_scales}
    return moved | {unit.name for unit in network.parts if is_copy(network.graph, unit) and not _flow(unit, least)}


def _read(graph: Graph, parts: Sequence[Unit], by_name: dict[str, Unit], wide: frozenset[str]) -> bool:
    """Whether any unit reads all bits of one of ``wide`` and does more than pass them on."""
    if graph.output in wide:
        return True
    return any(
        name in wide and unit.operator.reads_16_bits(unit, which, result_wide=unit.name in wide)
        for unit in parts
        if not (unit.operator.keeps_scale or unit.operator.joins_scales or unit.operator.adds) and not is_aligned(unit)
        for which, name in enumerate(unit.head.inputs)
    )


def _result(graph: Graph, image: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(run(graph, torch.from_numpy(np.ascontiguousarray(image))).numpy(), np.float32)


def _distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean Euclidean distance per pixel of ``float32[1, C, H, W]``."""
    return float(np.sqrt(np.square(first - second).sum(axis=1)).mean())
