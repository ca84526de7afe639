"""One row of a WINDOW, as if no pixel moved: how many beats its windows take, and how long.

The rules are those of ``scanline_window_walker.sv`` and ``scanline_window.sv``, followed for every row of a frame and
taken on average. Elsewhere in their maps, or beyond them where nothing is fetched, the cost depends on the flow,
which no model knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from codesign.hw import numerics
from codesign.hw.isa import Command
from codesign.hw.program.tokens import Buffer
from codesign.hw.spec import AccelSpec
from codesign.hw.timing.beside import UnitRow
from codesign.hw.windows import bands

FLOW = 3  # a group's last place, or a row's multiplications, to the first place of the next group
TO_REQUEST = 2  # a place to the request of its row's first beat
ARRIVE = 1  # data of a beat to the beat in its queue
ENTER = 1  # an entry, or a place in a queue, to its use on the other side
ISSUE = 1  # a row's bytes taken to its first word interpolated
HAND = 2  # last word of a set interpolated to the requantiser's first chunk of it
DONE = 2  # last word of a row interpolated to the row's end


class Window(NamedTuple):
    """Windows, in maps that begin with a beat of the bus."""

    radius: int
    level: int
    map_height: int
    map_width: int
    height: int  # of the frame
    width: int

    @staticmethod
    def of(cmd: Command, destination: Buffer) -> Window:
        """The windows of ``cmd``, for the whole frame."""
        width = cmd["row_stride"] // (cmd["map_height"] * cmd["map_width"])
        height = destination.command["height"]
        return Window(cmd["radius"], cmd["level"], cmd["map_height"], cmd["map_width"], height, width)


class Pace(NamedTuple):
    """Cost of a pixel's window, on average."""

    beats: float
    rows: float  # that are fetched
    cycles: float


class _Fetch(NamedTuple):
    """A row of a pixel's window in one band."""

    beats: int
    words: int
    first: bool  # of its window: nothing is made of it yet
    opens: bool  # a group of pixels
    closes: bool  # a set of psums, of ``set_words``
    set_words: int


@lru_cache(maxsize=64)
def pace_of(spec: AccelSpec, window: Window, latency_cycles: int, cycles_per_beat: float = 1.0) -> Pace:
    """Beats and cycles of windows at every pixel's own place, in a memory of this latency and bandwidth."""
    beats = rows = 0
    cycles = 0.0
    for y in range(window.height):
        fetches = list(_row(spec, window, y))
        beats += sum(fetch.beats for fetch in fetches)
        rows += sum(fetch.beats > 0 for fetch in fetches)
        cycles += _followed(spec, fetches, latency_cycles, cycles_per_beat)
    pixels = window.height * window.width
    return Pace(beats / pixels, rows / pixels, cycles / pixels)


def window_row(spec: AccelSpec, radius: int, width: int, pace: Pace, start: float, drain: float) -> UnitRow:
    """A row of ``width`` pixels from cycle ``start`` on; ``drain``: when the requantiser has finished the rows before.

    Of the scratchpad it reads the flow alone.
    """
    end = max(start + width * pace.cycles, drain)
    last = bands(spec, radius)[-1].words * spec.pixel_lanes // spec.requantise_pixels
    return UnitRow(start, end, end + last - 1, numerics.ceil_div(width, spec.pixel_lanes))


def _row(spec: AccelSpec, window: Window, y: int) -> Iterator[_Fetch]:
    """Fetches of row ``y`` of the frame, in order."""
    still = np.zeros(1, np.int16)
    x, _ = numerics.window_places(np.arange(window.width), still, 0, window.level)
    down, _ = numerics.window_places(np.array([y]), still, 0, window.level)
    maps = (y * window.width + np.arange(window.width)) * (window.map_height * window.map_width)
    made, per_set = bands(spec, window.radius), spec.co_lanes // spec.ci_lanes
    side = 2 * window.radius + 1
    for group in range(0, window.width, spec.pixel_lanes):
        pixels = slice(group, min(group + spec.pixel_lanes, window.width))
        gathered = 0  # words of the set
        for number, band in enumerate(made):
            left = x[pixels] - window.radius + band.first
            first, past = np.clip(left, 0, window.map_width), np.clip(left + band.columns + 1, 0, window.map_width)
            for row in range(side + 1):
                at = int(down[0]) - window.radius + row
                start = maps[pixels] + at * window.map_width
                beats = (start + past - 1) // spec.bus_bytes - (start + first) // spec.bus_bytes + 1
                beats = np.where((first < past) & (0 <= at < window.map_height), beats, 0).tolist()
                gathered += band.words if row else 0
                ends = row > 0 and (gathered == per_set or (row == side and number == len(made) - 1))
                for index, count in enumerate(beats):
                    opens = index == row == number == 0
                    closes = ends and index == len(beats) - 1
                    yield _Fetch(count, band.words, row == 0, opens, closes, gathered)
                gathered = 0 if ends else gathered


def _followed(spec: AccelSpec, fetches: list[_Fetch], latency_cycles: int, cycles_per_beat: float) -> float:
    """Cycles of a row of the frame that fetches these, from its start to its end."""
    depth, chunks = spec.window_beats, spec.pixel_lanes // spec.requantise_pixels
    taken = [0.0] * depth  # when the lanes took the last entries, and the last beats
    popped = [0.0] * depth
    entries = beats = 0
    placed = asked = arrived = lanes = released = 0.0
    for fetch in fetches:
        placed += FLOW if fetch.opens else 0
        pushed = max(placed + TO_REQUEST, taken[entries % depth] + ENTER)
        there: list[float] = []
        for number in range(beats, beats + fetch.beats):
            asked = max(asked + 1, pushed, popped[number % depth] + ENTER)
            arrived = max(asked + latency_cycles, arrived + cycles_per_beat)
            there.append(arrived + ARRIVE)
            pushed = asked
        placed = max(placed + 1, pushed - TO_REQUEST + 1)
        # The bytes of a row are taken when those of the one before have all been interpolated.
        now = max(pushed + ENTER, taken[(entries - 1) % depth] + 1)
        for number, time in enumerate(there, start=beats):
            now = max(now, time)
            if number == beats + fetch.beats - 1:
                now = max(now, lanes)
            popped[number % depth] = now
            now += 1 if number < beats + fetch.beats - 1 else 0
        now = max(now, lanes)
        taken[entries % depth] = now
        entries, beats = entries + 1, beats + fetch.beats
        begin = now + ISSUE if fetch.first else max(now + ISSUE, released)
        lanes = begin + fetch.words - 1
        if fetch.closes:
            released = lanes + HAND + chunks * fetch.set_words
    return lanes + DONE
