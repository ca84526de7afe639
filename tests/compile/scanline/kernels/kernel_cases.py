"""Drawn machines and kernels, and the array's steps read back as weights."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.kernels.kernel import Kernel, RowPlace
from codesign.compile.scanline.plan.mapping import Mapping
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.isa import Opcode, command
from codesign.hw.model.array_program import decode_kernel
from codesign.hw.spec import BASE, EDGE, LARGE, TINY, AccelSpec

MACHINES = st.sampled_from([TINY, EDGE, BASE, LARGE])


@st.composite
def convolutions(draw: st.DrawFn, *, wide: bool = False) -> tuple[Convolution, tuple[int, ...]]:
    """A convolution with some weights zero, and the channels of its sources. ``wide``: weights of 16 bits, perhaps."""
    rows, columns = draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 2, 3, 5, 7]))
    sources = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    outputs = draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype = np.int16 if wide and draw(st.booleans()) else np.int8
    limit = 2**15 - 200 if dtype == np.int16 else 128
    weights = rng.integers(-limit, limit, (rows, columns, sum(sources), outputs)).astype(dtype)
    weights *= rng.random(weights.shape) < draw(st.sampled_from([0.2, 1.0]))
    stride = draw(st.sampled_from([1, 2]))
    pads = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    return Convolution(weights, stride, *pads, draw(st.booleans())), sources


def psums(weights: NDArray[np.int8] | NDArray[np.int16], codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """The sums of one pixel, ``int64[Cout]``, from its taps ``codes[KY, KX, Cin]``."""
    return np.einsum("yxio,yxi->o", weights.astype(np.int64), codes.astype(np.int64))


def array_weights(
    spec: AccelSpec, mapping: Mapping, sources: tuple[int, ...], rows: int, columns: int
) -> NDArray[np.int64]:
    """The weights that the array multiplies with, ``int64[rows, columns, Cin, output words x ci_lanes]``."""
    cmd = command(
        Opcode.CONV,
        steps_count=len(mapping.steps),
        fills_count=len(mapping.fills),
        fills_repeat=mapping.passes,
        lane_groups_log2=mapping.lane_groups_log2,
        words=mapping.output_words,
        x_stride=1,
        more_sources=len(sources) - 1,
    )
    steps = np.frombuffer(mapping.encoded_steps(), np.uint64)
    fills = np.frombuffer(mapping.encoded_fills(), np.uint32)
    kernel = decode_kernel(spec, cmd, mapping.words, steps, fills)
    taps = kernel.taps
    dense = kernel.matrix.astype(np.int64).reshape(len(taps.rows), taps.columns, sum(taps.channels), -1)
    found = np.zeros((rows, columns, sum(sources), dense.shape[3]), np.int64)
    at = held = 0
    for count, channels in zip(sources, taps.channels, strict=False):
        for index, row in enumerate(taps.rows):
            for column in range(taps.columns):
                if taps.first_column + column < columns:
                    part = dense[index, column, held : held + min(count, channels)]
                    found[row, taps.first_column + column, at : at + len(part)] = part
        at, held = at + count, held + channels
    return found


def tensors(*shapes: tuple[str, int, int, int]) -> dict[str, Tensor]:
    """Tensors by name, from (name, height, width, channels)."""
    return {name: Tensor(name, height, width, channels, 0.1, 0) for name, height, width, channels in shapes}


def place(
    kernel: Kernel,
    mapping: Mapping,
    known: dict[str, Tensor],
    columns: dict[str, tuple[int, int]],
    first: int,
    sources: tuple[str, ...],
) -> RowPlace:
    """Where a row's operands lie: buffers in the order of ``known``, tensors 1000 bytes apart in memory."""
    return RowPlace(
        sources=sources,
        tensors=known,
        buffers={name: index for index, name in enumerate(known)},
        columns=columns,
        addresses={name: 1000 * (1 + index) for index, name in enumerate(known)},
        frees=(True,) * len(sources),
        first=first,
        unfolded=False,
        mapping=mapping,
        steps_base=7,
        fills_base=3,
    )
