"""What the machine can run: one rule a function. A rule's docstring is the reason the user reads.

A rule takes a Relax call in its unit and answers whether the machine's conditions hold. Rules speak of the operator
alone; whether a legal network fits on chip is the planner's business.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from codesign.compile.canonical.resample import corner_factor, resize_factor
from codesign.compile.operators.correlations import reach_of
from codesign.compile.operators.warps import PADDINGS
from codesign.compile.scanline.lower import shape_of
from codesign.hw.normalise import COUNT_BITS

MAX_ROWS, MAX_COLUMNS, MAX_PADDING, MAX_REACH, MAX_SIDE = 63, 128, 63, 15, 65535
UNSHUFFLES = (2, 4, 8)

Rule = Callable[[relax.Call], bool]


def batch_is_one(call: relax.Call) -> bool:
    """The batch must be one."""
    return shape_of(call)[0] == 1


def frame_fits(call: relax.Call) -> bool:
    """A frame may have 65535 pixels a side."""
    return max(shape_of(call)[2:]) <= MAX_SIDE


def stride_is_one_or_two(call: relax.Call) -> bool:
    """Strides must be 1 or 2 and the same in both directions."""
    return tuple(int(s) for s in call.attrs.strides) in ((1, 1), (2, 2))


def kernel_fits(call: relax.Call) -> bool:
    """A kernel, dilation included, may have 63 rows and 128 columns, with at most 63 rows and columns of padding."""
    rows, columns = (int(extent) for extent in call.args[1].ty.shape.values[2:])
    step_y, step_x = (int(d) for d in call.attrs.dilation)
    return (
        (rows - 1) * step_y < MAX_ROWS
        and (columns - 1) * step_x < MAX_COLUMNS
        and max(int(p) for p in call.attrs.padding) <= MAX_PADDING
    )


def transposed_is_exact(call: relax.Call) -> bool:
    """A transposed convolution must up-scale by its stride exactly, alike in both directions, undilated, ungrouped."""
    strides = tuple(int(s) for s in call.attrs.strides)
    height, width = shape_of(call.args[0])[2:]
    return (
        strides[0] == strides[1]
        and 1 <= strides[0] <= 8
        and shape_of(call)[2:] == (height * strides[0], width * strides[0])
        and all(int(d) == 1 for d in call.attrs.dilation)
        and int(call.attrs.groups) == 1
    )


def operands_match(call: relax.Call) -> bool:
    """Both operands must have the result's shape, or one channel of it."""
    batch, channels, height, width = shape_of(call)
    shapes = [shape_of(argument) for argument in call.args]
    allowed = ((batch, channels, height, width), (batch, 1, height, width))
    return (all(shape in allowed for shape in shapes) and shapes != [allowed[1]] * 2) or channels == 1


def moves_channels(call: relax.Call) -> bool:
    """Only channels may be repeated, tiled or sliced."""
    match call.op.name:
        case "relax.repeat":
            return call.attrs.axis is not None and int(call.attrs.axis) == 1
        case "relax.tile":
            times = [int(t) for t in call.attrs.repeats]
            return len(times) == 4 and times[0] == times[2] == times[3] == 1
        case _:
            return [int(axis.value) for axis in call.args[1].fields] == [1]


def concatenates_channels(call: relax.Call) -> bool:
    """Only channels may be concatenated, of frames of one size."""
    return call.attrs.axis is not None and int(call.attrs.axis) == 1


def shuffle_fits(call: relax.Call) -> bool:
    """Pixels may be shuffled by a factor of at most 8."""
    return 1 <= int(call.attrs.upscale_factor) <= 8


