"""Random stacks of layers, and their expected results."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw import numerics
from codesign.kernels.layers import Conv, Requantise
from codesign.kernels.stack import Input, Output, Schedule, Stack, layout

Rng = np.random.Generator


def random_stack(rng: Rng, precision: str, *, max_layers: int = 5) -> Stack:
    """Chains with residuals, of odd kernels and channel counts, from planar or chunked inputs."""
    int8 = precision == "int8"
    planar = bool(rng.integers(2))
    channels = int(rng.choice([1, 3]) if planar else rng.choice([4, 8, 12, 16, 28, 40]))
    zero = int(rng.integers(-128, 128)) if int8 else 0
    inputs = [Input("x", channels, "planar" if planar else "chunked", zero)]
    zeros = {"x": zero}
    width = {"x": channels}
    layers: list[Conv] = []
    count = int(rng.integers(1, max_layers + 1))
    shuffle = int(rng.choice([1, 2, 3]))
    source = "x"
    for index in range(count):
        last = index == count - 1
        co = shuffle**2 * int(rng.choice([1, 2, 3])) if last else int(rng.choice([4, 8, 12, 16, 20, 28, 32, 56]))
        ky, kx = rng.choice([1, 3, 5], 2) if source != "x" or not planar else (int(rng.choice([1, 3, 5])), 3)
        add: str | None = None
        add_channels: tuple[int, ...] | None = None
        if rng.random() < 0.4:
            add = str(rng.choice(sorted(width)))
            if width[add] != co or rng.random() < 0.3:
                add_channels = tuple(int(c) for c in rng.integers(0, width[add], co))
        layer = random_layer(rng, f"l{index}", source, width[source], co, int(ky), int(kx), int8, zeros[source])
        layer = replace(layer, add=add, add_channels=add_channels)
        out_zero = layer.requantise.zero_point if layer.requantise else 0
        if add is not None and layer.requantise is not None:
            rule = numerics.AddRule(
                out_zero,
                zeros[add],
                int(rng.integers(2**29, 2**31)),
                int(rng.integers(-(2**31) + 1, 2**31)),
                int(rng.choice([30, 31, 32])),
                int(rng.integers(-128, 128)),
                -128,
                int(rng.integers(0, 128)),
            )
            layer = replace(layer, add_rule=rule)
            out_zero = rule.zero_point
        layer = replace(layer, padding=out_zero)
        layers.append(layer)
        width[layer.output], zeros[layer.output], source = co, out_zero, layer.output
    outputs = [Output(source, "planar" if rng.random() < 0.6 else "chunked", shuffle)]
    if len(layers) > 1 and rng.random() < 0.3:
        outputs.append(Output(layers[0].output, "chunked"))
    return Stack(precision, tuple(inputs), tuple(layers), tuple(outputs))  # type: ignore[arg-type]


def random_layer(rng: Rng, name: str, source: str, ci: int, co: int, ky: int, kx: int, int8: bool, zero: int) -> Conv:
    output = f"{name}.out"
    if not int8:
        weights = (rng.normal(size=(ky, kx, ci, co)) / math.sqrt(ky * kx * ci)).astype(np.float16)
        activation = str(rng.choice(["linear", "relu", "prelu", "tanh", "sigmoid"]))
        low, high = (-0.75, 0.75) if rng.random() < 0.3 else (-math.inf, math.inf)
        return Conv(
            name,
            source,
            output,
            weights,
            rng.normal(size=co).astype(np.float32) * 0.2,
            activation,  # type: ignore[arg-type]
            rng.normal(size=co).astype(np.float32),
            low,
            high,
        )
    weights = rng.integers(-127, 128, (ky, kx, ci, co)).astype(np.int8)
    bias = rng.integers(-2000, 2000, co) - zero * weights.astype(np.int64).sum((0, 1, 2))
    multiplier = rng.integers(2**30, 2**31, co)
    negative = rng.choice([0, 1, -1], co) * rng.integers(1, 2**31, co)
    spread = 73 * 73 * math.sqrt(ky * kx * ci) / 60
    shift = np.full(co, 31 + max(0, round(math.log2(spread)))) + rng.integers(-1, 2, co)
    table = rng.integers(-128, 128, 256).astype(np.int8) if rng.random() < 0.3 else None
    low, high = sorted(int(q) for q in rng.choice(np.arange(-128, 128), 2, replace=False))
    zero_point = int(rng.integers(-128, 128))
    rule = Requantise(multiplier, negative, shift, zero_point, min(low, -20), max(high, 20), table)
    return Conv(name, source, output, weights, bias, requantise=rule)


def random_schedule(rng: Rng, stack: Stack) -> Schedule:
    """Any legal split, with few warps."""
    columns, band = int(rng.choice([8, 16, 24, 32, 40])), int(rng.integers(3, 40))
    splits = []
    for index in range(len(stack.layers)):
        options = [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)]
        rng.shuffle(options)
        for option in options:
            trial = [(1, 1)] * len(stack.layers)
            trial[index] = option
            try:
                layout(stack, Schedule(columns, band, tuple(trial)))
            except ValueError:
                continue
            splits.append((int(option[0]), int(option[1])))
            break
    return Schedule(columns, band, tuple(splits))


def random_input(rng: Rng, stack: Stack, item: Input, height: int, width: int) -> NDArray[Any]:
    """``[H, W, C]`` values."""
    if stack.precision == "fp16":
        return rng.normal(size=(height, width, item.channels)).astype(np.float16)
    return rng.integers(-128, 128, (height, width, item.channels)).astype(np.int8)


def expected(stack: Stack, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every tensor ``[H, W, C]``: in float64, or the machine's integers."""
    values = dict(inputs)
    zeros = {item.name: item.zero_point for item in stack.inputs}
    for layer in stack.layers:
        source = values[layer.source].astype(np.float64)
        zeros[layer.output] = layer.padding
        psum = convolve(source, layer.weights.astype(np.float64), zeros[layer.source]) + layer.bias
        other = None
        if layer.add is not None:
            other = values[layer.add]
            if layer.add_channels is not None:
                other = other[..., list(layer.add_channels)]
        if layer.requantise is None:
            value = _activate(layer, psum)
            values[layer.output] = np.clip(value if other is None else value + other, layer.low, layer.high)
            continue
        rule = layer.requantise
        q = numerics.requantise(
            np.rint(psum).astype(np.int64),
            multiplier=rule.multiplier,
            negative_multiplier=rule.negative_multiplier,
            shift=rule.shift,
            zero_point=rule.zero_point,
            qmin=rule.low,
            qmax=rule.high,
        )
        if rule.table is not None:
            q = numerics.apply_table(q, rule.table)
        if layer.add_rule is not None and other is not None:
            add = layer.add_rule
            q = numerics.add_requantised(q, other, add)
        values[layer.output] = q
    return values


