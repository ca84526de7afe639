"""Which units of a quantised network run on Scanline: patterns, checked by the legality rules, merged into regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import DFPattern, is_const, is_op, is_tuple, wildcard
from tvm.relax.transform import FuseOpsByPattern, MergeCompositeFunctions, PatternCheckContext

from codesign.compile.operators.grids import is_grid_of_flow, windows_of_grid
from codesign.compile.scanline import legality
from codesign.compile.scanline.lower import shape_of
from codesign.hw import numerics
from codesign.hw.spec import AccelSpec, Unit

CODEGEN = "scanline"

MAX_CONCAT = 16
"""A concatenation of more tensors stays on the host."""

_SAMPLED, _NORM = "relax.image.grid_sample", "relax.nn.instance_norm"
_RESIZED = "relax.image.resize2d"

_CORRELATED = "relax.mean"  # the last operator of a cost volume

_PAIRED = "relax.matmul"

_QUANTISATION = ("relax.quantize", "relax.dequantize")


@dataclass(frozen=True)
class Placement:
    """Where one operator of the network runs."""

    name: str  # in the user's model, as far as it is known
    operator: str
    on_accelerator: bool
    reason: str  # why not on the accelerator; empty when it is
    macs: int


@dataclass(frozen=True)
class Partitioned:
    """A module whose offloaded regions are functions with the attribute ``Codegen: scanline``."""

    module: tvm.IRModule
    regions: tuple[tuple[str, relax.Function], ...]  # symbol, function
    placements: tuple[Placement, ...]

    @property
    def macs(self) -> int:
        return sum(placement.macs for placement in self.placements)

    @property
    def host_macs(self) -> int:
        return sum(placement.macs for placement in self.placements if not placement.on_accelerator)


def look_up_operators() -> tuple[str, ...]:
    """The unary operators that a 256-entry table stands for, as Relax names them."""
    names = []
    for name in numerics.LOOK_UPS:
        for candidate in (f"relax.{name}", f"relax.nn.{name}"):
            try:
                tvm.ir.Op.get(candidate)
            except (AttributeError, RuntimeError, tvm.error.InternalError):
                continue
            names.append(candidate)
    return tuple(names)


def partition(module: tvm.IRModule, spec: AccelSpec) -> Partitioned:
    """Cut a quantised module (see :mod:`codesign.compile.quantise.quantise`) into host and accelerator parts.

    What needs a unit that ``spec`` lacks, or more channels of statistics than it keeps, stays on the host.
    """
    tables = look_up_operators()
    placements: list[Placement] = []

    def check(context: PatternCheckContext) -> bool:
        calls = [value for value in context.matched_bindings.values() if isinstance(value, relax.Call)]
        calls.append(context.matched_expr)
        sampled = [call for call in calls if call.op.name == _SAMPLED]
        means = [call for call in calls if call.op.name == _CORRELATED]
        opened = [_dtype(call.args[0]) for call in calls if call.op.name == "relax.dequantize"]
        zero_points = [int(call.args[2].value.numpy()) for call in calls if call.op.name == "relax.dequantize"]
        narrow = {*opened, _dtype(context.matched_expr)} == {"int8"}
        if any(call.op.name == _PAIRED for call in calls):
            return narrow and not any(zero_points)
        if means:
            moving = [call for call in calls if call.op.name == "relax.nn.conv2d"]
            return (
                Unit.CORRELATOR in spec.units
                and narrow
                and not any(zero_points)
                and all(map(legality.moves_pixels, moving))
            )
        if any(map(_reads_maps, sampled)):
            plain = _dtype(context.matched_expr) == "int8" and sorted(opened) == ["int16", "int8"]
            return Unit.WINDOWS in spec.units and plain and _looks_up(sampled[0], calls)
        if sampled:
            if _dtype(context.matched_expr) != "int8" or sorted(opened) != ["int16", "int8"]:
                return False
            constants = [call.args[1] for call in calls if call.op.name in ("relax.multiply", "relax.add")]
            grid = sorted((constant.value.numpy() for constant in constants), key=lambda value: value.size)
            return Unit.SAMPLER in spec.units and is_grid_of_flow(*grid) and legality.violated(sampled[0]) is None
        if any(call.op.name == _NORM and shape_of(call)[1] > spec.statistic_channels for call in calls):
            return False
        if any(map(_has_corners, calls)):
            plain = opened == [_dtype(context.matched_expr)] and (opened == ["int8"] or shape_of(calls[-1])[1] == 2)
            if Unit.SAMPLER not in spec.units or not plain:
                return False
        if "int16" in (*opened, _dtype(context.matched_expr)) and not _has_16_bits(
            calls, opened, _dtype(context.matched_expr)
        ):
            return False
        return all(
            legality.violated(call, call.op.name in tables) is None
            for call in calls
            if call.op.name not in _QUANTISATION and not _is_bias(call)
        )

    patterns: list[Any] = [(f"{CODEGEN}.{name}", pattern, {}, check) for name, pattern in _patterns(tables)]
    fused = MergeCompositeFunctions()(FuseOpsByPattern(patterns, bind_constants=True, annotate_codegen=False)(module))
    regions: list[tuple[str, relax.Function]] = []
    for variable, function in fused.functions_items():
        if isinstance(function, relax.Function) and function.attrs and function.attrs.get("Codegen") == CODEGEN:
            # The merged name lists every operator inside; a symbol of its own is what the generated code is called.
            symbol = f"{CODEGEN}_region_{len(regions)}"
            function = function.with_attr("global_symbol", symbol)
            fused.update_func(variable, function)
            regions.append((symbol, function))
    for _, function in regions:
        placements += [
            Placement(name, call.op.name.removeprefix("relax."), True, "", _macs(call))
            for name, call in _calls(function)
        ]
    for name, call in _calls(fused["main"]):
        if call.op.name not in _QUANTISATION:
            reason = _missing(call, spec) or legality.violated(call, call.op.name in tables)
            reason = reason or "It does not stand between roundings to int8."
            placements.append(Placement(name, call.op.name.removeprefix("relax."), False, reason, _macs(call)))
    return Partitioned(fused, tuple(regions), tuple(placements))


def _missing(call: relax.Call, spec: AccelSpec) -> str | None:
    """The unit that ``call`` needs and ``spec`` lacks, in words; None if there is none."""
    if call.op.name == _CORRELATED and len(call.args[0].ty.shape.values) == 5 and Unit.CORRELATOR not in spec.units:
        return "This machine has no correlator."
    if call.op.name == _NORM and shape_of(call)[1] > spec.statistic_channels:
        return f"This machine keeps the sums of {spec.statistic_channels} channels (statistic_channels)."
    if _reads_maps(call) and Unit.WINDOWS not in spec.units:
        return "This machine makes no windows (window_beats)."
    if (call.op.name == _SAMPLED or _has_corners(call)) and Unit.SAMPLER not in spec.units:
        return "This machine has no sampler (warp_reach)."
    return None


def _patterns(tables: tuple[str, ...]) -> list[tuple[str, DFPattern]]:
    def opened() -> DFPattern:
        return is_op("relax.dequantize")(wildcard(), is_const(), is_const())

    def closed(value: DFPattern) -> DFPattern:
        return is_op("relax.quantize")(value, is_const(), is_const())

    def activated(value: DFPattern) -> DFPattern:
        return (
            value
            | is_op("relax.nn.relu")(value)
            | is_op("relax.nn.leakyrelu")(value)
            | is_op("relax.nn.prelu")(value, is_const())
            | is_op("relax.clip")(value, wildcard(), wildcard())
        )

    def clipped(value: DFPattern) -> DFPattern:
        return value | is_op("relax.nn.relu")(value) | is_op("relax.clip")(value, wildcard(), wildcard())

    conv = is_op("relax.nn.conv2d")(opened(), opened()) | is_op("relax.nn.conv2d_transpose")(opened(), opened())
    biased = conv | is_op("relax.add")(conv, is_const())
    total = is_op("relax.add")(opened(), opened()) | is_op("relax.subtract")(opened(), opened())
    product = is_op("relax.multiply")(opened(), opened())
    scaled = is_op("relax.multiply")(opened(), is_const())
    moved = (
        is_op("relax.nn.pixel_shuffle")(opened())
        | is_op("relax.repeat")(opened())
        | is_op("relax.tile")(opened())
        | is_op("relax.strided_slice")(opened(), wildcard(), wildcard(), wildcard())
        | is_op("relax.strided_slice")(opened(), wildcard(), wildcard(), wildcard(), wildcard())
    )
    moved_all = is_op("relax.multiply")(is_op("relax.repeat")(opened()), is_op("relax.nn.conv2d")(opened(), is_const()))
    correlated = is_op(_CORRELATED)(is_op("relax.reshape")(moved_all, wildcard()))
    rows = is_op("relax.permute_dims")(is_op("relax.reshape")(opened(), wildcard()))
    matrix = is_op(_PAIRED)(rows, is_op("relax.reshape")(opened(), wildcard()))
    paired = is_op("relax.reshape")(matrix, wildcard())
    grid = is_op("relax.add")(is_op("relax.multiply")(opened(), is_const()), is_const())
    resampled = is_op("relax.nn.avg_pool2d")(opened()) | is_op(_RESIZED)(opened(), wildcard())
    split = is_op("relax.permute_dims")(is_op("relax.reshape")(opened(), wildcard()))
    around = is_op("relax.add")(_turned(grid), is_const())
    looked_up = _turned(is_op(_SAMPLED)(_turned(opened()), around))
    table = is_op(tables[0])(opened())
    for name in tables[1:]:
        table = table | is_op(name)(opened())
    return [
        ("conv", closed(activated(biased))),
        ("sum", closed(clipped(total))),
        ("product", closed(clipped(product))),
        ("scale", closed(activated(scaled))),
        ("resampling", closed(resampled | is_op("relax.multiply")(resampled, is_const()))),
        ("correlation", closed(activated(correlated))),
        ("pairs", closed(is_op("relax.multiply")(paired, is_const()))),
        ("norm", closed(clipped(is_op(_NORM)(opened(), is_const(), is_const())))),
        ("warp", closed(is_op(_SAMPLED)(opened(), grid))),
        ("windows", closed(looked_up)),
        ("movement", closed(moved)),
        ("unshuffle", closed(is_op("relax.reshape")(split, wildcard()))),
        *(
            (f"concat{count}", closed(is_op("relax.concat")(is_tuple([opened() for _ in range(count)]))))
            for count in range(2, MAX_CONCAT + 1)
        ),
        ("table", closed(table)),
        ("activation", closed(activated(opened()))),
    ]


_WIDE = {
    "relax.add",
    "relax.subtract",
    "relax.multiply",
    "relax.nn.conv2d",
    "relax.nn.conv2d_transpose",
    "relax.nn.avg_pool2d",
    _RESIZED,
    "relax.nn.relu",
    "relax.nn.leakyrelu",
    "relax.nn.prelu",
    "relax.strided_slice",
    "relax.repeat",
    "relax.tile",
    "relax.reshape",
    "relax.permute_dims",
    "relax.nn.pixel_shuffle",
    "relax.concat",
    *_QUANTISATION,
}
"""What computes with 16-bit activations and weights."""


def _has_16_bits(calls: list[relax.Call], opened: list[str], result: str) -> bool:
    """Whether a unit that reads or stores 16 bits does so in a way that the machine can."""
    names = {call.op.name for call in calls}
    if result == "int8":  # the clamp is the requantiser's, to 8 bits
        names -= {"relax.clip"}
    activations = [dtype for dtype in opened if dtype != "int8"]
    pairs = any(
        call.op.name in ("relax.add", "relax.subtract", "relax.multiply")
        and not isinstance(call.args[1], tvm.ir.GenericConst)
        for call in calls
    )
    if pairs:
        alike = len({shape_of(call.args[0]) for call in calls if call.op.name == "relax.dequantize"}) == 1
        return alike and names <= {"relax.add", "relax.subtract", *_QUANTISATION} and len(activations) == 2
    return names <= _WIDE


def _turned(value: DFPattern) -> DFPattern:
    """A frame's pixels from columns to rows, or back."""
    turned = is_op("relax.permute_dims")(is_op("relax.reshape")(value, wildcard()))
    return is_op("relax.reshape")(turned, wildcard())


