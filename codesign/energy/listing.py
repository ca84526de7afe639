"""Constants selected by node and text, with their sources."""

from __future__ import annotations

from codesign.energy.interval import Interval
from codesign.energy.records import Record, nodes, records
from codesign.hw.errors import InputError


def chosen(text: str = "", node: str = "") -> dict[str, Record]:
    """Records whose name, meaning or source contains every word of ``text``, at ``node`` or at any node.

    Raises :class:`InputError` for a node without records and for a text that no record contains.
    """
    if node and node not in nodes():
        raise InputError(f"no records at {node!r}", where="--node", hint=f"Choose one of {', '.join(nodes())}.")
    words = text.lower().split()
    found = {
        name: record
        for name, record in records().items()
        if (not node or record.node in (node, "any"))
        and all(word in f"{name} {record.what} {record.provenance} {record.confidence}".lower() for word in words)
    }
    if not found:
        raise InputError(f"no record contains {text!r}", where="constants", hint="Leave the text out to list all.")
    return found


def figure(record: Record) -> str:
    """``0.227 (0.132 to 0.653) pJ``; a single figure for an exact value."""
    interval: Interval = record.interval
    unit = "" if record.unit == "dimensionless" else f" {record.unit.replace('**', '')}"
    if interval.is_exact:
        return f"{interval.value:.3g}{unit}"
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g}){unit}"
