"""Words that LOADW brings to the array: steps and fills, and the constants of normalisations."""

from __future__ import annotations

from typing import NamedTuple

from codesign.hw.isa.fields import Field
from codesign.hw.isa.packing import packed, unpacked
from codesign.hw.normalise import COUNT_BITS, EPSILON_BITS, MULTIPLIER_BITS, Normalisation
from codesign.hw.spec import SELECTOR_BITS, AccelSpec


class Selector(NamedTuple):
    """Operand of one lane group and channel part of the array: a window slot, from a pixel on, a part of its word."""

    slot: int  # counted from the oldest slot that is not freed
    shift: int  # pixels
    part: int


class Step(NamedTuple):
    """One cycle of the array: its operands, the slots to free after it, whether it ends a channel group."""

    selectors: tuple[Selector, ...]  # [group x channel_parts + part]
    free: int
    last: bool
    carry: bool = False  # the sums so far count 256-fold: low bytes of 16-bit activations begin


class Fill(NamedTuple):
    """One row segment brought into the window: kernel row, column offset, channel group of a source."""

    row: int
    column: int
    group: int
    source: int = 0  # 0: the CONV's first, k: its source_k


NORM_FIELDS = (
    Field("count", COUNT_BITS),
    Field("multiplier", MULTIPLIER_BITS),
    Field("word", 8),  # of the statistics; the channel's place in it is that of its parameters in theirs
    Field("reserved", 1),
    Field("epsilon", EPSILON_BITS),
    Field("shift", 5),
    Field("places", 4),
)
"""A record of 16 bytes by channel: a :class:`~codesign.hw.normalise.Normalisation`, and where the channel's sums are.

A LOADW of kind NORM makes a channel's parameters of two elements, in order.
"""

NORM_BYTES = 16

FILL_FIELDS = (Field("row", 6), Field("column", 9, True), Field("group", 12), Field("source", 3))


def encode_step(step: Step) -> int:
    """A step word of 64 bits: selectors, then 4 bits of slots to free, then the last and the carry flag."""
    word, position = 0, 0
    for selector in step.selectors:
        word |= (selector.slot | selector.shift << 3 | selector.part << 6) << position
        position += SELECTOR_BITS
    return word | step.free << position | int(step.last) << (position + 4) | int(step.carry) << (position + 5)


def decode_step(word: int, spec: AccelSpec) -> Step:
    """The inverse of :func:`encode_step`."""
    selectors = []
    for index in range(spec.selectors):
        bits = word >> (index * SELECTOR_BITS)
        selectors.append(Selector(bits & 7, bits >> 3 & 7, bits >> 6 & 1))
    position = spec.selectors * SELECTOR_BITS
    flags = word >> (position + 4)
    return Step(tuple(selectors), word >> position & 15, bool(flags & 1), bool(flags >> 1 & 1))


def encode_fill(fill: Fill) -> int:
    """A fill word of 32 bits."""
    return packed(FILL_FIELDS, fill, "fill ")


def decode_fill(word: int) -> Fill:
    """The inverse of :func:`encode_fill`."""
    return Fill(*unpacked(FILL_FIELDS, word))


def encode_norm(constants: Normalisation, word: int) -> bytes:
    """A channel's record of ``NORM_BYTES``; its sums are in ``word`` of the statistics."""
    values = (constants.count, constants.multiplier, word, 0, constants.epsilon, constants.shift, constants.places)
    return packed(NORM_FIELDS, values, "normalisation ").to_bytes(NORM_BYTES, "little")


def decode_norm(data: bytes) -> tuple[Normalisation, int]:
    """The inverse of :func:`encode_norm`."""
    count, multiplier, word, _, epsilon, shift, places = unpacked(NORM_FIELDS, int.from_bytes(data, "little"))
    return Normalisation(count, multiplier, shift, epsilon, places), word
