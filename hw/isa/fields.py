"""Opcodes and the fields of their commands; ``rtl_package.py`` renders the same tables to SystemVerilog."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Opcode(IntEnum):
    """Opcodes; a machine without a sampler stops at RESIZE and WARP as illegal, so do others at the last three."""

    BUFFER = 1
    LOOP = 2
    END = 3
    LOADW = 4
    LOAD = 5
    CONV = 6
    STORE = 7
    SYNC = 8
    HALT = 15
    RESIZE = 18
    WARP = 19
    CORR = 20
    WINDOW = 21
    LAYER_NORM = 22


class WeightKind(IntEnum):
    """Which memory a LOADW fills."""

    WEIGHTS = 0
    STEPS = 1
    FILLS = 2
    PARAMETERS = 3
    TABLE = 4
    NORM = 5  # parameters, computed from statistics and records of NORM_FIELDS; illegal where there are none


class Plane(IntEnum):
    """The part of a channel's requantised value that is kept: bits 6 and 7 of its shift word."""

    WHOLE = 0  # clamped to 8 bits
    HIGH = 1  # clamped to 16 bits, the first of numerics.byte_planes
    LOW = 2


class ErrorCause(IntEnum):
    """Why the machine stopped."""

    NONE = 0
    ILLEGAL_COMMAND = 1
    BUS_READ = 2
    BUS_WRITE = 3
    READ_WINDOW = 4
    WRITE_WINDOW = 5
    LOOP_NESTING = 6


class Field(NamedTuple):
    """One field of a command: its name, its width in bits, whether it is two's complement."""

    name: str
    bits: int
    signed: bool = False


BUFFER_FIELDS = (
    Field("id", 6),
    Field("base", 16),  # first word of slot 0, in every bank
    Field("rows", 16),  # slots
    Field("row_pitch", 16),  # words from slot to slot
    Field("group_pitch", 16),  # words from channel group to channel group within a slot
    Field("groups", 12),  # channel groups of ci_lanes
    Field("width", 16),  # pixels
    Field("height", 16),  # rows of the frame that will pass through
    Field("zero_point", 8, True),  # what lies beyond the frame reads as
    Field("loaded", 1),  # filled by LOAD (else by CONV)
    Field("halo", 8),  # of a row that CONV fills: words per group, and bank, before its first pixel; LOAD fills them
    Field("operand", 1),  # some CONV adds its rows: no LOAD may overwrite them before that
    Field("freed_by_store", 1),  # rows are freed by STORE (else, or also, by CONV)
    Field("freed_by_conv", 1),
)

MORE_SOURCES = 4
"""Buffers that a convolution reads besides its first, at most: concatenations are never copied."""

LOOP_FIELDS = (Field("count", 24),)

LOADW_FIELDS = (
    Field("kind", 3),
    Field("table", 4),  # which look-up table, for kind TABLE
    Field("destination", 16),  # first word
    Field("elements", 24),  # beats for weights, else 8-byte, 4-byte or 1-byte elements
    Field("address", 32),  # aligned to the bus
    Field("bytes", 24),  # multiple of the bus width
    Field("gap", 16),  # words left out after every word, for kind WEIGHTS
)

LOAD_FIELDS = (
    Field("buffer", 6),
    Field("delay", 16),
    Field("address", 32),  # of the first pixel of row 0
    Field("row_stride", 32),  # bytes
    Field("pixel_bytes", 16),  # channels taken per pixel
    Field("pixel_pitch", 16),  # bytes from pixel to pixel; less than pixel_bytes makes overlapping windows
    Field("skip", 8, True),  # bytes from the row's first byte to the first pixel; outside the row reads as zero point
    Field("row_bytes", 32),  # bytes of the row that exist
    Field("group", 12),  # first channel group written
    Field("x_first", 16),  # first pixel written
    Field("x_count", 16),
)

SOURCE_FIELDS = (
    Field("source", 6),
    *(Field(f"source_{k}", 6) for k in range(1, MORE_SOURCES + 1)),
    Field("more_sources", 3),  # further sources, of the same height and zero point, for the fills that name them
    *(Field(f"x_delta_{k}", 8, True) for k in range(1, MORE_SOURCES + 1)),  # added to x_offset
    Field("free_source", 1),
    *(Field(f"free_{k}", 1) for k in range(1, MORE_SOURCES + 1)),
    Field("kernel_rows", 6),  # rows of a source that must be there
    Field("pad_rows", 7, True),  # rows of padding above
    Field("x_offset", 16, True),  # source column of the first pixel, or of tap 0 for it
)

