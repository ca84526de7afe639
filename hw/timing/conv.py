"""Timing on the array and words read, common to the rows of a convolution."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.hw.isa import Command, WeightKind, decode_fill, decode_step
from codesign.hw.numerics import ceil_div
from codesign.hw.program.program import Program
from codesign.hw.program.tokens import Buffer, Tokens
from codesign.hw.spec import FILL_BYTES, STEP_BYTES
from codesign.hw.timing.row import RowCommand, Rows


@dataclass(frozen=True)
class ConvShape:
    """Timing and reads common to the rows of one CONV command."""

    rows: Rows
    words_by_row: tuple[int, ...]  # scratchpad words read per kernel row, all pixel groups
    add_words: int


@dataclass
class ConvShapes:
    """The shapes of a program's convolutions, by the steps and fills that LOADWs have brought."""

    program: Program
    tokens: Tokens
    steps: NDArray[np.uint64] = field(init=False)
    fills: NDArray[np.uint32] = field(init=False)
    shapes: dict[int, ConvShape] = field(default_factory=dict)
    rows: dict[tuple[RowCommand, int], Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = self.program.spec
        self.steps = np.zeros(spec.weight_words, np.uint64)
        self.fills = np.zeros(spec.fill_words, np.uint32)

    def forget(self) -> None:
        """Buffers have changed."""
        self.shapes.clear()

    def load(self, cmd: Command) -> None:
        """A LOADW."""
        offset = cmd["address"] - self.program.blob_offset
        kind, first, count = WeightKind(cmd["kind"]), cmd["destination"], cmd["elements"]
        if kind is WeightKind.STEPS:
            data = self.program.blob[offset : offset + count * STEP_BYTES]
            self.steps[first : first + count] = np.frombuffer(data, "<u8")
        elif kind is WeightKind.FILLS:
            data = self.program.blob[offset : offset + count * FILL_BYTES]
            self.fills[first : first + count] = np.frombuffer(data, "<u4")
        self.forget()

    def shape(self, cmd: Command, destination: Buffer) -> ConvShape:
        """The shape of a CONV's rows, with the weights that are loaded now."""
        key = id(cmd)  # the program's own; forgotten when weights or buffers change
        if key not in self.shapes:
            self.shapes[key] = self._new_shape(cmd, destination)
        return self.shapes[key]

    def _new_shape(self, cmd: Command, destination: Buffer) -> ConvShape:
        spec = self.program.spec
        groups = ceil_div(destination.computed_width, spec.pixel_lanes)
        fills = cmd["fills_count"] * cmd["fills_repeat"]
        x = cmd["x_offset"] + np.arange(groups) * spec.pixel_lanes * cmd["x_stride"]
        reach = 2 * spec.pixel_lanes if cmd["x_stride"] == 2 else spec.segment_pixels
        words = [0] * cmd["kernel_rows"]
        for index in range(cmd["fills_count"]):
            fill = decode_fill(int(self.fills[cmd["fills_base"] + index]))
            source = cmd[f"source_{fill.source}"] if fill.source else cmd["source"]
            delta = cmd[f"x_delta_{fill.source}"] if fill.source else 0
            width = self.tokens.buffer(source).width
            starts = x + fill.column + delta
            starts = np.minimum(starts, width - 1) if cmd["edge"] else starts
            words[fill.row] += cmd["fills_repeat"] * _pixels(starts, reach, width)
        add_words = 0
        if cmd["add_enable"]:
            other = self.tokens.buffer(cmd["add_buffer"])
            starts = cmd["add_x_offset"] + np.arange(groups) * spec.pixel_lanes
            add_words = cmd["words"] * _pixels(starts, spec.pixel_lanes, other.width)
        return ConvShape(
            rows=self._rows(cmd, fills, groups),
            words_by_row=tuple(words),
            add_words=add_words,
        )

    def _rows(self, cmd: Command, fills: int, groups: int) -> Rows:
        """Networks repeat their blocks, so rows with the same steps come again and again."""
        spec = self.program.spec
        words = self.steps[cmd["steps_base"] : cmd["steps_base"] + cmd["steps_count"]]
        steps = tuple(decode_step(int(word), spec) for word in words)
        words_per_set = max(1, (spec.co_lanes >> cmd["lane_groups_log2"]) // spec.ci_lanes)
        command = RowCommand(steps, fills, cmd["words"], words_per_set, bool(cmd["add_enable"]))
        return self.rows.setdefault((command, groups), Rows(spec, command, groups))


def _pixels(starts: NDArray[np.int64], count: int, width: int) -> int:
    """Pixels of a row of ``width`` in the spans of ``count`` from ``starts``."""
    return int(np.sum(np.maximum(np.minimum(starts + count, width) - np.maximum(starts, 0), 0)))
