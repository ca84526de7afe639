"""Row schedules: when each command of a cascade's loop starts, and how many rows every buffer must hold.

Two orders of a loop iteration. *Relaxed*: stores first, then convolutions from the last to the first, then loads; each
works on rows of earlier iterations, so nothing waits for a pipeline to drain. *Eager*: the other way round, each works
on the row that has just been made; a row waits for its predecessor's last value, but rows live half as long, which is
what residuals and dense blocks need. An operator that produces ``repeat`` rows an iteration appears ``repeat`` times;
one that starts ``delay`` iterations late is skipped until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from codesign.compile.scanline.layers import Conv, LayerGraph, sources

MOST_PUT_OFF = 64
"""Layers whose readers overtake each other for longer than this have no schedule."""

SIMULATED_ROWS = 96
"""A schedule is periodic long before this many rows, so taller frames need no more of the walk."""


class Reading(NamedTuple):
    """A layer's use of a tensor: as its ``which``-th source, or (``OPERAND``) as its second operand."""

    layer: int
    which: int


OPERAND = -1


def readings(index: int, layer: Conv) -> dict[Reading, str]:
    """The tensors that a layer reads."""
    found = {Reading(index, which): name for which, name in enumerate(layer.convolved)}
    if layer.add is not None:
        found[Reading(index, OPERAND)] = layer.add.other
    return found


@dataclass(frozen=True)
class RowSchedule:
    """Delays and repeats by name: tensors for loads and stores, layer indices for convolutions."""

    loads: dict[str, int]  # tensor -> rows per iteration
    conv_delay: dict[int, int]
    conv_repeat: dict[int, int]
    store_delay: dict[str, int]
    store_repeat: dict[str, int]
    iterations: int
    rows: dict[str, int]  # tensor -> rows of its buffer
    freeing: dict[str, Reading | None]  # tensor -> the reading that frees it
    eager: bool


def kernel_rows(layer: Conv) -> int:
    return int(layer.weights.shape[0])


