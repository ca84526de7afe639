"""Layers as ``compile --dump layers`` and ``--dump plan`` print them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.cli.dumping import layers_text, plan_text
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.spec import BASE
from tests.sim.layer_graphs import SMALL, GraphDraw, build, graph_draws

LINE = re.compile(r"\S+ = [\w ]+\(.+\): int(8|16)\[\d+, \d+, \d+\], \S+ x \(q [+-]\d+\)")

KINDS = ("warps", "correlations", "norms", "windows")
draws = st.one_of(*(graph_draws(side=8, channels=6, layers=3, **{kind: True}) for kind in KINDS))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(draws)
def test_every_layer_has_a_line(draw: GraphDraw) -> None:
    """With its output, its kind, every tensor that it reads, and the result's shape."""
    graph = build(draw)
    lines = layers_text(graph).splitlines()
    assert len(lines) == len(graph.layers)
    for line, layer in zip(lines, graph.layers, strict=True):
        assert LINE.fullmatch(line), line
        assert line.startswith(f"{layer.output} = ")
        assert all(name in line for name in layer.reads)


@pytest.mark.parametrize("word", ["conv3x3", "conv1x1", "plus", "table"])
def test_what_a_layer_does_is_told(word: str) -> None:
    assert word in layers_text(build(SMALL))


def test_a_plan_tells_cascades_and_steps() -> None:
    plan = make_plan(BASE, build(SMALL))
    lines = plan_text(plan).splitlines()
    assert sum(line.startswith("cascade ") for line in lines) == len(plan.cascades)
    assert sum(line.startswith("  ") and line.endswith("steps a set of pixels") for line in lines) == sum(
        len(cascade.layers) for cascade in plan.cascades
    )
