"""Convolutions: every rewriting of the weights keeps the sums, and the array's steps hold the weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.kernels.convolution import Convolution, identity
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.hw import numerics
from codesign.hw.isa import Opcode
from codesign.hw.spec import BASE, AccelSpec
from tests.compile.scanline.kernels.kernel_cases import MACHINES, array_weights, convolutions, place, psums, tensors

Drawn = tuple[Convolution, tuple[int, ...]]
seeds = st.integers(0, 2**16)


def codes_for(kernel: Convolution, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, kernel.weights.shape[:3]).astype(np.int8)


@given(convolutions(), st.integers(0, 30))
def test_the_footprint_is_the_kernel_at_its_stride(drawn: Drawn, place: int) -> None:
    kernel, _ = drawn
    rows, columns = kernel.weights.shape[:2]
    first_row, first_column = place * kernel.stride - kernel.pad_top, place * kernel.stride - kernel.pad_left
    assert kernel.footprint.rows_for(place) == range(first_row, first_row + rows)
    assert kernel.footprint.columns_for(place) == range(first_column, first_column + columns)
    assert kernel.footprint.edge == kernel.edge


@given(convolutions(), seeds)
def test_channels_are_picked_and_placed(drawn: Drawn, seed: int) -> None:
    kernel, _ = drawn
    rng, codes = np.random.default_rng(seed), codes_for(kernel, seed)
    inputs, outputs = kernel.weights.shape[2:]
    sums = psums(kernel.weights, codes)
    order = rng.integers(0, outputs, int(rng.integers(1, 2 * outputs + 1)))
    np.testing.assert_array_equal(psums(kernel.pick(order).weights, codes), sums[order])
    first = int(rng.integers(0, outputs))
    np.testing.assert_array_equal(psums(kernel.slice(first, outputs - first).weights, codes), sums[first:])
    permuted = rng.permutation(inputs)
    np.testing.assert_array_equal(psums(kernel.pick_inputs(permuted).weights, codes[..., permuted]), sums)
    places = np.sort(rng.choice(2 * inputs, inputs, replace=False))
    spread = rng.integers(-128, 128, (*codes.shape[:2], 2 * inputs)).astype(np.int8)
    spread[..., places] = codes
    np.testing.assert_array_equal(psums(kernel.place_inputs(places, 2 * inputs).weights, spread), sums)


@given(convolutions(), seeds)
def test_bytes_of_16_bits_add_up(drawn: Drawn, seed: int) -> None:
    kernel, _ = drawn
    rng = np.random.default_rng(seed)
    values = rng.integers(numerics.INT16_MIN, numerics.INT16_MAX + 1, kernel.weights.shape[:3]).astype(np.int16)
    on_bytes = kernel.on_byte_planes(1)
    wanted = np.einsum("yxio,yxi->o", kernel.weights.astype(np.int64), values.astype(np.int64))
    np.testing.assert_array_equal(psums(on_bytes.weights, numerics.byte_planes(values)), wanted)
    twice = on_bytes.in_byte_planes()
    np.testing.assert_array_equal(psums(twice.weights, numerics.byte_planes(values)), np.tile(wanted, 2))
    assert kernel.psum_unit(16) == kernel.psum_unit(8) == 1.0


@given(convolutions(), seeds, st.integers(-128, 127))
def test_a_folded_zero_point_and_the_reach_of_sums(drawn: Drawn, seed: int, zero_point: int) -> None:
    kernel, _ = drawn
    codes = codes_for(kernel, seed)
    bias = np.random.default_rng(seed).integers(-1000, 1000, kernel.channels)
    centred = codes.astype(np.int64) - zero_point
    wanted = np.einsum("yxio,yxi->o", kernel.weights.astype(np.int64), centred) + bias
    np.testing.assert_array_equal(psums(kernel.weights, codes) + kernel.folded_bias(bias, zero_point), wanted)
    assert np.all(np.abs(psums(kernel.weights, codes)) <= kernel.psum_reach(codes.shape[2]))
    worst = np.where(kernel.weights[..., 0] > 0, -128, 127).astype(np.int8)
    assert abs(int(psums(kernel.weights, worst)[0])) >= int(kernel.psum_reach(codes.shape[2])[0]) * 127 // 128


@settings(deadline=None, max_examples=50)
@given(MACHINES, convolutions(wide=True))
def test_the_array_multiplies_with_the_weights(spec: AccelSpec, drawn: Drawn) -> None:
    kernel, sources = drawn
    made = kernel.map(Mappings(spec), sources)
    found = array_weights(spec, made, sources, *kernel.weights.shape[:2])
    np.testing.assert_array_equal(found[..., : kernel.channels], kernel.weights)
    assert made.output_words == numerics.ceil_div(kernel.channels, spec.ci_lanes)


@settings(deadline=None, max_examples=50)
@given(MACHINES, st.integers(1, 9), st.integers(1, 40), st.integers(0, 3), seeds)
def test_neighbours_become_channels(spec: AccelSpec, columns: int, outputs: int, pad: int, seed: int) -> None:
    """An unfolded source: its channel ``k`` of pixel ``x`` is the pixel ``x + k``."""
    rng = np.random.default_rng(seed)
    kernel = Convolution(rng.integers(-128, 128, (2, columns, 1, outputs)).astype(np.int8), pad_left=pad)
    unfold = kernel.unfolding(spec)
    assert (unfold > 0) == (min(columns, spec.ci_lanes) >= 2 and min(columns, spec.ci_lanes) > pad)
    if unfold:
        assert not Convolution(kernel.weights, stride=2).unfolding(spec)
        assert not Convolution(kernel.weights, edge=True).unfolding(spec)
        found = array_weights(spec, kernel.map(Mappings(spec), (1,), unfold), (unfold,), 2, columns)
        pixels = rng.integers(-128, 128, (2, 2 * columns)).astype(np.int64)
        lanes = np.stack([pixels[:, k : k + columns] for k in range(unfold)], axis=2)
        wanted = np.einsum("yxo,yx->o", kernel.weights[:, :, 0].astype(np.int64), pixels[:, :columns])
        np.testing.assert_array_equal(np.einsum("yxio,yxi->o", found, lanes)[:outputs], wanted)


@given(convolutions(), st.integers(0, 20), st.integers(0, 9))
def test_fields(drawn: Drawn, first: int, held: int) -> None:
    kernel, channels = drawn
    names = tuple(f"source{index}" for index in range(len(channels)))
    known = tensors(*((name, 9, 40, count) for name, count in zip(names, channels, strict=True)))
    columns = {name: (held + index, 40) for index, name in enumerate(names)}
    made = kernel.map(Mappings(BASE), channels)
    fields = kernel.fields(place(kernel, made, known, columns, first, names))
    assert kernel.opcode is Opcode.CONV
    assert (fields["steps_base"], fields["steps_count"]) == (7, len(made.steps))
    assert (fields["fills_base"], fields["fills_count"], fields["fills_repeat"]) == (3, len(made.fills), made.passes)
    assert fields["x_offset"] == kernel.footprint.columns_for(first).start - held
    assert fields["x_stride"] == fields["stride_rows"] == kernel.stride
    assert fields["more_sources"] == len(names) - 1
    for index in range(1, len(names)):
        assert (fields[f"source_{index}"], fields[f"x_delta_{index}"], fields[f"free_{index}"]) == (index, -index, 1)


@given(st.integers(1, 50), seeds)
def test_an_identity_copies(channels: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-128, 128, (1, 1, channels)).astype(np.int8)
    np.testing.assert_array_equal(psums(identity(channels).weights, codes), codes[0, 0])


@given(convolutions(wide=True), convolutions(wide=True))
def test_equal_costs_have_equal_keys(one: Drawn, other: Drawn) -> None:
    same = Convolution(np.zeros_like(one[0].weights), one[0].stride, one[0].pad_top, one[0].pad_left, one[0].edge)
    assert one[0].cost_key == same.cost_key
    alike = one[0].footprint == other[0].footprint and one[0].weights.shape == other[0].weights.shape
    if not alike:
        assert one[0].cost_key != other[0].cost_key


@given(convolutions())
def test_a_convolution_fits_every_cascade(drawn: Drawn) -> None:
    assert drawn[0].refuses(("x",), {"x", "y"}, alone=False) is None
    assert drawn[0].orders_channels
    assert drawn[0].splits
    assert drawn[0].takes_operand
    assert drawn[0].weight_bytes == drawn[0].weights.size
