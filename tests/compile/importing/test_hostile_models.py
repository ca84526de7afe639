"""ONNX files that no exporter writes are refused in one sentence, before they take time or memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.importing import model as front_door
from codesign.compile.importing.limits import MAX_PARTS, most_values
from codesign.compile.importing.model import load_model
from codesign.hw.errors import InputError, UnsupportedError

SIDE = 16


def _model(nodes: list[Any], tensors: dict[str, Any], kind: int = TensorProto.FLOAT, depth: int = 3) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [1, depth, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def _one(op: str, tensors: dict[str, Any], **attributes: Any) -> onnx.ModelProto:
    return _model([helper.make_node(op, ["x", *tensors], ["y"], "it", **attributes)], tensors)


def _beside(op: str, tensors: dict[str, Any]) -> onnx.ModelProto:
    """A constant computed by ``op`` is added to the image."""
    nodes = [
        helper.make_node(op, list(tensors), ["made"], "it"),
        helper.make_node("ReduceMax", ["made"], ["most"], "most"),
        helper.make_node("Add", ["x", "most"], ["y"], "sum"),
    ]
    return _model(nodes, tensors)


def _chain(op: str, count: int, **attributes: Any) -> onnx.ModelProto:
    names = ["x", *(f"v{place}" for place in range(count - 1)), "y"]
    double = 2 if op == "Concat" else 1
    return _model(
        [helper.make_node(op, [names[k]] * double, [names[k + 1]], f"n{k}", **attributes) for k in range(count)], {}
    )


def _many_tensors() -> onnx.ModelProto:
    model = _one("Relu", {})
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(k), f"i{k}") for k in range(MAX_PARTS + 1))
    return model


def _whole(*values: int) -> Any:
    return np.array(values, np.int64)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "too many operators": (lambda: _chain("Relu", MAX_PARTS + 1), f"has {MAX_PARTS + 1} operators", ""),
    "too many tensors": (_many_tensors, "stored tensors", ""),
    "channels doubled 30 times": (lambda: _chain("Concat", 30, axis=1), "makes a tensor of", "Concat 'n"),
    "a tile": (lambda: _one("Tile", {"s": _whole(1, 1, 10**5, 10**5)}), "makes a tensor of", "'it'"),
    "an expansion": (lambda: _one("Expand", {"s": _whole(2**31, 3, SIDE, SIDE)}), "makes a tensor of", "'it'"),
    "a pad": (lambda: _one("Pad", {"p": _whole(0, 0, 2**31, 0, 0, 0, 0, 0)}), "makes a tensor of", "'it'"),
    "a resize": (
        lambda: _model(
            [helper.make_node("Resize", ["x", "", "", "s"], ["y"], "it", mode="nearest")],
            {"s": _whole(1, 3, 2**31, 2**31)},
        ),
        "makes a tensor of",
        "'it'",
    ),
    "a constant": (lambda: _beside("ConstantOfShape", {"s": _whole(10**5, 10**5, 100)}), "makes a tensor of", "'it'"),
    "a constant tile": (
        lambda: _beside("Tile", {"k": np.ones(65000, np.float32), "r": _whole(10**6)}),
        "makes a tensor of",
        "'it'",
    ),
    "nothing left of a slice": (
        lambda: _one("Slice", {"a": _whole(9), "b": _whole(3), "axes": _whole(2)}),
        "without values",
        "'it'",
    ),
    "nothing left of a backward slice": (
        lambda: _one("Slice", {"a": _whole(0), "b": _whole(SIDE), "axes": _whole(2), "s": _whole(-1)}),
        "without values",
        "'it'",
    ),
    "nothing left of a pool": (lambda: _one("MaxPool", {}, kernel_shape=[17, 17]), "without values", "'it'"),
    "too many channels": (
        lambda: _model([helper.make_node("GlobalAveragePool", ["x"], ["y"], "it")], {}, depth=5000),
        "has 5000 channels",
        "input 'x'",
    ),
    "an unknown type": (lambda: _model([helper.make_node("Relu", ["x"], ["y"])], {}, 99), "unknown type", "input 'x'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_nobody_could_compute_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    make, said, where = REFUSED[kind]
    path = tmp_path / "net.onnx"
    path.write_bytes(make().SerializeToString())
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        load_model(path, width=SIDE, height=SIDE)
    assert time.monotonic() - began < 60
    assert said in refused.value.what or "ONNX Runtime refuses" in refused.value.what
    assert where in refused.value.where or "ONNX Runtime refuses" in refused.value.what
    assert "\n" not in refused.value.what
    assert refused.value.hint


def test_the_bound_leaves_room_for_large_frames() -> None:
    assert most_values(16, 16) >= 64 * 3840 * 2160 // 2
    assert most_values(7680, 4320) >= 1024 * 7680 * 4320


def test_a_deep_network_is_imported_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(_chain("Relu", 4000).SerializeToString())
    began = time.monotonic()
    load_model(path, width=SIDE, height=SIDE)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("location", ["w.bin\0", "loop"])
def test_names_of_data_files_that_none_can_have(location: str, tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    model = _one("Add", {"k": np.ones((3, 1, 1), np.float32)})
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"cannot be read|are missing"):
        load_model(path, width=SIDE, height=SIDE)


def test_a_depth_first_shuffle_of_the_image_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    nodes = [helper.make_node("DepthToSpace", ["x"], ["y"], "up", blocksize=2)]
    path.write_bytes(_model(nodes, {}, depth=12).SerializeToString())
    found = load_model(path, width=SIDE, height=SIDE).check.decibels
    assert found is not None
    assert found > 100


def test_what_is_not_foreseen_is_refused_and_keeps_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Graph) -> Graph:
        raise KeyError(Node("n", "relu", (), {}, ()).name)

    monkeypatch.setattr(front_door, "canonicalise", broken)
    path = tmp_path / "net.onnx"
    path.write_bytes(_one("Relu", {}).SerializeToString())
    with pytest.raises(UnsupportedError, match=r"cannot be imported \(KeyError: 'n'\)") as refused:
        load_model(path, width=SIDE, height=SIDE)
    assert isinstance(refused.value.__cause__, KeyError)