def convolve(x: NDArray[np.float64], weights: NDArray[np.float64], padding: float = 0.0) -> NDArray[np.float64]:
    """'Same' convolution of ``[H, W, Cin]`` with ``[KY, KX, Cin, Cout]``."""
    ky, kx = weights.shape[:2]
    height, width = x.shape[:2]
    padded = np.pad(x, ((ky // 2,) * 2, (kx // 2,) * 2, (0, 0)), constant_values=padding)
    return np.asarray(
        sum(padded[i : i + height, j : j + width] @ weights[i, j] for i in range(ky) for j in range(kx)), np.float64
    )


def _activate(layer: Conv, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if layer.activation == "relu":
        return np.maximum(x, 0.0)
    if layer.activation == "prelu":
        return np.where(x > 0, x, x * layer.slope)
    if layer.activation == "tanh":
        return np.tanh(x)
    return 1.0 / (1.0 + np.exp(-x)) if layer.activation == "sigmoid" else x


def to_memory(stack: Stack, value: NDArray[Any], channels: int, format_: str, shuffle: int = 1) -> NDArray[Any]:
    """``[H, W, C]`` in its layout in global memory; unused channels of a chunked tensor are zero."""
    if shuffle > 1:
        height, width = value.shape[:2]
        channels //= shuffle**2
        cut = value.reshape(height, width, channels, shuffle, shuffle)
        value = cut.transpose(0, 3, 1, 4, 2).reshape(height * shuffle, width * shuffle, channels)
    if format_ == "planar":
        return np.ascontiguousarray(value.transpose(2, 0, 1))
    height, width = value.shape[:2]
    planes = -(-channels // stack.chunk)
    padded = np.zeros((height, width, planes * stack.chunk), value.dtype)
    padded[..., :channels] = value
    return np.ascontiguousarray(padded.reshape(height, width, planes, stack.chunk).transpose(2, 0, 1, 3))
