"""Row schedules: when each command of a cascade's loop starts, and how many rows every buffer must hold.

Two orders of a loop iteration. *Relaxed*: stores first, then layers from the last to the first, then loads; each works
on rows of earlier iterations, so nothing waits for a pipeline to drain. *Eager*: the other way round, each works on the
row that has just been made; a row waits for its predecessor's last value, but rows live half as long, which residuals
and dense blocks need. A command that produces ``repeat`` rows an iteration appears ``repeat`` times; one that starts
``delay`` iterations late is skipped until then.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from codesign.compile.scanline.layers import Layer, LayerGraph
from codesign.compile.scanline.plan.plan import RowOrder
from codesign.hw.numerics import ceil_div

MOST_PUT_OFF = 64
"""Layers whose readers overtake each other for longer than this have no schedule."""

SIMULATED_ROWS = 96
"""A schedule is periodic long before this many rows, so taller frames need no more of the walk."""

SPARE_ROWS = 1
"""Rows more than needed of a tensor that is loaded or stored: its engine need not wait for the last reader."""


class Reading(NamedTuple):
    """A layer's use of a tensor: as its ``which``-th source, or (``OPERAND``) at each pixel's own place."""

    layer: int
    which: int


OPERAND = -1


def readings(index: int, layer: Layer) -> dict[Reading, str]:
    """The tensors that a layer reads row by row."""
    found = {Reading(index, which): name for which, name in enumerate(layer.sources)}
    if layer.operand is not None:
        found[Reading(index, OPERAND)] = layer.operand
    return found


@dataclass(frozen=True)
class RowSchedule:
    """Delays and repeats by name: tensors for loads and stores, indices of the graph's layers."""

    loads: dict[str, int]  # tensor -> rows per iteration
    layer_delay: dict[int, int]
    layer_repeat: dict[int, int]
    store_delay: dict[str, int]
    store_repeat: dict[str, int]
    iterations: int
    rows: dict[str, int]  # tensor -> rows of its buffer
    freeing: dict[str, Reading | None]  # tensor -> the reading that frees it
    order: RowOrder

    def moved(self, names: Mapping[str, str], layers: Mapping[int, int]) -> RowSchedule:
        """The schedule of a passage of the same :attr:`Passage.content`, its tensors and layers in place of these."""

        def reading(one: Reading | None) -> Reading | None:
            return None if one is None else Reading(layers[one.layer], one.which)

        return RowSchedule(
            loads={names[name]: count for name, count in self.loads.items()},
            layer_delay={layers[index]: count for index, count in self.layer_delay.items()},
            layer_repeat={layers[index]: count for index, count in self.layer_repeat.items()},
            store_delay={names[name]: count for name, count in self.store_delay.items()},
            store_repeat={names[name]: count for name, count in self.store_repeat.items()},
            iterations=self.iterations,
            rows={names[name]: count for name, count in self.rows.items()},
            freeing={names[name]: reading(one) for name, one in self.freeing.items()},
            order=self.order,
        )


@dataclass(frozen=True)
class Passage:
    """Layers to be scheduled together, by their indices in execution order, and the tensors that come and go."""

    layers: dict[int, Layer]
    heights: dict[str, int]  # rows of every tensor: those loaded, then those computed
    loads: Sequence[str]
    stored: Sequence[str]
    tails: Sequence[str]  # a few columns of them are stored, too few to need a spare row

    @staticmethod
    def of(
        graph: LayerGraph, indices: Sequence[int], loads: Sequence[str], stored: Sequence[str], tails: Sequence[str]
    ) -> Passage:
        layers = {index: one for index in indices if isinstance(one := graph.layers[index], Layer)}
        names = [*loads, *(layer.output for layer in layers.values())]
        return Passage(layers, {name: graph.tensors[name].height for name in names}, loads, stored, tails)

    @property
    def leaving(self) -> list[str]:
        return [*self.stored, *self.tails]

    @property
    def content(self) -> Hashable:
        """Everything that the schedule depends on, with tensors and layers by their places instead of by name."""
        number = {name: at for at, name in enumerate(self.heights)}

        def numbers(names: Sequence[str]) -> tuple[int, ...]:
            return tuple(number[name] for name in names)

        layers = tuple(
            (layer.kernel.footprint, numbers(layer.streamed), layer.operand is None, number[layer.output])
            for layer in self.layers.values()
        )
        ends = numbers(self.loads), numbers(self.stored), numbers(self.tails)
        return tuple(self.heights.values()), layers, ends


