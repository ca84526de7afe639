"""``compile --dump``: the network after a stage or a pass, one operator a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from codesign.compile.driver import CompiledNetwork
from codesign.compile.graph.graph import Graph
from codesign.compile.graph.passes import text_of, watching
from codesign.compile.scanline.layers import Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.plan.cascade import Plan
from codesign.hw.errors import InputError
from codesign.hw.numerics import AddRule, MultiplyRule

LATER = ("partitioned", "layers", "plan")
"""Stages whose result is not a graph of operators."""


@dataclass
class Dump:
    """A stage or pass asked for by ``--dump``, and the text seen so far."""

    wanted: str
    text: str | None = None
    seen: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Watch the passes that run inside the block. Of a pass that runs several times, the last run is kept."""

        def watch(stage: str, name: str, graph: Graph) -> None:
            key = f"{stage}/{name}" if name else stage
            if key not in self.seen:
                self.seen.append(key)
            if key == self.wanted:
                self.text = text_of(graph)

        with watching(watch):
            yield

    def found(self, network: CompiledNetwork) -> str:
        """The text. Raises :class:`InputError`, listing those that ran, for a stage or pass that did not run."""
        match self.wanted:
            case "partitioned":
                self.text = _placements(network)
            case "layers":
                self.text = "\n".join(layers_text(region.graph) for region in network.regions)
            case "plan":
                self.text = "\n".join(plan_text(region.plan) for region in network.regions)
        if self.text is None:
            raise InputError(
                f"no stage or pass '{self.wanted}' has run",
                where="--dump",
                hint=f"These ran: {', '.join((*self.seen, *LATER))}.",
            )
        return self.text


def _placements(network: CompiledNetwork) -> str:
    return "\n".join(
        f"{one.name} = {one.operator}: {'scanline' if one.on_accelerator else f'host ({one.reason})'}"
        for one in network.placements
    )


def layers_text(graph: LayerGraph) -> str:
    """One layer a line: result, kind, operands, shape, scale and zero point."""
    return "\n".join(_line(graph, layer) for layer in graph.layers)


def plan_text(plan: Plan) -> str:
    """The cascades of a plan, their strips and their layers as the machine computes them."""
    lines = []
    for number, cascade in enumerate(plan.cascades, start=1):
        lines.append(f"cascade {number}: {len(cascade.strips)} strips")
        for planned in cascade.layers:
            steps = len(planned.mapping.steps)
            lines.append(f"  {_line(plan.graph, planned.layer)}, {steps} steps a set of pixels")
    return "\n".join(lines)


def _line(graph: LayerGraph, layer: Layer | Shuffle) -> str:
    kind = layer.kernel.label if isinstance(layer, Layer) else f"shuffle x{layer.factor}"
    operands = [*layer.sources, *(_details(layer) if isinstance(layer, Layer) else ())]
    tensor = graph.tensors[layer.output]
    shape = f"int{tensor.bits}[{tensor.height}, {tensor.width}, {tensor.values}]"
    return f"{layer.output} = {kind}({', '.join(operands)}): {shape}, {tensor.scale:.6g} x (q {-tensor.zero_point:+d})"


def _details(layer: Layer) -> list[str]:
    """Further operators of a layer, in words."""
    found = [f"at {layer.kernel.flow}"] if layer.kernel.flow is not None else []
    found += [f"of {name}" for name in layer.kernel.whole]
    found += [f"from channel {layer.first_channel}"] if layer.first_channel else []
    found += ["table"] if layer.epilogue.table is not None else []
    match layer.epilogue.second:
        case SecondOperand(tensor=name, rule=AddRule()):
            found.append(f"plus {name}")
        case SecondOperand(tensor=name, rule=MultiplyRule()):
            found.append(f"times {name}")
    return found
