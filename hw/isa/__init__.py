"""The command set: 64-byte commands, described once.

A command's least significant byte is its opcode; the fields follow from bit 8 upward in the order of its table. All
memory addresses are byte offsets into the program's memory window. Rows are counted from the top of the frame (or
strip); a rolling buffer keeps row ``y`` in slot ``y mod rows``, and the machine itself counts rows: LOAD and CONV
always produce the *next* row of their buffer, STORE always takes the next row it has not stored. So a command in a
loop needs no address arithmetic: its operands step by one row per execution and wrap around by themselves.

Tokens: every buffer counts rows finished and rows freed. A reader waits for the rows it needs, a writer for a free
slot. A program whose commands, run strictly one after another, never have to wait cannot deadlock on the
decoupled engines; ``Program.verify`` checks exactly that.
"""

from codesign.hw.isa.encoding import (
    Command,
    command,
    decode,
    encode,
)
from codesign.hw.isa.fields import (
    BUFFER_FIELDS,
    COMPUTE,
    CONV_PAYLOAD,
    EPILOGUE_FIELDS,
    FIELDS,
    LOAD_FIELDS,
    LOADW_FIELDS,
    LOOP_FIELDS,
    MAX_LEVEL,
    MAX_LOOP_DEPTH,
    MAX_MAP_BYTES,
    MERGE_FIELDS,
    MORE_SOURCES,
    OPERAND_FIELDS,
    PAYLOADS,
    RESIZE_PAYLOAD,
    RESIZE_ROWS,
    ROW_FIELDS,
    ROW_HEAD,
    ROW_PARTS,
    ROWS,
    SOURCE_FIELDS,
    STORE_FIELDS,
    WARP_PAYLOAD,
    WINDOW_PAYLOAD,
    ErrorCause,
    Field,
    Opcode,
    Plane,
    WeightKind,
)
from codesign.hw.isa.records import (
    FILL_FIELDS,
    NORM_BYTES,
    NORM_FIELDS,
    Fill,
    Selector,
    Step,
    decode_fill,
    decode_norm,
    decode_step,
    encode_fill,
    encode_norm,
    encode_step,
)
from codesign.hw.isa.registers import (
    COUNTER_NAMES,
    COUNTERS_BASE,
    REGISTERS,
    counter_address,
)

__all__ = [
    "BUFFER_FIELDS",
    "COMPUTE",
    "CONV_PAYLOAD",
    "COUNTERS_BASE",
    "COUNTER_NAMES",
    "EPILOGUE_FIELDS",
    "FIELDS",
    "FILL_FIELDS",
    "LOADW_FIELDS",
    "LOAD_FIELDS",
    "LOOP_FIELDS",
    "MAX_LEVEL",
    "MAX_LOOP_DEPTH",
    "MAX_MAP_BYTES",
    "MERGE_FIELDS",
    "MORE_SOURCES",
    "NORM_BYTES",
    "NORM_FIELDS",
    "OPERAND_FIELDS",
    "PAYLOADS",
    "REGISTERS",
    "RESIZE_PAYLOAD",
    "RESIZE_ROWS",
    "ROWS",
    "ROW_FIELDS",
    "ROW_HEAD",
    "ROW_PARTS",
    "SOURCE_FIELDS",
    "STORE_FIELDS",
    "WARP_PAYLOAD",
    "WINDOW_PAYLOAD",
    "Command",
    "ErrorCause",
    "Field",
    "Fill",
    "Opcode",
    "Plane",
    "Selector",
    "Step",
    "WeightKind",
    "command",
    "counter_address",
    "decode",
    "decode_fill",
    "decode_norm",
    "decode_step",
    "encode",
    "encode_fill",
    "encode_norm",
    "encode_step",
]