def schedule_rows(passage: Passage, order: RowOrder) -> RowSchedule | None:
    """The schedule of ``passage``, or None when readers of one tensor overtake each other for too long."""
    rate = _rates(passage)
    later = 0 if order is RowOrder.EAGER else 1
    # One reader of a tensor frees its rows for all, so one of them must lag behind all others at every moment. Where
    # two keep overtaking each other, the later one is put off by an iteration.
    put_off: dict[int, int] = {}
    for _ in range(MOST_PUT_OFF):
        start, delays = _starts(passage, rate, later, put_off)
        store_delay = {name: start[name] + later for name in passage.leaving}
        walk = _Walk(passage, rate, delays, store_delay)
        walk.run(order)
        freeing = walk.freeing()
        if isinstance(freeing, dict):
            break
        put_off[freeing] = put_off.get(freeing, 0) + 1
    else:
        return None
    heights, rows = passage.heights, walk.peaks
    finish = [start[name] + ceil_div(heights[name], rate[name]) for name in rate]
    finish += [store_delay[name] + ceil_div(heights[name], rate[name]) for name in passage.leaving]
    for name in (*passage.loads, *passage.stored):
        rows[name] += SPARE_ROWS
    return RowSchedule(
        loads={name: rate[name] for name in passage.loads},
        layer_delay=delays,
        layer_repeat={index: rate[layer.output] for index, layer in passage.layers.items()},
        store_delay=store_delay,
        store_repeat={name: rate[name] for name in passage.leaving},
        iterations=max(finish),
        rows=rows,
        freeing=freeing,
        order=order,
    )


def _rates(passage: Passage) -> dict[str, int]:
    """Rows per iteration: one of the shortest tensor; a stride doubles them upstream, a resize multiplies them
    downstream."""
    layers, heights = passage.layers, passage.heights
    rate = dict.fromkeys(heights, 1)
    before: dict[str, int] = {}
    while before != rate:
        before = dict(rate)
        for layer in reversed(layers.values()):
            footprint, own = layer.kernel.footprint, rate[layer.output]
            for name in layer.sources:
                rate[name] = max(rate[name], min(ceil_div(own * footprint.stride, footprint.enlarges), heights[name]))
            if (operand := layer.operand) is not None:
                rate[operand] = max(rate[operand], min(own, heights[operand]))
        for layer in layers.values():  # side branches follow their operands
            footprint = layer.kernel.footprint
            wanted = max(ceil_div(rate[name], footprint.stride) * footprint.enlarges for name in layer.sources)
            if layer.operand is not None:
                wanted = max(wanted, rate[layer.operand])
            rate[layer.output] = max(rate[layer.output], min(wanted, heights[layer.output]))
    return rate


