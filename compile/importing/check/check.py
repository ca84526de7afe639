"""The check itself: which frame, both sides run on it, and one clear error where they differ.

:func:`check_import` is called for every model that comes in, by the one function that lets models in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import tvm

from codesign.compile.graph.graph import STATE, STEP, Array, Graph, Node
from codesign.compile.importing.check import frame
from codesign.compile.importing.check.child import ChildError, Limits, in_child
from codesign.compile.importing.check.engines import Original
from codesign.compile.importing.check.locate import Mark, MarkedStep, Marker, culprit, marked
from codesign.compile.importing.check.result import (
    BOUND_DB,
    CODES_BOUND_DB,
    HALF_BOUND_DB,
    ImportCheck,
    decibels,
    is_flat,
)
from codesign.compile.ir.evaluate import size_free, trace
from codesign.compile.quantise.calibration import QuantParams
from codesign.compile.quantise.insertion import scalar_params
from codesign.compile.referee.integer import evaluate
from codesign.hw.errors import CodesignError, InputError, UnsupportedError

LIMITS = Limits()
"""What the engine may take for one frame."""

_RANGES = (1.0, 255.0)
"""Greatest values of the image, tried in turn until the engine's output is not constant."""

_TIES = 0.01
"""Share of a quantised model's values that may be off by one code: ONNX Runtime rounds floats where a sum of integers
lies half-way between two codes."""