def unshuffles(call: relax.Call) -> bool:
    """Tensors may be reshaped and permuted to unshuffle pixels by 2, 4 or 8, no other way."""
    before = [int(extent) for extent in call.args[0].ty.shape.values]
    after = [int(extent) for extent in call.ty.shape.values]
    if call.op.name == "relax.permute_dims":
        return len(before) == 6 and [int(axis) for axis in call.attrs.axes or ()] == [0, 1, 3, 5, 2, 4]
    if len(before) == 4 and len(after) == 6:  # [1, C, H, W] to [1, C, H / r, r, W / r, r]
        r = after[3]
        batch, channels, height, width = before
        return batch == 1 and r in UNSHUFFLES and after == [1, channels, height // r, r, width // r, r]
    return len(before) == 6 and after == [1, before[1] * before[2] * before[3], *before[4:]]


def factors_match(call: relax.Call) -> bool:
    """A tensor may be multiplied by one constant, or by a tensor of its shape; one of two may have one channel."""
    constant = int(call.args[1].ty.ndim) == 0 or all(int(extent) == 1 for extent in call.args[1].ty.shape.values)
    return constant or (batch_is_one(call) and operands_match(call))


def averages_plainly(call: relax.Call) -> bool:
    """An average pool must divide by its whole window, by floor of the frame, in strides of 1 or 2."""
    counted = bool(call.attrs.count_include_pad) or not any(int(p) for p in call.attrs.padding)
    plain = not call.attrs.ceil_mode and all(int(d) == 1 for d in call.attrs.dilation)
    rows, columns = (int(extent) for extent in call.attrs.pool_size)
    fits = rows < MAX_ROWS and columns < MAX_COLUMNS and max(int(p) for p in call.attrs.padding) <= MAX_PADDING
    return counted and plain and fits and stride_is_one_or_two(call)


def resizes_alike(call: relax.Call) -> bool:
    """A bilinear resize must be by 1/2, 2, 3, 4 or 5 with half-pixel centres, or by 2, 4 or 8 with aligned corners."""
    height, width = shape_of(call.args[0])[2:]
    rows, columns = shape_of(call)[2:]
    how = str(call.attrs.method), str(call.attrs.coordinate_transformation_mode)
    frames = (height, width), (rows, columns)
    return resize_factor(*frames, *how) != 0 or corner_factor(*frames, *how) != 0


def normalises_channels(call: relax.Call) -> bool:
    """An instance normalisation must be of every channel by itself, in frames of less than 2^24 pixels."""
    scale, shift = (argument.value.numpy() for argument in call.args[1:])
    height, width = shape_of(call)[2:]
    axes = sorted(int(axis) % 4 for axis in call.attrs.axes) in ([2, 3], [0, 2, 3])
    plain = axes and int(call.attrs.channel_axis) % 4 == 1 and np.all(scale == 1.0) and not np.any(shift)
    return bool(plain) and height * width < 1 << COUNT_BITS


def samples_pixels(call: relax.Call) -> bool:
    """A warp must be bilinear, at a flow of 16 bits, and read zeros or the border's values beyond the frame."""
    bilinear = str(call.attrs.method) == "bilinear" and str(call.attrs.layout) == "NCHW"
    same = shape_of(call.args[0]) == shape_of(call) and bool(call.attrs.align_corners)
    return bilinear and same and str(call.attrs.padding_mode) in PADDINGS


def moves_pixels(call: relax.Call) -> bool:
    """A cost volume must have every displacement up to a reach of 15 pixels at most."""
    channels, kernels = shape_of(call.args[0])[1], call.args[1].value.numpy()
    reach = reach_of(kernels, channels)
    return reach is not None and reach <= MAX_REACH and [int(p) for p in call.attrs.padding] == [reach] * 4


def is_command(call: relax.Call) -> bool:
    """The machine has no command for this operator."""
    return call.op.name in RULES


RULES: dict[str, tuple[Rule, ...]] = {
    "relax.nn.conv2d": (batch_is_one, frame_fits, stride_is_one_or_two, kernel_fits),
    "relax.nn.conv2d_transpose": (batch_is_one, frame_fits, transposed_is_exact),
    "relax.add": (batch_is_one, operands_match),
    "relax.subtract": (batch_is_one, operands_match),
    "relax.multiply": (factors_match,),
    "relax.nn.pixel_shuffle": (batch_is_one, frame_fits, shuffle_fits),
    "relax.nn.avg_pool2d": (batch_is_one, frame_fits, averages_plainly),
    "relax.image.resize2d": (batch_is_one, frame_fits, resizes_alike),
    "relax.image.grid_sample": (batch_is_one, frame_fits, samples_pixels),
    "relax.nn.instance_norm": (batch_is_one, frame_fits, normalises_channels),
    "relax.concat": (batch_is_one, concatenates_channels),
    "relax.repeat": (moves_channels,),
    "relax.tile": (moves_channels,),
    "relax.strided_slice": (moves_channels,),
    "relax.reshape": (unshuffles,),
    "relax.permute_dims": (unshuffles,),
    "relax.nn.relu": (),
    "relax.nn.leakyrelu": (),
    "relax.nn.prelu": (),
    "relax.clip": (),
}
"""The rules of every operator that may head a unit; look-up activations have none."""


def violated(call: relax.Call, look_up: bool = False) -> str | None:
    """Why the machine cannot run ``call``, or None."""
    if look_up:
        return None
    for rule in (is_command, *RULES.get(call.op.name, ())):
        if not rule(call):
            return (rule.__doc__ or "").strip()
    return None