def _starts(
    passage: Passage, rate: Mapping[str, int], later: int, put_off: Mapping[int, int]
) -> tuple[dict[str, int], dict[int, int]]:
    """The iteration in which each tensor gets its first row, and the delay of each layer.

    A row is there ``later`` iterations after its producer has run.
    """
    start: dict[str, int] = dict.fromkeys(passage.loads, 0)
    delays: dict[int, int] = {}
    for index, layer in passage.layers.items():
        footprint, repeat, delay = layer.kernel.footprint, rate[layer.output], 0
        ends = [(footprint.rows_for(y).stop - 1, y // repeat) for y in range(max(repeat, 8))]
        own = [(y, iteration) for y, (_, iteration) in enumerate(ends)]
        for reading, name in readings(index, layer).items():
            last = passage.heights[name] - 1
            for row, iteration in own if reading.which == OPERAND else ends:
                delay = max(delay, start[name] + later + max(0, min(row, last)) // rate[name] - iteration)
        delays[index] = start[layer.output] = delay + put_off.get(index, 0)
    return start, delays


class _Walk:
    """The loop over a frame of at most ``SIMULATED_ROWS`` rows, walked to see how many rows are alive."""

    def __init__(
        self,
        passage: Passage,
        rate: Mapping[str, int],
        delays: Mapping[int, int],
        store_delay: Mapping[str, int],
    ) -> None:
        self.passage, self.rate, self.delays, self.store_delay = passage, rate, delays, store_delay
        self.height = _shortened(passage.heights, rate)
        self.produced = dict.fromkeys(passage.heights, 0)
        self.taken = dict.fromkeys(passage.leaving, 0)
        self.reads = {index: readings(index, layer) for index, layer in passage.layers.items()}
        self.footprints = {index: layer.kernel.footprint for index, layer in passage.layers.items()}
        self.readers: dict[str, list[Reading]] = {name: [] for name in passage.heights}
        for found in self.reads.values():
            for reading, name in found.items():
                self.readers[name].append(reading)
        self.done: dict[Reading, int] = {key: 0 for keys in self.readers.values() for key in keys}
        self.shared = {name: found for name, found in self.readers.items() if len(found) > 1}
        self.sources = {index: set(found.values()) & self.shared.keys() for index, found in self.reads.items()}
        self.peaks = dict.fromkeys(passage.heights, 1)  # rows alive at once
        self.ahead: dict[str, set[Reading]] = {name: set() for name in passage.heights}  # once ahead of another

    def run(self, order: RowOrder) -> None:
        for iteration in range(self._iterations()):
            if order is RowOrder.EAGER:
                self._load()
                for index in self.passage.layers:
                    self._compute(iteration, index)
                self._store(iteration)
            else:
                self._store(iteration)
                for index in reversed(self.passage.layers):
                    self._compute(iteration, index)
                self._load()

    def freeing(self) -> dict[str, Reading | None] | int:
        """The reading that frees each tensor: one that lags behind all others. Else a layer to be put off."""
        found: dict[str, Reading | None] = {}
        for name, readers in self.readers.items():
            slow = [key for key in readers if key not in self.ahead[name]]
            if readers and not slow:
                return max(index for index, _ in readers)
            found[name] = slow[0] if slow else None
        return found

    def _iterations(self) -> int:
        height, rate = self.height, self.rate
        outputs = ((layer.output, self.delays[index]) for index, layer in self.passage.layers.items())
        return max(
            delay + ceil_div(height[name], rate[name])
            for name, delay in [*outputs, *self.store_delay.items(), *((name, 0) for name in self.passage.loads)]
        )

    def _note_row(self, name: str, row: int) -> None:
        """See how many rows of ``name`` are alive; ``row`` has just been made."""
        freed = [self.done[key] for key in self.readers[name]]
        if name in self.taken:
            freed.append(self.taken[name])
        self.peaks[name] = max(self.peaks[name], row - min(freed, default=0) + 1)

    def _compare(self, name: str) -> None:
        """See which readers of ``name``, several, are ahead of another."""
        freed = [(self.done[key], key) for key in self.shared[name]]
        floor = min(freed)[0]
        self.ahead[name].update(key for done, key in freed if done > floor)

    def _store(self, iteration: int) -> None:
        for name in self.taken:
            for _ in range(self.rate[name]):
                if iteration >= self.store_delay[name] and self.taken[name] < self.height[name]:
                    self.taken[name] += 1

    def _compute(self, iteration: int, index: int) -> None:
        output, height = self.passage.layers[index].output, self.height
        for _ in range(self.rate[output]):
            y = self.produced[output]
            if iteration < self.delays[index] or y >= height[output]:
                continue
            self.produced[output] = y + 1
            self._note_row(output, y)
            last = y + 1 == height[output]
            top = self.footprints[index].rows_for(y + 1).start
            for reading, name in self.reads[index].items():
                if reading.which == OPERAND:
                    self.done[reading] = y + 1
                else:
                    self.done[reading] = height[name] if last else min(max(top, 0), height[name])
            for name in self.sources[index]:
                self._compare(name)

    def _load(self) -> None:
        for name in self.passage.loads:
            for _ in range(self.rate[name]):
                if self.produced[name] < self.height[name]:
                    self._note_row(name, self.produced[name])
                    self.produced[name] += 1


def _shortened(heights: Mapping[str, int], rate: Mapping[str, int]) -> dict[str, int]:
    """``heights`` of at most about ``SIMULATED_ROWS`` iterations, in the exact relation of the rates."""
    scale = max(1, max(ceil_div(height, SIMULATED_ROWS * rate[name]) for name, height in heights.items()))
    if scale == 1:
        return {name: max(1, height) for name, height in heights.items()}
    base = min(height // rate[name] // scale for name, height in heights.items())
    return {name: base * rate[name] for name in heights}
