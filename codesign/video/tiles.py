"""Frames cut into tiles that overlap, so that memory does not grow with the frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError

OVERLAP = 16
"""Pixels that a tile sees beyond what is kept of it, at least: half of what two neighbours share."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Span:
    """A tile's place along one side: its first pixel, and the pixels kept of it."""

    start: int
    first: int
    end: int


def check_tile(tile: int | None) -> None:
    """Raise :class:`InputError` for a tile that its overlap uses up."""
    if tile is not None and tile < 4 * OVERLAP:
        raise InputError(f"a tile of {tile} is too small", where="--tile", hint=f"Give at least {4 * OVERLAP}.")


def tile_size(size: tuple[int, int], tile: int | None) -> tuple[int, int]:
    """(width, height) of every tile of a frame of ``size``."""
    return size if tile is None else (min(size[0], tile), min(size[1], tile))


def spans(length: int, tile: int) -> list[Span]:
    """Tiles of one length along a side: the last is moved back to end with it, and neighbours are cut half-way."""
    if length <= tile:
        return [Span(0, 0, length)]
    starts = [*range(0, length - tile, tile - 2 * OVERLAP), length - tile]
    cuts = [0, *((one + tile + other) // 2 for one, other in itertools.pairwise(starts)), length]
    return [Span(*one) for one in zip(starts, cuts, cuts[1:], strict=False)]


def tiled(run: Run, tile: int | None) -> Run:
    """``run`` for frames of any size, by tiles of at most ``tile`` pixels a side; None: whole."""
    if tile is None:
        return run

    def by_tiles(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = planes.shape[1:]
        whole: NDArray[np.float32] | None = None
        for row in spans(height, tile):
            for column in spans(width, tile):
                piece = planes[:, row.start : row.start + tile, column.start : column.start + tile]
                made = run(np.ascontiguousarray(piece))
                scale = made.shape[2] // piece.shape[2]
                if whole is None:
                    whole = np.empty((made.shape[0], scale * height, scale * width), np.float32)
                down, right = (slice(scale * (s.first - s.start), scale * (s.end - s.start)) for s in (row, column))
                whole[:, scale * row.first : scale * row.end, scale * column.first : scale * column.end] = made[
                    :, down, right
                ]
        assert whole is not None
        return whole

    return by_tiles
