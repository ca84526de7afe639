"""The meaning of layer graphs, summed from the definition: a third opinion beside golden model and RTL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.kernels.correlation import Correlation
from codesign.compile.scanline.kernels.kernel import Int64
from codesign.compile.scanline.kernels.layer_norm import NormalisedPixels
from codesign.compile.scanline.kernels.normalise import Normalise
from codesign.compile.scanline.kernels.resize import Resize
from codesign.compile.scanline.kernels.warp import Warp
from codesign.compile.scanline.kernels.window import Window
from codesign.compile.scanline.layers import Epilogue, Layer, LayerGraph, Shuffle
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import normalise, numerics
from codesign.hw.numerics.layer_norm import LayerNorm
from codesign.hw.spec import BASE, AccelSpec
from codesign.hw.windows import window_channels

Int8 = NDArray[np.int8]


def evaluate(
    graph: LayerGraph, inputs: Mapping[str, Int8], spec: AccelSpec = BASE, *, ordered: bool = False
) -> dict[str, Int8]:
    """Every tensor of ``graph``, by sums over taps in int64. ``inputs``: int8[H, W, C] by name.

    ``spec``: the machine for which windows are laid out, where they are. ``ordered``: tensors that are shuffled have
    their channels sub-row by sub-row, ``(i, j, c)``.
    """
    values = dict(inputs)
    for layer in graph.layers:
        output = graph.tensors[layer.output]
        if isinstance(layer, Shuffle):
            f, source = layer.factor, graph.tensors[layer.source]
            shape = (f, f, output.channels) if ordered else (output.channels, f, f)
            split = values[layer.source].reshape(source.height, source.width, *shape)
            spread = split.transpose(0, 2, 1, 3, 4) if ordered else split.transpose(0, 3, 1, 4, 2)
            values[layer.output] = spread.reshape(output.height, output.width, output.channels)
            continue
        # Layers that were split each fill their channels of the output.
        whole = values.setdefault(layer.output, np.zeros((output.height, output.width, output.channels), np.int8))
        channels = slice(layer.first_channel, layer.first_channel + layer.channels)
        whole[..., channels] = _computed(graph, layer, values, channels, spec)
    return values


def _computed(graph: LayerGraph, layer: Layer, values: Mapping[str, Int8], channels: slice, spec: AccelSpec) -> Int8:
    """The channels ``channels`` of a layer's output."""
    if not isinstance(layer.kernel, Normalise):
        return _finished(graph, layer.epilogue, _sums(graph, layer, values, spec), values, channels)
    codes = values[layer.sources[0]][..., channels]
    bias, multiplier, shift = normalise.frame_factors(*normalise.sums(codes), layer.kernel.constants)
    epilogue = replace(layer.epilogue, bias=bias, multiplier=multiplier, negative_multiplier=multiplier, shift=shift)
    return _finished(graph, epilogue, codes.astype(np.int64) << normalise.UNIT_BITS, values, channels)


def _sums(graph: LayerGraph, layer: Layer, values: Mapping[str, Int8], spec: AccelSpec) -> Int64:
    """The sums of a layer before bias and rounding, ``int64[H, W, C]``."""
    source, read = graph.tensors[layer.sources[0]], [values[name] for name in layer.sources]
    match layer.kernel:
        case Resize() as kernel:
            return _steps(kernel, source, read[0])
        case Warp() as kernel:
            return _samples(kernel, source, read[0], values[kernel.field])
        case Window() as kernel:
            samples = _windows(kernel, graph.tensors[kernel.maps], values[kernel.maps], read[0])
            return samples if kernel.machine_channels is None else _laid_out(spec, kernel, samples)
        case NormalisedPixels(constants):
            return _pixels_normalised(constants, read[0])
        case Correlation(reach):
            return _products(reach, read[0], read[1])
        case AllPairs(name, pixels, first):
            return read[0] @ values[name].reshape(-1, source.channels)[first : first + pixels].astype(np.int64).T
        case Convolution() as kernel:
            return _taps(kernel, source, graph.tensors[layer.output], np.concatenate(read, axis=2))
        case _:
            raise NotImplementedError(layer.kernel.label)


