"""ONNX spellings that are respelled before import: orders, precisions, pads, and sizes computed in the graph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.importing.spelling.onnx_normalise import sort_nodes
from codesign.hw.errors import InputError

DRAWN = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
CHANNELS = 4


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) / math.sqrt(math.prod(shape[1:]))


def saved(
    folder: Path,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    *,
    opset: int = 18,
    size: tuple[int | str, int | str] = (9, 11),
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A network of ``nodes`` from ``x``, of :data:`CHANNELS` channels, to ``y``."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, [1, CHANNELS, *size])],
        [helper.make_tensor_value_info("y", kind, [1, "c", "i", "j"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    path = folder / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def imported(path: Path, size: tuple[int, int] = (9, 11)) -> ImportedModel:
    """The import of ``path``, which agrees with ONNX Runtime."""
    model = load_model(path, width=size[1], height=size[0])
    assert model.check.outputs_db, model.check
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


# Pads

MODES = ("constant", "reflect", "edge")


@given(
    st.sampled_from((10, 11, 13, 18)),
    st.sampled_from((*MODES, "wrap")),
    st.lists(st.integers(-2, 3), min_size=4, max_size=4),
    st.sampled_from((0.0, 0.75)),
    st.booleans(),
)
@DRAWN
def test_pads_of_every_mode(
    folder: Path, opset: int, mode: str, widths: list[int], value: float, only_image: bool
) -> None:
    if mode == "wrap":
        opset = 19
    assume(mode == "constant" or min(widths) >= 0)
    pads = widths if only_image and opset >= 18 else [0, 0, *widths[:2], 0, 0, *widths[2:]]
    constants: dict[str, np.ndarray] = {"w": weights(CHANNELS, CHANNELS, 3, 3)}
    if opset < 11:
        pad = helper.make_node("Pad", ["x"], ["p"], mode=mode, pads=pads, value=value)
    else:
        names = ["x", "pads", "value"] if mode == "constant" else ["x", "pads", ""]
        constants |= {"pads": np.array(pads, np.int64), "value": np.array(value, np.float32)}
        if len(pads) == 4:
            names, constants = [*names, "axes"], {**constants, "axes": np.array([-2, 3], np.int64)}
        pad = helper.make_node("Pad", names, ["p"], mode=mode)
    imported(saved(folder, [pad, helper.make_node("Conv", ["p", "w"], ["y"])], constants, opset=opset))


@given(
    st.sampled_from(("SAME_UPPER", "SAME_LOWER", "VALID")),
    st.sampled_from(("Conv", "ConvTranspose", "MaxPool", "AveragePool")),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.tuples(st.integers(7, 12), st.integers(7, 12)),
)
@DRAWN
def test_automatic_pads(
    folder: Path, mode: str, op: str, kernel: tuple[int, int], strides: tuple[int, int], dilation: int, size: Any
) -> None:
    dilation = dilation if mode == "VALID" else 1  # else ONNX Runtime refuses it
    dilations = [dilation, dilation] if "Conv" in op else None
    extents = [(k - 1) * (dilations or [1])[0] + 1 for k in kernel]
    assume(mode != "VALID" or all(extent <= side for extent, side in zip(extents, size, strict=True)))
    # ONNX Runtime takes negative pads for nothing but convolutions.
    assume(op == "Conv" or all(extent >= step for extent, step in zip(extents, strides, strict=True)))
    given_ = {"strides": strides, "kernel_shape": kernel, "auto_pad": mode}
    given_ |= {} if dilations is None else {"dilations": dilations}
    names = ["x", "w"] if "Conv" in op else ["x"]
    nodes = [helper.make_node(op, names, ["m"], **given_), helper.make_node("Conv", ["m", "v"], ["y"])]
    constants = {"w": weights(CHANNELS, CHANNELS, *kernel), "v": weights(3, CHANNELS, 1, 1)}
    imported(saved(folder, nodes, constants, size=size), size)


@given(st.sampled_from(("NOTSET", "SAME_UPPER", "SAME_LOWER")), st.integers(2, 5), st.integers(1, 3), st.integers(0, 2))
@DRAWN
def test_a_transposed_convolution_of_a_given_size(folder: Path, mode: str, kernel: int, stride: int, less: int) -> None:
    whole = [(side - 1) * stride + kernel for side in (9, 11)]
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[stride] * 2, auto_pad=mode, output_shape=[n - less for n in whole]
    )
    imported(saved(folder, [node], {"w": weights(CHANNELS, 3, kernel, kernel)}))


# Places and sizes


@given(st.integers(1, 3), st.lists(st.integers(-4, 3), min_size=1, max_size=6), st.booleans())
@DRAWN
def test_what_stands_at_constant_places(folder: Path, axis: int, places: list[int], negative: bool) -> None:
    nodes = [
        helper.make_node("Gather", ["x", "places"], ["g"], axis=axis - 4 if negative else axis),
        helper.make_node("Conv", ["g", "w"], ["y"]),
    ]
    channels = len(places) if axis == 1 else CHANNELS
    imported(saved(folder, nodes, {"places": np.array(places, np.int64), "w": weights(3, channels, 1, 1)}))


def test_a_place_that_is_not_there(folder: Path) -> None:
    path = saved(folder, [helper.make_node("Gather", ["x", "places"], ["y"], axis=1)], {"places": np.array([0, 9])})
    with pytest.raises(InputError):
        load_model(path, width=11, height=9)


@given(st.integers(-4, 3), st.sampled_from((None, *range(-3, 5))))
@DRAWN
def test_sizes_computed_in_the_graph(folder: Path, start: int, end: int | None) -> None:
    """A frame that is divided by a size's part, and by the number of its values."""
    ends = {"start": start} | ({} if end is None else {"end": end})
    assume(len(range(4)[start:end]) > 0)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], **ends),
        helper.make_node("ReduceProd", ["s"], ["part"], keepdims=0),
        helper.make_node("Size", ["x"], ["all"]),
        helper.make_node("Add", ["part", "all"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "number"], ["q"]),
        helper.make_node("Conv", ["q", "w"], ["y"]),
    ]
    imported(saved(folder, nodes, {"w": weights(3, CHANNELS, 3, 3)}, size=("h", "w")))