@dataclass(frozen=True)
class Imported:
    """A model imported for one size: the graph as it was read, the canonical one as a module and as the later stages
    see it, and the model itself."""

    read: Graph = field(repr=False)
    module: tvm.IRModule = field(repr=False)
    graph: Graph = field(repr=False)
    quantised: bool
    original: Original = field(repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame."""
        return self.graph.input_shape[3], self.graph.input_shape[2]

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, ...]]:
        """Shapes of the inputs, states included, for a frame of ``size``."""
        states = [node.shape for node in self.graph.nodes if node.op == STATE]
        return [(*self.graph.input_shape[:2], size[1], size[0]), *states]


Again = Callable[[int, int], Imported]
"""Imports the same model for another width and height."""


@dataclass(frozen=True)
class _Compared:
    """Both sides on one frame."""

    model: Imported = field(repr=False)
    inputs: tuple[Array, ...] = field(repr=False)
    size: tuple[int, int]
    outputs_db: tuple[float, ...]
    bound_db: float
    ok: bool
    differing: int | None = None


def check_import(model: Imported, again: Again, where: str, limits: Limits | None = None) -> ImportCheck:
    """Compare ``model`` with its own engine on one frame.

    Where the graph does not mention the frame's size, that is :data:`codesign.compile.importing.check.frame.ODD`. A
    large frame that it does mention is replaced by a small one of the same remainders, for which the model is imported
    ``again``.

    Raises :class:`UnsupportedError`, naming the first operator that differs, for an import that is wrong, and
    :class:`InputError` for a model that its own engine refuses. Whatever else keeps the engine from running is the
    result's ``reason``.
    """
    began = time.perf_counter()
    limits = LIMITS if limits is None else limits
    engine = model.original.engine
    failure: CodesignError | ChildError | None = None
    found: _Compared | None = None
    for size in _sizes(model):
        if found is not None and found.size != frame.ODD:
            break  # it differs at a size like the model's own
        try:
            at = model if size in (model.size, frame.ODD) or _any_size(model) else again(*size)
            found = _compared(at, size, limits)
        except ChildError as error:
            failure = error
            if error.kind not in ("raised", "fails"):
                break
        except CodesignError as error:
            failure = error
        else:
            if found.ok:
                break
    seconds = time.perf_counter() - began
    if isinstance(failure, ChildError) and failure.kind in ("refused", "fails") and found is None:
        raise InputError(
            f"{engine} refuses the model ({failure.text})", where=where, hint="Export or download the model again."
        )
    if found is None:
        assert failure is not None
        return ImportCheck(engine, seconds=seconds, reason=_said(failure, engine))
    if not found.ok:
        raise _refusal(found, again, limits)
    return ImportCheck(
        engine, found.outputs_db, found.bound_db, found.size, frame.SEED, seconds, differing=found.differing
    )


def _any_size(model: Imported) -> bool:
    return not model.quantised and size_free(model.graph)


def _sizes(model: Imported) -> list[tuple[int, int]]:
    """Sizes to try, in turn. A module may refuse one, or choose by the size what it computes: then the next decides."""
    small = frame.small(*model.size)
    return list(dict.fromkeys([*([frame.ODD] if _any_size(model) else []), small, model.size]))


def _said(failure: CodesignError | ChildError, engine: str) -> str:
    if isinstance(failure, CodesignError):
        return f"the imported graph cannot be evaluated ({failure.where}: {failure.what})"
    match failure.kind:
        case "raised":
            return f"{engine} says: {failure.text}"
        case "lacks":
            return f"{engine} cannot run it ({failure.text})"
        case _:
            return f"{engine} {failure.text}"


def _compared(model: Imported, size: tuple[int, int], limits: Limits) -> _Compared:
    if model.quantised:
        return _compared_codes(model, size, limits)
    for largest in _RANGES:
        inputs = frame.content(model.shapes(size), largest)
        wanted = _engine(model.original, inputs, limits)
        if not all(is_flat(one[np.isfinite(one)]) for one in wanted if one.size):
            break
    bound = HALF_BOUND_DB if model.original.half else BOUND_DB
    agreements = _agreements(wanted, _outputs(model.graph, inputs))
    return _Compared(model, inputs, size, agreements, bound, min(agreements) >= bound)


def _compared_codes(model: Imported, size: tuple[int, int], limits: Limits) -> _Compared:
    """Codes of the output beside codes; its values, where the model does not round it.

    Where more differ than single roundings explain, both sides are compared without rounding as well: what is left
    then is a fault.
    """
    first, last = _ends(model.graph)
    inputs = frame.content(model.shapes(size))
    codes: Array | None = None
    if first is not None:
        codes = (np.rint(inputs[0] * 255.0) - 128.0).astype(np.int8)
        inputs = ((codes.astype(np.float32) - first.zero_point) * np.float32(first.scale),)
    right = _engine(model.original, inputs, limits)
    ours = (
        _outputs(model.graph, inputs) if codes is None or last is None else [_codes(model.graph, codes, inputs, last)]
    )
    if last is not None:
        right[0] = np.rint(right[0] / np.float32(last.scale)) + last.zero_point
        ours[0] = ours[0] if codes is not None else np.rint(ours[0] / np.float32(last.scale)) + last.zero_point
    agreements = _agreements(right, ours)
    if right[0].shape != ours[0].shape:
        return _Compared(model, inputs, size, agreements, BOUND_DB, False)
    off = np.abs(right[0] - ours[0])
    differing = int(np.count_nonzero(off))
    if last is not None and off.max(initial=0) <= 1 and differing <= _TIES * off.size:
        return _Compared(model, inputs, size, agreements, CODES_BOUND_DB, True, differing)
    if last is None and min(agreements) >= BOUND_DB:
        return _Compared(model, inputs, size, agreements, BOUND_DB, True)
    smooth = replace(model, original=model.original.without_rounding())
    exact = _agreements(_engine(smooth.original, inputs, limits), _outputs(model.graph, inputs, smooth=True))
    ok = min(exact) >= BOUND_DB and min(agreements) >= CODES_BOUND_DB
    return _Compared(smooth, inputs, size, exact, BOUND_DB, ok, differing)


def _engine(original: Original, inputs: tuple[Array, ...], limits: Limits) -> list[Array]:
    return in_child(lambda: original.outputs(inputs), limits)


def _agreements(wanted: Sequence[Array], found: Sequence[Array]) -> tuple[float, ...]:
    if len(wanted) != len(found):
        return (-math.inf,)
    return tuple(decibels(right, ours) for right, ours in zip(wanted, found, strict=True))


def _ends(graph: Graph) -> tuple[QuantParams | None, QuantParams | None]:
    """Scales of a quantised network's input and output; None for one that it leaves in float."""
    firsts = (node for node in graph.nodes if node.op == "quantize" and node.inputs[0] == graph.input)
    first, last = next(firsts, None), graph.by_name[graph.result]
    return (
        None if first is None else scalar_params(graph, first),
        scalar_params(graph, last) if last.op == "dequantize" else None,
    )


def _codes(graph: Graph, codes: Array, inputs: Sequence[Array], result: QuantParams) -> Array:
    """The output's codes by the integer evaluation, or in float where the host has a part in the network."""
    try:
        return evaluate(graph, codes)
    except (UnsupportedError, OverflowError):
        return np.rint(_outputs(graph, inputs)[0] / np.float32(result.scale)) + result.zero_point


def _values(graph: Graph, inputs: Sequence[Array], *, smooth: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Every value of ``graph`` on ``inputs``, the states' given as well; ``smooth``: activations are not rounded."""
    image, *states = (torch.from_numpy(one) for one in inputs)
    given: Mapping[str, torch.Tensor] = dict(
        zip((node.name for node in graph.nodes if node.op == STATE), states, strict=True)
    )

    def override(node: Node, operands: list[torch.Tensor]) -> torch.Tensor | None:
        if smooth and node.op in ("quantize", "dequantize") and graph.is_activation(node.inputs[0]):
            return _clipped(graph, node, operands[0]) if node.op == "quantize" else operands[0]
        return given.get(node.name)

    with torch.no_grad():
        yield from trace(graph, image, override)


def _clipped(graph: Graph, node: Node, x: torch.Tensor) -> torch.Tensor:
    params, limits = scalar_params(graph, node), torch.iinfo(getattr(torch, node.dtype))
    low, high = ((bound - params.zero_point) * params.scale for bound in (limits.min, limits.max))
    return x.clamp(low, high)


def _outputs(graph: Graph, inputs: Sequence[Array], *, smooth: bool = False) -> list[Array]:
    """The result, and what a recurrent network leaves."""
    last = graph.by_name.get(graph.output)
    names = last.inputs if last is not None and last.op == STEP else (graph.output,)
    held: dict[str, Array] = {name: graph.constants[name] for name in names if name in graph.constants}
    try:
        for name, value in _values(graph, inputs, smooth=smooth):
            if name in names:
                held[name] = value.numpy()
    except CodesignError:
        raise
    except Exception as error:  # torch's own, on a graph that contradicts itself
        raise UnsupportedError(" ".join(str(error).split())[:200], where="the imported graph") from error
    return [held[name] for name in names]


def _refusal(found: _Compared, again: Again, limits: Limits) -> UnsupportedError:
    """The error of an import that is wrong."""
    engine = found.model.original.engine
    named = _located(found, again, limits)
    agreement = min(found.outputs_db)
    told = (
        "the outputs are not alike in number or shape"
        if agreement == -math.inf
        else f"{found.differing} values differ"
        if found.differing is not None
        else f"{agreement:.1f} dB, where {found.bound_db:.0f} are due"
    )
    return UnsupportedError(
        f"was imported wrongly: the network is not what {engine} computes ({told}, on a frame of "
        f"{found.size[0]}x{found.size[1]})" + (", and this is the first operator that differs" if named else ""),
        where=named or "the model",
        hint="This is a defect of the toolkit; please report the model. --no-import-check compiles it as it is.",
    )


def _located(found: _Compared, again: Again, limits: Limits) -> str | None:
    """``operator 'name'`` of the model's first operator that the graph does not have; None where that is not known."""
    try:
        model = found.model if found.model.size == found.size else again(*found.size)
        steps = in_child(lambda: marked(model.original.steps(found.inputs)), limits)
        smooth = model.quantised
        read = _marks(model.read, found.inputs, smooth)
        if (named := culprit(steps, (mark for _, mark in read), found.bound_db)) is not None:
            return named
        # The graph was read rightly: the fault is in what was made of it.
        known, own = dict(read), []
        moving = {model.read.input, *(node.name for node in model.read.nodes if node.op == STATE)}
        for node in model.read.nodes:
            if node.name in known and not moving.isdisjoint(node.inputs):
                moving.add(node.name)
                own.append(MarkedStep(node.where, node.name, node.inputs, known[node.name]))
        return culprit(own, (mark for _, mark in _marks(model.graph, found.inputs, smooth)), found.bound_db)
    except (ChildError, CodesignError):
        return None


def _marks(graph: Graph, inputs: Sequence[Array], smooth: bool) -> list[tuple[str, Mark]]:
    """Marks of the values of ``graph``, as far as they can be computed."""
    marker = Marker()
    found: list[tuple[str, Mark]] = []
    try:
        for name, value in _values(graph, inputs, smooth=smooth):
            if isinstance(value, torch.Tensor):  # parts of a tuple have nodes of their own
                found.append((name, marker.mark(value.float().numpy())))
    except Exception:  # what follows an operator that fails is not known
        return found
    return found
