"""Lowering by itself: what no network in one piece shows."""

from __future__ import annotations

import numpy as np
from tvm import relax

from codesign.compile.scanline.lower import lower


def test_two_inputs_of_one_name_stay_two() -> None:
    """Results of two regions may have the same variable's name; their channels differ."""
    first = relax.Var("lv", relax.TensorType((1, 3, 4, 5), "int8"))
    second = relax.Var("lv", relax.TensorType((1, 2, 4, 5), "int8"))
    scale, zero = relax.const(np.float32(0.5)), relax.const(np.int8(0))
    builder = relax.BlockBuilder()
    with builder.function("main", [first, second]):
        with builder.dataflow():
            real = [builder.emit(relax.op.dequantize(value, scale, zero)) for value in (first, second)]
            joined = builder.emit(relax.op.concat(real, axis=1))
            result = builder.emit_output(relax.op.quantize(joined, scale, zero, out_dtype="int8"))
        builder.emit_func_output(result)
    graph = lower(builder.get()["main"], "twins")
    assert len(set(graph.inputs)) == 2
    assert [graph.tensors[name].channels for name in graph.inputs] == [3, 2]
