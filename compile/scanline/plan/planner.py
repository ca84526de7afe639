"""Consecutive layers of a network as cascades of one machine: whether they fit, in which strips, and at what price."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import product

from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle, computed
from codesign.compile.scanline.plan.cost import Cost, estimate
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.compile.scanline.plan.plan import (
    BufferPlan,
    Cascade,
    Conversion,
    LayerPlan,
    RowOrder,
    Strip,
    consumers,
    words_per_row,
)
from codesign.compile.scanline.plan.schedule import OPERAND, Passage, Reading, RowSchedule, schedule_rows
from codesign.compile.scanline.plan.strips import Divider, HaloMode, Leaving, kept_tensors
from codesign.compile.scanline.plan.undivided import Undivided, connected
from codesign.compile.scanline.rewrite.split_layers import fits_memories
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec

MAX_STRIPS, STRIPS_TRIED = 64, 3

MAX_LAYERS = 32
"""A cascade this long gains nothing from another layer, and its loop would not fit the command slots."""

ORDERS = (RowOrder.RELAXED, RowOrder.EAGER)


class Geometry:
    """Row schedules and strips that were worked out, for planners of one network on machines that are much alike."""

    def __init__(self) -> None:
        self._schedules: dict[Hashable, tuple[Passage, RowSchedule | None]] = {}
        self.strips: dict[tuple[object, ...], tuple[Strip, ...] | None] = {}

    def schedule(self, passage: Passage, order: RowOrder) -> RowSchedule | None:
        """The row schedule of ``passage``: walked once for all that are alike, because networks repeat their blocks."""
        key = passage.content, order
        if key not in self._schedules:
            self._schedules[key] = passage, schedule_rows(passage, order)
        walked, found = self._schedules[key]
        if found is None or walked is passage:
            return found
        names = dict(zip(walked.heights, passage.heights, strict=True))
        return found.moved(names, dict(zip(walked.layers, passage.layers, strict=True)))


Prices = dict[tuple[object, ...], float | str]
"""Prices of runs of layers, or the reason why there is none."""


class Planner:
    """Prices runs of one network's layers as cascades of one machine."""

    def __init__(
        self,
        spec: AccelSpec,
        graph: LayerGraph,
        bytes_per_cycle: float,
        halos: HaloMode | None,
        mappings: Mappings,
        geometry: Geometry | None = None,
        known: Prices | None = None,
    ) -> None:
        """``known``: prices of the same network's other rewritings, of the same machine and DRAM; added to."""
        self.spec, self.graph, self.bytes_per_cycle, self.halos = spec, graph, bytes_per_cycle, halos
        self._geometry = geometry or Geometry()
        self._names = hash(tuple((layer.name, layer.streamed, layer.output) for layer in graph.layers))
        self.consumers = consumers(graph)
        self._mappings = mappings
        self._by_layer: dict[tuple[int, int], Mapping] = {}
        self._prices: Prices = {}
        self._known = {} if known is None else known

    def price(self, first: int, end: int) -> float | str:
        """Price of the cheapest strip division of layers [first, end), or the reason there is none.

        Networks repeat their blocks: runs of layers that are alike in everything that decides are priced once.
        """
        key = self._cache_key(first, end)
        if key not in self._prices:
            self._prices[key] = self._priced(key, first, end)
        return self._prices[key]

    def _priced(self, key: tuple[object, ...], first: int, end: int) -> float | str:
        """The price, unless another rewriting has the very same layers: most rewritings differ in a few layers."""
        layers = tuple(layer.name for layer in self.graph.layers[first:end])
        exactly = key, layers, tuple(id(self.mapping(index)) for index in self._computed(first, end))
        if exactly not in self._known:
            found = self.best(first, end)
            self._known[exactly] = found if isinstance(found, str) else found[1].price
        return self._known[exactly]

    def _cache_key(self, first: int, end: int) -> tuple[object, ...]:
        """Layers [first, end) without their names and numbers: shapes, connections, costs of mappings."""
        graph, numbers = self.graph, dict[str, int]()

        def number(name: str) -> object:
            """A tensor by the order of its appearance; the first time with everything that matters about it."""
            if name in numbers:
                return numbers[name]
            numbers[name] = len(numbers)
            tensor = graph.tensors[name]
            leaves = name in graph.outputs or any(not first <= index < end for index in self.consumers[name])
            return tensor.height, tensor.width, tensor.channels, leaves

        def parts(index: int) -> Iterator[object]:
            layer = graph.layers[index]
            yield tuple(map(number, layer.reads))
            if isinstance(layer, Shuffle):
                yield layer.factor
            else:
                yield layer.kernel.cost_key, len(layer.sources), graph.is_slice(layer), layer.first_channel
                yield None if layer.epilogue.table is None else layer.epilogue.table.tobytes()
                yield layer.operand is None, layer.follows_order is None
                mapping = self.mapping(index)
                yield len(mapping.steps), len(mapping.fills), mapping.passes, mapping.output_words
                if graph.tensors[layer.sources[0]].channels == 1:
                    yield index  # loaded unfolded, it may be mapped otherwise
            yield number(layer.output)

        return tuple(tuple(parts(index)) for index in range(first, end))

    def best(self, first: int, end: int) -> tuple[Cascade, Cost] | str:
        """The cheapest division into strips of layers [first, end), or the reason there is none."""
        found = [self._cheapest(first, end, order, "recompute") for order in ORDERS]
        if self.halos != "recompute" and not any(not isinstance(one, str) and len(one[0].strips) == 1 for one in found):
            kept = [self._cheapest(first, end, order, "keep") for order in ORDERS]
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
        longer = self.price(cascade.first, end + 1)
        if isinstance(longer, str):
            return longer
        return f"with {self.graph.layers[end].name} it would cost more"

    def _cheapest(self, first: int, end: int, order: RowOrder, halos: HaloMode) -> tuple[Cascade, Cost] | str:
        undivided = self.as_cascade(first, end, order, halos)
        if isinstance(undivided, str):
            return undivided
        words = self.spec.bank_words
        best: tuple[Cascade, Cost] | None = None
        for cascade in self.divisions(undivided, words, words):
            cost = estimate(self.spec, self.graph, cascade, self.bytes_per_cycle)
            if best is None or cost.price < best[1].price:
                best = cascade, cost
        return best or f"the rows of {end - first} layers exceed the scratchpad, however narrow the strips"

    def candidates(self, first: int, end: int, least_words: int, most_words: int) -> Iterator[Cascade]:
        """Layers [first, end) in every way that a planner would try for some scratchpad between these sizes."""
        if self.no_longer_fits(first, end) and end - first > 1:
            return
        modes: tuple[HaloMode, ...] = ("recompute", "keep")
        for halos, order in product(modes, ORDERS):
            undivided = self.as_cascade(first, end, order, halos)
            if not isinstance(undivided, str):
                yield from self.divisions(undivided, least_words, most_words)

    def divisions(self, undivided: Undivided, least_words: int, most_words: int) -> Iterator[Cascade]:
        """``undivided`` in the numbers of strips worth trying for scratchpads of so many words a bank.

        They fit the largest; of those that fit the smallest there are ``STRIPS_TRIED``: further strips only add halo, a
        few more may divide the width more evenly.
        """
        strips, tried = 1 if undivided.halos == "keep" else 0, 0
        while strips < MAX_STRIPS and tried < STRIPS_TRIED:
            strips += 1
            cascade = self.into_strips(undivided, strips)
            if cascade is None:
                return
            if cascade.scratchpad_words > most_words:
                # Rows shrink less than strips multiply, so this many are needed at least.
                strips = max(strips, strips * cascade.scratchpad_words // most_words - 1)
                continue
            tried += cascade.scratchpad_words <= least_words
            yield cascade

    def no_longer_fits(self, first: int, end: int) -> bool:
        """Whether no longer run of layers from ``first`` can be a cascade when [first, end) is none."""
        layers = computed(self.graph.layers[first:end])
        return (
            end - first > MAX_LAYERS
            or any(self.graph.is_slice(layer) for layer in layers)
            or self._refusal(layers, alone=False) is not None
            or not fits_memories(self.spec, [self.mapping(index) for index in self._computed(first, end)])
        )

    def mapping(self, index: int, unfold: int = 0) -> Mapping:
        """The mapping of layer ``index``, whose source is loaded with ``unfold`` neighbours of a pixel as channels."""
        key = (index, unfold)
        if key not in self._by_layer:
            layer = self.graph.layers[index]
            assert isinstance(layer, Layer)
            self._by_layer[key] = layer.kernel.map(self._mappings, self.graph.source_channels(layer), unfold)
        return self._by_layer[key]

    def _computed(self, first: int, end: int) -> dict[int, Layer]:
        return {index: one for index in range(first, end) if isinstance(one := self.graph.layers[index], Layer)}

    def _refusal(self, layers: Sequence[Layer], alone: bool) -> str | None:
        """Why one of ``layers`` cannot be in a cascade with the others."""
        made = {layer.output for layer in layers}
        refusals = (layer.kernel.refuses(layer.sources, made, alone) for layer in layers)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def _mismatch(self, first: int, end: int) -> str | None:
        """Why layers [first, end) cannot be one cascade of any machine."""
        graph, inside = self.graph, self.graph.layers[first:end]
        shuffled = {layer.output for layer in inside if isinstance(layer, Shuffle)}
        if any(name in shuffled for layer in inside for name in layer.streamed):
            return "the result of a pixel shuffle is read back from memory"
        layers = computed(inside)
        if any(graph.is_slice(layer) for layer in layers) and len(inside) > 1:
            return "slices of a split layer meet in memory"
        if (refusal := self._refusal(layers, alone=len(inside) == 1)) is not None:
            return refusal
        if len({max(graph.tensors[name].height for name in part) for part in connected(inside)}) > 1:
            return "layers of different sizes share no tensor, so their row rates cannot be matched"
        return None

    def _leaving(self, first: int, end: int) -> Leaving:
        """Tensors that leave the chip: shuffled ones, and those that a later layer or the user reads as they are."""
        leaving: Leaving = []
        for layer in self.graph.layers[first:end]:
            outside = any(not first <= index < end for index in self.consumers[layer.output])
            if isinstance(layer, Shuffle):
                leaving.append((layer.source, layer.output, layer.factor))
            elif outside or layer.output in self.graph.outputs:
                leaving.append((layer.output, layer.output, 1))
        return leaving

    def as_cascade(self, first: int, end: int, order: RowOrder, halos: HaloMode) -> Undivided | str:
        """Layers [first, end) as one cascade, or the reason it is impossible however narrow its strips."""
        if (mismatch := self._mismatch(first, end)) is not None:
            return mismatch
        graph, spec = self.graph, self.spec
        layers, leaving = self._computed(first, end), self._leaving(first, end)
        made = {layer.output for layer in layers.values()}
        streamed = (name for layer in graph.layers[first:end] for name in layer.streamed)
        loads = list(dict.fromkeys(name for name in streamed if name not in made))
        stored = [source for source, _, _ in leaving]
        if len(set(stored)) != len(stored):
            return "a tensor is stored in two ways"
        if len(loads) + len(made) > spec.buffers:
            return f"more than {spec.buffers} rolling buffers"
        conversions = {name: self._conversion(name, list(layers.values()), stored) for name in loads}
        mappings = {
            index: self.mapping(index, conversions.get(layer.sources[0], Conversion()).unfold)
            for index, layer in layers.items()
        }
        tables = {layer.epilogue.table.tobytes() for layer in layers.values() if layer.epilogue.table is not None}
        if not fits_memories(spec, list(mappings.values())):
            return "the weights of more layers do not fit on chip together"
        if len(tables) > spec.tables:
            return f"more than {spec.tables} tables of activations"
        kept = kept_tensors(list(layers.values())) if halos == "keep" else []
        tails = [name for name in kept if name not in stored]
        rows = self._geometry.schedule(Passage.of(graph, list(layers), loads, stored, tails), order)
        if rows is None:
            return "readers of one tensor overtake each other for too long"
        commands = sum(rows.loads.values()) + sum(rows.layer_repeat.values()) + sum(rows.store_repeat.values())
        commands += sum(rows.layer_repeat[index] for index, layer in layers.items() if layer.output in kept)
        if 4 + commands > spec.command_slots - 2:
            return f"the loop would exceed {spec.command_slots} commands"
        return Undivided(first, end, layers, loads, leaving, halos, kept, conversions, mappings, rows)

    def into_strips(self, undivided: Undivided, strips: int) -> Cascade | None:
        """``undivided`` in ``strips`` strips, or None when the frame is too narrow for so many.

        Whether its buffers fit the scratchpad, the caller checks.
        """
        plan = self._strips(undivided, strips)
        if plan is None:
            return None
        mappings, rows = undivided.mappings, undivided.rows
        buffers = self._buffers(undivided)
        words = max(
            sum(b.rows * b.groups * words_per_row(self.spec, strip.width(b.tensor)) for b in buffers) for strip in plan
        )
        return Cascade(
            first=undivided.first,
            end=undivided.end,
            buffers=buffers,
            loads=tuple(rows.loads.items()),
            layers=tuple(self._layer_plan(index, layer, undivided) for index, layer in undivided.layers.items()),
            stores=undivided.stores(),
            kept=undivided.kept_plans(),
            iterations=rows.iterations,
            order=rows.order,
            strips=plan,
            weight_words=sum(len(m.steps) for m in mappings.values()),
            fill_words=sum(len(m.fills) for m in mappings.values()),
            parameter_words=sum(m.output_words for m in mappings.values()),
            scratchpad_words=words,
        )

    def _strips(self, undivided: Undivided, count: int) -> tuple[Strip, ...] | None:
        spec, conversions, halos = self.spec, undivided.conversions, undivided.halos
        lying = tuple((name, one.unfold, one.pad_left) for name, one in conversions.items())
        key = (self._names, undivided.first, undivided.end, count, halos, spec.pixel_lanes, spec.banks, lying)
        if key not in self._geometry.strips:
            layers = list(undivided.layers.values())
            divider = Divider(spec, self.graph, layers, undivided.leaving, conversions, halos)
            self._geometry.strips[key] = divider.strips(count)
        plan = self._geometry.strips[key]
        if plan is None or any(name not in undivided.kept for strip in plan for name in strip.halos):
            return None
        return plan

    def _buffers(self, undivided: Undivided) -> tuple[BufferPlan, ...]:
        layers, rows, conversions = undivided.layers, undivided.rows, undivided.conversions
        stored = {source for source, _, _ in undivided.leaving}
        operands = {layer.operand for layer in layers.values()}
        groups = {name: self._loaded_groups(name, undivided) for name in undivided.loads}
        groups |= {layer.output: undivided.mappings[index].output_words for index, layer in layers.items()}
        return tuple(
            BufferPlan(
                tensor=name,
                rows=rows.rows[name],
                groups=groups[name],
                loaded=name in undivided.loads,
                freed_by_store=name in stored,
                freed_by_layer=rows.freeing[name] is not None,
                operand=name in operands,
                conversion=conversions.get(name, Conversion()),
            )
            for name in groups
        )

    def _loaded_groups(self, name: str, undivided: Undivided) -> int:
        """Channel groups of a loaded tensor; of the second operand of a slice, its slice alone."""
        if undivided.conversions[name].unfold:
            return 1
        slices = [layer for layer in undivided.layers.values() if self.graph.is_slice(layer)]
        channels = self.graph.tensors[name].channels
        if slices and slices[0].operand == name and slices[0].sources[0] != name:
            channels = slices[0].channels
        return ceil_div(channels, self.spec.ci_lanes)

    def _conversion(self, name: str, layers: Sequence[Layer], stored: list[str]) -> Conversion:
        """A one-channel tensor read by one convolution is loaded with a pixel's neighbours as its channels."""
        readers = [layer for layer in layers if name in layer.sources]
        tensor = self.graph.tensors[name]
        if tensor.channels != 1 or name in stored or len(readers) != 1 or len(readers[0].sources) > 1:
            return Conversion()
        if any(layer.follows_order == name for layer in layers):
            return Conversion()
        unfold = readers[0].kernel.unfolding(self.spec)
        if not unfold or self.graph.tensors[readers[0].output].width != tensor.width:
            return Conversion()
        return Conversion(unfold=unfold, pad_left=readers[0].kernel.footprint.pad_left)

    def _layer_plan(self, index: int, layer: Layer, undivided: Undivided) -> LayerPlan:
        mapping, rows = undivided.mappings[index], undivided.rows
        output, operand = self.graph.tensors[layer.output], layer.operand
        return LayerPlan(
            layer=layer,
            mapping=mapping,
            group_cycles=layer.kernel.group_cycles(self._mappings, mapping, output, operand is not None),
            delay=rows.layer_delay[index],
            repeat=rows.layer_repeat[index],
            frees=tuple(rows.freeing[name] == Reading(index, k) for k, name in enumerate(layer.sources)),
            free_operand=operand is not None and rows.freeing[operand] == Reading(index, OPERAND),
        )
