"""Convolutions with constant weights, plain, grouped, dilated and transposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codesign.compile.graph.graph import Graph, Node
from codesign.compile.graph.unit import RoundedUnit, Unit
from codesign.compile.operators.activation import PIECEWISE_LINEAR, SLOPES
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.rules import (
    FRAME,
    MAX_COLUMNS,
    MAX_PADDING,
    MAX_ROWS,
    clips_to_8_bits,
    stride_is_one_or_two,
)
from codesign.compile.operators.subpixel import subpixel_weights
from codesign.compile.scanline.kernels import convolution as kernels
from codesign.compile.scanline.lowering import Lowering, Psums
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics

CONVOLUTIONS = ("nn.conv2d", "nn.conv2d_transpose")


def kernel_fits(graph: Graph, node: Node) -> bool:
    """A kernel, dilation included, may have 63 rows and 128 columns, with at most 63 rows and columns of padding."""
    rows, columns = graph.shape_of(node.inputs[1])[2:]
    step_y, step_x = (int(d) for d in node.attributes["dilation"])
    return (
        (rows - 1) * step_y < MAX_ROWS
        and (columns - 1) * step_x < MAX_COLUMNS
        and max(int(p) for p in node.attributes["padding"]) <= MAX_PADDING
    )


def transposed_is_exact(graph: Graph, node: Node) -> bool:
    """A transposed convolution must up-scale by its stride exactly, alike in both directions, undilated, ungrouped."""
    strides = tuple(int(s) for s in node.attributes["strides"])
    height, width = graph.shape_of(node.inputs[0])[2:]
    return (
        strides[0] == strides[1]
        and 1 <= strides[0] <= 8
        and node.shape[2:] == (height * strides[0], width * strides[0])
        and all(int(d) == 1 for d in node.attributes["dilation"])
        and int(node.attributes["groups"]) == 1
    )


class _Convolution(Operator):
    fuses = PIECEWISE_LINEAR
    weighs = True
    bits = "8 or 16, weights 8 or 16"
    cuda = "fused with what follows it"

    def stores_16_bits(self, unit: Unit, graph: Graph | None = None) -> bool:
        return {node.op for node in unit.nodes[1:]} <= {"add", "nn.relu", *SLOPES}

    def reads_16_bits(self, unit: Unit, which: int, *, result_wide: bool) -> bool:
        return True

    def bits_fit(self, unit: RoundedUnit) -> bool:
        return clips_to_8_bits(unit)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        psums = self._psums(unit, *lowering.operands(unit))
        if unit.bias is not None:
            per_channel = psums.scales[:: psums.shuffle**2]
            bias = numerics.bias_integers(unit.bias, lowering.psum_unit(psums), per_channel)
            psums = replace(psums, bias=np.repeat(bias, psums.shuffle**2))
        lowering.close(psums.activated(unit), target)

    def _psums(self, unit: RoundedUnit, source: Tensor) -> Psums:
        raise NotImplementedError


class Convolution(_Convolution):
    """A convolution with constant weights, grouped or dilated, with bias and a piecewise-linear activation."""

    ops = ("nn.conv2d",)
    spellings = (
        "torch: Conv2d, also with BatchNorm2d, ZeroPad2d, scales and offsets per channel around it",
        "ONNX: Conv, BatchNormalization, Pad",
    )
    rules = (*FRAME, stride_is_one_or_two, kernel_fits)

    def macs(self, graph: Graph, node: Node) -> int:
        _, inputs, rows, columns = graph.shape_of(node.inputs[1])
        _, channels, height, width = node.shape
        return height * width * channels * inputs * rows * columns

    def _psums(self, unit: RoundedUnit, source: Tensor) -> Psums:
        return _plain(unit, source)


class TransposedConvolution(_Convolution):
    """A transposed convolution: in sub-pixel form, a convolution at the input's size."""

    ops = ("nn.conv2d_transpose",)
    spellings = ("torch: ConvTranspose2d", "ONNX: ConvTranspose")
    rules = (*FRAME, transposed_is_exact)

    def macs(self, graph: Graph, node: Node) -> int:
        _, outputs, rows, columns = graph.shape_of(node.inputs[1])
        _, channels, height, width = graph.shape_of(node.inputs[0])
        return height * width * channels * outputs * rows * columns

    def _psums(self, unit: RoundedUnit, source: Tensor) -> Psums:
        return _transposed(unit, source)


def _plain(unit: RoundedUnit, source: Tensor) -> Psums:
    head, weight = unit.head, unit.weights
    assert weight is not None
    top, left, *_ = (int(side) for side in head.attributes["padding"])
    dense = _dense(weight.codes.transpose(2, 3, 1, 0), int(head.attributes["groups"]))
    dense = _dilated(dense, *(int(step) for step in head.attributes["dilation"]))
    _, outputs, height, width = head.shape
    return Psums(
        name=head.name,
        sources=(source.name,),
        kernel=kernels.Convolution(dense.copy(order="C"), int(head.attributes["strides"][0]), top, left),
        scales=weight.scales,
        height=height,
        width=width,
        macs=height * width * outputs * int(np.prod(weight.codes.shape[1:])),
    )


def _transposed(unit: RoundedUnit, source: Tensor) -> Psums:
    head, weight = unit.head, unit.weights
    assert weight is not None
    factor = int(head.attributes["strides"][0])
    top, left, *_ = (int(side) for side in head.attributes["padding"])
    dense, (pad_top, pad_left) = subpixel_weights(weight.codes, factor, (top, left))
    return Psums(
        name=head.name,
        sources=(source.name,),
        kernel=kernels.Convolution(dense, pad_top=pad_top, pad_left=pad_left),
        scales=np.repeat(np.broadcast_to(weight.scales, weight.codes.shape[1]), factor * factor),
        height=source.height,
        width=source.width,
        macs=source.height * source.width * weight.codes.size,
        shuffle=factor,
    )


def _dense(kernel: kernels.Weights, groups: int) -> kernels.Weights:
    """Grouped weights ``[KY, KX, Cin / groups, Cout]`` as dense ones; the zero blocks are never computed."""
    if groups == 1:
        return kernel
    rows, columns, inputs, outputs = kernel.shape
    dense = np.zeros((rows, columns, inputs * groups, outputs), kernel.dtype)
    share = outputs // groups
    for group in range(groups):
        take = slice(group * share, (group + 1) * share)
        dense[:, :, group * inputs : (group + 1) * inputs, take] = kernel[..., take]
    return dense


def _dilated(kernel: kernels.Weights, step_y: int, step_x: int) -> kernels.Weights:
    if step_y == step_x == 1:
        return kernel
    rows, columns, inputs, outputs = kernel.shape
    spread = np.zeros(((rows - 1) * step_y + 1, (columns - 1) * step_x + 1, inputs, outputs), kernel.dtype)
    spread[::step_y, ::step_x] = kernel
    return spread
