"""Layer normalisation from torch and ONNX to RTL: its integers against float64, its row on every shape of a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from operator_cases import Between
from torch import nn

from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.referee.integer import evaluate_region
from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.kernels.layer_norm import NormalisedPixels
from codesign.compile.scanline.layers import Epilogue, Layer, LayerGraph
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.compile.scanline.tensors import Tensor as LayerTensor
from codesign.hw.errors import ProgramError
from codesign.hw.isa import FIELDS, Command, Opcode
from codesign.hw.isa.fields import LAYER_NORM_PAYLOAD
from codesign.hw.model import reference
from codesign.hw.numerics import requantise
from codesign.hw.numerics.layer_norm import MAX_CHANNELS, layer_norm, layer_norm_parameters, layer_norm_psums
from codesign.hw.program.program import Program
from codesign.hw.spec import BASE, EDGE, TINY, AccelSpec
from codesign.hw.timing import model as timing
from codesign.sim.run import run as simulate

SMALL = {"layer_norm": 1, "scratchpad_bytes": 8192}
MACHINES = (
    dataclasses.replace(TINY, name="norm_pairs", **SMALL),
    dataclasses.replace(TINY, name="norm_whole", requantise_lanes=16, **SMALL),
    dataclasses.replace(TINY, name="norm_single", requantise_lanes=4, **SMALL),
    dataclasses.replace(EDGE, name="norm_edge", layer_norm=1),
)
"""All ratios of a machine's requantised pixels to its pixel lanes."""


# Integers