def _reads_maps(call: relax.Call) -> bool:
    """Whether a call samples maps of pixels, one channel of a batch each, as a look-up does."""
    return call.op.name == _SAMPLED and not bool(call.attrs.align_corners) and shape_of(call)[1] == 1


def _looks_up(sampled: relax.Call, calls: list[relax.Call]) -> bool:
    """Whether the operators of :mod:`codesign.compile.operators.window_form` look up windows around a flow's places."""
    _, _, rows, columns = shape_of(sampled.args[0])
    (scale,) = (call.args[1].value.numpy() for call in calls if call.op.name == "relax.multiply")
    added = {shape_of(call): call.args[1].value.numpy() for call in calls if call.op.name == "relax.add"}
    places, around = added.get((1, 2, *shape_of(calls[-1])[2:])), added.get(shape_of(sampled.args[1]))
    how = str(sampled.attrs.method), str(sampled.attrs.layout), str(sampled.attrs.padding_mode)
    if places is None or around is None or how != ("bilinear", "NCHW", "zeros"):
        return False
    return windows_of_grid(scale, places, around, (rows, columns)) is not None


def _has_corners(call: relax.Call) -> bool:
    """Whether a resize keeps corners on corners: the sampler does it."""
    return call.op.name == _RESIZED and str(call.attrs.coordinate_transformation_mode) == "align_corners"


