"""Stretches of a network's layers as cascades of one machine: whether they fit, in which strips, and at what price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from codesign.compile.scanline.layers import Conv, Layer, LayerGraph, Shuffle, Weights, sources
from codesign.compile.scanline.plan.cost import Cost, estimate, look_up_pace
from codesign.compile.scanline.plan.mapping import Mapping, Mappings, map_correlation, map_pixels, sampled
from codesign.compile.scanline.plan.plan import (
    BufferPlan,
    Cascade,
    Conversion,
    ConvPlan,
    KeptPlan,
    StorePlan,
    Strip,
    consumers,
    words_per_row,
)
from codesign.compile.scanline.plan.schedule import OPERAND, Reading, RowSchedule, schedule_rows
from codesign.compile.scanline.plan.strips import Leaving, divide_columns, kept_tensors
from codesign.compile.scanline.rewrite.wide_layers import fits_memories, source_channels
from codesign.hw.spec import AccelSpec

MAX_STRIPS, STRIPS_TRIED = 64, 3

MAX_LAYERS = 32
"""A cascade this long gains nothing from another layer, and its loop would not fit the command slots."""


HaloMode = Literal["recompute", "keep"]
"""Strips compute what two of them need twice, or the first keeps it in memory for the second."""


@dataclass(frozen=True)
class _Stretch:
    """Layers [first, end) as one cascade, before it is divided into strips."""

    convs: list[int]
    loads: list[str]
    leaving: Leaving
    kept: list[str] | None  # tensors whose halos are kept; None: halos are recomputed
    conversions: dict[str, Conversion]
    mappings: dict[int, Mapping]
    rows: RowSchedule


class Geometry:
    """Row schedules and strips that were worked out, for planners of one network on machines that are much alike."""

    def __init__(self) -> None:
        self.schedules: dict[tuple[object, ...], RowSchedule | None] = {}
        self.strips: dict[tuple[object, ...], tuple[Strip, ...] | None] = {}


class Planner:
    """Prices stretches of one network's layers as cascades of one machine."""

    def __init__(
        self, spec: AccelSpec, graph: LayerGraph, bytes_per_cycle: float, halos: HaloMode | None, mappings: Mappings,
        geometry: Geometry | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.graph, self.bytes_per_cycle, self.halos = spec, graph, bytes_per_cycle, halos
        self._geometry = geometry or Geometry()
        self._layers = hash(tuple((layer.name, sources(layer), layer.output) for layer in graph.layers))
        self.consumers = consumers(graph)
        self._mappings = mappings
        self._by_layer: dict[tuple[int, Conversion], Mapping] = {}
        self._prices: dict[tuple[object, ...], float | str] = {}

    def price(self, first: int, end: int) -> float | str:
        """Of the cheapest division into strips of layers [first, end), or why there is none.

        Networks repeat their blocks: stretches that are alike in all that decides are priced once.
        """
        key = self._likeness(first, end)
        if key not in self._prices:
            found = self.best(first, end)
            self._prices[key] = found if isinstance(found, str) else found[1].price
        return self._prices[key]

    def _likeness(self, first: int, end: int) -> tuple[object, ...]:
        """Layers [first, end) without their names and numbers: shapes, connections, what of a mapping has a cost."""
        graph, numbers = self.graph, dict[str, int]()

        def number(name: str) -> object:
            """A tensor by the order of its appearance; the first time with what matters of it."""
            if name in numbers:
                return numbers[name]
            numbers[name] = len(numbers)
            tensor = graph.tensors[name]
            leaves = name in graph.outputs or any(not first <= index < end for index in self.consumers[name])
            return tensor.height, tensor.width, tensor.channels, leaves

        def parts(index: int) -> Iterator[object]:
            layer = graph.layers[index]
            yield number(layer.source)
            if isinstance(layer, Shuffle):
                yield layer.factor
            else:
                yield from map(number, layer.more)
                yield layer.weights.shape, layer.stride, layer.pad_top, layer.pad_left, self._is_slice(layer)
                yield layer.first_channel, None if layer.table is None else layer.table.tobytes()
                yield layer.edge, layer.warp, layer.resize, layer.correlates, layer.weights.dtype.itemsize
                yield layer.weights_from is None, layer.norm, layer.windows
                if layer.volume is not None:
                    yield number(layer.volume)
                if layer.add is not None:
                    yield number(layer.add.other), layer.add.broadcast
                mapping = self.mapping(index, Conversion())
                yield len(mapping.steps), len(mapping.fills), mapping.passes, mapping.output_words
                if graph.tensors[layer.source].channels == 1:
                    yield index  # loaded unfolded, it may be mapped otherwise
            yield number(layer.output)

        return tuple(tuple(parts(index)) for index in range(first, end))

    def best(self, first: int, end: int) -> tuple[Cascade, Cost] | str:
        """The cheapest division into strips of layers [first, end), or why there is none."""
        found = [self._cheapest(first, end, eager=eager, keep=False) for eager in (False, True)]
        if self.halos != "recompute" and not any(not isinstance(one, str) and len(one[0].strips) == 1 for one in found):
            kept = [self._cheapest(first, end, eager=eager, keep=True) for eager in (False, True)]
            if self.halos is None or not all(isinstance(one, str) for one in kept):
                found = [*kept, *(found if self.halos is None else ())]
        fitting = [one for one in found if not isinstance(one, str)]
        reasons = [one for one in found if isinstance(one, str)]
        return min(fitting, key=lambda one: one[1].price) if fitting else reasons[-1]

    def reason(self, cascade: Cascade) -> str:
        """Why ``cascade`` is not a layer longer."""
        end = cascade.end
        if end == len(self.graph.layers):
            return "the network ends"
        longer = self.best(cascade.first, end + 1)
        if isinstance(longer, str):
            return longer
        return f"with {self.graph.layers[end].name} it would cost more"

    def _cheapest(self, first: int, end: int, *, eager: bool, keep: bool) -> tuple[Cascade, Cost] | str:
        stretch = self.stretch(first, end, eager=eager, keep=keep)
        if isinstance(stretch, str):
            return stretch
        best: tuple[Cascade, Cost] | None = None
        tried = 0
        strips = 1 if keep else 0
        while strips < MAX_STRIPS and tried < STRIPS_TRIED:
            strips += 1
            cascade = self.divide(first, end, stretch, strips)
            if cascade is None:
                break
            if cascade.scratchpad_words > self.spec.bank_words:
                # Rows shrink less than strips multiply, so this many are needed at least.
                strips = max(strips, strips * cascade.scratchpad_words // self.spec.bank_words - 1)
                continue
            tried += 1  # further strips only add halo; a few more may divide the width more evenly
            cost = estimate(self.spec, self.graph, cascade, self.bytes_per_cycle)
            if best is None or cost.price < best[1].price:
                best = cascade, cost
        return best or f"the rows of {end - first} layers exceed the scratchpad, however narrow the strips"

    def hopeless(self, first: int, end: int) -> bool:
        """Whether no longer stretch from ``first`` can be a cascade when [first, end) is none."""
        convs = [index for index in range(first, end) if isinstance(self.graph.layers[index], Conv)]
        return (
            not fits_memories(self.spec, [self.mapping(index, Conversion()) for index in convs])
            or any(
                self._is_slice(layer) or layer.weights_from is not None
                for index in convs
                if isinstance(layer := self.graph.layers[index], Conv)
            )
            or self._normalises_its_own(first, end)
            or self._looks_up_its_own(first, end)
            or end - first > MAX_LAYERS
        )

    def mapping(self, index: int, conversion: Conversion) -> Mapping:
        key = (index, conversion)
        if key not in self._by_layer:
            layer = self.graph.layers[index]
            assert isinstance(layer, Conv)
            if layer.sampled:
                return sampled(self.spec, layer.channels)
            if layer.correlates:
                channels, reach = self.graph.tensors[layer.source].channels, layer.weights.shape[0] // 2
                self._by_layer[key] = map_correlation(self.spec, channels, reach)
                return self._by_layer[key]
            if layer.weights_from is not None:
                self._by_layer[key] = map_pixels(self.spec, self.graph.tensors[layer.source].channels, layer.channels)
                return self._by_layer[key]
            weights = unfolded_weights(layer, conversion)
            counts = source_channels(self.graph, layer)
            self._by_layer[key] = self._mappings.of(weights, layer.stride, counts, carries=layer.carries)
        return self._by_layer[key]

    def stretch(self, first: int, end: int, *, eager: bool, keep: bool) -> _Stretch | str:
        """Layers [first, end) as one cascade, or why that is impossible however narrow its strips."""
        graph, spec = self.graph, self.spec
        inside = graph.layers[first:end]
        convs = [index for index in range(first, end) if isinstance(graph.layers[index], Conv)]
        made = {layer.output for layer in inside if isinstance(layer, Conv)}
        shuffled = {layer.output for layer in inside if isinstance(layer, Shuffle)}
        if any(name in shuffled for layer in inside for name in sources(layer)):
            return "what a pixel shuffle has spread is read back from memory"
        if any(isinstance(layer, Conv) and self._is_slice(layer) for layer in inside) and len(inside) > 1:
            return "slices of a split layer meet in memory"
        if any(isinstance(layer, Conv) and layer.weights_from is not None for layer in inside) and len(inside) > 1:
            return "pixels that are weights are loaded by themselves"
        if any(isinstance(layer, Conv) and layer.warp is not None and layer.source in made for layer in inside):
            return "a warp gathers from memory what is not on chip"
        if self._looks_up_its_own(first, end):
            return "a look-up reads maps that are whole in memory"
        if self._normalises_its_own(first, end):
            return "a normalisation needs the sums of the whole frame"
        if len({max(graph.tensors[name].height for name in part) for part in _parts(inside)}) > 1:
            return "layers of unlike sizes share no tensor, so their rows keep no step"
        loads = list(dict.fromkeys(name for layer in inside for name in sources(layer) if name not in made))
        # What leaves: shuffled tensors, and whatever a later layer or the user reads as it is.
        leaving: Leaving = []
        for layer in inside:
            if isinstance(layer, Shuffle):
                leaving.append((layer.source, layer.output, layer.factor))
            elif layer.output in graph.outputs or any(i >= end or i < first for i in self.consumers[layer.output]):
                leaving.append((layer.output, layer.output, 1))
        stored = [source for source, _, _ in leaving]
        if len(set(stored)) != len(stored):
            return "a tensor is stored in two ways"
        if len(loads) + len(made) > spec.buffers:
            return f"more than {spec.buffers} rolling buffers"
        conversions = {name: self._conversion(name, convs, stored) for name in loads}
        mappings = {
            index: self.mapping(index, conversions.get(graph.layers[index].source, Conversion())) for index in convs
        }
        tables = {layer.table.tobytes() for layer in inside if isinstance(layer, Conv) and layer.table is not None}
        if not fits_memories(spec, list(mappings.values())):
            return "the weights of more layers do not fit on chip together"
        if len(tables) > spec.look_up_tables:
            return f"more than {spec.look_up_tables} look-up tables"
        kept = kept_tensors(graph, convs) if keep else None
        tails = [name for name in kept or () if name not in stored]
        key = (self._layers, first, end, eager, keep)
        if key not in self._geometry.schedules:
            self._geometry.schedules[key] = schedule_rows(
                graph, convs, loads, stored, tails, spare_rows=1, eager=eager
            )  # fmt: skip
        rows = self._geometry.schedules[key]
        if rows is None:
            return "readers of one tensor overtake each other for too long"
        commands = sum(rows.loads.values()) + sum(rows.conv_repeat.values()) + sum(rows.store_repeat.values())
        commands += sum(rows.conv_repeat[index] for index in convs if graph.layers[index].output in (kept or ()))
        if 4 + commands > spec.command_slots - 2:
            return f"the loop would exceed {spec.command_slots} commands"
        return _Stretch(convs, loads, leaving, kept, conversions, mappings, rows)

    def divide(self, first: int, end: int, stretch: _Stretch, strips: int) -> Cascade | None:
        """``stretch`` in ``strips`` strips, or None when the frame is too narrow for so many.

        Whether its buffers fit the scratchpad, the caller checks.
        """
        graph, spec = self.graph, self.spec
        convs, loads, rows = stretch.convs, stretch.loads, stretch.rows
        leaving, conversions, mappings = stretch.leaving, stretch.conversions, stretch.mappings
        made = {graph.layers[index].output for index in convs}
        stored = {source for source, _, _ in leaving}
        layers = [layer for index in convs if isinstance(layer := graph.layers[index], Conv)]
        added = {layer.add.other for layer in layers if layer.add is not None}
        kept = stretch.kept
        lying = tuple((name, one.unfold, one.pad_left) for name, one in conversions.items())
        key = (self._layers, first, end, strips, kept is not None, spec.pixel_lanes, spec.banks, lying)
        if key not in self._geometry.strips:
            self._geometry.strips[key] = divide_columns(
                spec, graph, convs, leaving, conversions, strips, keep=kept is not None
            )  # fmt: skip
        plan = self._geometry.strips[key]
        if plan is None or (kept is not None and any(name not in kept for strip in plan for name in strip.halos)):
            return None
        buffers = tuple(
            BufferPlan(
                tensor=name,
                rows=rows.rows[name],
                groups=self._groups(name, made, convs, conversions, mappings),
                loaded=name in loads,
                freed_by_store=name in stored,
                freed_by_conv=rows.freeing[name] is not None,
                operand=name in added,
                conversion=conversions.get(name, Conversion()),
            )
            for name in (*loads, *(graph.layers[index].output for index in convs))
        )
        words = max(
            sum(b.rows * b.groups * words_per_row(spec, strip.width(b.tensor)) for b in buffers) for strip in plan
        )
        return Cascade(
            first=first,
            end=end,
            buffers=buffers,
            loads=tuple(rows.loads.items()),
            convs=tuple(self._conv_plan(index, mappings[index], rows) for index in convs),
            stores=tuple(
                StorePlan(
                    tensor=source,
                    target=target,
                    factor=factor,
                    first_channel=self._first_channel(source, convs),
                    delay=rows.store_delay[source],
                    repeat=rows.store_repeat[source],
                )
                for source, target, factor in leaving
            ),
            kept=tuple(
                KeptPlan(
                    tensor=layer.output,
                    channels=layer.channels,
                    delay=rows.conv_delay[index],
                    store_delay=rows.store_delay[layer.output],
                    repeat=rows.conv_repeat[index],
                )
                for index in convs
                if isinstance(layer := graph.layers[index], Conv) and layer.output in (kept or ())
            ),
            iterations=rows.iterations,
            eager=rows.eager,
            strips=plan,
            weight_words=sum(len(m.steps) for m in mappings.values()),
            fill_words=sum(len(m.fills) for m in mappings.values()),
            parameter_words=sum(m.output_words for m in mappings.values()),
            scratchpad_words=words,
        )

    def _normalises_its_own(self, first: int, end: int) -> bool:
        """Whether some layer of [first, end) normalises what another of them makes."""
        layers = [layer for layer in self.graph.layers[first:end] if isinstance(layer, Conv)]
        made = {layer.output for layer in layers}
        return any(layer.norm is not None and layer.source in made for layer in layers)

    def _looks_up_its_own(self, first: int, end: int) -> bool:
        """Whether some layer of [first, end) looks up what another of them makes."""
        layers = [layer for layer in self.graph.layers[first:end] if isinstance(layer, Conv)]
        return not {layer.output for layer in layers}.isdisjoint(layer.volume for layer in layers)

    def _is_slice(self, layer: Conv) -> bool:
        return layer.channels != self.graph.tensors[layer.output].channels

    def _first_channel(self, tensor: str, convs: list[int]) -> int:
        for index in convs:
            layer = self.graph.layers[index]
            if isinstance(layer, Conv) and layer.output == tensor:
                return layer.first_channel
        return 0

    def _groups(
        self,
        name: str,
        made: set[str],
        convs: list[int],
        conversions: dict[str, Conversion],
        mappings: dict[int, Mapping],
    ) -> int:
        if name in made:
            return next(mappings[i].output_words for i in convs if self.graph.layers[i].output == name)
        if conversions[name].unfold:
            return 1
        channels = self.graph.tensors[name].channels
        slices = [layer for i in convs if isinstance(layer := self.graph.layers[i], Conv) and self._is_slice(layer)]
        if slices and slices[0].add is not None and slices[0].add.other == name and slices[0].source != name:
            channels = slices[0].channels
        return -(-channels // self.spec.ci_lanes)

    def _conversion(self, name: str, convs: list[int], stored: list[str]) -> Conversion:
        """A one-channel tensor read by one convolution is loaded with a pixel's neighbours as its channels."""
        layers = [layer for i in convs if isinstance(layer := self.graph.layers[i], Conv)]
        readers = [layer for layer in layers if name in layer.convolved]
        if self.graph.tensors[name].channels != 1 or name in stored or len(readers) != 1 or readers[0].more:
            return Conversion()
        layer = readers[0]
        unfold = min(layer.weights.shape[1], self.spec.ci_lanes)
        others = [other for other in layers if other.add is not None and other.add.other == name]
        if any(other.add is not None and not other.add.broadcast for other in others):
            return Conversion()
        same_width = self.graph.tensors[layer.output].width == self.graph.tensors[name].width
        plain = layer.stride == 1 and not layer.edge and layer.weighs
        if not plain or unfold < 2 or unfold <= layer.pad_left or not same_width:
            return Conversion()
        return Conversion(unfold=unfold, pad_left=layer.pad_left)

    def _conv_plan(self, index: int, mapping: Mapping, rows: RowSchedule) -> ConvPlan:
        layer = self.graph.layers[index]
        assert isinstance(layer, Conv)
        return ConvPlan(
            layer=layer,
            mapping=mapping,
            group_cycles=(
                self._mappings.group_cycles(mapping, add=layer.add is not None)
                if layer.windows is None
                else round(self.spec.pixel_lanes * look_up_pace(self.spec, self.graph, layer).cycles)
            ),
            delay=rows.conv_delay[index],
            repeat=rows.conv_repeat[index],
            frees=tuple(rows.freeing[name] == Reading(index, k) for k, name in enumerate(layer.convolved)),
            free_add=layer.add is not None and rows.freeing[layer.add.other] == Reading(index, OPERAND),
        )


def _parts(layers: Sequence[Layer]) -> list[set[str]]:
    """The tensors of ``layers``, apart where no layer reads from one part and writes into another."""
    parts: list[set[str]] = []
    for layer in layers:
        joined = {*sources(layer), layer.output}
        apart = [part for part in parts if not part & joined]
        parts = [*apart, joined.union(*(part for part in parts if part & joined))]
    return parts


def unfolded_weights(layer: Conv, conversion: Conversion) -> Weights:
    """A layer's weights; where its source is loaded unfolded, the taps of a word become its channels."""
    if not conversion.unfold:
        return layer.weights
    rows, columns, _, outputs = layer.weights.shape
    unfolded = np.zeros((rows, columns, conversion.unfold, outputs), layer.weights.dtype)
    for column in range(columns):
        base, lane = divmod(column, conversion.unfold)
        unfolded[:, base * conversion.unfold, lane] = layer.weights[:, column, 0]
    return unfolded