@st.composite
def pixels(draw: st.DrawFn) -> np.ndarray:
    """``int8[n, N]``: of many channels, few, extreme, nearly constant."""
    channels = draw(st.integers(1, 300) | st.sampled_from([512, 1023, MAX_CHANNELS]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = draw(st.integers(-128, 127))
    codes = rng.integers(low, draw(st.integers(low, 127)) + 1, (8, channels))
    codes[:, : draw(st.integers(0, min(3, channels)))] = draw(st.sampled_from([-128, 127, 0]))
    return codes.astype(np.int8)


@given(pixels(), st.sampled_from([1e-3, 1e-5, 1e-6, 1e-12]), st.floats(1e-3, 1.0))
@settings(max_examples=300, deadline=None)
def test_psums_are_near_to_float64(codes: np.ndarray, epsilon: float, scale: float) -> None:
    """Within 2^-13 of the largest: the reciprocal root is, and a mean has 12 places of a code."""
    constants = layer_norm(codes.shape[1], epsilon, scale)
    psums = layer_norm_psums(codes, constants)
    x = codes.astype(np.float64) * scale
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + epsilon)
    wanted = (x - x.mean(axis=1, keepdims=True)) / deviation
    mean_error = 2.0**-12 * scale / deviation
    assert np.all(np.abs(psums * constants.unit - wanted) <= 2.0**-13 * np.abs(wanted).max() + mean_error + 2.0**-15)
    assert np.abs(psums).max() <= constants.reach < 2**25


@given(pixels(), st.integers(0, 2**32), st.sampled_from([0.0, 1e-9, 1e-3, 1.0]), st.floats(1e-3, 0.2))
@settings(max_examples=200, deadline=None)
def test_scale_and_shift_are_near_to_float64(codes: np.ndarray, seed: int, least: float, step: float) -> None:
    """Scales of any sign and size, none among them, beside shifts of any size: within a code."""
    rng = np.random.default_rng(seed)
    channels = codes.shape[1]
    scale = rng.normal(size=channels) * rng.choice([least, 1.0, -1.0], channels)
    shift = rng.normal(size=channels) * rng.choice([0.0, 1.0, 5.0], channels)
    constants = layer_norm(channels, 1e-5, 0.05)
    bias, multiplier, shifts = layer_norm_parameters(scale, shift, constants, step)
    psums = layer_norm_psums(codes, constants)
    assert np.abs(psums + bias).max() < 2**31
    found = requantise(psums + bias, multiplier=multiplier, negative_multiplier=multiplier, shift=shifts, zero_point=3)
    y = psums * constants.unit * scale + shift
    assert np.abs(found - np.clip(np.rint(y / step) + 3, -128, 127)).max() <= 1 + 0.002 * np.abs(shift).max() / step


def test_constants_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4097 channels"):
        layer_norm(4097, 1e-5, 0.1)
    with pytest.raises(ValueError, match="too large"):
        layer_norm(64, 1.0, 1e-4)


# Recognition


class Tokens(nn.Module):
    """A pre-norm block on tokens, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        tokens = y.flatten(2).transpose(1, 2)
        tokens = tokens + self.linear(self.norm(tokens))
        return self.last(tokens.transpose(1, 2).reshape(y.shape))


def test_tokens_that_others_read_stay_tokens() -> None:
    network = Tokens().eval()
    graph = from_module(load_model(network, width=7, height=5, channels=3).module)
    assert sum(node.op == "layer_norm" for node in graph.nodes) == 1
    x = torch.rand(1, 3, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
def test_other_axes_are_not_channels(axis: int) -> None:
    """Normalised rows or columns of a frame stay what they are."""

    def normalised(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        moved = x.transpose(axis, 3)
        return F.layer_norm(moved, moved.shape[3:]).transpose(axis, 3)

    network = Between(normalised).eval()
    graph = from_module(load_model(network, width=8, height=8, channels=3).module)
    assert not any(node.op == "layer_norm" for node in graph.nodes)
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["first", "last", "tokens"])
@pytest.mark.parametrize("axes", [0, 1, 2])
def test_factors_of_more_axes_are_no_scale(layout: str, axes: int) -> None:
    """A factor that adds axes to the result is left alone."""
    scale = torch.tensor([1.0, -0.7, 0.2, 1.3, 0.5, 0.4])
    shape = (1,) * axes + ((1, 6, 1, 1) if layout == "first" else (1, 1, 6) if layout == "tokens" else (1, 1, 1, 6))

    def normalised(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        last = x.permute(0, 2, 3, 1) if layout != "tokens" else x.flatten(2).transpose(1, 2)
        last = F.layer_norm(last, (6,))
        y = (last.permute(0, 3, 1, 2) if layout == "first" else last) * scale.reshape(shape)
        y = y.reshape(y.shape[axes:])
        back = y.transpose(1, 2).reshape(x.shape) if layout == "tokens" else y.permute(0, 3, 1, 2)
        return y if layout == "first" else back

    network = Between(normalised).eval()
    graph = from_module(load_model(network, width=7, height=5, channels=3).module)
    assert sum(node.op == "layer_norm" for node in graph.nodes) == 1
    x = torch.rand(1, 3, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [False, True])
def test_onnx_spells_it_with_an_operator(tokens: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 3, 1, 1), "g": (6,), "b": (6,), "v": (3, 6, 1, 1)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values |= {"flat": np.array([1, 6, -1]), "frame": np.array([1, 6, 5, 7])}
    there = [("Reshape", ["c", "flat"], {}), ("Transpose", ["r0"], {"perm": [0, 2, 1]})]
    back = [("Transpose", ["l"], {"perm": [0, 2, 1]}), ("Reshape", ["r2", "frame"], {})]
    if not tokens:
        there, back = [("Transpose", ["c"], {"perm": [0, 2, 3, 1]})], [("Transpose", ["l"], {"perm": [0, 3, 1, 2]})]
    norm = ("LayerNormalization", [f"r{len(there) - 1}", "g", "b"], {"axis": -1, "epsilon": 1e-4})
    results = ["c", *(f"r{i}" for i in range(len(there))), "l", *(f"r{2 + i}" for i in range(len(back)))]
    operators = [("Conv", ["x", "w"], {}), *there, norm, *back, ("Conv", [results[-1], "v"], {})]
    nodes = [
        helper.make_node(op, inputs, [result], **attributes)
        for (op, inputs, attributes), result in zip(operators, (*results, "y"), strict=True)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 5, 7]) for name in "xy"]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "norm", ends[:1], ends[1:], constants)
    path = tmp_path / "norm.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    found = from_module(load_model(path, width=7, height=5).module)
    assert [node.op for node in found.nodes] == ["nn.conv2d", "layer_norm", "nn.conv2d"]
    x = torch.rand(1, 3, 5, 7)
    wanted = F.conv2d(x, torch.from_numpy(values["w"])).permute(0, 2, 3, 1)
    wanted = F.layer_norm(wanted, (6,), torch.from_numpy(values["g"]), torch.from_numpy(values["b"]), 1e-4)
    wanted = F.conv2d(wanted.permute(0, 3, 1, 2), torch.from_numpy(values["v"]))
    torch.testing.assert_close(run(found, x), wanted, rtol=1e-4, atol=1e-4)


# Machines


def network_of(channels: int, epsilon: float = 1e-5) -> nn.Module:
    norm = nn.LayerNorm(channels, epsilon)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(channels, generator=generator))
    first, last = nn.Conv2d(3, channels, 1), nn.Conv2d(channels, 3, 3, padding=1)

    def function(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return norm(first(x[:, :3]).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    network = Between(function, channels, 0.0, norm, first)
    network.last = last
    return network.eval()


def compiled(channels: int, width: int, height: int, spec: AccelSpec) -> CompiledNetwork:
    model = load_model(network_of(channels), width=width, height=height, channels=3)
    image = np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)
    return compile_network(model, spec, calibration=[image], quantisation=Quantisation("minmax"))


@given(st.sampled_from(MACHINES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=16, deadline=None, suppress_health_check=list(HealthCheck))
def test_drawn_rows_are_exact_and_take_their_time(
    spec: AccelSpec, channels: int, width: int, height: int, seed: int
) -> None:
    network = compiled(channels, width, height, spec)
    assert all(placement.on_accelerator for placement in network.placements)
    for region in network.regions:
        program, part = region.program, region.part
        rng = np.random.default_rng(seed)
        shapes = {slot.name: (slot.height, slot.width, slot.channels) for slot in program.inputs}
        inputs = {name: rng.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}
        golden, rtl = reference.run(program, inputs), simulate(program, inputs)
        codes = {
            name: inputs[slot.name].transpose(2, 0, 1)[None]
            for name, slot in zip(part.inputs, program.inputs, strict=True)
        }
        for slot, wanted in zip(program.outputs, evaluate_region(part.graph, codes, part.outputs), strict=True):
            np.testing.assert_array_equal(golden[slot.name], rtl.outputs[slot.name])
            np.testing.assert_array_equal(golden[slot.name].transpose(2, 0, 1)[None], wanted)
        predicted = timing.predict(program)
        assert predicted.scratchpad_read_words == rtl.counters.scratchpad_read_words
        assert abs(predicted.cycles - rtl.counters.cycles) <= 0.03 * rtl.counters.cycles + 20


@given(st.sampled_from(MACHINES), pixels(), st.floats(1e-3, 1.0), st.integers(1, 9))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_bit_of_a_psum_is_exact(spec: AccelSpec, codes: np.ndarray, scale: float, width: int) -> None:
    """A bias that takes the golden psum away leaves, times 1, nothing but what the RTL has wrong."""
    pixel = codes[0, : spec.parameter_channels]
    channels = len(pixel)
    constants = layer_norm(channels, 1e-6, scale)
    bias, ones, none = -layer_norm_psums(pixel, constants), np.ones(channels, np.int64), np.zeros(channels, np.int64)
    tensors = {name: LayerTensor(name, 2, width, channels, 1.0, 0) for name in "xy"}
    epilogue = Epilogue(bias, ones, ones, none, 0)
    layer = Layer("norm", ("x",), "y", NormalisedPixels(constants), epilogue)
    program = emit(make_plan(spec, LayerGraph("norm", tensors, (layer,), ("x",), ("y",))))
    inputs = {"x": np.broadcast_to(pixel, (2, width, channels)).copy()}
    assert not reference.run(program, inputs)["y"].any()
    assert not simulate(program, inputs).outputs["y"].any()


def norm_program(spec: AccelSpec, channels: int, width: int) -> Program:
    """A network of one layer normalisation."""
    rng = np.random.default_rng(channels)
    constants = layer_norm(channels, 1e-6, 0.1)
    bias, multiplier, shift = layer_norm_parameters(
        rng.normal(size=channels), rng.normal(size=channels), constants, 0.03
    )
    tensors = {name: LayerTensor(name, 3, width, channels, 1.0, 0) for name in "xy"}
    epilogue = Epilogue(bias, multiplier, multiplier, shift, 0)
    layer = Layer("norm", ("x",), "y", NormalisedPixels(constants), epilogue)
    return emit(make_plan(spec, LayerGraph("norm", tensors, (layer,), ("x",), ("y",))))


def with_changes(program: Program, changes: Mapping[str, int]) -> Program:
    """``program`` with other fields in its LAYER_NORM."""
    at = next(i for i, cmd in enumerate(program.commands) if cmd.opcode is Opcode.LAYER_NORM)
    old = program.commands[at]
    command = Command(old.opcode, tuple(changes.get(name, old[name]) for name in old.names))
    return dataclasses.replace(program, commands=(*program.commands[:at], command, *program.commands[at + 1 :]))


@st.composite
def changes_of_a_row(draw: st.DrawFn) -> dict[str, int]:
    """One field of a LAYER_NORM, most often one of its own, and what it may be instead."""
    fields = {field.name: field for field in FIELDS[Opcode.LAYER_NORM]}
    own = [field.name for field in LAYER_NORM_PAYLOAD]
    field = fields[draw(st.sampled_from([*own, "x_offset", "words", "group"]) | st.sampled_from(sorted(fields)))]
    low, high = (-(1 << field.bits - 1), 1 << field.bits - 1) if field.signed else (0, 1 << field.bits)
    return {
        field.name: draw(st.integers(low, high - 1) | st.integers(max(low, -4), min(9, high - 1)) | st.just(high - 1))
    }


@given(st.sampled_from(MACHINES[:3]), st.integers(1, 13), st.integers(1, 17), changes_of_a_row(), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@example(MACHINES[0], 6, 9, {"norm_channels": 5}, False)
@example(MACHINES[0], 8, 9, {"norm_reciprocal": (1 << 24) - 1}, True)
def test_what_verification_accepts_the_rtl_runs_alike(
    spec: AccelSpec, channels: int, width: int, changes: dict[str, int], flat: bool
) -> None:
    program = with_changes(norm_program(spec, channels, width), changes)
    try:
        program.verify()
    except ProgramError:
        return
    codes = np.random.default_rng(width).integers(-128, 128, (3, width, channels))
    inputs = {"x": np.full_like(codes, -128).astype(np.int8) if flat else codes.astype(np.int8)}
    np.testing.assert_array_equal(simulate(program, inputs).outputs["y"], reference.run(program, inputs)["y"])


def chain(channels: int, middle: list[nn.Module]) -> nn.Module:
    """1x1 convolutions, and ``middle`` between them."""

    def function(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        for part in middle:
            is_norm = isinstance(part, nn.LayerNorm)
            x = part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if is_norm else part(x)
        return x

    network = Between(function, channels, 0.0, *middle)
    network.first, network.last = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
    network.second = nn.Identity()
    return network.eval()


@pytest.mark.parametrize(("channels", "width"), [(16, 40), (32, 320), (64, 40)])
def test_a_row_costs_no_more_than_one_of_a_1x1_convolution(channels: int, width: int) -> None:
    """What two more layers add to a chain of them on ``base``, on the RTL."""
    height = 12

    def cycles(middle: list[nn.Module]) -> int:
        model = load_model(chain(channels, middle), width=width, height=height, channels=channels)
        image = np.random.default_rng(1).random((1, channels, height, width), dtype=np.float32)
        (region,) = compile_network(model, BASE, calibration=[image], quantisation=Quantisation("minmax")).regions
        frames = {slot.name: np.zeros((height, width, channels), np.int8) for slot in region.program.inputs}
        return simulate(region.program, frames).counters.cycles

    norms = cycles([nn.LayerNorm(channels) for _ in range(3)]) - cycles([nn.LayerNorm(channels)])
    products = cycles([nn.Conv2d(channels, channels, 1) for _ in range(3)]) - cycles([nn.Conv2d(channels, channels, 1)])
    assert norms <= products


ONE = dataclasses.replace(TINY, name="norm_one", pixel_lanes=1, requantise_lanes=4, **SMALL)
"""A machine whose short pixels wait for the figures of earlier ones."""


@pytest.mark.parametrize("spec", [*MACHINES, ONE], ids=lambda spec: str(spec.name))
@pytest.mark.parametrize(("channels", "width"), [(3, 400), (20, 100), (40, 40), (64, 100)])
def test_long_rows_beside_stores_take_their_time(spec: AccelSpec, channels: int, width: int) -> None:
    """Rows of short pixels, and rows whose port a store takes while it lasts or for a part of them."""
    program = norm_program(spec, channels, width)
    rng = np.random.default_rng(0)
    inputs = {slot.name: rng.integers(-128, 128, (slot.height, slot.width, slot.channels)) for slot in program.inputs}
    rtl = simulate(program, {name: codes.astype(np.int8) for name, codes in inputs.items()}).counters
    assert abs(timing.predict(program).cycles - rtl.cycles) <= 0.025 * rtl.cycles


def test_rows_that_break_a_rule_are_refused() -> None:
    (region,) = compiled(6, 16, 5, MACHINES[0]).regions
    program = region.program
    for changes, words in (
        ({"norm_channels": 0}, "has not the 0 channels"),
        ({"norm_channels": 2}, "are not 2 words"),
        ({"norm_doublings": 15}, "leave their bits"),
        ({"norm_epsilon": 0}, "leave their bits"),
        ({"norm_reciprocal": 0}, "not that of the doubled count"),
        ({"pad_rows": 1}, "no other"),
        ({"x_offset": 1}, "columns"),
    ):
        with pytest.raises(ProgramError, match=words):
            with_changes(program, changes).verify()
    with pytest.raises(ProgramError, match="no layer norm"):
        dataclasses.replace(program, spec=dataclasses.replace(program.spec, layer_norm=0)).verify()


def test_scales_that_do_not_fit_leave_it_to_the_host() -> None:
    """Beside activations far below its epsilon a normalisation hardly normalises; no unit has the bits for it."""
    norm = nn.LayerNorm(6, 1.0)
    network = Between(lambda x, _: norm((1e-5 * x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 6, 0.0, norm).eval()
    model = load_model(network, width=8, height=6, channels=3)
    image = np.random.default_rng(1).random((1, 3, 6, 8), dtype=np.float32)
    found = compile_network(model, MACHINES[0], calibration=[image], quantisation=Quantisation("minmax"))
    reasons = {placement.operator: placement.reason for placement in found.placements}
    assert "cannot hold its scales: epsilon 1.0 is too large" in reasons["layer_norm"]
    assert found.regions
