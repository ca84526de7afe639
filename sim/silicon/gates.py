"""Gates per module of a word-level netlist (Yosys JSON).

Every kind of word-level cell (operator, widths, signs) is mapped to gates once, alone, by Yosys' own ``techmap``; a
module's gates are those of its cells. Nothing is shared or folded across cells, so the counts are an upper bound of
what logic optimisation leaves, and a machine of thousands of multipliers takes seconds instead of gigabytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Netlist = Mapping[str, Any]

TRANSISTORS = {
    "$_NOT_": 2,
    "$_BUF_": 2,
    "$_NAND_": 4,
    "$_NOR_": 4,
    "$_AND_": 6,
    "$_OR_": 6,
    "$_ANDNOT_": 6,
    "$_ORNOT_": 6,
    "$_XOR_": 12,
    "$_XNOR_": 12,
    "$_MUX_": 12,
    "$_NMUX_": 10,
    "$_AOI3_": 6,
    "$_OAI3_": 6,
    "$_AOI4_": 8,
    "$_OAI4_": 8,
}
"""CMOS transistors of a gate, as counted by Yosys' ``stat -tech cmos``; a NAND2 has 4."""

_STORAGE = ("$dff", "$dffe", "$adff", "$adffe", "$sdff", "$sdffe", "$sdffce")


@dataclass(frozen=True)
class ModuleGates:
    """All instances of one module, without the modules that it instantiates."""

    module: str
    instances: int
    gates: float
    """NAND2 equivalents of the combinational logic."""
    flip_flops: int  # bits
    memory_bits: int  # bits in RAMs and FIFOs


_Kind = tuple[str, str]  # cell type, its parameters


def count(netlist: Netlist, top: str, map_kinds: Callable[[dict[str, Any]], Netlist]) -> tuple[ModuleGates, ...]:
    """Gates of every module below ``top``, the largest first.

    ``map_kinds`` takes a netlist of one module per kind of cell and returns the ``modules`` of ``stat -json`` for it
    after mapping to gates.
    """
    modules = netlist["modules"]
    kinds: dict[_Kind, dict[str, Any]] = {}
    cells: dict[str, Counter[_Kind]] = {}
    for name, module in modules.items():
        cells[name] = Counter()
        for cell in module["cells"].values():
            if _is_logic(cell["type"]):
                kind = _kind(cell)
                kinds.setdefault(kind, cell)
                cells[name][kind] += 1
    numbered = {f"kind{number}": kind for number, kind in enumerate(kinds)}
    mapped = map_kinds({"modules": {name: _alone(kinds[kind]) for name, kind in numbered.items()}})
    gates = {kind: _nand_equivalents(mapped[_escaped(name)]) for name, kind in numbered.items()}
    total: dict[str, ModuleGates] = {}
    for name, instances in _instances(modules, top).items():
        short = name.split("$")[0]
        before = total.get(short, ModuleGates(short, 0, 0.0, 0, 0))
        own = sum(gates[kind] * number for kind, number in cells[name].items())
        flip_flops, memory_bits = _storage(modules[name])
        total[short] = ModuleGates(
            short,
            before.instances + instances,
            before.gates + instances * own,
            before.flip_flops + instances * flip_flops,
            before.memory_bits + instances * memory_bits,
        )
    return tuple(sorted(total.values(), key=lambda one: -one.gates))


def read(path: Path) -> Netlist:
    """A netlist written by ``write_json``."""
    found: Netlist = json.loads(path.read_text())
    return found


def _is_logic(kind: str) -> bool:
    return kind.startswith("$") and not kind.startswith(("$mem", "$scopeinfo", "$paramod")) and kind not in _STORAGE


def _kind(cell: Netlist) -> _Kind:
    return cell["type"], json.dumps(cell["parameters"], sort_keys=True)


def _alone(cell: Netlist) -> dict[str, Any]:
    """A module that consists of this cell alone."""
    ports: dict[str, Any] = {}
    connections: dict[str, list[int]] = {}
    bit = 2
    for name, bits in cell["connections"].items():
        connections[name] = list(range(bit, bit + len(bits)))
        bit += len(bits)
        ports[name] = {"direction": cell["port_directions"][name], "bits": connections[name]}
    only = {
        "type": cell["type"],
        "parameters": cell["parameters"],
        "attributes": {},
        "port_directions": cell["port_directions"],
        "connections": connections,
    }
    return {"attributes": {}, "ports": ports, "cells": {"cell": only}, "netnames": {}}


def _escaped(name: str) -> str:
    return "\\" + name


def _nand_equivalents(stat: Netlist) -> float:
    found: dict[str, int] = stat.get("num_cells_by_type", {})
    return sum(TRANSISTORS[kind] * number for kind, number in found.items()) / TRANSISTORS["$_NAND_"]


def _instances(modules: Netlist, top: str) -> dict[str, int]:
    """Number of instances of each module; ``top`` has one."""
    found: dict[str, int] = {}

    def visit(name: str) -> None:
        found[name] = found.get(name, 0) + 1
        for cell in modules[name]["cells"].values():
            if cell["type"] in modules:
                visit(cell["type"])

    visit(top)
    return found


def _storage(module: Netlist) -> tuple[int, int]:
    """Bits in flip-flops and in memories."""
    flip_flops = memory = 0
    for cell in module["cells"].values():
        if cell["type"] in _STORAGE:
            flip_flops += len(cell["connections"]["Q"])
        elif cell["type"] == "$mem_v2":
            memory += int(cell["parameters"]["SIZE"], 2) * int(cell["parameters"]["WIDTH"], 2)
    return flip_flops, memory
