"""``compile --dump``: the network after a stage or a pass, one operator a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from codesign.compile.driver import CompiledNetwork
from codesign.compile.ir.graph import Graph
from codesign.compile.ir.passes import text_of, watching
from codesign.compile.scanline.layers import Conv, LayerGraph
from codesign.compile.scanline.plan.cascade import Plan
from codesign.hw.errors import InputError

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
                self.text = "\n".join(_layers(region.graph) for region in network.regions)
            case "plan":
                self.text = "\n".join(_plan(region.plan) for region in network.regions)
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


def _layers(graph: LayerGraph) -> str:
    return "\n".join(
        f"{layer.output} = {_kind(layer)}({', '.join(_sources(layer))}): {_shape(graph, layer)}"
        for layer in graph.layers
    )


def _plan(plan: Plan) -> str:
    lines = []
    for number, cascade in enumerate(plan.cascades, start=1):
        lines.append(f"cascade {number}: {len(cascade.strips)} strips")
        for conv in cascade.convs:
            layer = conv.layer
            lines.append(
                f"  {layer.output} = {_kind(layer)}({', '.join(_sources(layer))}): "
                f"{_shape(plan.graph, layer)}, {len(conv.mapping.steps)} steps a set of pixels"
            )
    return "\n".join(lines)


def _kind(layer: object) -> str:
    if not isinstance(layer, Conv):
        return type(layer).__name__.lower()
    if layer.warp is not None:
        return "warp"
    if layer.windows is not None:
        return "window"
    if layer.resize is not None:
        return "resize"
    if layer.correlates or layer.weights_from is not None:
        return "correlation"
    rows, columns = layer.weights.shape[:2]
    return f"conv{rows}x{columns}" + ("/norm" if layer.norm is not None else "")


def _sources(layer: object) -> list[str]:
    found = [getattr(layer, "source", ""), *getattr(layer, "more", ())]
    if first := getattr(layer, "first_channel", 0):
        found.append(f"from channel {first}")
    add = getattr(layer, "add", None)
    found += [f"{'times' if add.product else 'plus'} {add.other}"] if add is not None else []
    found += ["table"] if getattr(layer, "table", None) is not None else []
    return [name for name in found if name]


def _shape(graph: LayerGraph, layer: object) -> str:
    tensor = graph.tensors[layer.output]  # type: ignore[attr-defined]
    bits, channels = (16, tensor.channels // 2) if tensor.wide else (8, tensor.channels)
    return f"int{bits}[{tensor.height}, {tensor.width}, {channels}], {tensor.scale:.6g} x (q {-tensor.zero_point:+d})"
