"""Every rewriting of a layer graph computes the same tensors, for every kind of layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.layers import Concat, Epilogue, Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.plan.mapping import Mappings
from codesign.compile.scanline.rewrite.concat import MOST_PARTS, fold_concats
from codesign.compile.scanline.rewrite.copies import copy_layer, count_sources
from codesign.compile.scanline.rewrite.ordering import order_channels
from codesign.compile.scanline.rewrite.slices import copied_channels, fold_slices
from codesign.compile.scanline.rewrite.split_layers import each_rewriting, fits_memories, split_layers
from codesign.compile.scanline.rewrite.subpixel import fold_shuffles
from codesign.compile.scanline.rewrite.window_layout import lay_out_windows
from codesign.compile.scanline.tensors import Tensor
from codesign.hw.errors import UnsupportedError
from codesign.hw.numerics import AddRule
from codesign.hw.spec import TINY
from tests.sim.layer_graphs import GraphDraw, build, graph_draws, random_inputs
from tests.sim.layer_meaning import evaluate

NARROW = dataclasses.replace(
    TINY, weight_words=64, fill_words=128, warp_reach=1, window_beats=16, correlator=1, statistic_channels=64
)
"""Holds few weights, so that layers are split."""

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
draws = st.one_of(
    graph_draws(side=10, channels=14, layers=4),
    graph_draws(side=8, channels=8, layers=3, warps=True),
    graph_draws(side=8, channels=8, layers=3, correlations=True),
    graph_draws(side=8, channels=8, layers=4, norms=True),
    graph_draws(side=8, channels=8, layers=3, windows=True),
)

REWRITINGS: dict[str, Callable[[LayerGraph], LayerGraph]] = {
    "windows": lambda graph: lay_out_windows(NARROW, graph),
    "counted": count_sources,
    "ordered": order_channels,
    "sliced": fold_slices,
    "unshuffled": fold_shuffles,
}


def agree(graph: LayerGraph, rewritten: LayerGraph, seed: int, *, ordered: bool = False) -> None:
    inputs = random_inputs(graph, seed)
    wanted, found = evaluate(graph, inputs), evaluate(rewritten, inputs, NARROW, ordered=ordered)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert rewritten.macs == graph.macs
    used = {name for layer in rewritten.layers for name in (*layer.reads, layer.output)}
    assert used <= rewritten.tensors.keys()


@pytest.mark.parametrize("name", REWRITINGS)
@quick
@given(draws)
def test_a_rewriting_keeps_the_values(name: str, draw: GraphDraw) -> None:
    graph = build(draw)
    agree(graph, REWRITINGS[name](graph), draw.seed, ordered=name == "ordered")


@quick
@given(draws)
def test_all_rewritings_together_keep_the_values(draw: GraphDraw) -> None:
    graph = build(draw)
    try:
        found = each_rewriting(NARROW, graph, Mappings(NARROW), lambda one: one)
    except UnsupportedError:
        return
    for rewritten in found:
        agree(graph, rewritten, draw.seed, ordered=True)


@quick
@given(graph_draws(side=8, channels=60, layers=2))
def test_split_layers_fit_and_cover_their_output(draw: GraphDraw) -> None:
    graph, mappings = build(draw), Mappings(NARROW)
    try:
        split = split_layers(NARROW, graph, mappings)
    except UnsupportedError:
        return
    for layer in split.computed:
        assert fits_memories(NARROW, [layer.kernel.map(mappings, split.source_channels(layer))])
    covered: dict[str, list[int]] = {}
    for layer in split.computed:
        covered.setdefault(layer.output, []).extend(range(layer.first_channel, layer.first_channel + layer.channels))
    assert all(channels == list(range(split.tensors[name].channels)) for name, channels in covered.items())
    inputs = random_inputs(graph, draw.seed)
    wanted, found = evaluate(graph, inputs), evaluate(split, inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=14), st.booleans(), st.integers(0, 2**16))
def test_concatenations_are_read_in_parts(channels: list[int], whole: bool, seed: int) -> None:
    """A layer that reads a concatenation reads its parts, at most so many; ``whole``: it is an output as well."""
    parts = tuple(f"part{index}" for index in range(len(channels)))
    total, rng = sum(channels), np.random.default_rng(seed)
    tensors = {name: Tensor(name, 3, 4, count, 0.1, 5) for name, count in zip(parts, channels, strict=True)}
    tensors |= {name: Tensor(name, 3, 4, total, 0.1, 5) for name in ("all", "out")}
    reader = copy_layer("reader", tensors["all"], tensors["out"])
    weights = rng.integers(-3, 4, (1, 1, total, total)).astype(np.int8)
    reader = dataclasses.replace(reader, kernel=Convolution(weights))
    results = ("out", "all") if whole else ("out",)
    layers, known = fold_concats([Concat("concat", parts, "all"), reader], tensors, results)
    assert all(len(layer.sources) <= MOST_PARTS for layer in layers)
    graph = LayerGraph("parts", known, layers, parts, results)
    inputs = {name: rng.integers(-128, 128, (3, 4, tensors[name].channels)).astype(np.int8) for name in parts}
    found, joined = evaluate(graph, inputs), np.concatenate([inputs[name] for name in parts], axis=2)
    unfolded = LayerGraph("whole", tensors, (reader,), ("all",), ("out",))
    np.testing.assert_array_equal(found["out"], evaluate(unfolded, {"all": joined})["out"])
    if whole:
        np.testing.assert_array_equal(found["all"], joined)


@given(st.integers(1, 30), st.integers(0, 2**16))
def test_copies_are_known_as_such(channels: int, seed: int) -> None:
    source = Tensor("source", 2, 2, channels, 0.1, -4)
    picked = np.random.default_rng(seed).integers(0, channels, 2 * channels)
    layer = copy_layer("copy", source, dataclasses.replace(source, name="target")).pick(picked)
    np.testing.assert_array_equal(copied_channels(layer), picked)
    scaled = dataclasses.replace(layer, epilogue=dataclasses.replace(layer.epilogue, qmin=0))
    assert copied_channels(scaled) is None


def test_a_second_operand_keeps_the_order_that_its_maker_needs() -> None:
    """A shuffled sum is reordered; an operand that is no convolution's result cannot be, so the sum is copied."""
    graph = _warped_sum()
    rewritten = order_channels(graph)
    assert any(layer.name.endswith(".copy") for layer in rewritten.layers)
    agree(graph, rewritten, 1, ordered=True)


def _warped_sum() -> LayerGraph:
    """conv(image) + warp(image), shuffled by 2."""
    rng = np.random.default_rng(3)
    image, flow = Tensor("image", 4, 6, 8, 0.1, 0), Tensor("flow", 4, 6, 4, 0.25, 0)
    tensors = {one.name: one for one in (image, flow)}
    tensors |= {name: dataclasses.replace(image, name=name) for name in ("warped", "sum")}
    tensors["large"] = Tensor("large", 8, 12, 2, 0.1, 0)
    one, shift = np.full(8, 1 << 14, np.int64), np.full(8, 30, np.int64)
    warp = Layer("warp", ("image",), "warped", Warp("flow", 2, 8), Epilogue(0 * one, one, one, shift, 0))
    total = copy_layer("conv", image, tensors["sum"])
    total = dataclasses.replace(total, kernel=Convolution(rng.integers(-2, 3, (1, 1, 8, 8)).astype(np.int8)))
    total = total.with_second(SecondOperand("warped", False, AddRule(0, 0, 1, 1, 0, 0)))
    shuffle = Shuffle("shuffle", "sum", "large", 2)
    return LayerGraph("warped", tensors, (warp, total, shuffle), ("image", "flow"), ("large",))
