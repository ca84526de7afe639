"""Random layer graphs, and their meaning summed from the definition: a third opinion beside model and RTL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
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
from codesign.compile.scanline.layers import Epilogue, Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import normalise, numerics
from codesign.hw.isa import Plane
from codesign.hw.numerics.layer_norm import LayerNorm, layer_norm, layer_norm_parameters
from codesign.hw.spec import BASE, AccelSpec
from codesign.hw.windows import window_channels

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class LayerDraw:
    """What Hypothesis chooses of one layer; everything else follows from the graph's seed."""

    kernel: int
    stride: int
    channels: int
    activation: str
    add: str
    padded: bool
    loud: bool  # weights at their limits and sums that saturate
    back: int  # how many tensors before the last one the source is
    shuffle: int  # factor of a pixel shuffle after the layer; 1 is none
    product: bool = False  # what would be added is multiplied
    faint: bool = False  # the second operand's factors are so small that everything rounds to zero
    edge: bool = False  # beyond the frame lies its nearest pixel
    warp: bool = False  # samples the source at a flow instead, where the graph may
    correlate: int = 0  # correlates two tensors that far instead, where there are two alike
    pairs: bool = False  # every pixel with every one of a tensor of as many channels instead, where there is one
    enlarge: int = 1  # samples the source at steps that make it so many times as large, where that is not too large
    flow: bool = False  # the source is a flow of its own, in 16 bits, which is enlarged to one
    more: int = 0  # further sources, as far as there are tensors of the same size and zero point
    norm: bool = False  # normalises its source instead, where the graph may
    layer_norm: bool = False  # normalises the pixels of its source over their channels instead, where the graph may
    window: int = 0  # samples windows of this radius instead, in maps and at a flow of its own, where the graph may


@dataclass(frozen=True)
class GraphDraw:
    height: int
    width: int
    channels: int
    layers: tuple[LayerDraw, ...]
    seed: int


ACTIVATIONS = ("linear", "relu", "prelu", "clip", "table")
ADDS = ("none", "none", "same", "broadcast")
ZERO_POINTS = (-128, 127, 0, -1, 3)
MOST_PIXELS = 128 * 128
"""No frame is enlarged beyond."""

MOST_MAP_BYTES = 4 << 20
"""All maps of a frame are about so large."""


def graph_draws(
    *,
    side: int = 24,
    channels: int = 20,
    layers: int = 4,
    warps: bool = False,
    correlations: bool = False,
    norms: bool = False,
    layer_norms: bool = False,
    windows: bool = False,
) -> st.SearchStrategy[GraphDraw]:
    """Graphs of up to ``layers`` convolutions, ``side`` pixels a side, and of what else is wished for."""
    layer = st.builds(
        LayerDraw,
        kernel=st.sampled_from([1, 3, 5, 7]),
        stride=st.sampled_from([1, 1, 1, 2]),
        channels=st.integers(1, channels),
        activation=st.sampled_from(ACTIVATIONS),
        add=st.sampled_from(ADDS),
        product=st.booleans(),
        edge=st.sampled_from([False, False, True]),
        warp=st.sampled_from([False, False, True]) if warps else st.just(False),
        correlate=st.sampled_from([0, 0, 1, 2, 4]) if correlations else st.just(0),
        pairs=st.booleans() if correlations else st.just(False),
        norm=st.booleans() if norms else st.just(False),
        layer_norm=st.booleans() if layer_norms else st.just(False),
        window=st.sampled_from([0, 1, 2, 3, 4]) if windows else st.just(0),
        enlarge=st.sampled_from([1, 1, 1, 1, 2, 4]) if warps else st.just(1),
        flow=st.booleans() if warps else st.just(False),
        faint=st.sampled_from([False] * 7 + [True]),
        padded=st.sampled_from([True, True, True, False]),
        loud=st.booleans(),
        back=st.sampled_from([0, 0, 0, 1, 2]),
        shuffle=st.sampled_from([1, 1, 1, 2, 3]),
        more=st.sampled_from([0, 0, 0, 1, 2, 4]),
    )
    return st.builds(
        GraphDraw,
        height=st.integers(1, side),
        width=st.integers(1, side),
        channels=st.integers(1, channels),
        layers=st.lists(layer, min_size=1, max_size=layers).map(tuple),
        seed=st.integers(0, 2**16),
    )


