"""Renders the SystemVerilog package of a spec: every width, opcode, command layout and register offset."""

from __future__ import annotations

import re
from collections.abc import Iterator

from codesign.hw import isa
from codesign.hw.commands import COMPUTED
from codesign.hw.counters import STALL_CAUSES
from codesign.hw.normalise import SQUARES_BITS, TOTAL_BITS
from codesign.hw.spec import COMMAND_BYTES, TABLE_BYTES, AccelSpec, Unit


def _bits(values: int) -> int:
    """Bits that count 0..values-1 (at least one)."""
    return max(1, (values - 1).bit_length())


def _struct(name: str, fields: tuple[isa.Field, ...], *, strip: str = "", bits: int = 0) -> list[str]:
    """A packed struct, most significant member first, padded to ``bits``.

    ``strip`` is left out of the members' names; fields ``x``, ``x_1``, ``x_2`` are one array ``x``.
    """
    members: list[str] = []
    for base, run in _runs(fields):
        field, first = run[0], 0 if run[0].name == base else 1
        sign = "signed " if field.signed else ""
        array = f"[{first + len(run) - 1}:{first}]" if len(run) > 1 else ""
        span = f"[{field.bits - 1}:0]" if field.bits > 1 else ""
        gap = " " if array or span else ""
        members.append(f"    logic {sign}{array}{span}{gap}{_member(base.removeprefix(strip))};")
    padding = bits - sum(field.bits for field in fields)
    if padding > 0:
        members.append(f"    logic [{padding - 1}:0] padding;")
    return ["", "  typedef struct packed {", *reversed(members), f"  }} {name};"]


def _runs(fields: tuple[isa.Field, ...]) -> list[tuple[str, list[isa.Field]]]:
    """Fields that follow each other and differ by a number at the end of their names alone."""
    runs: list[tuple[str, list[isa.Field]]] = []
    for field in fields:
        base = re.sub(r"_[0-9]+$", "", field.name)
        if runs and runs[-1][0] == base:
            runs[-1][1].append(field)
        else:
            runs.append((base, [field]))
    return runs


def _row_structs() -> list[str]:
    """The command of a computed row: what all have in common, and by what it computes a payload of its own."""
    lines: list[str] = []
    for part, fields in isa.ROW_PARTS.items():
        lines += _struct(f"{part}_t", fields, strip="add_")
    head = _struct("row_cmd_t", isa.ROW_HEAD)
    lines += [*head[:2], *(f"    {part}_t {part};" for part in reversed(isa.ROW_PARTS)), *head[2:]]
    kinds = [op for op in isa.PAYLOADS if op is not isa.Opcode.CORR]  # a CORR's payload is a CONV's
    widest = max(sum(field.bits for field in isa.PAYLOADS[op]) for op in kinds)
    for op in kinds:
        lines += _struct(f"{op.name.lower()}_payload_t", isa.PAYLOADS[op], bits=widest)
    lines += ["", "  typedef union packed {"]
    lines += [f"    {op.name.lower()}_payload_t {op.name.lower()};" for op in kinds]
    lines += ["  } payload_t;", "", "  typedef enum logic [2:0] {"]
    lines.append(",\n".join(f"    Compute{_camel(op.name)}" for op in isa.PAYLOADS))
    lines += ["  } compute_e;", "", "  typedef struct packed {", "    compute_e compute;", "    payload_t payload;"]
    return [*lines, "    row_cmd_t row;", "  } compute_cmd_t;"]


def _row_functions() -> list[str]:
    """What the sequencer and the engines ask of the opcodes that compute rows."""

    def chosen(returned: str, name: str, argument: str, cases: dict[str, str], default: str) -> list[str]:
        arms = [f"      {case}: return {value};" for case, value in cases.items()]
        head = f"  function automatic {returned} {name}(input {argument});"
        end = [f"      default: return {default};", "    endcase", "  endfunction"]
        return ["", head, f"    unique case ({argument.split()[-1]})", *arms, *end]

    opcode, compute = "logic [7:0] opcode", "compute_e compute"
    names = {op: _camel(op.name) for op in isa.PAYLOADS}
    units = {op: COMPUTED[op].unit for op in names}
    causes = {op: COMPUTED[op].cause for op in names}
    own = {f"Op{names[op]}": _camel(unit.name) for op, unit in units.items() if unit is not None}
    stalls = {f"Compute{names[op]}": f"Count{_camel(cause)}StallCycles" for op, cause in causes.items() if cause}
    streams = [f"Compute{names[op]}" for op in names if COMPUTED[op].streams]
    return [
        *chosen("logic", "is_row", opcode, {f"Op{name}": "1'b1" for name in names.values()}, "1'b0"),
        *chosen("compute_e", "compute_of", opcode, {f"Op{n}": f"Compute{n}" for n in names.values()}, "ComputeConv"),
        *chosen("logic", "has_unit", opcode, own, "1'b1"),
        *chosen("logic", "is_beside", compute, dict.fromkeys(stalls, "1'b1"), "1'b0"),
        *chosen("logic", "is_streamed", compute, dict.fromkeys(streams, "1'b1"), "1'b0"),
        *chosen("int unsigned", "stall_beside", compute, stalls, f"Count{_camel(isa.COUNTER_NAMES[0])}"),
    ]


_SV_WORDS = {"table": "lut", "bytes": "byte_count", "buffer": "buf_id", "edge": "edge_pixels"}


def _member(name: str) -> str:
    """A field's name in SystemVerilog, where some words are taken."""
    return _SV_WORDS.get(name, name)


