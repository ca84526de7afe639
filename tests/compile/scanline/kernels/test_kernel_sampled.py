"""Kernels that sample beside the array: warps, resizes and windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.kernels.resize import Resize
from codesign.compile.scanline.kernels.sampled import Sampled
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.hw import numerics
from codesign.hw.isa import FIELDS
from codesign.hw.spec import AccelSpec
from codesign.hw.windows import window_channels
from tests.compile.scanline.kernels.kernel_cases import MACHINES, place, tensors

warps = st.builds(Warp, st.just("flow"), st.integers(0, 8), st.integers(1, 40), st.booleans(), st.integers(0, 4))
resizes = st.builds(Resize, st.sampled_from([2, 4, 8]), st.integers(1, 40))
windows = st.builds(
    Window,
    st.just("maps"),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 8),
)
columns = st.integers(0, 20)


@settings(deadline=None, max_examples=50)
@given(MACHINES, st.one_of(warps, resizes, windows), st.integers(-128, 127))
def test_samples_use_no_array(spec: AccelSpec, kernel: Sampled, zero_point: int) -> None:
    made = kernel.map(Mappings(spec), (kernel.channels,))
    assert not made.steps
    assert not made.fills
    assert made.words.shape == (0, spec.co_lanes, spec.ci_lanes)
    assert made.output_words == numerics.ceil_div(kernel.channels, spec.ci_lanes)
    bias = np.arange(kernel.channels)
    np.testing.assert_array_equal(kernel.folded_bias(bias, zero_point), bias - 65536 * zero_point)
    assert np.all(kernel.psum_reach(kernel.channels) == 128 * 65536)
    assert kernel.weight_bytes == 0
    assert not kernel.splits
    assert not kernel.takes_operand
    assert not kernel.orders_channels


@given(warps, columns)
def test_a_warp_has_pixels_around_its_own_on_chip(kernel: Warp, x: int) -> None:
    """As far as the reach to both sides of the pixel, and one more beyond for the second of a sample's neighbours."""
    span = range(x - kernel.reach, x + kernel.reach + 2)
    assert kernel.footprint.rows_for(x) == kernel.footprint.columns_for(x) == span
    assert kernel.footprint.edge == kernel.edge
    assert kernel.flow == "flow"


@settings(deadline=None, max_examples=50)
@given(MACHINES, warps)
def test_a_warp_grows_to_the_machines_reach(spec: AccelSpec, kernel: Warp) -> None:
    grown = kernel.on(spec)
    assert grown.reach == spec.warp_reach
    assert grown.channels == kernel.channels
    assert grown.footprint.rows == 2 * spec.warp_reach + 2


@settings(deadline=None, max_examples=50)
@given(MACHINES, warps, columns, columns)
def test_fields_of_a_warp(spec: AccelSpec, kernel: Warp, first: int, held: int) -> None:
    known = tensors(("image", 9, 30, kernel.channels), ("flow", 9, 30, 4))
    made = kernel.map(Mappings(spec), (kernel.channels,))
    fields = kernel.fields(place(kernel, made, known, {"image": (held, 30), "flow": (first, 30)}, first, ("image",)))
    assert {field.name for field in FIELDS[kernel.opcode]} >= fields.keys()
    assert fields["x_first"] + fields["x_offset"] == first  # the pixel's own column of the frame
    assert (fields["address"], fields["pixel_pitch"], fields["row_stride"]) == (
        1000,
        kernel.channels,
        30 * kernel.channels,
    )
    assert (fields["frame_width"], fields["fraction_bits"]) == (30, kernel.fraction_bits)


def test_operands_that_must_lie_in_memory() -> None:
    warp, window = Warp("flow", 4, 3), Window("maps", 8, 8, 2, 0, 4)
    assert "not on chip" in (warp.refuses(("image",), {"image"}, alone=False) or "")
    assert warp.refuses(("image",), {"flow", "other"}, alone=False) is None
    assert "whole in memory" in (window.refuses(("flow",), {"maps"}, alone=False) or "")
    assert window.refuses(("flow",), {"flow"}, alone=False) is None
    assert window.whole == ("maps",)
    assert window.seen(("flow",)) == "maps"
    assert window.flow is None
    assert Resize(2, 3).refuses(("image",), {"image"}, alone=False) is None


@given(resizes, st.integers(1, 40), st.integers(0, 400))
def test_a_resize_needs_its_samples(kernel: Resize, extent: int, y: int) -> None:
    """Both rows that a sample lies between are among those on chip, as far as they exist."""
    y %= kernel.factor * extent
    step = numerics.corner_step(extent, kernel.factor * extent)
    (place_,), _ = numerics.corner_places(np.array([y]), step)
    needed = {min(int(place_), extent - 1), min(int(place_) + 1, extent - 1)}
    assert needed <= set(kernel.footprint.rows_for(y))
    assert kernel.footprint.edge
    assert kernel.footprint.enlarges == kernel.factor


@settings(deadline=None, max_examples=50)
@given(MACHINES, resizes, columns, columns)
def test_fields_of_a_resize(spec: AccelSpec, kernel: Resize, first: int, held: int) -> None:
    known = tensors(("image", 9, 30, kernel.channels))
    made = kernel.map(Mappings(spec), (kernel.channels,))
    fields = kernel.fields(place(kernel, made, known, {"image": (held, 30)}, first, ("image",)))
    assert {field.name for field in FIELDS[kernel.opcode]} >= fields.keys()
    assert 1 << fields["enlarge_log2"] == kernel.factor
    assert (fields["x_first"] << fields["enlarge_log2"]) + fields["x_offset"] == first
    assert fields["step_x"] == numerics.corner_step(30, 30 * kernel.factor)
    assert fields["step_y"] == numerics.corner_step(9, 9 * kernel.factor)
    assert kernel.in_byte_planes().channels == 2 * kernel.channels


@settings(deadline=None, max_examples=50)
@given(MACHINES, windows)
def test_windows_are_laid_out_in_whole_words(spec: AccelSpec, kernel: Window) -> None:
    side = 2 * kernel.radius + 1
    if spec.window_beats == 0:
        return
    made, places = kernel.laid_out(spec)
    assert kernel.channels == side * side == len(set(places.tolist()))
    assert made.channels % spec.ci_lanes == 0
    assert made.channels > int(places.max())
    np.testing.assert_array_equal(places.reshape(side, side), window_channels(spec, kernel.radius).T)
    assert made.footprint == kernel.footprint
    assert made.cost_key != kernel.cost_key


@settings(deadline=None, max_examples=50)
@given(MACHINES, windows, columns, columns)
def test_fields_of_a_window(spec: AccelSpec, kernel: Window, first: int, held: int) -> None:
    known = tensors(("flow", 9, 30, 4), ("maps", 9, 30, kernel.map_bytes))
    made = kernel.map(Mappings(spec), (4,))
    fields = kernel.fields(place(kernel, made, known, {"flow": (held, 30)}, first, ("flow",)))
    assert {field.name for field in FIELDS[kernel.opcode]} >= fields.keys()
    assert fields["address"] == 2000 + first * kernel.map_bytes
    assert fields["row_stride"] == 30 * kernel.map_bytes
    assert (fields["x_first"], fields["x_offset"]) == (first, first - held)
    assert (fields["map_width"], fields["map_height"]) == (kernel.map_width, kernel.map_height)