def build(draw: GraphDraw) -> LayerGraph:
    """The graph of a draw; where a choice is impossible (nothing to add, too small for the kernel) it is left out."""
    rng = np.random.default_rng(draw.seed)
    tensors: dict[str, Tensor] = {}
    layers: list[Layer | Shuffle] = []
    order: list[str] = []
    flows: list[str] = []
    read: set[str] = set()

    shared = int(rng.choice(ZERO_POINTS)) if any(layer.more for layer in draw.layers) else None
    if any(layer.correlate or layer.pairs for layer in draw.layers):
        shared = 0

    def tensor(height: int, width: int, channels: int, zero_point: int | None = None) -> Tensor:
        zero = int(rng.choice([*ZERO_POINTS, int(rng.integers(-128, 128))])) if zero_point is None else zero_point
        zero = zero if shared is None else shared
        made = Tensor(f"t{len(order)}", height, width, channels, 0.1, zero)
        tensors[made.name] = made
        order.append(made.name)
        return made

    tensor(draw.height, draw.width, draw.channels)
    for index, want in enumerate(draw.layers):
        source = tensors[order[max(0, len(order) - 1 - want.back)]]
        if want.warp:
            flow = Tensor(f"flow{index}", source.height, source.width, 4, 2.0 ** -(draw.seed % 9), 0)
            tensors[flow.name] = flow
            flows.append(flow.name)
            output = tensor(source.height, source.width, source.channels)
            layers.append(_warp(rng, f"warp{index}", source, output, flow, draw.seed % 9, want))
            read.add(source.name)
            continue
        if want.window:
            made = _window(rng, index, source, want)
            for added in made[:2]:
                tensors[added.name] = added
                flows.append(added.name)
            output = tensor(source.height, source.width, (2 * want.window + 1) ** 2)
            epilogue = replace(made[2].epilogue, zero_point=output.zero_point)
            layers.append(replace(made[2], output=output.name, epilogue=epilogue))
            continue
        twin = next(
            (
                t
                for t in tensors.values()
                if t is not source
                and t.name not in flows
                and not t.as_weights
                and (t.height, t.width, t.channels) == (source.height, source.width, source.channels)
            ),
            None,
        )
        if want.correlate and twin is not None:
            side = 2 * want.correlate + 1
            output = tensor(source.height, source.width, side * side)
            plain = replace(want, activation="prelu", loud=False)
            made = _conv(rng, f"costs{index}", source, output, plain, 1, 0, None)
            layers.append(replace(made, sources=(source.name, twin.name), kernel=Correlation(want.correlate)))
            read |= {source.name, twin.name}
            continue
        other = next(
            (
                t
                for t in tensors.values()
                if t is not source
                and t.channels == source.channels
                and t.name not in flows
                and not t.as_weights
                and t.height * t.width <= 300
            ),
            None,
        )
        if want.pairs and other is not None:
            words = replace(other, name=f"{other.name}.weights{index}", as_weights=True)
            tensors[words.name] = words
            layers.append(copy_layer(words.name, other, words))
            output = tensor(source.height, source.width, other.height * other.width)
            plain = replace(want, activation="relu", loud=False)
            made = _conv(rng, f"pairs{index}", source, output, plain, 1, 0, None)
            layers.append(replace(made, kernel=AllPairs(words.name, output.channels)))
            read |= {source.name, other.name}
            continue
        if want.norm:
            layers.append(
                norm_layer(f"norm{index}", source, tensor(source.height, source.width, source.channels), want)
            )
            read.add(source.name)
            continue
        if want.layer_norm:
            output = tensor(source.height, source.width, source.channels)
            layers.append(_normalised_pixels(rng, f"layer_norm{index}", source, output, want))
            read.add(source.name)
            continue
        if want.enlarge > 1 and want.enlarge**2 * source.height * source.width <= MOST_PIXELS:
            if want.flow:
                source = Tensor(f"flow{index}", source.height, source.width, 4, 2.0 ** -(draw.seed % 9), 0, 16)
                tensors[source.name] = source
                flows.append(source.name)
            size = (source.height * want.enlarge, source.width * want.enlarge)
            output = tensor(*size, source.channels)
            layers.append(_resize(rng, f"resize{index}", source, output, want))
            read.add(source.name)
            continue
        kernel = want.kernel
        pad = kernel // 2 if want.padded or min(source.height, source.width) < kernel else 0
        height = (source.height + 2 * pad - kernel) // want.stride + 1
        width = (source.width + 2 * pad - kernel) // want.stride + 1
        channels = want.channels * want.shuffle**2 if want.shuffle > 1 and want.channels <= 4 else want.channels
        candidates = [
            t
            for t in tensors.values()
            if not t.as_weights and (t.height, t.width) == (height, width) and t is not source
        ]
        alike = [
            t.name
            for t in tensors.values()
            if not t.as_weights
            and (t.height, t.width, t.zero_point) == (source.height, source.width, source.zero_point)
            and t is not source
        ]
        more = tuple(alike[::-1][: want.more])
        other = None
        if want.add == "same":
            other = next((t for t in candidates if t.channels == channels), None)
        elif want.add == "broadcast":
            other = next((t for t in candidates if t.channels == 1), None)
            if other is None and channels > 1:  # make a layer that supplies one
                other = tensor(height, width, 1)
                layers.append(_conv(rng, f"mask{index}", source, other, replace(want, channels=1), kernel, pad, None))
        output = tensor(height, width, channels)
        layers.append(_conv(rng, f"conv{index}", source, output, want, kernel, pad, other, [tensors[n] for n in more]))
        read |= {source.name, *more} | ({other.name} if other else set())
        if channels != want.channels:
            factor = want.shuffle
            shuffled = tensor(height * factor, width * factor, want.channels, output.zero_point)
            layers.append(Shuffle(f"shuffle{index}", output.name, shuffled.name, factor))
            read.add(output.name)
    outputs = tuple(name for name in order[1:] if name not in read)
    return LayerGraph("random", tensors, tuple(layers), (order[0], *flows), outputs)