def render_package(spec: AccelSpec) -> str:
    """The text of ``scanline_pkg.sv`` for ``spec``."""
    lines = [
        "// Rendered by codesign/hw/rtl_package.py from the specification; do not edit.",
        f"// Specification: {spec.name}",
        "package scanline_pkg;",
        *(f"  localparam int unsigned {name} = {value};" for name, value in _sizes(spec).items()),
        *(f"  localparam bit {_camel(unit.name)} = 1'b{int(unit in spec.units)};" for unit in Unit),
        "",
        *_numbers(),
    ]
    for op, fields in isa.FIELDS.items():
        if fields and op not in isa.PAYLOADS:
            lines += _struct(f"{op.name.lower()}_cmd_t", fields)
    lines += _row_structs()
    lines += _struct("fill_word_t", isa.FILL_FIELDS)
    lines += _struct("norm_record_t", isa.NORM_FIELDS)
    lines += [*_WORDS.splitlines(), *_row_functions(), "", "endpackage", ""]
    return "\n".join(lines)


def _sizes(spec: AccelSpec) -> dict[str, int]:
    """Everything that is sized by the specification."""
    return {
        "PixelLanes": spec.pixel_lanes,
        "CiLanes": spec.ci_lanes,
        "CoLanes": spec.co_lanes,
        "ChannelParts": spec.channel_parts,
        "PartLanes": spec.part_lanes,
        "LaneGroups": spec.lane_groups,
        "Selectors": spec.selectors,
        "WindowSlots": spec.window_slots,
        "SegmentPixels": spec.segment_pixels,
        "Banks": spec.banks,
        "BankBits": _bits(spec.banks),
        "BankWords": spec.bank_words,
        "BankAddrBits": _bits(spec.bank_words),
        "WordBits": 8 * spec.ci_lanes,
        "LaneBits": _bits(spec.pixel_lanes),
        "RequantPixels": spec.requantise_pixels,
        "RequantChunks": spec.pixel_lanes // spec.requantise_pixels,
        "WeightWords": spec.weight_words,
        "WeightAddrBits": _bits(spec.weight_words),
        "WeightWordBits": 8 * spec.weight_word_bytes,
        "FillWords": spec.fill_words,
        "FillAddrBits": _bits(spec.fill_words),
        "ParameterWords": spec.parameter_words,
        "ParameterAddrBits": _bits(spec.parameter_words),
        "StatisticWords": max(1, spec.statistic_words),
        "StatisticAddrBits": _bits(spec.statistic_words),
        "Tables": spec.tables,
        "TableBits": _bits(spec.tables),
        "Buffers": spec.buffers,
        "BufferBits": _bits(spec.buffers),
        "BusBytes": spec.bus_bytes,
        "BusBits": 8 * spec.bus_bytes,
        "BusShift": _bits(spec.bus_bytes),
        "BurstShift": _bits(spec.burst_bytes),
        "LoadFifoBeats": spec.load_fifo_beats,
        "StoreFifoBeats": spec.store_fifo_beats,
        "QueueDepth": spec.queue_depth,
        "CommandSlots": spec.command_slots,
        "CommandBytes": COMMAND_BYTES,
        "CommandBits": 8 * COMMAND_BYTES,
        "TableBytes": TABLE_BYTES,
        "LoopDepth": isa.MAX_LOOP_DEPTH,
        "ReadsInFlight": spec.reads_in_flight,
        "WindowBeats": max(2, spec.window_beats),
        "WindowLanes": spec.window_lanes,
        "WindowRowWords": spec.window_row_words,
        "Sources": 1 + isa.MORE_SOURCES,
        "Counters": len(isa.COUNTER_NAMES),
        "CountersBase": isa.COUNTERS_BASE,
        "Causes": 1 + len(STALL_CAUSES),  # of a cycle: busy, or a stall
    }


def _numbers() -> Iterator[str]:
    """Opcodes, kinds, causes, registers, counters and planes, which the compiler and the driver number alike."""
    yield from (f"  localparam logic [7:0] Op{_camel(op.name)} = 8'd{op.value};" for op in isa.FIELDS)
    yield from (f"  localparam logic [2:0] Kind{_camel(kind.name)} = 3'd{kind.value};" for kind in isa.WeightKind)
    yield from (f"  localparam logic [7:0] Cause{_camel(cause.name)} = 8'd{cause.value};" for cause in isa.ErrorCause)
    yield from (f"  localparam logic [9:0] Reg{_camel(name)} = 10'h{at:03x};" for name, at in isa.REGISTERS.items())
    yield from (f"  localparam int unsigned Count{_camel(name)} = {i};" for i, name in enumerate(isa.COUNTER_NAMES))
    yield from (f"  localparam logic [1:0] Plane{_camel(plane.name)} = 2'd{plane.value};" for plane in isa.Plane)


_WORDS = f"""
  typedef struct packed {{
    logic [{SQUARES_BITS - 1}:0] squares;
    logic signed [{TOTAL_BITS - 1}:0] total;
  }} statistic_t;

  typedef struct packed {{
    logic part;
    logic [2:0] shift;
    logic [2:0] slot;
  }} selector_t;

  typedef struct packed {{
    logic carry;
    logic last;
    logic [3:0] free;
    selector_t [Selectors-1:0] selectors;
  }} step_word_t;

  typedef struct packed {{
    logic [1:0] plane;
    logic [5:0] shift;
    logic signed [31:0] negative_multiplier;
    logic signed [31:0] multiplier;
    logic signed [31:0] bias;
  }} parameter_t;
"""
"""Words of the machine's memories that are not fields of commands."""


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.lower().split("_"))
