"""Whole kinds of operators of which an attribute was once dropped: the import computes what the model's engine does.

Every example is imported with its check, which refuses it below 60 dB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.importing.spelling.resize import Rule, taps
from codesign.compile.ir.relax import from_module
from codesign.hw.spec import load_spec

sizes = st.tuples(st.integers(5, 26), st.integers(5, 26))
drawn = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _by_onnx(
    path: Path, nodes: list[Any], tensors: dict[str, Any], width: int, height: int, opset: int = 18
) -> ImportedModel:
    """The model of ``nodes`` from ``x`` to ``y``, imported and checked."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, "h", "w"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "oh", "ow"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return _sound(load_model(path, width=width, height=height))


def _by_torch(function: Any, width: int, height: int) -> ImportedModel:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(function(x))

    return _sound(load_model(Net(), width=width, height=height, channels=3))


def _sound(model: ImportedModel) -> ImportedModel:
    assert model.check.decibels is not None, str(model.check)
    assert model.check.decibels >= 60
    return model


@st.composite
def _slice_of(draw: st.DrawFn, extent: int) -> tuple[int, int, int]:
    """Start, end and step of a slice that keeps something, written in any of the ways that the standard allows."""
    first, last = draw(st.integers(0, extent - 1)), draw(st.integers(0, extent - 1))
    stride = draw(st.integers(1, 4))
    step = stride if first < last or (first == last and draw(st.booleans())) else -stride
    end = last + (1 if step > 0 else -1)
    beyond = [2**63 - 1, 2**31 - 1, extent + 5] if step > 0 else [-(2**63) + 1, -(2**31), -extent - 5]
    written = [end] if end >= 0 else []
    written += [end - extent] if 0 <= end < extent else []
    written += beyond if end in (extent, -1) else []
    return draw(st.sampled_from([first, first - extent])), draw(st.sampled_from(written)), step


@drawn
@given(st.data())
def test_slices_of_onnx(tmp_path: Path, data: st.DataObject) -> None:
    height, width = data.draw(sizes)
    axes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True))
    chosen = [data.draw(_slice_of((1, 3, height, width)[axis])) for axis in axes]
    starts, ends, steps = zip(*chosen, strict=True)
    named = [axis - 4 if data.draw(st.booleans()) else axis for axis in axes]
    tensors = {key: np.int64(value) for key, value in zip("seat", (starts, ends, named, steps), strict=True)}
    # A function behind it: the slice of a whole frame alone computes nothing.
    nodes = [helper.make_node("Slice", ["x", *"seat"], ["cut"]), helper.make_node("Tanh", ["cut"], ["y"])]
    _by_onnx(tmp_path / "net.onnx", nodes, tensors, width, height)


