"""Progress reports of long work, and recordings of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codesign.hw.errors import InputError
from codesign.sim.run import Waves

Backend = Literal["rtl", "reference"]
"""``rtl``: cycle by cycle in Verilator. ``reference``: values by the golden model, cycles by the cycle model."""

Say = Callable[[str], None]
"""Told the name of each stage as it begins."""

Tick = Callable[[int, int], None]
"""Told the cycles done and the cycles expected."""


def silent(*_: object) -> None:
    """Report nothing: the default :data:`Say` and :data:`Tick`."""


@dataclass(frozen=True)
class Watch:
    """Reports and recordings of a simulation.

    ``timeline``: a file for the trace of the engines; ``waves``: a waveform of the first region; ``checkpoints``: a
    folder in which interrupted simulations are kept, see :func:`codesign.sim.run.run`; ``assertions``: whether the RTL
    checks itself, which takes a fifth of its speed.
    """

    say: Say = silent
    tick: Tick = silent
    timeline: Path | None = None
    waves: Waves | None = None
    checkpoints: Path | None = None
    assertions: bool = True

    def check(self, backend: Backend) -> None:
        """Raise :class:`InputError` for a recording of the RTL on another ``backend``."""
        if backend != "rtl" and (self.timeline or self.waves or self.checkpoints):
            raise InputError(
                "timeline, waveform and checkpoints are the RTL's",
                where=f"backend {backend}",
                hint="Use --backend rtl.",
            )
