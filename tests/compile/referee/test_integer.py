"""The referee against float arithmetic, against hand-made numbers and against TVM's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.quantise import calibrate, quantised_io
from codesign.compile.referee.integer import evaluate
from codesign.hw import numerics
from codesign.hw.errors import InputError, UnsupportedError
from tests.compile.random_networks import Draw, draws, quantised, rescaled

scales = st.floats(2.0**-13, 2.0**13, width=32)
zero_points = st.integers(-128, 127)


def _codes(module: tvm.IRModule, seed: int) -> np.ndarray:
    shape = tuple(int(extent) for extent in module["main"].params[0].ty.shape.values)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def _in_float64(module: tvm.IRModule, codes: np.ndarray) -> np.ndarray:
    """The same graph in float64: rounds as the definition says, but with real multipliers."""
    source, result = quantised_io(module)
    graph = from_module(module)
    real = (codes.astype(np.float64) - source.zero_point) * source.scale

    def wide(node: object, inputs: list[torch.Tensor]) -> torch.Tensor | None:
        if any(value.dtype == torch.float32 for value in inputs):
            from codesign.compile.ir.evaluate import apply

            return apply(node, [value.double() if value.dtype == torch.float32 else value for value in inputs])
        return None

    found = run(graph, torch.from_numpy(real), wide).numpy()
    return np.rint(found / result.scale) + result.zero_point


@settings(max_examples=40, deadline=None)
@given(draws, st.booleans())
def test_agrees_with_real_arithmetic(draw: Draw, extreme: bool) -> None:
    module = quantised(draw)
    assume(module is not None)
    if extreme and draw.operation not in ("conv", "transposed", "movement"):
        module = rescaled(module, draw.seed)
    codes = _codes(module, draw.seed)
    found = evaluate(from_module(module), codes)
    expected = _in_float64(module, codes)
    assert found.dtype == np.int8
    assert found.shape == expected.shape
    # A 31-bit multiplier and a bias in integers may turn a tie the other way, once per rounding on the path.
    differences = np.abs(found.astype(int) - expected)
    assert differences.max() <= (4 if extreme else 1)
    assert (differences > 0).mean() <= 0.02 + 2 / found.size


def test_a_convolution_by_hand() -> None:
    network = nn.Conv2d(1, 1, 1)
    network.weight.data[:] = 0.5
    network.bias.data[:] = 0.25
    image = np.array([[[[0.0, 1.0]]]], np.float32)
    module = calibrate(load_model(network, width=2, height=1).module, [image], "minmax").quantised().module
    # Output 0.25 .. 0.75: scale 0.75/255, zero point -128, and 0.25 is code 85 above it.
    found = evaluate(from_module(module), np.array([[[[-128, 127]]]], np.int8))
    np.testing.assert_array_equal(found, [[[[-128 + 85, 127]]]])


def test_padding_reads_the_zero_point() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    network.weight.data[:] = 1.0
    image = np.full((1, 1, 3, 3), 1.0, np.float32)
    module = calibrate(load_model(network, width=3, height=3).module, [image], "minmax").quantised().module
    _, result = quantised_io(module)
    found = (
        evaluate(from_module(module), np.full((1, 1, 3, 3), 127, np.int8)).astype(float) - result.zero_point
    ) * result.scale
    np.testing.assert_allclose(found[0, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]], atol=result.scale)


def test_an_overflow_is_refused() -> None:
    # 4096 channels of 5x5 taps at full scale: 255 x 127 x 102400 > 2**31.
    network = nn.Conv2d(4096, 1, 5, padding=2, bias=False)
    network.weight.data[:] = 1.0
    image = np.ones((1, 4096, 5, 5), np.float32)
    module = calibrate(load_model(network, width=5, height=5).module, [image], "minmax").quantised().module
    with pytest.raises(OverflowError, match="32 bits"):
        evaluate(from_module(module), np.full((1, 4096, 5, 5), 127, np.int8))


def test_errors() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)).eval()
    image = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    module = calibrate(load_model(network, width=8, height=8).module, [image]).quantised().module
    with pytest.raises(UnsupportedError, match="max_pool2d"):
        evaluate(from_module(module), np.zeros((1, 1, 8, 8), np.int8))
    with pytest.raises(InputError, match=r"int8\[1, 1, 8, 8\]"):
        evaluate(from_module(module), np.zeros((1, 1, 8, 9), np.int8))


@given(scales, st.lists(scales, min_size=1, max_size=4), scales, st.floats(-2, 2))
def test_requantise_parameters(source: float, weights: list[float], result: float, slope: float) -> None:
    real = np.float64(source) * np.array(weights) / result
    assume(real.max() * max(1, abs(slope)) < 2**31 and real.min() > 2**-20)
    m, negative, shift = numerics.requantise_parameters(source, np.array(weights), result, slope)
    np.testing.assert_allclose(m / 2.0**shift, real, rtol=2**-29)
    np.testing.assert_allclose(negative / 2.0**shift, real * slope, rtol=2**-20, atol=float(real.max()) * 2**-29)


@given(scales, zero_points, st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_clip_bounds(scale: float, zero_point: int, low: float, extent: float) -> None:
    qmin, qmax = numerics.clip_bounds(low, low + extent, scale, zero_point)
    assert -128 <= qmin <= qmax <= 127
    codes = np.arange(-128, 128)
    real = np.clip((codes - zero_point) * np.float64(scale), low, low + extent)
    expected = np.clip(np.rint(real / scale) + zero_point, -128, 127)
    np.testing.assert_array_equal(np.clip(codes, qmin, qmax), expected)


def test_clip_without_bounds() -> None:
    assert numerics.clip_bounds(-np.inf, np.inf, 0.1, 3) == (-128, 127)


@given(scales, scales, scales)
def test_subtraction_is_addition_of_the_negative(first: float, second: float, result: float) -> None:
    assume(max(first, second) / result < 2**31)
    plus = numerics.add_parameters(first, second, result)
    minus = numerics.add_parameters(first, second, result, subtract=True)
    assert minus == (plus[0], -plus[1], plus[2])


def test_bias_beyond_32_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        numerics.bias_integers(np.array([1e6]), 1e-3, np.array([1e-3]))
