"""The commands: one file an opcode, with its rules, its meaning and its time. ``hw/isa`` encodes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from codesign.hw.commands.control import Buffer, End, Halt, Loop, Sync
from codesign.hw.commands.conv import Conv
from codesign.hw.commands.corr import Corr
from codesign.hw.commands.kind import Kind
from codesign.hw.commands.load import Load
from codesign.hw.commands.loadw import LoadWeights
from codesign.hw.commands.resize import Resize
from codesign.hw.commands.row import Row
from codesign.hw.commands.store import Store
from codesign.hw.commands.warp import Warp
from codesign.hw.commands.window import Window
from codesign.hw.isa import Opcode

_ROWS: tuple[Row, ...] = (Conv(), Corr(), Warp(), Resize(), Window())
_KINDS: tuple[Kind, ...] = (Buffer(), Loop(), End(), LoadWeights(), Load(), *_ROWS, Store(), Sync(), Halt())

COMMANDS: Mapping[Opcode, Kind] = MappingProxyType({kind.opcode: kind for kind in _KINDS})
"""Every opcode's kind."""

COMPUTED: Mapping[Opcode, Row] = MappingProxyType({kind.opcode: kind for kind in _ROWS})
"""Those that compute rows."""

__all__ = ["COMMANDS", "COMPUTED", "Kind", "Row"]
