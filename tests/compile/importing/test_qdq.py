"""Models by ONNX Runtime's own quantiser, networks and options drawn: each equals what ONNX Runtime computes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from codesign.compile.importing.check import frame
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.relax import from_module
from codesign.compile.scanline.partition import partition
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.spec import load_spec

HEIGHT, WIDTH = 14, 18
Array = NDArray[Any]


class Frames(CalibrationDataReader):  # type: ignore[misc]
    """A few smooth frames."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH
        waves = ([0.5 + 0.5 * np.sin(x * k + y * (7 - k) + c) for c in range(3)] for k in range(6))
        self.frames: Iterator[dict[str, Array]] = iter([{"x": np.stack(one)[None].astype(np.float32)} for one in waves])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.frames, None)


@dataclass
class Writer:
    """A network while it is written."""

    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def held(self, value: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors[name] = np.asarray(value, np.float32)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names[0]

    def conv(self, x: str, inputs: int, outputs: int, k: int = 3, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        weight = self.rng.normal(0.03, 0.5 / (k * np.sqrt(inputs / groups)), (outputs, inputs // groups, k, k))
        bias = self.held(self.rng.normal(0, 0.1, outputs))
        return self.add("Conv", x, self.held(weight), bias, kernel_shape=[k, k], pads=[k // 2] * 4, **attributes)

    def block(self, kind: str, x: str, channels: int) -> str:
        """An operator that keeps the shape."""
        rng, vector = self.rng, (1, channels, 1, 1)
        match kind:
            case "Relu" | "Sigmoid" | "Tanh" | "HardSigmoid" | "HardSwish":
                return self.add(kind, x)
            case "LeakyRelu":
                return self.add(kind, x, alpha=0.1)
            case "PRelu":
                return self.add(kind, x, self.held(rng.uniform(0, 0.5, (channels, 1, 1))))
            case "Clip":
                return self.add(kind, x, self.held(-0.2), self.held(0.9))
            case "scale":
                return self.add("Mul", x, self.held(0.37))
            case "scales":
                return self.add("Mul", x, self.held(rng.normal(0, 1, vector)))
            case "offset":
                return self.add("Add", x, self.held(-0.45))
            case "offsets":
                return self.add("Sub", x, self.held(rng.normal(0, 0.4, vector)))
            case "zeros":
                return self.add("Relu", self.add("Sub", self.held(-1.0), self.add("Relu", x)))
            case "silu":
                return self.add("Mul", x, self.add("Sigmoid", x))
            case "residual":
                return self.add("Add", self.conv(self.add("Relu", x), channels, channels), x)
            case "minus":
                return self.add("Sub", x, self.add("Relu", x))
            case "gate":
                return self.add("Mul", self.conv(x, channels, channels, 1), x)
            case "concat":
                parts = [self.conv(x, channels, channels // 2, 1), self.conv(x, channels, channels - channels // 2)]
                return self.add("Concat", *parts, axis=1)
            case "depthwise":
                return self.conv(x, channels, channels, group=channels)
            case "pool":
                pooled = self.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
                self.tensors[name := f"c{len(self.tensors)}"] = np.array([1, 1, 2, 2], np.float32)
                return self.add("Resize", pooled, "", name, mode="nearest", coordinate_transformation_mode="asymmetric")
            case "attention":
                mean = self.add("GlobalAveragePool", x)
                return self.add("Mul", x, self.add("Sigmoid", self.conv(mean, channels, channels, 1)))
            case "transposed":
                weight = self.held(rng.normal(0, 0.3, (channels, channels, 2, 2)))
                wide = self.add("ConvTranspose", x, weight, kernel_shape=[2, 2], strides=[2, 2])
                return self.conv(wide, channels, channels, strides=[2, 2])
            case _:
                return self.conv(x, channels, channels)

    def written(self, path: Path, result: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [result], ["y"], "end"))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        for node in list(model.graph.node):  # the last operator's result is the output, with no operator behind it
            if node.name == "end":
                model.graph.node.remove(node)
        for node in model.graph.node:
            node.output[:] = ["y" if name == result else name for name in node.output]
            node.input[:] = ["y" if name == result else name for name in node.input]
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


HEADS = ("none", "offset", "offsets", "scale", "scales", "shuffle")
BLOCKS = (
    *("Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Clip", "silu", "conv"),
    *("scale", "scales", "offset", "offsets", "residual", "minus", "gate", "concat", "depthwise", "pool"),
    *("attention", "transposed"),
)
TAILS = ("none", "Clip", "Relu", "Tanh", "offset", "scale", "image")


def network(path: Path, seed: int, head: str, blocks: list[str], tail: str) -> Path:
    """A small restoration network: ``head`` on the image, ``blocks`` between convolutions, ``tail`` at the end."""
    writer, channels = Writer(np.random.default_rng(seed)), 6
    x, depth = "x", 3
    if head == "shuffle":
        x, depth = writer.add("SpaceToDepth", x, blocksize=2), 12
    elif head != "none":
        x = writer.block(head, x, 3)
    image, x = x, writer.conv(x, depth, channels)
    for kind in blocks:
        x = writer.block(kind, x, channels)
    x = writer.conv(x, channels, 12)
    x = writer.add("DepthToSpace", x, blocksize=2, mode="CRD")
    if tail == "image" and head != "shuffle":
        wide = writer.add(
            *("Resize", image, "", writer.held([1, 1, 2, 2])),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
        )
        x = writer.add("Add", x, wide)
    elif tail not in ("none", "image"):
        x = writer.block(tail, x, 3)
    return writer.written(path, x)


@st.composite
def quantisers(draw: st.DrawFn) -> dict[str, Any]:
    """Options of the quantiser, off their defaults."""
    flags = ("ActivationSymmetric", "DedicatedQDQPair", "AddQDQPairToWeight")
    extra = {name: True for name in flags if draw(st.booleans())}
    extra |= {name: False for name in ("WeightSymmetric", "QuantizeBias") if draw(st.integers(0, 2)) == 0}
    form = draw(st.sampled_from([QuantFormat.QDQ, QuantFormat.QDQ, QuantFormat.QOperator]))
    if form is QuantFormat.QOperator:
        extra = {name: value for name, value in extra.items() if name.endswith("Symmetric")}
    types = [(QuantType.QUInt8, QuantType.QInt8), (QuantType.QInt8, QuantType.QInt8), (QuantType.QUInt8,) * 2]
    activations, weights = draw(st.sampled_from(types))
    return {
        "quant_format": form,
        "activation_type": activations,
        "weight_type": weights,
        "per_channel": draw(st.booleans()),
        "reduce_range": draw(st.integers(0, 3)) == 0,
        "op_types_to_quantize": draw(st.sampled_from([None, None, ["Conv"], ["Conv", "Relu", "Add"], ["Mul", "Conv"]])),
        "excluded": draw(st.lists(st.integers(0, 8), max_size=2)),
        "extra_options": extra,
    }


def quantised(path: Path, options: dict[str, Any]) -> Path:
    """``path`` quantised by ONNX Runtime."""
    given, names = dict(options), [node.name for node in onnx.load(path).graph.node]
    excluded = [names[place] for place in given.pop("excluded", []) if place < len(names)]
    logging.disable(logging.CRITICAL)
    try:
        made = path.with_suffix(".quantised.onnx")
        quantize_static(str(path), str(made), Frames(), nodes_to_exclude=excluded, **given)
    finally:
        logging.disable(logging.NOTSET)
    return made


def imported(path: Path) -> ImportedModel:
    """``path`` imported, its check with ONNX Runtime passed."""
    model = load_model(path, width=WIDTH, height=HEIGHT)
    assert model.check.decibels is not None, model.check
    return model


@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**16),
    st.sampled_from(HEADS),
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3),
    st.sampled_from(TAILS),
    quantisers(),
)
def test_networks_by_onnx_runtimes_quantiser_are_what_it_computes(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    head: str,
    blocks: list[str],
    tail: str,
    options: dict[str, Any],
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    imported(quantised(network(folder / "net.onnx", seed, head, blocks, tail), options))


def on_host(model: ImportedModel) -> set[str]:
    """Operators that a machine leaves to the host."""
    placements = partition(from_module(model.module), load_spec("base")).placements
    return {placement.operator for placement in placements if not placement.on_accelerator}


DEFAULTS: dict[str, Any] = {
    "quant_format": QuantFormat.QDQ,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
}


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({}, "int8"),
        ({"weight_type": QuantType.QUInt8}, "int16"),
        ({"extra_options": {"WeightSymmetric": False}}, "int16"),
        ({"extra_options": {"AddQDQPairToWeight": True}}, "int8"),
        ({"quant_format": QuantFormat.QOperator}, "int8"),
    ],
)
def test_weights_with_a_zero_point_get_16_bits(tmp_path: Path, options: dict[str, Any], codes: str) -> None:
    path = quantised(network(tmp_path / "net.onnx", 1, "none", ["Relu"], "none"), DEFAULTS | options)
    model = imported(path)
    graph = from_module(model.module)
    weights = [graph.dtype_of(node.inputs[0]) for node in graph.nodes if node.op == "dequantize" and node.shape[2] == 3]
    assert codes in weights
    assert not on_host(model)
    assert model.check.differing == 0 or codes == "int8"


@pytest.mark.parametrize("block", ["scale", "scales", "offset", "offsets", "HardSigmoid", "HardSwish"])
def test_constant_operands_run_on_the_machine(tmp_path: Path, block: str) -> None:
    model = imported(quantised(network(tmp_path / "net.onnx", 2, "none", [block], "none"), DEFAULTS))
    assert not on_host(model)


@pytest.mark.parametrize("tail", ["Clip", "Relu"])
def test_limits_at_the_end_need_no_rounding_of_their_own(tmp_path: Path, tail: str) -> None:
    path = quantised(network(tmp_path / "net.onnx", 3, "none", ["Relu"], tail), DEFAULTS)
    assert onnx.load(path).graph.node[-1].op_type == tail
    assert not on_host(imported(path))


def test_what_is_left_in_float_is_the_hosts(tmp_path: Path) -> None:
    plain = network(tmp_path / "net.onnx", 4, "offsets", ["Relu", "conv"], "none")
    last = [node.name for node in onnx.load(plain).graph.node if node.op_type == "Conv"][-1]
    made = tmp_path / "excluded.onnx"
    quantize_static(str(plain), str(made), Frames(), nodes_to_exclude=[last], **DEFAULTS)
    model = imported(made)
    assert {"nn.conv2d", "nn.pixel_shuffle"} <= on_host(model)
    frames = frame.content([model.input_shape])[0]
    wanted = onnxruntime.InferenceSession(str(made)).run(None, {"x": frames})[0]
    assert wanted.shape == model.output_shape


def test_a_float_bias_beside_large_units_is_kept(tmp_path: Path) -> None:
    """A tensor of zeros gets the scale 1, and the products of its codes and the weights' are worth more than a step."""
    path = network(tmp_path / "net.onnx", 7, "none", ["zeros"], "none")
    imported(quantised(path, DEFAULTS | {"extra_options": {"QuantizeBias": False}}))


def test_a_reordering_of_the_image_is_done_on_codes(tmp_path: Path) -> None:
    model = imported(quantised(network(tmp_path / "net.onnx", 8, "shuffle", ["Relu"], "none"), DEFAULTS))
    assert not on_host(model)


def test_activations_of_16_bits_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = quantised(
        network(tmp_path / "net.onnx", 5, "none", ["Relu"], "none"),
        DEFAULTS | {"activation_type": QuantType.QInt16},
    )
    with pytest.raises(UnsupportedError, match=r"activations of type int16, with the zero point -?[0-9]+") as told:
        load_model(path, width=WIDTH, height=HEIGHT)
    assert "x_QuantizeLinear" in told.value.where
    assert "int8" in told.value.hint


@pytest.mark.parametrize("scale", [0.0, -0.02, np.nan, np.inf])
def test_scales_that_none_can_have_are_refused_in_words(tmp_path: Path, scale: float) -> None:
    path = quantised(network(tmp_path / "net.onnx", 6, "none", ["Relu"], "none"), DEFAULTS)
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if one.name == "x_scale")
    tensor.CopyFrom(numpy_helper.from_array(np.array(scale, np.float32), tensor.name))
    onnx.save(model, path)
    with pytest.raises(InputError, match="is not a positive float32"):
        load_model(path, width=WIDTH, height=HEIGHT)
