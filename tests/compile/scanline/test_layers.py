"""Epilogues follow their channels; layers know what they read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from codesign.compile.scanline.kernels.convolution import identity
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.layers import Epilogue, Layer, LayerGraph, SecondOperand, Shuffle, computed
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.isa import Plane
from codesign.hw.spec import BASE


def epilogue(channels: int, seed: int, *, planes: bool = False) -> Epilogue:
    rng = np.random.default_rng(seed)
    factors = (rng.integers(-(2**31), 2**31, channels) for _ in range(3))
    shift = rng.integers(0, 63, channels)
    halves = rng.choice([Plane.HIGH, Plane.LOW], channels).astype(np.int64) if planes else None
    return Epilogue(*factors, shift, 3, planes=halves)


def rows(one: Epilogue) -> np.ndarray:
    """Everything of an epilogue that has channels, ``[4 or 5, channels]``."""
    found = [one.bias, one.multiplier, one.negative_multiplier, one.shift]
    return np.stack(found if one.planes is None else [*found, one.planes])


@given(st.integers(1, 30), st.integers(0, 2**16), st.booleans())
def test_epilogues_follow_their_channels(channels: int, seed: int, planes: bool) -> None:
    one = epilogue(channels, seed, planes=planes)
    order = np.random.default_rng(seed).integers(0, channels, 2 * channels)
    np.testing.assert_array_equal(rows(one.pick(order)), rows(one)[:, order])
    np.testing.assert_array_equal(rows(one.pick(slice(1, 4))), rows(one)[:, 1:4])


@given(st.integers(1, 30), st.integers(0, 2**16))
def test_channels_between_are_rounded_to_zero(channels: int, seed: int) -> None:
    one = epilogue(channels, seed)
    places = np.sort(np.random.default_rng(seed).choice(2 * channels, channels, replace=False))
    placed = rows(one.place(places, 2 * channels))
    np.testing.assert_array_equal(placed[:, places], rows(one))
    assert not np.delete(placed, places, axis=1).any()


def test_what_a_layer_reads() -> None:
    plain = Layer("conv", ("a", "b"), "out", identity(4), epilogue(4, 0))
    assert plain.operand is None
    assert plain.streamed == plain.reads == ("a", "b")
    rule = numerics.AddRule(0, 0, 1, 1, 0, 0)
    added, masked = (plain.with_second(SecondOperand("c", broadcast, rule)) for broadcast in (False, True))
    assert added.operand == masked.operand == "c"
    assert added.streamed == ("a", "b", "c")
    assert added.follows_order == "c"
    assert masked.follows_order is None
    warp = Layer("warp", ("image",), "out", Warp("flow", 4, 3), epilogue(3, 0))
    assert warp.operand == "flow"
    assert warp.follows_order is None
    assert warp.streamed == ("image", "flow")
    window = Layer("window", ("flow",), "out", Window("maps", 8, 8, 1, 0, 4), epilogue(9, 0))
    assert window.seen == "maps"
    assert window.streamed == ("flow",)
    assert window.reads == ("flow", "maps")
    shuffle = Shuffle("shuffle", "out", "large", 2)
    assert shuffle.sources == shuffle.streamed == shuffle.reads == ("out",)
    assert computed([plain, shuffle, warp]) == [plain, warp]


def test_slices() -> None:
    tensors = {name: Tensor(name, 4, 4, 8, 0.1, 0) for name in ("a", "out")}
    whole = Layer("conv", ("a",), "out", identity(8), epilogue(8, 0), macs=7)
    graph = LayerGraph("g", tensors, (whole,), ("a",), ("out",))
    assert not graph.is_slice(whole)
    assert graph.is_slice(whole.pick([1, 2]))
    assert graph.macs == 7
    assert graph.source_channels(whole) == (8,)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 80), st.sampled_from([8, 16]))
def test_bytes_of_tensors(height: int, width: int, values: int, bits: int) -> None:
    tensor = Tensor("t", height, width, values * bits // 8, 0.1, 0, bits)
    assert (tensor.values, tensor.planes) == (values, bits // 8)
    assert tensor.bytes(BASE) == height * width * values * bits // 8
    words = Tensor("w", height, width, values, 0.1, 0, as_weights=True)
    assert words.bytes(BASE) == words.groups(BASE) * words.group_bytes(BASE)
    assert words.group_bytes(BASE) % BASE.weight_word_bytes == 0