def _sampling(rng: np.random.Generator, channels: int, zero_point: int, table: bool) -> Epilogue:
    """The epilogue of a layer that samples."""
    multiplier, shift = numerics.quantise_multiplier(float(rng.uniform(0.3, 1.2)) / numerics.SAMPLE_UNITS)
    factors = (np.full(channels, value, np.int64) for value in (multiplier, multiplier, shift))
    bias = rng.integers(-10, 11, channels).astype(np.int64) * numerics.SAMPLE_UNITS
    codes = rng.integers(-128, 128, 256).astype(np.int8) if table else None
    return Epilogue(bias, *factors, zero_point, table=codes)


def _warp(
    rng: np.random.Generator, name: str, source: Tensor, output: Tensor, flow: Tensor, bits: int, want: LayerDraw
) -> Layer:
    epilogue = _sampling(rng, source.channels, output.zero_point, want.activation == "table")
    return Layer(name, (source.name,), output.name, Warp(flow.name, bits, source.channels, want.edge), epilogue)


def _window(rng: np.random.Generator, index: int, frame: Tensor, want: LayerDraw) -> tuple[Tensor, Tensor, Layer]:
    """Maps for every pixel of ``frame``, a flow, and a layer that samples windows of the maps."""
    level = int(rng.integers(0, 4))
    while (frame.height >> level) * (frame.width >> level) * frame.height * frame.width > MOST_MAP_BYTES:
        level += 1
    height, width = (max(1, int(rng.integers(-2, 3)) + (side >> level)) for side in (frame.height, frame.width))
    kernel = Window(f"maps{index}", height, width, want.window, level, int(rng.integers(0, 9)))
    size = (frame.height, frame.width)
    volume = Tensor(kernel.maps, *size, height * width, 0.1, int(rng.choice([*ZERO_POINTS, 17])))
    flow = Tensor(f"flow{index}", *size, 4, 2.0**-kernel.fraction_bits, 0)
    epilogue = _sampling(rng, kernel.channels, 0, want.activation == "table")
    return volume, flow, Layer(f"windows{index}", (flow.name,), "", kernel, epilogue)


