"""Passes are named and reported to watchers, and a graph prints as text, one operator a line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.passes import passed, run_passes, text_of, watching


def _graph() -> Graph:
    shape = (1, 2, 4, 5)
    conv = {"strides": (2, 2), "padding": (0, 0, 0, 0), "data_layout": "NCHW", "call": object()}
    nodes = (Node("c", "nn.conv2d", ("x", "w"), conv, shape), Node("y", "multiply", ("c", "half"), {}, shape))
    constants = {"w": np.zeros((2, 3, 1, 1), np.int8), "half": np.array(0.5, np.float32)}
    return Graph("x", (1, 3, 8, 10), nodes, constants, "y")


def test_text() -> None:
    assert text_of(_graph()).splitlines() == [
        "x: float32[1, 3, 8, 10]",
        "c = nn.conv2d(x, int8[2, 3, 1, 1]) {strides=(2, 2)}: float32[1, 2, 4, 5]",
        "y = multiply(c, 0.5): float32[1, 2, 4, 5]",
        "return y",
    ]


def test_passes_run_in_order_and_are_told_by_name() -> None:
    told: list[tuple[str, str, str]] = []

    def first(graph: Graph) -> Graph:
        return replace(graph, output="c")

    def second(graph: Graph) -> Graph:
        assert graph.output == "c"
        return graph

    with watching(lambda stage, name, graph: told.append((stage, name, graph.output))):
        result = passed("stage", run_passes("stage", _graph(), (first, second)))
    assert told == [("stage", "first", "c"), ("stage", "second", "c"), ("stage", "", "c")]
    assert result.output == "c"
    run_passes("stage", _graph(), (first,))
    assert len(told) == 3  # nobody watches any more


DUMP = ("compile", "fsrcnn_x2", "--accel", "tiny", "--size", "16x12", "--dump")


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("imported", "x: float32[1, 1, 12, 16]"),
        ("canonical", "nn.prelu("),
        ("canonical/fold_affine", "nn.conv2d("),
        ("quantised/equalised", "nn.conv2d("),
        ("quantised", "quantize(x, 0.00392156886, -128) {out_dtype=int8}"),
        ("partitioned", "= nn.conv2d: scanline"),
        ("layers", "= conv5x5(x.q"),
        ("plan", "steps a set of pixels"),
    ],
)
def test_dump(run, stage: str, line: str) -> None:
    code, out, err = run(*DUMP, stage)
    assert code == 0, err
    assert line in out
    assert "0x" not in out  # no object's address


def test_dump_of_what_there_was_not(run) -> None:
    code, _, err = run(*DUMP, "nonsense")
    assert code == 1
    assert "canonical/fold_constants" in err
    assert "plan" in err