@pytest.mark.parametrize("axes", [(3,), (2, 3), (1,)])
def test_a_mirrored_frame_compiles(tmp_path: Path, axes: tuple[int, ...]) -> None:
    """Self-ensembles are exported like this."""
    rng = np.random.default_rng(0)
    count = len(axes)
    tensors = {
        "s": np.full(count, -1, np.int64),
        "e": np.full(count, -(2**63) + 1, np.int64),
        "a": np.int64(axes),
        "t": np.full(count, -1, np.int64),
        "w": (rng.normal(size=(3, 3, 3, 3)) / 5).astype(np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["x", *"seat"], ["turned"]),
        helper.make_node("Conv", ["turned", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Slice", ["c", *"seat"], ["y"]),
    ]
    model = _by_onnx(tmp_path / "net.onnx", nodes, tensors, 17, 12)
    assert [node.op for node in from_module(model.module).nodes].count("flip") == 2 * count
    _compiles(model)


def _compiles(model: ImportedModel) -> None:
    image = np.random.default_rng(1).random(model.input_shape, dtype=np.float32)
    network = compile_network(model, load_spec("tiny"), calibration=[image], quantisation=Quantisation("minmax"))
    assert network.placements


numbers = st.sampled_from([-2, -1, -0.5, 0, 0.25, 1, 2, 3])
SCALED = {"add": torch.add, "sub": torch.sub, "rsub": torch.rsub}


@drawn
@given(
    name=st.sampled_from(list(SCALED)),
    alpha=numbers,
    other=st.sampled_from(["tensor", "number", "itself", "per channel", "integers"]),
    in_place=st.booleans(),
    number=numbers,
)
def test_sums_with_a_factor(name: str, alpha: float, other: str, in_place: bool, number: float) -> None:
    if other == "integers":
        alpha = int(alpha)
    assume(name != "rsub" or not in_place)

    def function(x: torch.Tensor) -> torch.Tensor:
        first = torch.tanh(x * 3)
        operand: Any = {
            "tensor": x.abs() * 2,
            "number": number,
            "itself": first,
            "per channel": torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1),
            "integers": torch.tensor([3, -1, 2]).view(1, 3, 1, 1),
        }[other]
        if in_place:
            return getattr(first.clone(), f"{name}_")(operand, alpha=alpha) + x.abs()
        return torch.tanh(SCALED[name](first, operand, alpha=alpha) + x)

    _by_torch(function, 13, 9)


INTEGERS = {
    "half": lambda n: n / 2,
    "a third of a number": lambda n: 1 / (n + 3),
    "by integers": lambda n: n / (n + 1),
    "times": lambda n: n * 0.5,
    "plus": lambda n: n + 0.25,
    "minus": lambda n: n - 0.75,
    "from": lambda n: 0.5 - n,
    "square root": lambda n: (n + 1) ** 0.5,
    "sine": lambda n: torch.sin(n),
    "root": lambda n: torch.sqrt(n),
    "power": lambda n: 2.0 ** (n / 8),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_become_what_torch_makes_of_them(name: str) -> None:
    _by_torch(lambda x: torch.tanh(x) + INTEGERS[name](torch.arange(x.shape[3])) / 4, 13, 9)


FACTORS = (0.3, 0.5, 0.6, 0.75, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0)
factors = st.sampled_from(FACTORS)


@drawn
@given(
    mode=st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"]),
    factor=st.one_of(factors, st.tuples(factors, factors)),
    align=st.booleans(),
    size=sizes,
    recompute=st.booleans(),
    antialias=st.booleans(),
)
def test_resizes_of_torch(
    mode: str, factor: Any, align: bool, size: tuple[int, int], recompute: bool, antialias: bool
) -> None:
    options: dict[str, Any] = {"mode": mode, "recompute_scale_factor": recompute}
    if mode in ("bilinear", "bicubic"):
        options |= {"align_corners": align, "antialias": antialias and not align}
    _by_torch(lambda x: F.interpolate(torch.tanh(x), scale_factor=factor, **options), *size)


@drawn
@given(
    mode=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    size=sizes,
    to=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    align=st.booleans(),
)
def test_resizes_of_torch_to_a_size(mode: str, size: tuple[int, int], to: tuple[int, int], align: bool) -> None:
    options: dict[str, Any] = {"mode": mode} if mode == "nearest" else {"mode": mode, "align_corners": align}
    _by_torch(lambda x: F.interpolate(torch.tanh(x), to, **options), *size)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@settings(drawn, max_examples=50)
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    coordinates=st.sampled_from(COORDINATES),
    nearest=st.sampled_from(NEAREST),
    factor=st.tuples(factors, factors),
    to=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    size=sizes,
    cubic=st.sampled_from([-0.75, -0.5]),
    exclude=st.booleans(),
    antialias=st.booleans(),
    by_axes=st.booleans(),
)
def test_resizes_of_onnx(
    tmp_path: Path,
    mode: str,
    coordinates: str,
    nearest: str,
    factor: tuple[float, float],
    to: tuple[int, int] | None,
    size: tuple[int, int],
    cubic: float,
    exclude: bool,
    antialias: bool,
    by_axes: bool,
) -> None:
    options: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        options["nearest_mode"] = nearest
    if mode == "cubic":
        options |= {"cubic_coeff_a": cubic, "exclude_outside": int(exclude)}
    if mode != "nearest" and antialias and coordinates == "half_pixel" and to is None and min(factor) >= 1:
        options["antialias"] = 1
    if mode == "nearest" and not to:
        assume(not _ties(factor, size, coordinates))
    if by_axes:
        options["axes"] = [2, 3]
    whole = [] if by_axes else [1, 1]
    tensors = {"given": np.int64([1, 3][: len(whole)] + list(to)) if to else np.float32(whole + list(factor))}
    inputs = ["t", "", "", "given"] if to else ["t", "", "given"]
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Resize", inputs, ["y"], **options)]
    width, height = size
    _by_onnx(tmp_path / "net.onnx", nodes, tensors, width, height, 19 if coordinates == "half_pixel_symmetric" else 18)


def _ties(factor: tuple[float, float], size: tuple[int, int], coordinates: str) -> bool:
    """Whether a place may lie so near to half-way between two pixels that the last bit of a float decides."""
    if coordinates == "half_pixel_symmetric":
        return True
    half = 0.0 if coordinates == "asymmetric" else 0.5
    places = [(np.arange(int(side * one)) + half) / one - half for one, side in zip(factor, size[::-1], strict=True)]
    exact = [(2 * one) % 1 == 0 and one >= 1 for one in factor]
    near = [np.abs(2 * x - np.rint(2 * x)) < 1e-4 for x in places]
    return any(bool(one[1:].any()) and not sure for one, sure in zip(near, exact, strict=True))


@pytest.mark.parametrize("opset", [10, 11, 13])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizes_of_early_opsets(tmp_path: Path, opset: int, factor: float, mode: str) -> None:
    inputs = {10: ["x", "s"], 11: ["x", "roi", "s"], 13: ["x", "", "s"]}[opset]
    if mode == "nearest" and _ties((factor, factor), (25, 21), "asymmetric" if opset == 10 else "half_pixel"):
        pytest.skip("the last bit of a float decides")
    nodes = [helper.make_node("Resize", inputs, ["r"], mode=mode), helper.make_node("Tanh", ["r"], ["y"])]
    _by_onnx(
        tmp_path / "net.onnx",
        nodes,
        {"s": np.float32([1, 1, factor, factor]), "roi": np.zeros(0, np.float32)},
        25,
        21,
        opset,
    )


@pytest.mark.parametrize("factor", [1.0, 1.3, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(tmp_path: Path, factor: float, mode: str, opset: int) -> None:
    scales = [1.0, 1.0, factor, factor]
    options = {"scales": scales} if opset == 7 else {}
    inputs, tensors = (["x"], {}) if opset == 7 else (["x", "s"], {"s": np.float32(scales)})
    nodes = [helper.make_node("Upsample", inputs, ["r"], mode=mode, **options), helper.make_node("Tanh", ["r"], ["y"])]
    _by_onnx(tmp_path / "net.onnx", nodes, tensors, 25, 21, opset)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [1.3, 0.6, 2.0])
def test_resizes_compile(mode: str, factor: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(F.interpolate(torch.relu(self.first(x)), scale_factor=factor, mode=mode))

    _compiles(_sound(load_model(Net(), width=25, height=21)))


@drawn
@given(st.sampled_from(FACTORS), st.sampled_from(COORDINATES), st.integers(2, 40), st.sampled_from(["linear", "cubic"]))
def test_weights_add_up_to_one(factor: float, coordinates: str, before: int, mode: str) -> None:
    after = max(int(before * factor), 1)
    made = taps(before, after, Rule(mode, coordinates, factor))
    np.testing.assert_allclose(made.weights.sum(1), 1, atol=1e-6)
    assert made.places.min() >= 0
    assert made.places.max() < before
