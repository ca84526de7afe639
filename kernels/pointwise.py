"""CUDA kernels on chunked FP16 tensors that need no neighbours, or few.

Element-wise chains (:class:`Chain`), layer normalisation over channels (:class:`LayerNorm`), the global average
(:class:`SegmentSums`, then :class:`SegmentAverage`), depthwise 3x3 convolution (:class:`Depthwise`), and NCHW to
chunked and back (:class:`ToChunked`, :class:`ToPlanar`).

An operator is a frozen description; :func:`render` writes its kernel, :func:`render_naive` the reference beside it,
with the same arguments, :func:`pack` the parameters it reads. Channels, constants and tiles are in the text; heights,
widths and the batch are not. A chunked tensor is ``[batch][planes][H][W][8 halves]``; every kernel writes zeros to the
channels that only fill up the last chunk. Outputs must not overlap inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from codesign.kernels.layers import CHUNK_CHANNELS

CHUNK = CHUNK_CHANNELS["fp16"]
WARP = 32
NAIVE_THREADS = 256

Number = Literal["fp16", "fp32"]
"""Of planar arrays; chunks hold halves."""

Grid = tuple[int, int, int]

Kind = Literal[
    "add", "subtract", "multiply", "maximum", "minimum", "relu", "leaky_relu", "prelu", "clip", "sigmoid", "tanh",
    "gelu_tanh", "gelu_erf", "silu", "copy",
]  # fmt: skip
"""``leaky_relu`` and ``prelu`` take the slope as second operand, ``clip`` takes low and high.