EPILOGUE_FIELDS = (
    Field("qmin", 8, True),
    Field("qmax", 8, True),
    Field("zero_point", 8, True),  # of the requantised value
    Field("table_enable", 1),
    Field("table", 4),
)

OPERAND_FIELDS = (
    Field("add_enable", 1),  # a second operand: another buffer's row, added to the value or multiplied with it
    Field("add_buffer", 6),
    Field("add_broadcast", 1),  # every channel adds channel add_channel of group 0
    Field("add_channel", 4),
    Field("add_x_offset", 16, True),
    Field("add_free", 1),
)

MERGE_FIELDS = (
    Field("add_product", 1),  # the two are multiplied; add_multiplier is ignored
    Field("add_value_zero_point", 8, True),  # of the value behind its table
    Field("add_multiplier", 32, True),
    Field("add_other_multiplier", 32, True),
    Field("add_shift", 6),
    Field("add_zero_point", 8, True),  # of the result
    Field("add_qmin", 8, True),
    Field("add_qmax", 8, True),
)

ROW_PARTS: dict[str, tuple[Field, ...]] = {
    "sources": SOURCE_FIELDS,
    "epilogue": EPILOGUE_FIELDS,
    "operand": OPERAND_FIELDS,
    "merge": MERGE_FIELDS,
}
"""Parts of a computed row's command: structs of their own in the RTL."""

ROW_HEAD = (
    Field("destination", 6),
    Field("delay", 16),
    Field("weights_needed", 16),  # LOADWs since the last SYNC that must have finished
    Field("words", 12),  # output channel groups written per pixel
    Field("group", 12),  # first output channel group in the destination
    Field("parameters_base", 16),
)

ROW_FIELDS = (*ROW_HEAD, *(field for part in ROW_PARTS.values() for field in part))
"""The fields of every computed row: its destination and time, its sources, its epilogue and its second operand."""

CONV_PAYLOAD = (
    Field("steps_base", 16),
    Field("steps_count", 16),  # per pixel group, over all channel groups
    Field("fills_base", 16),
    Field("fills_count", 12),
    Field("fills_repeat", 12),  # passes through the fill list per pixel group
    Field("stride_rows", 3),
    Field("x_stride", 2),  # 1 or 2
    Field("edge", 1),  # beyond the frame reads as the nearest pixel, not as the zero point
    Field("lane_groups_log2", 2),
)
"""A row that the array computes, of a CONV or a CORR.

The weights of a CORR are pixels: those of the oldest slot, pixel by pixel and channel by channel. Its weight memory
says which products are taken: bit 0 of a weight lets its lanes multiply, another leaves them out. A step of a CORR may
not carry.
"""

WARP_PAYLOAD = (
    Field("x_first", 16),  # the frame's column that the source's first pixel is
    Field("frame_width", 16),
    Field("pixel_pitch", 16),  # bytes from pixel to pixel of the frame in memory
    Field("channels", 12),
    Field("fraction_bits", 4),  # of the flow
    Field("edge", 1),  # beyond the frame reads as the nearest pixel, not as the zero point
    Field("address", 32),  # of the frame's first pixel
    Field("row_stride", 32),
)
"""A sampled row: pixel ``x`` is the source at ``x`` plus the second operand's flow, in bilinear weights.

The flow's words hold, of 16-bit numbers, the high bytes right and down and then the low bytes
(``numerics.byte_planes``); ``fraction_bits`` (at most 8) of them are fractions of a pixel. The source's rows are those
on chip; other rows, and columns that the buffer has not, are read from memory, where the source lies whole. The psum is
the sample in units of 2^-16, requantised as any other.
"""

RESIZE_PAYLOAD = (
    Field("x_first", 16),  # the frame's column that the source's first pixel is
    Field("frame_width", 16),
    Field("enlarge_log2", 3),
    Field("flow", 1),  # the source is of 16 bits, as a WARP's flow is
    Field("step_x", 32),  # numerics.corner_step
    Field("step_y", 32),
)
"""A sampled row: pixel ``(x, y)`` is the source at ``(x step_x, y step_y)``, in bilinear weights.

It has ``1 << enlarge_log2`` times the source's rows and columns, so the first row that its row ``y`` may need is ``(y
>> enlarge_log2) - pad_rows``; all are on chip. Column 0 of the destination is the frame's ``(x_first << enlarge_log2) +
x_offset``. Beyond the frame reads as the nearest pixel. The psum is the sample in units of 2^-16; with ``flow`` the
four channels of the source are the byte planes of two numbers, whose samples are the psums of channels 0 and 1, and of
2 and 3 again.
"""