def _dtype(expression: Any) -> str:
    return str(expression.ty.dtype.dtype)


def _is_bias(call: relax.Call) -> bool:
    return call.op.name == "relax.add" and isinstance(call.args[1], tvm.ir.GenericConst)


def _calls(function: relax.Function) -> list[tuple[str, relax.Call]]:
    """Operator calls with their variables' names, composite functions included, biases and roundings left out."""
    found: list[tuple[str, relax.Call]] = []
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Function):
                found += _calls(value)
                continue
            is_operator = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
            if is_operator and not _is_bias(value) and value.op.name not in _QUANTISATION:
                found.append((str(binding.var.name), value))
    return found


def _macs(call: relax.Call) -> int:
    """Multiply-accumulates of a convolution or product by the project's definition, 0 for anything else."""
    if call.op.name == _PAIRED:
        rows, columns = (int(extent) for extent in call.ty.shape.values[-2:])
        return rows * columns * int(call.args[0].ty.shape.values[-1])
    if call.op.name not in ("relax.nn.conv2d", "relax.nn.conv2d_transpose"):
        return 0
    if isinstance(call.args[1], tvm.ir.GenericConst):
        return 0  # its float weights only move pixels: a correlation's
    kernel = [int(extent) for extent in call.args[1].ty.shape.values]
    transposed = call.op.name.endswith("transpose")
    _, channels, height, width = shape_of(call.args[0] if transposed else call)
    return height * width * channels * kernel[1] * kernel[2] * kernel[3]
