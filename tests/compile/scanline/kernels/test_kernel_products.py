"""Kernels that multiply tensors with each other: correlations and products of all pairs; and normalisations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.correlation import Correlation
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.plan.mapping import Mapping, Mappings
from codesign.hw import normalise
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import NORM_BYTES, Opcode, WeightKind, command, decode_norm
from codesign.hw.model.array_program import Products, decode_products
from codesign.hw.spec import AccelSpec
from tests.compile.scanline.kernels.kernel_cases import MACHINES, array_weights, tensors


def products(spec: AccelSpec, made: Mapping) -> Products:
    cmd = command(
        Opcode.CORR,
        steps_count=len(made.steps),
        fills_count=len(made.fills),
        fills_repeat=made.passes,
        words=made.output_words,
        x_stride=1,
        more_sources=1,
    )
    steps = np.frombuffer(made.encoded_steps(), np.uint64)
    return decode_products(spec, cmd, made.words, steps, np.frombuffer(made.encoded_fills(), np.uint32))


@settings(deadline=None, max_examples=50)
@given(MACHINES, st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**16))
def test_a_correlation_multiplies_every_displacement(spec: AccelSpec, channels: int, reach: int, seed: int) -> None:
    kernel = Correlation(reach)
    side = 2 * reach + 1
    sets = [range(first, min(first + spec.co_lanes, side**2)) for first in range(0, side**2, spec.co_lanes)]
    segments = max(len({(tap // side, tap % side // (spec.window_reach + 1)) for tap in taps}) for taps in sets)
    if segments >= spec.window_slots:  # one slot holds the first source
        with pytest.raises(UnsupportedError, match="slots"):
            kernel.map(Mappings(spec), (channels, channels))
        return
    made = kernel.map(Mappings(spec), (channels, channels))
    found = products(spec, made)
    rng = np.random.default_rng(seed)
    held = max(found.taps.channels)
    first, second = (np.zeros((side, side, held), np.int64) for _ in range(2))
    first[..., :channels], second[..., :channels] = rng.integers(-128, 128, (2, side, side, channels))
    both = np.concatenate([first, second], axis=2)[np.array(found.taps.rows)][:, found.taps.first_column :]
    left, right = (both[tuple(side_of)] for side_of in found.pairs)
    sums = np.zeros(found.count, np.int64)
    sums[found.outputs] = np.add.reduceat(left * right, found.starts)
    np.testing.assert_array_equal(sums[: side * side], (first[reach, reach] * second).sum(axis=2).reshape(-1))
    assert (kernel.channels, kernel.footprint.rows, kernel.footprint.pad_top) == (side * side, side, reach)
    assert np.all(kernel.psum_reach(2 * channels) == 128 * 128 * channels)


def test_a_correlation_is_computed_whole() -> None:
    with pytest.raises(TypeError, match="computed whole"):
        Correlation(2).slice(0, 4)
    with pytest.raises(TypeError, match="fixed order"):
        Correlation(2).pick([0])
    assert not Correlation(2).splits
    assert not Correlation(2).orders_channels


@settings(deadline=None, max_examples=50)
@given(MACHINES, st.integers(1, 80), st.integers(1, 300), st.data())
def test_all_pairs_take_their_weights_from_memory(
    spec: AccelSpec, channels: int, pixels: int, data: st.DataObject
) -> None:
    """Each output channel meets every channel of one pixel, once; its words are loaded where the steps expect them."""
    kernel = AllPairs("words", pixels)
    first = data.draw(st.integers(0, (pixels - 1) // spec.co_lanes)) * spec.co_lanes
    part = kernel.slice(first, data.draw(st.integers(1, pixels - first)))
    made = part.map(Mappings(spec), (channels,))
    known = tensors(("words", 1, pixels, channels))
    memory = np.zeros(known["words"].groups(spec) * known["words"].group_bytes(spec), np.int8)
    values = np.random.default_rng(pixels).integers(-128, 128, (pixels, channels)).astype(np.int8)
    by_group = memory.reshape(known["words"].groups(spec), -1, spec.ci_lanes)
    for group in range(len(by_group)):
        held = values[:, group * spec.ci_lanes : (group + 1) * spec.ci_lanes]
        by_group[group, :pixels, : held.shape[1]] = held
    words = np.zeros((len(made.steps), spec.co_lanes, spec.ci_lanes), np.int8)
    for load in part.weight_loads(spec, known, {"words": 64}):
        assert load["kind"] == WeightKind.WEIGHTS
        assert load["address"] % spec.bus_bytes == 64 % spec.bus_bytes
        found = memory[load["address"] - 64 :][: load["bytes"]].reshape(-1, spec.co_lanes, spec.ci_lanes)
        words[load["destination"] :: load["gap"] + 1][: len(found)] = found
    complete = Mapping(words, made.steps, made.fills, made.passes, made.lane_groups_log2, made.output_words)
    dense = array_weights(spec, complete, (channels,), 1, 1)[0, 0]
    np.testing.assert_array_equal(dense[:, : part.channels], values[first : first + part.channels].T)


def test_all_pairs_are_a_cascade_of_their_own() -> None:
    kernel = AllPairs("words", 12)
    assert kernel.refuses(("x",), {"y"}, alone=True) is None
    assert "alone" in (kernel.refuses(("x",), {"y"}, alone=False) or "")
    assert kernel.whole == ("words",)
    assert kernel.splits
    assert not kernel.orders_channels
    assert kernel.cost_key == AllPairs("others", 12).cost_key != AllPairs("words", 13).cost_key


@settings(deadline=None, max_examples=50)
@given(MACHINES, st.integers(1, 70), st.data())
def test_a_normalisation_is_an_identity_in_fine_units(spec: AccelSpec, channels: int, data: st.DataObject) -> None:
    constants = normalise.normalisation(data.draw(st.integers(1, 5000)), 1e-5, 0.1, 4 / 127)
    first = data.draw(st.integers(0, (channels - 1) // spec.co_lanes)) * spec.co_lanes
    kernel = Normalise(constants, channels).slice(first, data.draw(st.integers(1, channels - first)))
    dense = array_weights(spec, kernel.map(Mappings(spec), (channels,)), (channels,), 1, 1)[0, 0]
    wanted = np.eye(channels, dtype=np.int64)[:, first : first + kernel.channels] << normalise.UNIT_BITS
    np.testing.assert_array_equal(dense[:, : kernel.channels], wanted)
    base = data.draw(st.integers(0, 20))
    data_of = kernel.statistic_records(spec, base)
    records = [decode_norm(data_of[at : at + NORM_BYTES]) for at in range(0, len(data_of), NORM_BYTES)]
    assert records == [(constants, base + (first + k) // spec.ci_lanes) for k in range(kernel.channels)]
    assert kernel.setup == (len(data_of), kernel.channels * normalise.CYCLES_PER_CHANNEL)


def test_a_normalisation_waits_for_the_frame() -> None:
    kernel = Normalise(normalise.normalisation(100, 1e-5, 0.1, 0.03), 8)
    assert kernel.needs_statistics
    assert not kernel.orders_channels
    assert "sums of the whole frame" in (kernel.refuses(("x",), {"x"}, alone=False) or "")
    assert kernel.refuses(("x",), {"y"}, alone=False) is None
