"""The values between which a network wants its images: told from the network, tried, or asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from codesign.compile.importing.model import load_model
from codesign.compile.importing.value_range import BYTES, RANGES, SIGNED, UNIT, ValueRange, parse_range
from codesign.hw.errors import InputError
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice, calibration_frames
from codesign.workflows.sources import Source, find, values_of

MEAN = torch.tensor([123.7, 116.3, 103.5]).view(1, 3, 1, 1)
UNIT_MEAN = MEAN / 255
PATCH = calibration_frames(3, 1)[0]


class First(nn.Module):
    """A convolution that hands an image on, after some first operators."""

    def __init__(self, first: Any, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.first = first
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.dirac_(self.conv.weight)
        nn.init.constant_(self.conv.bias, bias)
        self.conv.weight.data *= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.first(x))


class MeanShift(nn.Conv2d):
    """EDSR's way to subtract a mean."""

    def __init__(self, span: float) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = -span * MEAN.flatten() / 255


TOLD = {
    "x / 255": (lambda x: x / 255, BYTES),
    "x * (1 / 255)": (lambda x: x * (1 / 255), BYTES),
    "x / 127.5 - 1": (lambda x: x / 127.5 - 1, BYTES),
    "(x - mean) / deviation": (lambda x: (x - MEAN) / 58, BYTES),
    "x - 128": (lambda x: x - 128, BYTES),
    "BGR of 255": (lambda x: torch.flip(x, [1]) / 255, BYTES),
    "mean shift of 255": (MeanShift(255), BYTES),
    "mean shift of 1": (MeanShift(1), UNIT),
    "2 x - 1": (lambda x: x * 2 - 1, UNIT),
    "(x - 0.45) * 255": (lambda x: (x - UNIT_MEAN) * 255, UNIT),
    "x * 255": (lambda x: x * 255, UNIT),
    "(x + 1) / 2": (lambda x: (x + 1) / 2, SIGNED),
    "nothing": (lambda x: x, None),
    "x * 2": (lambda x: x * 2, None),
    "relu": (torch.relu, None),
}


@pytest.mark.parametrize("name", TOLD)
def test_first_operators_give_the_values_away(name: str) -> None:
    first, wanted = TOLD[name]
    found = load_model(First(first), width=12, height=8).values
    assert (None if found is None else found.range) == wanted
    assert found is None or found.reason


def quantised(path: Path, scale: float, zero: int, kind: type = np.uint8) -> Path:
    """An identity with quantised input, weights and output."""
    kernel = np.zeros((3, 3, 3, 3), np.int8)
    for channel in range(3):
        kernel[channel, channel, 1, 1] = 127
    tensors = {"s": np.float32(scale), "z": kind(zero), "ws": np.float32(1 / 127), "wz": np.int8(0), "wq": kernel}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"]),
        helper.make_node("Conv", ["xd", "w"], ["c"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 20, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 20, 24])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.save(made, path)
    return path


QUANTISED = [
    (1.0, 0, np.uint8, BYTES),
    (1 / 255, 0, np.uint8, UNIT),
    (1 / 250, 1, np.uint8, UNIT),
    (2 / 255, 128, np.uint8, None),  # symmetric: as likely 0..1 as -1..1
    (1 / 127, 0, np.int8, None),
    (1.0, -128, np.int8, BYTES),
    (1.8 / 255, 120, np.uint8, SIGNED),
]


@pytest.mark.parametrize(("scale", "zero", "kind", "wanted"), QUANTISED)
def test_codes_give_the_values_away(scale: float, zero: int, kind: type, wanted: Any, tmp_path: Path) -> None:
    model = load_model(quantised(tmp_path / "net.onnx", scale, zero, kind), width=24, height=20)
    assert (None if model.values is None else model.values.range) == wanted


def test_a_network_that_tells_nothing_is_tried() -> None:
    """A bias of a few levels of 255 hides a photograph of 0..1; one of a few levels of 1 is none beside 0..255."""
    for bias, wanted in ((3.0, BYTES), (0.02, UNIT)):
        net = First(lambda x: x, bias=bias)
        source = find(net)
        model = load_model(net, width=48, height=48)
        found = values_of(source, model, PATCH)
        assert found.range == wanted
        assert "photograph" in found.reason
    net = First(torch.relu, scale=-1.0)  # spoils both
    found = values_of(find(net), load_model(net, width=48, height=48), PATCH)
    assert found.range == UNIT
    assert found.reason.startswith("assumed")


def test_what_is_known_is_not_guessed() -> None:
    net = First(lambda x: x / 255)
    model = load_model(net, width=48, height=48)
    asked = Source("net", None, net, None, True, values=UNIT)
    assert values_of(asked, model, PATCH).reason == "as asked"
    assert values_of(find("espcn_x2"), model, PATCH).range == UNIT


def test_a_network_of_bytes_is_fed_bytes(run: Any, tmp_path: Path) -> None:
    path = quantised(tmp_path / "net.onnx", 1.0, 0)
    command = ("simulate", str(path), "--size", "24x20", "--accel", "tiny", "--backend", "reference")
    code, out, err = run(*command, "--json", "-")
    assert code == 0, err
    told = json.loads(out)
    assert (told["input_values"], told["input_values_reason"]) == ("0..255", "its input is quantised from 0 to 255")
    assert told["distinct_output_values"] > 100
    code, out, err = run(*command, "--range", "0..1", "--json", "-")
    assert code == 0, err
    assert json.loads(out)["distinct_output_values"] <= 3
    code, out, _ = run("compile", str(path), "--size", "24x20", "--accel", "tiny")
    assert code == 0
    assert "The network is fed 0..255 (its input is quantised from 0 to 255)." in out
    code, _, err = run(*command, "--range", "0..7")
    assert code == 1
    assert "0..1, 0..255, -1..1" in err


@pytest.mark.parametrize("values", RANGES.values(), ids=str)
def test_quality_is_that_of_the_image(values: ValueRange) -> None:
    """The same function for images of any range has the same picture, and the same decibels within rounding."""
    net = First(lambda x: (x - values.low) / values.span, scale=values.span, bias=values.low).eval()
    assert parse_range(str(values)) == values
    compiled = compile_source(Source("net", None, net, None, True, values=values), "tiny", FrameChoice((20, 16)))
    assert compiled.frame.values.range == values
    low, high = compiled.frame.tensor.min(), compiled.frame.tensor.max()
    assert values.low <= low < high <= values.high
    assert high - low > values.span / 2
    from codesign.workflows.simulate import simulate

    assert simulate(compiled, "reference").judged.psnr_db > 40.0


def test_ranges_are_the_three_that_networks_use() -> None:
    with pytest.raises(InputError, match="is no range"):
        parse_range("0..1023")