def norm_layer(name: str, source: Tensor, output: Tensor, want: LayerDraw) -> Layer:
    """A layer that normalises ``source``, codes of a scale by ``want``."""
    constants = normalise.normalisation(source.height * source.width, 1e-5, (0.002, 0.1, 7.0)[want.kernel % 3], 4 / 127)
    none = np.zeros(source.channels, np.int64)
    low = output.zero_point if want.activation == "relu" else -128
    epilogue = Epilogue(none, none, none, none, output.zero_point, low)
    return Layer(name, (source.name,), output.name, Normalise(constants, source.channels), epilogue)


def _normalised_pixels(rng: np.random.Generator, name: str, source: Tensor, output: Tensor, want: LayerDraw) -> Layer:
    """A layer that normalises pixels of ``source``; scales and shifts are of all sizes, of a bit where it is loud."""
    constants = layer_norm(source.channels, 1e-5, (0.002, 0.1, 7.0)[want.kernel % 3])
    scale, shift = rng.normal(size=(2, source.channels)) * (200.0 if want.loud else 1.0)
    bias, multiplier, shifts = layer_norm_parameters(scale, shift, constants, 4 / 127)
    low = output.zero_point if want.activation == "relu" else -128
    table = rng.integers(-128, 128, 256).astype(np.int8) if want.activation == "table" else None
    epilogue = Epilogue(bias, multiplier, multiplier, shifts, output.zero_point, low, table=table)
    return Layer(name, (source.name,), output.name, NormalisedPixels(constants), epilogue)


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


def _resize(rng: np.random.Generator, name: str, source: Tensor, output: Tensor, want: LayerDraw) -> Layer:
    epilogue = _sampling(rng, source.channels, output.zero_point, table=False)
    if source.bits == 16:
        planes = np.array([Plane.HIGH, Plane.HIGH, Plane.LOW, Plane.LOW], np.int64)
        epilogue = replace(epilogue, bias=0 * epilogue.bias, planes=planes)
    return Layer(name, (source.name,), output.name, Resize(want.enlarge, source.channels), epilogue)


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


def _products(reach: int, first: Int8, second: Int8) -> Int64:
    """The sums of a correlation before its rounding: over channels, first times second a displacement away."""
    side = 2 * reach + 1
    around = np.pad(second.astype(np.int64), ((reach, reach), (reach, reach), (0, 0)))
    rows, columns = first.shape[:2]
    sums = [np.sum(first * around[y : y + rows, x : x + columns], axis=2) for y in range(side) for x in range(side)]
    return np.stack(sums, axis=2)


