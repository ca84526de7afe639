"""One sub-row of a STORE: which cycles it takes of the scratchpad's port, and when its beats are packed.

The rules are those of ``scanline_store_engine.sv``: a batch of words is fetched, a segment of each channel group, and
packed from its first segment on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from codesign.hw.numerics import ceil_div

FETCH = 2  # a batch's first segment read to its first word packed


class Batch(NamedTuple):
    """Times in cycles from the sub-row's first fetch on."""

    fetched: int  # the first segment is; then one a cycle
    segments: int
    packed: int  # the last word is
    beats: int  # that are full by then, and were not before


@lru_cache(maxsize=4096)
def sub_row_batches(
    banks: int, bus_bytes: int, groups: int, pixels: int, pixel_bytes: int, pixel_pitch: int, first_byte: int
) -> tuple[Batch, ...]:
    """A sub-row of ``pixels`` of ``pixel_bytes`` in ``groups`` channel groups that begins ``first_byte`` into a beat.

    Words are packed one a cycle; a gap is stepped over, a beat a cycle, before the next pixel's first is taken up.
    """
    parts = [min(banks, groups - first) for first in range(0, groups, banks)]  # of a pixel's channel groups
    together = 1 << (banks // groups).bit_length() - 1 if groups <= banks else 1  # pixels of a batch
    gap = pixel_pitch - pixel_bytes
    time = idle = full = 0  # when the next batch may begin; when the packer may take a word; beats that are full
    batches: list[Batch] = []
    for x in range(0, pixels, together):
        end = min(x + together, pixels)
        for number, count in enumerate(parts):
            fetched = time
            time += FETCH
            last_part = number + 1 == len(parts)
            if not gap:
                time += count * (end - x)
            else:
                for pixel in range(x, end):
                    time = max(time, idle) + count
                    idle = time + 1
                    if last_part:
                        at = first_byte + pixel * pixel_pitch + pixel_bytes
                        idle += ceil_div(at % bus_bytes + gap, bus_bytes)
            at = first_byte + (end - 1) * pixel_pitch + pixel_bytes  # the byte after the batch
            if not last_part:
                at -= (groups - sum(parts[: number + 1])) * pixel_bytes // groups
            elif end == pixels:
                at += bus_bytes - 1  # the last beat goes as it is
            batches.append(Batch(fetched, count, time, at // bus_bytes - full))
            full = at // bus_bytes
    return tuple(batches)
