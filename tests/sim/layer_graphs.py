"""Random layer graphs, for golden model, RTL and cycle model; ``layer_meaning.py`` says what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.all_pairs import AllPairs
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.kernels.correlation import Correlation
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
from codesign.hw.numerics.layer_norm import layer_norm, layer_norm_parameters

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


def _resize(rng: np.random.Generator, name: str, source: Tensor, output: Tensor, want: LayerDraw) -> Layer:
    epilogue = _sampling(rng, source.channels, output.zero_point, table=False)
    if source.bits == 16:
        planes = np.array([Plane.HIGH, Plane.HIGH, Plane.LOW, Plane.LOW], np.int64)
        epilogue = replace(epilogue, bias=0 * epilogue.bias, planes=planes)
    return Layer(name, (source.name,), output.name, Resize(want.enlarge, source.channels), epilogue)


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