Of a number and a NaN, ``maximum``, ``minimum``, ``clip`` and ``relu`` give the number.
"""

FORMULAS: dict[Kind, str] = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "maximum": "fmaxf({0}, {1})",
    "minimum": "fminf({0}, {1})",
    "relu": "fmaxf({0}, 0.f)",
    "leaky_relu": "leaky({0}, {1})",
    "prelu": "leaky({0}, {1})",
    "clip": "fminf(fmaxf({0}, {1}), {2})",
    "sigmoid": "fast_sigmoid({0})",
    "tanh": "fast_tanh({0})",
    "gelu_tanh": "gelu_tanh({0})",
    "gelu_erf": "gelu_erf({0})",
    "silu": "fast_silu({0})",
    "copy": "{0}",
}

NAIVE_FORMULAS: dict[Kind, str] = FORMULAS | {
    "leaky_relu": "({0} > 0.f ? {0} : {0} * {1})",
    "prelu": "({0} > 0.f ? {0} : {0} * {1})",
    "sigmoid": "naive_sigmoid({0})",
    "tanh": "tanhf({0})",
    "gelu_tanh": "naive_gelu_tanh({0})",
    "gelu_erf": "naive_gelu_erf({0})",
    "silu": "{0} * naive_sigmoid({0})",
}


def operand_count(kind: Kind) -> int:
    return FORMULAS[kind].count("{")


def plane_count(channels: int) -> int:
    """Chunks of a pixel."""
    return -(-channels // CHUNK)


def literal(value: float) -> str:
    """A C constant; infinities become the largest floats."""
    if math.isnan(value):
        raise ValueError("a constant of a kernel is NaN")
    return f"{value!r}f" if math.isfinite(value) else ("-" if value < 0 else "") + "3.4e38f"


def flag(value: bool) -> str:
    return "true" if value else "false"


def padded(values: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """``[..., C]`` to FP32 ``[..., planes * 8]``, zeros beyond the channels."""
    if values.shape[-1] != channels:
        raise ValueError(f"{values.shape[-1]} parameters for {channels} channels")
    result = np.zeros((*values.shape[:-1], plane_count(channels) * CHUNK), np.float32)
    result[..., :channels] = values
    return result


def kernel_text(
    header: str, name: str, bounds: int | str, pointers: Sequence[str], body: str, integers: Sequence[str] = (),
    before: str = "",
) -> str:  # fmt: skip
    """A kernel whose arguments are ``pointers`` (those to be written begin with "output") and then ``integers``.

    ``bounds``: threads of a block, or that and the blocks that should fit on a multiprocessor.
    """
    arguments = [f"{'' if pointer.startswith('output') else 'const '}char* {pointer}" for pointer in pointers]
    arguments += [f"int {integer}" for integer in (integers or ("height", "width"))]
    return (
        f'#include "{header}"\n\n{before}extern "C" __global__ void __launch_bounds__({bounds})\n'
        f"{name}({', '.join(arguments)}) {{\n{body}}}\n"
    )


def naive_grid(channels: int, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks of ``NAIVE_THREADS`` of any naive kernel; the sizes are those of its output."""
    return -(-plane_count(channels) * CHUNK * height * width // NAIVE_THREADS), 1, batch


# Chains


@dataclass(frozen=True)
class Planes:
    """Consecutive planes of an input: ``count`` chunks of a pixel from ``first``."""

    tensor: int
    count: int
    first: int = 0


@dataclass(frozen=True)
class Read:
    """A value of a chain that is read: planes of one input, or of several one after the other (a concatenation).

    ``spread``: the inputs are of 1 x 1 pixels, ``[batch][planes][8]``, the same value for all pixels of a frame.
    """

    parts: tuple[Planes, ...]
    spread: bool = False


@dataclass(frozen=True)
class PerChannel:
    """A constant for each channel of the chain's output."""

    values: tuple[float, ...]


Operand = int | float | PerChannel
"""An ``int`` is an earlier step of the chain; a ``float`` is a constant."""


@dataclass(frozen=True)
class Apply:
    """A value of a chain that is computed."""

    kind: Kind
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Chain:
    """Steps on every value of a frame in one kernel, FP32 inside, each input read once and each output written once.

    ``inputs``: channels of each input tensor. ``steps``: values, in order. ``outputs``: the steps that are stored, each
    a tensor of ``channels`` channels.
    """

    channels: int
    inputs: tuple[int, ...]
    steps: tuple[Read | Apply, ...]
    outputs: tuple[int, ...]
    threads: int = 128
    items: int = 2
    """Pixels of a thread, all of whose reads are in flight together."""

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a chain without outputs")
        for index, step in enumerate(self.steps):
            if isinstance(step, Read):
                self._check_read(step)
                continue
            if step.kind not in get_args(Kind) or len(step.operands) != operand_count(step.kind):
                raise ValueError(f"step {index}: {step.kind} with {len(step.operands)} operands")
            for operand in step.operands:
                if isinstance(operand, int) and not 0 <= operand < index:
                    raise ValueError(f"step {index} reads step {operand}")
                if isinstance(operand, PerChannel) and len(operand.values) != self.channels:
                    raise ValueError(f"{len(operand.values)} constants for {self.channels} channels")
        for output in self.outputs:
            if not 0 <= output < len(self.steps):
                raise ValueError(f"output {output} of {len(self.steps)} steps")

    def _check_read(self, read: Read) -> None:
        if sum(part.count for part in read.parts) != self.planes:
            raise ValueError(f"{sum(part.count for part in read.parts)} planes are read for {self.planes}")
        for position, part in enumerate(read.parts):
            channels = self.inputs[part.tensor]
            if part.first < 0 or part.count < 1 or part.first + part.count > plane_count(channels):
                raise ValueError(f"planes {part.first} to {part.first + part.count} of {plane_count(channels)}")
            whole = (part.first + part.count) * CHUNK <= channels
            if not whole and position + 1 < len(read.parts):
                raise ValueError(f"{channels} channels do not end with a whole chunk, and others follow")

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0

    @property
    def per_channel(self) -> tuple[PerChannel, ...]:
        """The constants in the parameters, in order."""
        operands = (operand for step in self.steps if isinstance(step, Apply) for operand in step.operands)
        return tuple(operand for operand in operands if isinstance(operand, PerChannel))


def read(channels: int, tensor: int = 0, *, spread: bool = False) -> Read:
    """The whole of an input of ``channels`` channels."""
    return Read((Planes(tensor, plane_count(channels)),), spread)


def simple_gate(channels: int) -> Chain:
    """``channels``, of which the first half is multiplied by the second: NAFNet's SimpleGate."""
    if channels % (2 * CHUNK):
        raise ValueError(f"the halves of {channels} channels are not whole chunks")
    half = channels // 2 // CHUNK
    steps = (Read((Planes(0, half),)), Read((Planes(0, half, half),)), Apply("multiply", (0, 1)))
    return Chain(channels // 2, (channels,), steps, (2,))


def scale_channels(channels: int) -> Chain:
    """A frame times a vector ``[batch][planes][8]``: simplified channel attention."""
    return Chain(
        channels,
        (channels, channels),
        (read(channels), read(channels, 1, spread=True), Apply("multiply", (0, 1))),
        (2,),
    )


def concatenate(*channels: int) -> Chain:
    """Tensors one after the other; all but the last of whole chunks."""
    parts = tuple(Planes(tensor, plane_count(count)) for tensor, count in enumerate(channels))
    return Chain(sum(channels), channels, (Read(parts),), (0,))


def cut(channels: int, first: int, count: int) -> Chain:
    """Channels ``first`` to ``first + count`` of ``channels``, on chunk boundaries."""
    if first % CHUNK or (count % CHUNK and first + count != channels):
        raise ValueError(f"channels {first} to {first + count} of {channels} are not whole chunks")
    return Chain(count, (channels,), (Read((Planes(0, plane_count(count), first // CHUNK),)),), (0,))


# The other operators


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """``(x - mean) / sqrt(variance + epsilon) * scale + shift`` over the channels of each pixel, FP32 statistics.

    ``scale``, ``shift``: ``[C]``.
    """

    scale: NDArray[Any] = field(repr=False)
    shift: NDArray[Any] = field(repr=False)
    epsilon: float = 1e-6
    pixel_warps: int = 4
    """Groups of 32 pixels in a block."""
    channel_warps: int = 0
    """Warps that share a pixel's planes; 0 for as many as leave each 8 planes at most."""

    @property
    def channels(self) -> int:
        return int(self.scale.shape[0])

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def members(self) -> int:
        return self.channel_warps or -(-self.planes // 8)

    @property
    def groups(self) -> int:
        """Of 32 pixels in a block, of at most 16 warps."""
        return max(1, min(self.pixel_warps, 16 // self.members))

    @property
    def threads(self) -> int:
        return self.groups * self.members * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * self.threads * 4 if self.members > 1 else 0


@dataclass(frozen=True)
class SegmentSums:
    """First half of the global average: FP32 ``[batch][planes][segments][8]``, in a fixed order of additions."""

    channels: int
    segments: int = 32
    threads: int = 256

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return self.threads * CHUNK * 4


@dataclass(frozen=True)
class SegmentAverage:
    """Second half: a chunked tensor of 1 x 1 pixels, ``[batch][planes][8]``, from what :class:`SegmentSums` left.

    ``height`` and ``width`` are those of the frame that was summed.
    """

    channels: int
    segments: int = 32
    threads: int = 64

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Depthwise:
    """3x3 convolution of each channel by itself, stride 1, zeros outside; then ``activation`` of ``constants``.

    ``weights [C, 3, 3]``, ``bias [C]``. ``gate``: the result is the activation of the first half of the channels times
    the second half: NAFNet's SimpleGate, or with a GELU the gate of Restormer's feed-forward layer.
    """

    weights: NDArray[Any] = field(repr=False)
    bias: NDArray[Any] = field(repr=False)
    activation: Kind = "copy"
    constants: tuple[float, ...] = ()
    gate: bool = False
    rows: int = 8
    """Of the result that a thread makes."""
    warps: int = 4

    def __post_init__(self) -> None:
        if self.weights.shape != (self.channels, 3, 3):
            raise ValueError(f"weights {self.weights.shape} of a depthwise 3x3 convolution of {self.channels} channels")
        if operand_count(self.activation) != 1 + len(self.constants):
            raise ValueError(f"{self.activation} with {len(self.constants)} constants")
        if self.gate and self.channels % (2 * CHUNK):
            raise ValueError(f"the halves of {self.channels} channels are not whole chunks")

    @property
    def channels(self) -> int:
        return int(self.bias.shape[0])

    @property
    def output_channels(self) -> int:
        return self.channels // 2 if self.gate else self.channels

    @property
    def planes(self) -> int:
        """Of the output."""
        return plane_count(self.output_channels)

    @property
    def threads(self) -> int:
        return self.warps * WARP

    @property
    def shared_bytes(self) -> int:
        return 2 * 10 * CHUNK * 4 if self.gate else 0


@dataclass(frozen=True)
class ToChunked:
    """NCHW ``[batch][C][H][W]`` to chunked."""

    channels: int
    number: Number = "fp16"
    threads: int = 128
    items: int = 2

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


@dataclass(frozen=True)
class ToPlanar:
    """Chunked to NCHW ``[batch][C][H][W]``."""

    channels: int
    number: Number = "fp16"
    threads: int = 128
    items: int = 2

    @property
    def planes(self) -> int:
        return plane_count(self.channels)

    @property
    def shared_bytes(self) -> int:
        return 0


Operator = Chain | LayerNorm | SegmentSums | SegmentAverage | Depthwise | ToChunked | ToPlanar


def pack(op: Operator) -> bytes:
    """The parameters, FP32, to lie on a 16-byte boundary; empty for operators without."""
    if isinstance(op, Chain):
        return b"".join(padded(np.array(item.values), op.channels).tobytes() for item in op.per_channel)
    if isinstance(op, LayerNorm):
        return padded(op.scale, op.channels).tobytes() + padded(op.shift, op.channels).tobytes()
    if isinstance(op, Depthwise):
        rows = np.concatenate([op.weights.reshape(op.channels, 9).T, op.bias[None]])  # [10, C]
        return padded(rows, op.channels).reshape(10, -1, CHUNK).transpose(1, 0, 2).tobytes()
    return b""


def pointers(op: Operator) -> tuple[str, ...]:
    """Names of the kernel's pointers, in order: inputs, outputs, parameters if it has any."""
    if isinstance(op, Chain):
        inputs = tuple(f"input_{i}" for i in range(len(op.inputs)))
        outputs = tuple(f"output_{i}" for i in range(len(op.outputs)))
        return inputs + outputs + (("parameters",) if op.per_channel else ())
    return ("input", "output", "parameters") if isinstance(op, LayerNorm | Depthwise) else ("input", "output")


def grid(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    """Blocks in x, y and z for a frame of ``height`` x ``width`` pixels."""
    pixels = height * width
    if isinstance(op, LayerNorm):
        return -(-pixels // (op.groups * WARP)), 1, batch
    if isinstance(op, SegmentSums):
        return op.segments, op.planes, batch
    if isinstance(op, SegmentAverage):
        return -(-op.planes * CHUNK // op.threads), 1, batch
    if isinstance(op, Depthwise):
        return -(-width // WARP) * op.planes, -(-height // (op.warps * op.rows)), batch
    return -(-pixels // (op.threads * op.items)), op.planes, batch


def render(op: Operator, name: str) -> str:
    """The kernel's CUDA text. Its arguments: :func:`pointers`, then ``int height, int width``."""
    before = ""
    if isinstance(op, Chain):
        body = _chain(op)
    elif isinstance(op, LayerNorm):
        body = (
            f"  LayerNorm<{op.channels}, {op.groups}, {op.members}>::run(input, output, parameters, "
            f"{literal(op.epsilon)}, height, width);\n"
        )
    elif isinstance(op, SegmentSums):
        body = f"  sum_segments<{op.planes}, {op.segments}, {op.threads}>(input, output, height, width);\n"
    elif isinstance(op, SegmentAverage):
        body = f"  average_segments<{op.channels}, {op.segments}, {op.threads}>(input, output, height, width);\n"
    elif isinstance(op, Depthwise):
        before = _functor(op, name, FORMULAS)
        body = (
            f"  depthwise<{op.channels}, {op.warps}, {op.rows}, {flag(op.gate)}, {name}_activation>(input, output, "
            "parameters, height, width);\n"
        )
    else:
        function = "planar_to_chunked" if isinstance(op, ToChunked) else "chunked_to_planar"
        single = flag(op.number == "fp32")
        body = f"  {function}<{op.channels}, {single}, {op.items}, {op.threads}>(input, output, height, width);\n"
    return kernel_text("pointwise.cuh", name, op.threads, pointers(op), body, before=before)


def render_naive(op: Operator, name: str) -> str:
    """The reference, with the same arguments; see :func:`naive_grid_of`."""
    before = ""
    if isinstance(op, Chain):
        body = _naive_chain(op)
    elif isinstance(op, LayerNorm):
        body = f"  naive_layer_norm<{op.channels}>(input, output, parameters, {literal(op.epsilon)}, height, width);\n"
    elif isinstance(op, SegmentSums):
        body = f"  naive_sum_segments<{op.planes}, {op.segments}>(input, output, height, width);\n"
    elif isinstance(op, SegmentAverage):
        body = f"  naive_average_segments<{op.channels}, {op.segments}>(input, output, height, width);\n"
    elif isinstance(op, Depthwise):
        before = _functor(op, name, NAIVE_FORMULAS)
        body = (
            f"  naive_depthwise<{op.channels}, {flag(op.gate)}, {name}_activation>(input, output, parameters, height, "
            "width);\n"
        )
    else:
        function = "planar_to_chunked" if isinstance(op, ToChunked) else "chunked_to_planar"
        body = f"  naive_{function}<{op.channels}, {flag(op.number == 'fp32')}>(input, output, height, width);\n"
    return kernel_text("naive.cuh", name, NAIVE_THREADS, pointers(op), body, before=before)


def naive_grid_of(op: Operator, height: int, width: int, batch: int = 1) -> Grid:
    if isinstance(op, SegmentSums):
        return naive_grid(op.channels, op.segments, 1, batch)
    if isinstance(op, SegmentAverage):
        return naive_grid(op.channels, 1, 1, batch)
    channels = op.output_channels if isinstance(op, Depthwise) else op.channels
    return naive_grid(channels, height, width, batch)


def _functor(op: Depthwise, name: str, formulas: dict[Kind, str]) -> str:
    formula = formulas[op.activation].format("x", *(literal(value) for value in op.constants))
    return f"struct {name}_activation {{\n  static DEVICE float apply(float x) {{ return {formula}; }}\n}};\n\n"


def _step(step: Apply, formulas: dict[Kind, str], first_constant: int, constant: str) -> tuple[str, int]:
    """The step's formula, and the number of per-channel constants after it. ``constant``: how one is read."""
    texts = []
    for operand in step.operands:
        if isinstance(operand, PerChannel):
            texts.append(constant.format(first_constant))
            first_constant += 1
        else:
            texts.append(f"value_{operand}" if isinstance(operand, int) else literal(operand))
    return formulas[step.kind].format(*texts), first_constant


def _choose(step: Read, index: str, unit: int, text: str) -> str:
    """What is read for plane ``index / unit`` of the output: ``text`` of the part's tensor and shift of planes."""
    begins = np.cumsum([0, *(part.count for part in step.parts)])
    result = ""
    for part, begin, end in reversed(list(zip(step.parts, begins, begins[1:], strict=False))):
        here = text.format(tensor=part.tensor, shift=(part.first - begin) * unit)
        result = f"{index} < {end * unit} ? {here} : {result}" if result else here
    return result


def _chain(op: Chain) -> str:
    lines = [
        f"  constexpr int ITEMS = {op.items}, THREADS = {op.threads}, PLANES = {op.planes}, CHANNELS = {op.channels};",
        *(f"  constexpr int planes_{i} = {plane_count(channels)};" for i, channels in enumerate(op.inputs)),
        "  const int plane = blockIdx.y;",
        "  const long long pixels = static_cast<long long>(height) * width;",
        "  const long long first = static_cast<long long>(blockIdx.x) * (ITEMS * THREADS) + threadIdx.x;",
    ]
    for number in range(len(op.per_channel)):
        lines += [
            f"  float constant_{number}[8];",
            f"  read_channels(constant_{number}, parameters, {number} * PLANES + plane);",
        ]
    reads = {index: step for index, step in enumerate(op.steps) if isinstance(step, Read)}
    for index, item in reads.items():
        size = "1ll" if item.spread else "pixels"
        text = f"input_{{tensor}} + plane_offset(planes_{{tensor}}, plane + {{shift}}, {size})"
        lines.append(f"  const char* from_{index} = {_choose(item, 'plane', 1, text)};")
    for number, _ in enumerate(op.outputs):
        lines.append(f"  char* to_{number} = output_{number} + plane_offset(PLANES, plane, pixels);")
    for index, item in reads.items():
        if item.spread:
            lines += [f"  float spread_{index}[8];", f"  unpack(load_global16(from_{index}), spread_{index});"]
        else:
            lines.append(f"  uint4 chunk_{index}[ITEMS];")
    streamed = [index for index, item in reads.items() if not item.spread]
    lines += [
        "#pragma unroll",
        "  for (int i = 0; i < ITEMS; ++i) {",
        "    const long long pixel = first + i * THREADS;",
        "    if (pixel < pixels) {",
        *(f"      chunk_{index}[i] = load_global16(from_{index} + pixel * 16);" for index in streamed),
        "    }",
        "  }",
        "#pragma unroll",
        "  for (int i = 0; i < ITEMS; ++i) {",
        "    const long long pixel = first + i * THREADS;",
        "    if (pixel < pixels) {",
    ]
    for index in streamed:
        lines += [f"      float read_{index}[8];", f"      unpack(chunk_{index}[i], read_{index});"]
    lines += [
        "      float " + ", ".join(f"result_{number}[8]" for number in range(len(op.outputs))) + ";",
        "#pragma unroll",
        "      for (int c = 0; c < 8; ++c) {",
    ]
    constant = 0
    for index, step in enumerate(op.steps):
        if isinstance(step, Read):
            text = f"{'spread' if step.spread else 'read'}_{index}[c]"
        else:
            text, constant = _step(step, FORMULAS, constant, "constant_{}[c]")
        lines.append(f"        const float value_{index} = {text};")
    lines += [f"        result_{number}[c] = value_{output};" for number, output in enumerate(op.outputs)]
    lines.append("      }")
    for number, _ in enumerate(op.outputs):
        lines += [
            f"      clear_padding<CHANNELS>(result_{number}, plane);",
            f"      store_global16(to_{number} + pixel * 16, pack(result_{number}));",
        ]
    lines += ["    }", "  }"]
    return "\n".join(lines) + "\n"


def _naive_chain(op: Chain) -> str:
    lines = [
        f"  const Site site = site_of({op.channels}, height, width);",
        "  if (!site.inside) return;",
        *(f"  constexpr int channels_{i} = {channels};" for i, channels in enumerate(op.inputs)),
    ]
    constant = 0
    for index, step in enumerate(op.steps):
        if isinstance(step, Read):
            place = "0, 0, 1, 1" if step.spread else "site.row, site.column, height, width"
            text = f"naive_read(input_{{tensor}}, channels_{{tensor}}, site.channel + {{shift}}, {place})"
            text = _choose(step, "site.channel", CHUNK, text)
        else:
            of_channel = f"reinterpret_cast<const float*>(parameters)[{{}} * {op.planes * CHUNK} + site.channel]"
            text, constant = _step(step, NAIVE_FORMULAS, constant, of_channel)
        lines.append(f"  const float value_{index} = {text};")
    for number, output in enumerate(op.outputs):
        lines.append(f"  store_site(output_{number}, site, {op.channels}, value_{output});")
    return "\n".join(lines) + "\n"
