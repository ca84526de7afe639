"""Rules for the order in which statistics are added to and read, so that every sum is a whole frame's."""

from __future__ import annotations

from codesign.hw.errors import ProgramError
from codesign.hw.isa import NORM_BYTES, Command, decode_norm
from codesign.hw.normalise import MAX_PLACES, Normalisation
from codesign.hw.numerics import ceil_div
from codesign.hw.spec import AccelSpec


class Statistics:
    """Follows a program's commands in order and raises :class:`ProgramError` where a sum would be read half done.

    A NORM reads after the SYNC that follows the last STORE that counts; a STORE that counts comes, through the CONV
    that it waits for, after every NORM that was before it.
    """

    def __init__(self, spec: AccelSpec) -> None:
        self._spec = spec
        self._pixels: list[int | None] = [None] * spec.statistic_words  # summed up in a word; None: not begun
        self._counted = False  # since the last SYNC
        self._last_norm = 0  # LOADWs since the last SYNC, up to the last NORM
        self._waited: dict[int, int] = {}  # LOADWs that a buffer's rows have waited for

    def sync(self) -> None:
        self._counted, self._last_norm = False, 0
        self._waited.clear()

    def configure(self, buffer: int) -> None:
        self._waited.pop(buffer, None)

    def computed(self, cmd: Command) -> None:
        """A CONV has made a row."""
        self._waited.setdefault(cmd["destination"], cmd["weights_needed"])

    def normalise(self, records: bytes, loadws: int) -> None:
        """A LOADW of kind NORM, the ``loadws``-th since the last SYNC."""
        if self._counted:
            raise ProgramError("reads statistics that a STORE since the last SYNC may still add to")
        self._last_norm = loadws
        for at in range(0, len(records), NORM_BYTES):
            constants, word = decode_norm(records[at : at + NORM_BYTES])
            if word >= len(self._pixels):
                raise ProgramError(f"statistics word {word} of {len(self._pixels)}")
            if constants.count != self._pixels[word]:
                raise ProgramError(f"normalises by {constants.count} pixels, {self._pixels[word] or 0} were added up")
            _check_widths(constants)

    def stored(self, cmd: Command, row: int) -> None:
        """A STORE of ``row``."""
        if not cmd["statistics"]:
            return
        lanes = self._spec.ci_lanes
        first, end = cmd["statistics_base"], cmd["statistics_base"] + ceil_div(cmd["pixel_bytes"], lanes)
        if cmd["sub_rows"] != 1 or cmd["channel"] % lanes:
            raise ProgramError("counts channels that are shuffled, or do not begin a word")
        if end > len(self._pixels):
            raise ProgramError(f"statistics words {first} to {end - 1} of {len(self._pixels)}")
        if self._waited.get(cmd["buffer"], 0) < self._last_norm:
            raise ProgramError("adds to statistics that a NORM before it may still read")
        self._counted = True
        for word in range(first, end):
            before = 0 if cmd["statistics_begin"] and row == 0 else self._pixels[word]
            if before is None:
                raise ProgramError(f"adds to statistics word {word}, which was never begun")
            self._pixels[word] = before + cmd["x_count"]


def _check_widths(constants: Normalisation) -> None:
    largest = (constants.count**2 << 14 + 2 * constants.places) + constants.epsilon
    if constants.epsilon < 1 or constants.places > MAX_PLACES or largest > 1 << 63:
        raise ProgramError(f"{constants} leaves the normaliser's 64 bits")
