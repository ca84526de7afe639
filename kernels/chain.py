"""Element-wise chains on chunked FP16 tensors as CUDA kernels: values are read, computed on and stored in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from codesign.kernels.chunked import CHUNK, literal, padded, plane_count
from codesign.kernels.frame_kernel import FrameKernel

Kind = Literal[
    "add",
    "subtract",
    "multiply",
    "maximum",
    "minimum",
    "relu",
    "leaky_relu",
    "prelu",
    "clip",
    "sigmoid",
    "tanh",
    "gelu_tanh",
    "gelu_erf",
    "silu",
    "copy",
]
"""``leaky_relu`` and ``prelu`` take the slope as second operand, ``clip`` takes low and high.

Given a number and a NaN, ``maximum``, ``minimum``, ``clip`` and ``relu`` return the number.
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


@dataclass(frozen=True)
class Planes:
    """Consecutive planes of an input: ``count`` chunks of a pixel from ``first``."""

    tensor: int
    count: int
    first: int = 0


@dataclass(frozen=True)
class Read:
    """A value of a chain that is read: planes of one input, or of several inputs concatenated.

    ``spread``: the inputs have 1 x 1 pixels, ``[batch][planes][8]``; all pixels of a frame take the same value.
    """

    parts: tuple[Planes, ...]
    spread: bool = False


@dataclass(frozen=True)
class PerChannel:
    """A constant for each channel of the chain's output."""

    values: tuple[float, ...]


Operand = int | float | PerChannel
"""An ``int`` is the index of an earlier step; a ``float`` is a constant."""


@dataclass(frozen=True)
class Apply:
    """A value of a chain that is computed."""

    kind: Kind
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Chain(FrameKernel):
    """Element-wise steps in one kernel, FP32 inside; each input is read once and each output is written once.

    ``inputs``: channels of each input tensor. ``steps``: values, in order. ``outputs``: the steps that are stored, each
    a tensor of ``channels`` channels.
    """

    channels: int
    inputs: tuple[int, ...]
    steps: tuple[Read | Apply, ...]
    outputs: tuple[int, ...]
    threads: int = 128
    items: int = 2
    """Pixels of a thread, whose reads are all in flight together."""

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
    def pointers(self) -> tuple[str, ...]:
        inputs = tuple(f"input_{i}" for i in range(len(self.inputs)))
        outputs = tuple(f"output_{i}" for i in range(len(self.outputs)))
        return inputs + outputs + (("parameters",) if self.per_channel else ())

    def parameters(self) -> bytes:
        return b"".join(padded(np.array(item.values), self.channels).tobytes() for item in self.per_channel)

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        return -(-height * width // (self.threads * self.items)), self.planes

    def body(self, name: str) -> str:
        return chain_text(self)

    def naive_body(self, name: str) -> str:
        return naive_chain_text(self)

    @property
    def per_channel(self) -> tuple[PerChannel, ...]:
        """The constants in the parameters, in order."""
        operands = (operand for step in self.steps if isinstance(step, Apply) for operand in step.operands)
        return tuple(operand for operand in operands if isinstance(operand, PerChannel))


def read(channels: int, tensor: int = 0, *, spread: bool = False) -> Read:
    """A read of a whole input of ``channels`` channels."""
    return Read((Planes(tensor, plane_count(channels)),), spread)


def simple_gate(channels: int) -> Chain:
    """NAFNet's SimpleGate: the first half of ``channels`` times the second half."""
    if channels % (2 * CHUNK):
        raise ValueError(f"the halves of {channels} channels are not whole chunks")
    half = channels // 2 // CHUNK
    steps = (Read((Planes(0, half),)), Read((Planes(0, half, half),)), Apply("multiply", (0, 1)))
    return Chain(channels // 2, (channels,), steps, (2,))


def each_value(channels: int, applied: tuple[Apply, ...]) -> Chain:
    """A function of each value by itself; step 0 reads it, so the first of ``applied`` is step 1."""
    return Chain(channels, (channels,), (read(channels), *applied), (len(applied),))


def scale_channels(channels: int) -> Chain:
    """A frame times a vector ``[batch][planes][8]``: simplified channel attention."""
    return Chain(
        channels,
        (channels, channels),
        (read(channels), read(channels, 1, spread=True), Apply("multiply", (0, 1))),
        (2,),
    )


# Source text


def _step(step: Apply, formulas: dict[Kind, str], first_constant: int, constant: str) -> tuple[str, int]:
    """The step's formula, and the number of per-channel constants up to it. ``constant``: text that reads one."""
    texts = []
    for operand in step.operands:
        if isinstance(operand, PerChannel):
            texts.append(constant.format(first_constant))
            first_constant += 1
        else:
            texts.append(f"value_{operand}" if isinstance(operand, int) else literal(operand))
    return formulas[step.kind].format(*texts), first_constant


def _choose(step: Read, index: str, unit: int, text: str) -> str:
    """Text of a read for plane ``index / unit`` of the output: ``text`` with the part's tensor and shift of planes."""
    begins = np.cumsum([0, *(part.count for part in step.parts)])
    result = ""
    for part, begin, end in reversed(list(zip(step.parts, begins, begins[1:], strict=False))):
        here = text.format(tensor=part.tensor, shift=(part.first - begin) * unit)
        result = f"{index} < {end * unit} ? {here} : {result}" if result else here
    return result


def chain_text(op: Chain) -> str:
    """The body of a chain's kernel."""
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


def naive_chain_text(op: Chain) -> str:
    """The body of a chain's naive kernel."""
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
