"""The integer rules of all operators, by the names of nodes: files of this folder state their own as ``RULES``."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping

from codesign.compile.referee.values import Rule
from codesign.hw.discovery import modules_of

_FILES = modules_of("codesign.compile.referee", but=("registry", "integer"))

RULES: Mapping[str, Rule] = ChainMap(*(module.RULES for module in _FILES if hasattr(module, "RULES")))