RESIZE_ROWS = 3
"""Rows that a resized row may need: its own among the source's and both neighbours."""

WINDOW_PAYLOAD = (
    Field("x_first", 16),  # the frame's column that the first computed pixel is
    Field("map_width", 16),  # pixels of a map
    Field("map_height", 16),
    Field("map_zero_point", 8, True),
    Field("radius", 4),
    Field("level", 4),
    Field("fraction_bits", 4),  # of the flow
    Field("address", 32),  # of the map of column x_first in the frame's row 0
    Field("row_stride", 32),
)
"""A row of windows: pixel ``x`` is a window of a map of its own around its place plus its flow.

The source is the flow, as WARP's second operand is one; it has one row for each of the destination's. The maps lie in
memory, a byte for every pixel of theirs, row by row, one map behind the other in the order of the frame's columns. A
map is ``2**level`` times smaller than the frame: the middle of the window is ``numerics.window_places``. A psum is a
bilinear sample in units of 2^-16, of ``map_zero_point`` beyond the map; ``windows.window_channels`` says which
channel is which of the ``2 radius + 1`` rows and columns.
"""

MAX_LEVEL, MAX_MAP_BYTES = 7, 65535

LAYER_NORM_PAYLOAD = (
    Field("norm_channels", 13),  # of the source; the last word's others do not count
    Field("norm_doublings", 4),  # of the sums, numerics.layer_norm's
    Field("norm_reciprocal", 24),
    Field("norm_epsilon", 39),
)
"""A row whose pixels are normalised: of every pixel all channels of the source, which has no padding.

The source has one row for each of the destination's. A psum is ``numerics.layer_norm.layer_norm_psums``.
"""

PAYLOADS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.CONV: CONV_PAYLOAD,
    Opcode.CORR: CONV_PAYLOAD,
    Opcode.WARP: WARP_PAYLOAD,
    Opcode.RESIZE: RESIZE_PAYLOAD,
    Opcode.WINDOW: WINDOW_PAYLOAD,
    Opcode.LAYER_NORM: LAYER_NORM_PAYLOAD,
}
"""The fields behind ``ROW_FIELDS`` of each command that computes rows."""

STORE_FIELDS = (
    Field("buffer", 6),
    Field("delay", 16),
    Field("address", 32),  # of the first pixel of row 0
    Field("row_stride", 32),  # bytes from buffer row to buffer row
    Field("sub_rows", 8),  # runs per buffer row: output rows of a pixel shuffle, or planes of channels
    Field("sub_stride", 32),  # bytes from sub-row to sub-row
    Field("pixel_bytes", 16),  # channels per buffer pixel and sub-row
    Field("pixel_pitch", 16),  # bytes from one buffer pixel's channels to the next one's
    Field("channel", 16),  # first channel of sub-row 0
    Field("channel_step", 16),  # channels from sub-row to sub-row
    Field("x_first", 16),
    Field("x_count", 16),
    Field("statistics", 1),  # sums of the channels stored, and of their squares, are added to the statistics
    Field("statistics_begin", 1),  # the buffer's first row begins them anew
    Field("statistics_base", 8),  # word of the first channel group
)

COMPUTE = frozenset(PAYLOADS)

ROWS = frozenset({Opcode.LOAD, *COMPUTE, Opcode.STORE})
"""Commands that work on a row: they may start late in a loop."""

FIELDS: dict[Opcode, tuple[Field, ...]] = {
    Opcode.BUFFER: BUFFER_FIELDS,
    Opcode.LOOP: LOOP_FIELDS,
    Opcode.END: (),
    Opcode.LOADW: LOADW_FIELDS,
    Opcode.LOAD: LOAD_FIELDS,
    **{opcode: (*ROW_FIELDS, *payload) for opcode, payload in PAYLOADS.items()},
    Opcode.STORE: STORE_FIELDS,
    Opcode.SYNC: (),
    Opcode.HALT: (),
}

MAX_LOOP_DEPTH = 4