def schedule_rows(
    graph: LayerGraph, convs: list[int], loads: list[str], stored: list[str], tails: Sequence[str] = (), *,
    spare_rows: int, eager: bool = False,
) -> RowSchedule | None:  # fmt: skip
    """Schedule the layers ``convs`` (indices in execution order); ``loads`` come from and ``stored`` go to memory.

    So do a few columns of ``tails``: too little to need a spare row for the store engine to catch up with.
    """
    leaving = [*stored, *tails]
    layers: dict[int, Conv] = {index: layer for index in convs if isinstance(layer := graph.layers[index], Conv)}

    # Rows per iteration: one for the shortest tensor; a stride doubles it upstream, a resize multiplies it downstream.
    rate: dict[str, int] = dict.fromkeys([*loads, *(layers[index].output for index in convs)], 1)
    settled: dict[str, int] = {}
    while settled != rate:
        settled = dict(rate)
        for index in reversed(convs):
            layer = layers[index]
            for name in sources(layer):
                wanted = rate[layer.output]
                if name in layer.convolved:
                    wanted = -(-wanted * layer.stride // layer.enlarges)
                rate[name] = max(rate[name], min(wanted, graph.tensors[name].height))
        for index in convs:  # side branches follow their operands
            layer = layers[index]
            wanted = max(-(-rate[name] // layer.stride) * layer.enlarges for name in layer.convolved)
            if layer.add is not None:
                wanted = max(wanted, rate[layer.add.other])
            rate[layer.output] = max(rate[layer.output], min(wanted, graph.tensors[layer.output].height))

    # A row is there once its producer has run: in an earlier iteration, or eagerly in this one.
    later = 0 if eager else 1
    start: dict[str, int] = dict.fromkeys(loads, 0)
    delays: dict[int, int] = {}

    def earliest(source: str, last_row: Callable[[int], int], repeat: int) -> int:
        height = graph.tensors[source].height
        return max(
            start[source] + later + max(0, min(last_row(y), height - 1)) // rate[source] - y // repeat
            for y in range(max(repeat, 8))
        )

    # One consumer of a tensor frees its rows for all, so one of them must lag behind all others at every moment. Where
    # two keep overtaking each other, the later one is put off by an iteration.
    put_off: dict[int, int] = {}
    for _ in range(MOST_PUT_OFF):
        for index in convs:
            layer = layers[index]
            repeat = rate[layer.output]

            def bottom(y: int, layer: Conv = layer) -> int:
                return layer.needs_from(y) - layer.pad_top + kernel_rows(layer) - 1

            delay = max(earliest(name, bottom, repeat) for name in layer.convolved)
            if layer.add is not None:
                delay = max(delay, earliest(layer.add.other, lambda y: y, repeat))
            delays[index] = max(delay, 0) + put_off.get(index, 0)
            start[layer.output] = delays[index]
        store_delay = {name: start[name] + later for name in leaving}
        rows, freeing, contested = _buffer_rows(graph, layers, convs, loads, leaving, rate, delays, store_delay, eager)
        if contested is None:
            break
        put_off[contested] = put_off.get(contested, 0) + 1
    else:
        return None
    heights = {name: graph.tensors[name].height for name in rate}
    finish = [start[name] + -(-heights[name] // rate[name]) for name in rate if name in start]
    finish += [store_delay[name] + -(-heights[name] // rate[name]) for name in leaving]

    for name in (*loads, *stored):
        rows[name] += spare_rows
    return RowSchedule(
        loads={name: rate[name] for name in loads},
        conv_delay=delays,
        conv_repeat={index: rate[layers[index].output] for index in convs},
        store_delay=store_delay,
        store_repeat={name: rate[name] for name in leaving},
        iterations=max(finish),
        rows=rows,
        freeing=freeing,
        eager=eager,
    )


def _buffer_rows(
    graph: LayerGraph, layers: dict[int, Conv], convs: list[int], loads: list[str], stored: list[str],
    rate: dict[str, int], delays: dict[int, int], store_delay: dict[str, int], eager: bool,
) -> tuple[dict[str, int], dict[str, Reading | None], int | None]:  # fmt: skip
    """Walk the loop over a frame of at most ``SIMULATED_ROWS`` rows and watch how many rows are alive.

    Returns rows and freeing consumer of every tensor, and a layer to put off when a tensor has no such consumer.
    """
    names = [*loads, *(layers[index].output for index in convs)]
    scale = max(1, max(-(-graph.tensors[name].height // (SIMULATED_ROWS * rate[name])) for name in names))
    height = {name: max(1, graph.tensors[name].height // scale) for name in names}
    if scale > 1:  # keep the rates' relation exact on the shortened frame
        base = min(graph.tensors[name].height // rate[name] // scale for name in names)
        height = {name: base * rate[name] for name in names}

    produced = dict.fromkeys(names, 0)
    taken = dict.fromkeys(stored, 0)
    reads = {index: readings(index, layers[index]) for index in convs}
    reader: dict[str, list[Reading]] = {name: [] for name in names}
    for index in convs:
        for reading, name in reads[index].items():
            reader[name].append(reading)
    done: dict[Reading, int] = {key: 0 for keys in reader.values() for key in keys}

    # The consumer that lags most frees for all: the one whose first needed row is never above another's.
    peaks = dict.fromkeys(names, 1)
    ahead: dict[str, set[Reading]] = {name: set() for name in names}  # those that were ahead of another once

    def note(name: str, row: int | None) -> None:
        freed = [done[key] for key in reader[name]]
        if len(freed) > 1:
            floor = min(freed)
            for key, value in zip(reader[name], freed, strict=True):
                if value > floor:
                    ahead[name].add(key)
        if row is not None:
            if name in taken:
                freed.append(taken[name])
            peaks[name] = max(peaks[name], row - min(freed, default=0) + 1)

    iterations = max(
        [delays[i] + -(-height[layers[i].output] // rate[layers[i].output]) for i in convs]
        + [store_delay[n] + -(-height[n] // rate[n]) for n in stored]
        + [-(-height[n] // rate[n]) for n in loads]
    )

    def run_stores(t: int) -> None:
        for name in stored:
            for _ in range(rate[name]):
                if t >= store_delay[name] and taken[name] < height[name]:
                    taken[name] += 1
                    note(name, None)

    def run_conv(t: int, index: int) -> None:
        layer = layers[index]
        for _ in range(rate[layer.output]):
            y = produced[layer.output]
            if t < delays[index] or y >= height[layer.output]:
                continue
            produced[layer.output] = y + 1
            note(layer.output, y)
            last = y + 1 == height[layer.output]
            top = layer.needs_from(y + 1) - layer.pad_top
            for reading, name in reads[index].items():
                if reading.which == OPERAND:
                    done[reading] = y + 1
                else:
                    done[reading] = height[name] if last else min(max(top, 0), height[name])
            for name in set(reads[index].values()):
                note(name, None)

    def run_loads() -> None:
        for name in loads:
            for _ in range(rate[name]):
                if produced[name] < height[name]:
                    note(name, produced[name])
                    produced[name] += 1

    for t in range(iterations):
        if eager:
            run_loads()
            for index in convs:
                run_conv(t, index)
            run_stores(t)
        else:
            run_stores(t)
            for index in reversed(convs):
                run_conv(t, index)
            run_loads()
    freeing: dict[str, Reading | None] = {}
    for name in names:
        slow = [key for key in reader[name] if key not in ahead[name]]
        if reader[name] and not slow:
            return peaks, freeing, max(index for index, _ in reader[name])
        freeing[name] = slow[0] if slow else None
    return peaks, freeing, None
