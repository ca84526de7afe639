"""Values on a block's ports, cycle by cycle, read from a waveform (VCD) of the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.hw.errors import InputError
from codesign.sim.silicon.netlist import Port, Words


@dataclass(frozen=True)
class _Variable:
    name: str
    code: str
    width: int


def read_ports(waves: Path, ports: Iterable[Port]) -> dict[str, Words]:
    """Settled values before every rising edge, of the first instance that has all ``ports``: ``uint32[cycles, words]``.

    The waveform is one written by :class:`codesign.sim.run.Waves`: even times are settled, odd ones follow an edge.
    Raises :class:`InputError` if no instance has the ports.
    """
    wanted = {port.name: port for port in ports}
    with waves.open(encoding="utf-8") as lines:
        chosen = _find(lines, wanted)
        by_code: dict[str, list[str]] = {}
        for name, variable in chosen.items():
            by_code.setdefault(variable.code, []).append(name)
        values = dict.fromkeys(by_code, 0)
        rows: dict[str, list[int]] = {code: [] for code in by_code}
        time = -1
        for line in lines:
            first = line[0]
            if first == "#":
                if time >= 0 and time % 2 == 0:
                    for code, value in values.items():
                        rows[code].append(value)
                time = int(line[1:])
            elif first == "b":
                digits, code = line[1:].split()
                if code in values:
                    values[code] = int(digits.replace("x", "0").replace("z", "0"), 2)
            elif first in "01xz" and line[1:].strip() in values:
                values[line[1:].strip()] = int(first == "1")
    return {name: _words(rows[code], wanted[name].words) for code, names in by_code.items() for name in names}


def _find(lines: Iterable[str], wanted: Mapping[str, Port]) -> dict[str, _Variable]:
    scopes: list[dict[str, _Variable]] = []
    found: dict[str, _Variable] | None = None
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] == "$scope":
            scopes.append({})
        elif words[0] == "$upscope":
            closed = scopes.pop()
            if found is None and all(
                name in closed and closed[name].width == len(port.nets) for name, port in wanted.items()
            ):
                found = {name: closed[name] for name in wanted}
        elif words[0] == "$var" and scopes:
            scopes[-1][words[4]] = _Variable(words[4], words[3], int(words[2]))
        elif words[0] == "$enddefinitions":
            break
    if found is None:
        raise InputError(
            f"no instance has the ports {', '.join(wanted)}",
            where="waveform",
            hint="Record the waveform of the machine that contains the block.",
        )
    return found


def _words(values: list[int], words: int) -> Words:
    """Integers of any width as words of 32 bits, least significant first."""
    raw = b"".join(value.to_bytes(4 * words, "little") for value in values)
    return np.frombuffer(raw, "<u4").reshape(len(values), words)
