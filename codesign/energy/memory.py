"""SRAM by size and node."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from codesign.energy.derive import log_between
from codesign.energy.interval import Interval
from codesign.energy.records import find_record, nodes, records
from codesign.hw.errors import InputError


@dataclass(frozen=True)
class MacroEnergy:
    """Energy per byte read from one SRAM macro, its supply, and the names of the records used."""

    joules: Interval
    voltage: float
    records: tuple[str, ...]


@cache
def macro_energy(capacity_bytes: int, node: str) -> MacroEnergy:
    """A macro between the recorded sizes: linear in the logarithms of capacity and energy, bound by bound.

    A macro smaller than the smallest record is charged like that record, which is rather too much. Raises
    :class:`InputError` for a node without records and for a macro larger than the largest record.
    """
    points = sorted(
        (record.capacity_bytes, name)
        for name, record in records().items()
        if record.capacity_bytes is not None and record.node == node
    )
    if not points:
        raise InputError(f"no SRAM records at {node}", where="energy", hint=f"Choose one of {', '.join(nodes())}.")
    largest = points[-1][0]
    if capacity_bytes > largest:
        raise InputError(
            f"an SRAM macro of {capacity_bytes} bytes exceeds the largest record ({largest} bytes at {node})",
            where="energy",
            hint="Use more banks, or add a record with its source.",
        )
    after = next(index for index, (extent, _) in enumerate(points) if extent >= capacity_bytes)
    if after == 0 or points[after][0] == capacity_bytes:
        record = find_record(points[after][1])
        return MacroEnergy(record.to("J"), record.voltage, (points[after][1],))
    (a, first), (b, second) = points[after - 1], points[after]
    share = (math.log(capacity_bytes) - math.log(a)) / (math.log(b) - math.log(a))
    one, two = find_record(first), find_record(second)
    return MacroEnergy(log_between(one.to("J"), two.to("J"), share), one.voltage, (first, second))