# Order and precision


@given(st.permutations(range(6)))
@DRAWN
def test_nodes_in_any_order(folder: Path, order: list[int]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("Mul", ["e", "b"], ["y"]),
    ]
    imported(saved(folder, [nodes[place] for place in order], {"w": weights(CHANNELS, CHANNELS, 1, 1)}))


def test_nodes_in_a_circle_are_refused(folder: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    path = saved(folder, [*nodes, helper.make_node("Relu", ["a"], ["y"])], {})
    with pytest.raises(InputError, match="damaged"):
        load_model(path, width=11, height=9)


def test_nodes_within_a_branch_are_put_in_order_too() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["i"], ["o"]), helper.make_node("Neg", ["late"], ["i"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [choice, helper.make_node("Abs", ["x"], ["late"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    sort_nodes(graph)
    assert [node.op_type for node in graph.node] == ["Abs", "If"]
    assert [node.op_type for node in graph.node[1].attribute[0].g.node] == ["Neg", "Relu"]


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "inside"])
@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_half_precision(folder: Path, ends: bool, alpha: float) -> None:
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Conv", ["h", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=alpha),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(0.5, np.float16))),
        helper.make_node("Mul", ["b", "k"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["z"]),
    ]
    if ends:
        for node in nodes:
            node.input[:] = ["x" if name == "h" else name for name in node.input]
            node.output[:] = ["y" if name == "z" else name for name in node.output]
    else:
        cast = helper.make_node("Cast", ["x"], ["h"], to=half)
        nodes = [cast, *nodes, helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)]
    constants = {"w": weights(CHANNELS, CHANNELS, 3, 3).astype(np.float16)}
    model = imported(saved(folder, nodes, constants, kind=half if ends else TensorProto.FLOAT))
    assert model.check.bound_db == 50.0


def test_operators_that_the_importer_writes_as_loops_run_on_the_host(folder: Path, tmp_path: Path) -> None:
    from codesign.compile.driver import Quantisation, compile_network
    from codesign.compile.scanline.module import LoadedModule, export
    from codesign.hw.model.reference import run
    from codesign.hw.spec import TINY

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Einsum", ["a", "m"], ["e"], equation="bchw,cd->bdhw"),
        helper.make_node("Pad", ["e", "pads"], ["p"], mode="reflect"),
        helper.make_node("Conv", ["p", "w"], ["y"]),
    ]
    constants = {
        "w": weights(CHANNELS, CHANNELS, 3, 3),
        "m": weights(CHANNELS, CHANNELS),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    model = imported(saved(folder, nodes, constants))
    frame = np.random.default_rng(3).random((1, CHANNELS, 9, 11), np.float32)
    network = compile_network(model, TINY, calibration=[frame], quantisation=Quantisation("minmax"))
    host = {placement.operator for placement in network.placements if not placement.on_accelerator}
    assert host == {"tir.einsum", "tir.mirror_pad"}
    export(network.executable(), tmp_path / "network.so")
    import onnxruntime

    wanted = onnxruntime.InferenceSession(str(folder / "network.onnx")).run(None, {"x": frame})[0]
    found = LoadedModule(tmp_path / "network.so", run).run(frame)
    assert np.square(found - wanted).mean() < 0.01 * wanted.var()