def _pixels_normalised(constants: LayerNorm, values: Int8) -> Int64:
    """The sums of a layer normalisation before its rounding, pixel by pixel in Python's integers."""
    count = constants.channels << constants.doublings
    found = []
    for pixel in values.reshape(-1, constants.channels).tolist():
        total, squares = (sum(q**power for q in pixel) << constants.doublings for power in (1, 2))
        spread = count * squares - total * total + constants.epsilon
        even = spread.bit_length() + spread.bit_length() % 2  # the spread is a fraction of 2^even, at least a quarter
        mantissa = (spread << 40 - even) >> 22
        guess = math.isqrt(2**27 // (2 * (mantissa // 2**10) + 1))
        root = guess * (3 * 2**18 - mantissa * guess * guess // 2**18) // 2**12
        mean = (total * constants.reciprocal + 2**22) // 2**23
        for q in pixel:
            exact = Fraction((4096 * q - mean) * root, 2 ** (even // 2))
            found.append(round(exact))
    return np.array(found, np.int64).reshape(values.shape)


def _steps(kernel: Resize, source: Tensor, values: Int8) -> Int64:
    """The sums of a resize before its rounding: places to the nearest 1/256, halves up, by integer division."""
    total = values.astype(np.int64) - source.zero_point
    if source.bits == 16:
        total = np.tile(256 * total[..., :2] + total[..., 2:], 2)
    for axis, before in enumerate((source.height, source.width)):
        after = before * kernel.factor
        place = (512 * np.arange(after) * (before - 1) + after - 1) // (2 * (after - 1))
        shares = np.zeros((after, before), np.int64)
        np.add.at(shares, (np.arange(after), place // 256), 256 - place % 256)
        np.add.at(shares, (np.arange(after), np.minimum(place // 256 + 1, before - 1)), place % 256)
        total = np.moveaxis(np.tensordot(shares, total, (1, axis)), 0, axis)
    return total


def _samples(kernel: Warp, source: Tensor, values: Int8, planes: Int8) -> Int64:
    """The sums of a warp before its rounding: four pixels, weighted by how near they lie, in 2^-16."""
    flow = np.ldexp(256.0 * planes[..., :2] + planes[..., 2:], -kernel.fraction_bits)
    y, x = np.mgrid[: source.height, : source.width] + flow.transpose(2, 0, 1)[::-1]
    total = np.zeros(values.shape, np.float64)
    for rows, share_y in ((np.floor(y), 1 - y % 1), (np.floor(y) + 1, y % 1)):
        for columns, share_x in ((np.floor(x), 1 - x % 1), (np.floor(x) + 1, x % 1)):
            near = values[
                np.clip(rows, 0, source.height - 1).astype(int), np.clip(columns, 0, source.width - 1).astype(int)
            ].astype(np.float64)
            inside = (rows >= 0) & (rows < source.height) & (columns >= 0) & (columns < source.width)
            seen = (inside | kernel.edge)[..., None]
            total += np.where(seen, near - source.zero_point, 0.0) * (share_y * share_x)[..., None]
    return (total * numerics.SAMPLE_UNITS).astype(np.int64)


def _windows(windows: Window, volume: Tensor, values: Int8, planes: Int8) -> Int64:
    """The sums of windows before their rounding, sample by sample: columns of windows slower than rows."""
    radius, unit = windows.radius, 256 << windows.level
    maps = values.astype(np.int64).reshape(volume.height, volume.width, windows.map_height, windows.map_width)
    maps = np.pad(maps - volume.zero_point, ((0, 0), (0, 0), (1, 1), (1, 1)))
    flow = (256 * planes[..., :2].astype(np.int64) + planes[..., 2:]) << 8 - windows.fraction_bits
    down, across = np.mgrid[: volume.height, : volume.width]
    samples = []
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            total = np.zeros(down.shape, np.int64)
            for axis_y, axis_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                share, places = np.ones(down.shape, np.int64), []
                for own, moved, delta, far, extent in (
                    (down, flow[..., 1], dy, axis_y, windows.map_height),
                    (across, flow[..., 0], dx, axis_x, windows.map_width),
                ):
                    # The nearest 1/256, halves up, by division.
                    place = (2 * 256 * (256 * own + moved) + unit) // (2 * unit)
                    share = share * (place % 256 if far else 256 - place % 256)
                    places.append(np.clip(place // 256 + delta + far, -1, extent) + 1)
                total += maps[down, across, places[0], places[1]] * share
            samples.append(total)
    return np.stack(samples, axis=2)


def _laid_out(spec: AccelSpec, kernel: Window, samples: Int64) -> Int64:
    """Windows in whole words of ``spec``, whose other channels are zero."""
    found = np.zeros((*samples.shape[:2], kernel.channels), np.int64)
    found[..., window_channels(spec, kernel.radius).T.reshape(-1)] = samples
    return found


def _products(reach: int, first: Int8, second: Int8) -> Int64:
    """The sums of a correlation before its rounding: over channels, first times second a displacement away."""
    side = 2 * reach + 1
    around = np.pad(second.astype(np.int64), ((reach, reach), (reach, reach), (0, 0)))
    rows, columns = first.shape[:2]
    sums = [np.sum(first * around[y : y + rows, x : x + columns], axis=2) for y in range(side) for x in range(side)]
    return np.stack(sums, axis=2)


def _taps(kernel: Convolution, source: Tensor, output: Tensor, read: Int8) -> Int64:
    """The sums of a convolution, tap by tap."""
    rows, columns, _, channels = kernel.weights.shape
    s = kernel.stride
    frame = np.zeros(
        (output.height * s + rows + source.height, output.width * s + columns + source.width, read.shape[2]),
        np.int64,
    )
    inside = read.astype(np.int64) - source.zero_point
    frame[kernel.pad_top : kernel.pad_top + source.height, kernel.pad_left : kernel.pad_left + source.width] = inside
    if kernel.edge:
        pads = tuple(
            (pad, size - pad - extent)
            for pad, size, extent in zip((kernel.pad_top, kernel.pad_left), frame.shape, inside.shape, strict=False)
        )
        frame = np.pad(inside, (*pads, (0, 0)), "edge")
    sums = np.zeros((output.height, output.width, channels), np.int64)
    for y in range(rows):
        for x_tap in range(columns):
            taps = frame[y : y + output.height * s : s, x_tap : x_tap + output.width * s : s]
            sums += taps @ kernel.weights[y, x_tap].astype(np.int64)
    return sums


def _finished(graph: LayerGraph, epilogue: Epilogue, sums: Int64, values: Mapping[str, Int8], channels: slice) -> Int8:
    """Codes of sums: bias, rounding, table and the ``channels`` of a second operand."""
    psum = sums + epilogue.bias
    assert psum.min() >= -(2**31)
    assert psum.max() < 2**31
    if epilogue.planes is not None:
        two = {
            "multiplier": epilogue.multiplier[:2],
            "negative_multiplier": epilogue.multiplier[:2],
            "shift": epilogue.shift[:2],
        }
        return numerics.byte_planes(numerics.requantise_wide(psum[..., :2], **two))
    q = numerics.requantise(
        psum,
        multiplier=epilogue.multiplier,
        negative_multiplier=epilogue.negative_multiplier,
        shift=epilogue.shift,
        zero_point=epilogue.zero_point,
        qmin=epilogue.qmin,
        qmax=epilogue.qmax,
    )
    q = q if epilogue.table is None else numerics.apply_table(q, epilogue.table)
    if (second := epilogue.second) is None:
        return q
    rule = second.rule
    mine = q.astype(np.int64) - rule.value_zero_point
    operand = values[second.tensor] if second.broadcast else values[second.tensor][..., channels]
    other = operand.astype(np.int64) - graph.tensors[second.tensor].zero_point
    if isinstance(rule, numerics.MultiplyRule):
        joined = mine * other * rule.multiplier
    else:
        joined = mine * rule.multiplier + other * rule.other_multiplier
    shifted = numerics.round_shift(joined, rule.shift) + rule.zero_point
    return np.clip(shifted, rule.qmin, rule.qmax).astype(np.int8)
