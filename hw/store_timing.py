"""One sub-row of a STORE: which cycles it takes of the scratchpad's port, and when its beats are packed.

The rules are those of ``store_engine.sv``: a batch of words is fetched, a segment of each channel group, then packed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

FETCH = 2  # cycles of a batch besides one per group: its last segment arrives, the packer is told


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

    Pixels without gaps are packed a word a cycle. Before a gap the packer steps over it, a beat a cycle, and a word is
    taken up only when the one before it is in its place.
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
            time += count + FETCH
            last_part = number + 1 == len(parts)
            if not gap:
                time += count * (end - x)
            else:
                for pixel in range(x, end):
                    time = max(time, idle) + 2 * count - 1
                    idle = time + 1
                    if last_part:
                        at = first_byte + pixel * pixel_pitch + pixel_bytes
                        idle += -(-(at % bus_bytes + gap) // bus_bytes)
            bytes_ = (
                (end - 1) * pixel_pitch + pixel_bytes if last_part else x * pixel_pitch + pixel_bytes * count // groups
            )
            before, full = (
                full,
                (first_byte + bytes_ + (bus_bytes - 1 if last_part and end == pixels else 0)) // bus_bytes,
            )
            batches.append(Batch(fetched, count, time, full - before))
    return tuple(batches)
