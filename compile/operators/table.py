"""Functions of one value at a time that are no line: a table of 256 entries."""

from __future__ import annotations

from dataclasses import replace

from codesign.compile.ir.arithmetic import UNARY
from codesign.compile.operators.operator import Operator
from codesign.compile.operators.unit import RoundedUnit
from codesign.compile.scanline.lowering import Lowering
from codesign.compile.scanline.rewrite.copies import copy_layer
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics


class Table(Operator):
    """A function of each value by itself: 256 entries of 8 bits, computed in float64."""

    ops = tuple(op for op in UNARY if op != "nn.relu")
    spellings = ("torch and ONNX: tanh, sigmoid, GELU (both), SiLU, softplus, SELU, exp, log, sqrt, sin, cos, ...",)

    def lower(self, unit: RoundedUnit, target: Tensor, lowering: Lowering) -> None:
        (source,) = lowering.operands(unit)
        function = unit.head.op.removeprefix("nn.")
        table = numerics.function_table(function, source.scale, source.zero_point, target.scale, target.zero_point)
        made = lowering.unjoined(source.name)
        if made is not None and made.epilogue.table is None:
            lowering.replace_layer(made, replace(made, output=target.name).with_table(table))
        else:
            copy = copy_layer(unit.name, source, replace(source, name=target.name))
            lowering.layers.append(copy.with_table(table))