def _conv(
    rng: np.random.Generator,
    name: str,
    source: Tensor,
    output: Tensor,
    want: LayerDraw,
    kernel: int,
    pad: int,
    other: Tensor | None,
    more: Sequence[Tensor] = (),
) -> Layer:
    inputs = source.channels + sum(tensor.channels for tensor in more)
    shape = (kernel, kernel, inputs, output.channels)
    fan = kernel * kernel * inputs
    if want.loud:
        weights = rng.choice(np.array([-128, -127, 127], np.int8), shape)
        gain = rng.uniform(1.0, 8.0, output.channels)
    else:
        weights = rng.integers(-127, 128, shape).astype(np.int8)
        gain = rng.uniform(0.3, 1.2, output.channels)
    real = gain / (74.0 * np.sqrt(fan))
    slope = {"relu": np.zeros(output.channels), "prelu": rng.uniform(-0.5, 1.5, output.channels)}.get(
        want.activation, np.ones(output.channels)
    )
    pairs = [numerics.quantise_pair(float(r), float(r * a)) for r, a in zip(real, slope, strict=True)]
    multiplier, negative, shift = np.array(pairs, np.int64).T
    low, high = sorted(int(v) for v in rng.integers(-128, 128, 2)) if want.activation == "clip" else (-128, 127)
    zero_point = output.zero_point
    if want.activation == "relu":
        low = zero_point
    second = None
    if other is not None:
        reals = float(rng.uniform(0.2, 1.5)), float(rng.uniform(-1.5, 1.5))
        factors = numerics.quantise_pair(*(real * (2.0**-28 if want.faint else 1.0) for real in reals))
        factor = numerics.quantise_multiplier(reals[1] * 2.0 ** (-40 if want.faint else -6))
        zero_point, value_zero_point = (int(value) for value in rng.integers(-128, 128, 2))
        if want.activation != "table":
            value_zero_point = zero_point
        ends = value_zero_point, other.zero_point
        rule: numerics.AddRule | numerics.MultiplyRule = numerics.AddRule(*ends, *factors, output.zero_point)
        if want.product:
            rule = numerics.MultiplyRule(*ends, *factor, output.zero_point)
        second = SecondOperand(other.name, other.channels == 1 and output.channels > 1, rule)
    table = rng.integers(-128, 128, 256).astype(np.int8) if want.activation == "table" else None
    bias = rng.integers(-3000 * kernel, 3000 * kernel + 1, output.channels).astype(np.int64)
    return Layer(
        name,
        (source.name, *(tensor.name for tensor in more)),
        output.name,
        Convolution(weights, want.stride, pad, pad, want.edge),
        Epilogue(bias, multiplier, negative, shift, zero_point, low, high, table, second),
        macs=output.height * output.width * weights.size,
    )


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


def _laid_out(spec: AccelSpec, kernel: Window, samples: Int64) -> Int64:
    """Windows in whole words of ``spec``, whose other channels are zero."""
    found = np.zeros((*samples.shape[:2], kernel.channels), np.int64)
    found[..., window_channels(spec, kernel.radius).T.reshape(-1)] = samples
    return found


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


def random_inputs(graph: LayerGraph, seed: int, *, pixels: float | None = None) -> dict[str, Int8]:
    """Codes for the graph's inputs, both extremes among them.

    Flows of up to ``pixels``; by default of a pixel or of many, by the seed.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Int8] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = (tensor.height, tensor.width, tensor.channels)
        if name.startswith("flow"):
            longest = pixels if pixels is not None else (1.0, 4.0, 300.0)[seed % 3]
            flow = rng.uniform(-longest, longest, (*shape[:2], 2)) / tensor.scale
            found[name] = numerics.byte_planes(np.clip(np.rint(flow), -(2**15), 2**15 - 1).astype(np.int16))
        else:
            loud, any_ = rng.choice([-128, 127], shape), rng.integers(-128, 128, shape)
            found[name] = np.where(rng.random(shape) < 0.1, loud, any_).astype(np.int8)
    return found


SMALL = GraphDraw(
    height=7,
    width=9,
    channels=3,
    layers=(
        LayerDraw(3, 1, 6, "prelu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "relu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 6, "table", "same", True, False, 0, 1),
        LayerDraw(1, 1, 1, "linear", "none", True, False, 0, 2),
    ),
    seed=3,
)
"""Small, and with a residual, a PReLU and a pixel shuffle in it."""

DENSE = GraphDraw(
    height=9,
    width=13,
    channels=5,
    layers=(
        LayerDraw(3, 1, 4, "prelu", "none", True, False, 0, 1),
        LayerDraw(3, 1, 4, "relu", "none", True, False, 0, 1, more=1),
        LayerDraw(3, 1, 4, "linear", "none", True, False, 0, 1, more=2),
        LayerDraw(3, 1, 4, "linear", "none", True, False, 0, 1, more=3),
        LayerDraw(3, 1, 5, "linear", "same", True, False, 0, 1, more=4),
    ),
    seed=4,
)
"""A dense block with a residual: every layer reads all tensors before it."""
