"""The commands: one file an opcode, with its rules, its meaning and its time. ``hw/isa`` encodes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from codesign.hw.commands.kind import Kind
from codesign.hw.commands.row import Row
from codesign.hw.discovery import classes_of, modules_of
from codesign.hw.isa import Opcode

_KINDS = tuple(kind() for kind in classes_of(modules_of(__name__), Kind) if hasattr(kind, "opcode"))

COMMANDS: Mapping[Opcode, Kind] = MappingProxyType({kind.opcode: kind for kind in _KINDS})
"""Every opcode's kind."""

COMPUTED: Mapping[Opcode, Row] = MappingProxyType({kind.opcode: kind for kind in _KINDS if isinstance(kind, Row)})
"""Those that compute rows."""

__all__ = ["COMMANDS", "COMPUTED", "Kind", "Row"]
