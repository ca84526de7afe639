"""The page of operators, printed from the registry."""

from __future__ import annotations

from collections.abc import Iterator

from codesign.compile.operators.operator import Operator, sentence
from codesign.compile.operators.registry import OPERATORS

_HEAD = """# Operators

Printed by `python -m codesign operators`. Operators that are not listed, and those that a rule below excludes, run on
the host in float, compiled by TVM; `compile` names each of them with the sentence that applies.

| operator | computes | Scanline, bits | CUDA, FP16 |
| --- | --- | --- | --- |"""


def operators_page() -> str:
    """Markdown: one row an operator, then its spellings and the reasons why a machine may not run it."""
    rows = [f"| {one.title} | {_first(one)} | {one.bits} | {one.cuda or 'scheduled by TVM'} |" for one in OPERATORS]
    return "\n".join([_HEAD, *rows, *(line for one in OPERATORS for line in _section(one))]) + "\n"


def _first(operator: Operator) -> str:
    return (operator.__doc__ or "").strip().splitlines()[0].replace("|", "or").replace("``", "`")


def _section(operator: Operator) -> Iterator[str]:
    yield from ("", f"## {operator.title.capitalize()}", "")
    yield from (f"- {spelling}" for spelling in operator.spellings)
    reasons = [sentence(rule) for rule in operator.rules]
    if operator.machine_unit is not None:
        reasons.append(operator.machine_unit.missing)
    yield from ("", *(f"> {reason}" + ("  " if reason != reasons[-1] else "") for reason in reasons)) if reasons else ()
