"""Writes a quantised network as standard ONNX with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper

from codesign.compile.canonical.affine import is_bias
from codesign.compile.graph.graph import Array, Graph, Node
from codesign.compile.ir.relax import from_module
from codesign.compile.operators.convolution import CONVOLUTIONS
from codesign.compile.quantise.insertion import bias_scale, psum_unit
from codesign.compile.quantise.quantise import quantised_io
from codesign.hw import numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.files import replaced

OPSET = 17
_IR_VERSION = 9

_PLAIN: Mapping[str, str] = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "where": "Where",
    "nn.relu": "Relu",
    "relu": "Relu",
    "negative": "Neg",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "exp": "Exp",
    "erf": "Erf",
    "abs": "Abs",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "log": "Log",
    "sign": "Sign",
    "softplus": "Softplus",
    "selu": "Selu",
}
"""Operators and functions that ONNX has under another name and without attributes."""


def export_qdq(module: tvm.IRModule, path: str | Path) -> None:
    """Write the quantised ``module`` to ``path`` as ONNX, float32 in and out, whole or not at all.

    Weights are int8 per channel, biases int32 with scale ``s_in * s_w``. Raises :class:`InputError` for a module that
    is not quantised or a path that cannot be written, :class:`UnsupportedError`, naming the operator, for what ONNX
    cannot say in this opset.
    """
    quantised_io(module)
    model = onnx_model(from_module(module))
    onnx.checker.check_model(model, full_check=True)
    with replaced(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def onnx_model(graph: Graph) -> onnx.ModelProto:
    """The ONNX form of a quantised graph."""
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.node(node)
    writer.emit("Identity", [graph.output], "output", name="output") if graph.output != "output" else None
    source = helper.make_tensor_value_info(graph.input, TensorProto.FLOAT, graph.input_shape)
    result = helper.make_tensor_value_info("output", TensorProto.FLOAT, graph.output_shape)
    body = helper.make_graph(writer.nodes, "quantised", [source], [result], writer.initialisers)
    opset = 20 if any("gelu" in step for node in graph.nodes for step in node.attributes.get("steps", ())) else OPSET
    if any(value.dtype == np.int16 for value in graph.constants.values()) or any(
        node.dtype == "int16" for node in graph.nodes
    ):
        opset = 21  # the first whose QuantizeLinear knows 16 bits
    model = helper.make_model(body, producer_name="codesign", opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = _IR_VERSION
    return model


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.consumers = graph.consumers()
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._written: set[str] = set()

    def emit(self, op: str, inputs: list[str], output: str, *, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        if name not in self._written:
            self._written.add(name)
            self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def operand(self, name: str) -> str:
        """``name`` as an ONNX input: constants become initialisers when first read."""
        value = self.graph.constants.get(name)
        return name if value is None else self.constant(name, value)

    def node(self, node: Node) -> None:
        graph, name, attributes = self.graph, node.name, node.attributes
        x = self.operand(node.inputs[0])
        match node.op:
            case "quantize" | "dequantize":
                self._linear(node, x)
            case op if op in CONVOLUTIONS:
                self._convolution(node, x)
            case "add" if is_bias(graph, node):
                pass  # Written with its convolution.
            case "clip":
                bounds = [("min", attributes["min"]), ("max", attributes["max"])]
                limits = [
                    self.constant(f"{name}.{label}", np.array(bound, np.float32)) if math.isfinite(bound) else ""
                    for label, bound in bounds
                ]
                self.emit("Clip", [x, *limits], name, name=name)
            case "nn.leakyrelu":
                self.emit("LeakyRelu", [x], name, name=name, alpha=attributes["alpha"])
            case "nn.prelu":
                slope = graph.constants[node.inputs[1]].reshape(-1, 1, 1)
                self.emit("PRelu", [x, self.constant(f"{name}.slope", slope)], name, name=name)
            case "table":
                self._table(node, x)
            case "concat":
                self.emit("Concat", [self.operand(i) for i in node.inputs], name, name=name, axis=attributes["axis"])
            case "nn.pixel_shuffle":
                factor = attributes["upscale_factor"]
                self.emit("DepthToSpace", [x], name, name=name, blocksize=factor, mode="CRD")
            case "pixel_unshuffle" | "repeat" | "tile" | "strided_slice":
                self._movement(node, x)
            case op if op in _PLAIN:
                self.emit(_PLAIN[op], [self.operand(i) for i in node.inputs], name, name=name)
            case _:
                raise UnsupportedError(
                    f"ONNX opset {OPSET} has no operator for this",
                    where=node.where,
                    hint="Export networks whose every operator runs on the accelerator.",
                )

    def _linear(self, node: Node, x: str) -> None:
        scale, zero_point = (self.graph.constants[name] for name in node.inputs[1:3])
        dtype = node.dtype if node.op == "quantize" else self._code_type(node.inputs[0])
        zeros = np.broadcast_to(zero_point, scale.shape).astype(dtype)
        operands = [self.constant(node.inputs[1], scale), self.constant(node.inputs[2], zeros)]
        axis = {"axis": node.attributes["axis"]} if scale.ndim else {}
        op = "QuantizeLinear" if node.op == "quantize" else "DequantizeLinear"
        self.emit(op, [x, *operands], node.name, name=node.name, **axis)

    def _code_type(self, name: str) -> str:
        codes = self.graph.constants.get(name)
        return str(codes.dtype) if codes is not None else self.graph.by_name[name].dtype

    def _convolution(self, node: Node, x: str) -> None:
        graph, attributes = self.graph, node.attributes
        values = {
            "strides": list(attributes["strides"]),
            "pads": list(attributes["padding"]),
            "dilations": list(attributes["dilation"]),
            "group": attributes["groups"],
        }
        if node.op == "nn.conv2d_transpose":
            values["output_padding"] = list(attributes["output_padding"])
        readers = self.consumers[node.name]
        follower = readers[0] if len(readers) == 1 and is_bias(graph, readers[0]) else None
        inputs = [x, node.inputs[1]]
        if follower is not None:
            inputs.append(self._bias(node, follower))
        op = "Conv" if node.op == "nn.conv2d" else "ConvTranspose"
        self.emit(op, inputs, follower.name if follower else node.name, name=node.name, **values)

    def _bias(self, node: Node, follower: Node) -> str:
        """The bias as int32 codes behind a dequantise node of their own."""
        graph = self.graph
        source = psum_unit(graph, node)
        scales = graph.constants[graph.by_name[node.inputs[1]].inputs[1]].reshape(-1)
        value = graph.constants[follower.inputs[1]].reshape(-1)
        units = bias_scale(source.scale, scales, value.size)
        codes = numerics.bias_integers(value, 1.0, units).astype(np.int32)
        operands = [
            self.constant(f"{follower.name}.codes", codes),
            self.constant(f"{follower.name}.scales", units.astype(np.float32)),
            self.constant(f"{follower.name}.zero_points", np.zeros(codes.shape, np.int32)),
        ]
        real = f"{follower.name}.real"
        return self.emit("DequantizeLinear", operands, real, name=real, axis=0)

    def _table(self, node: Node, x: str) -> None:
        """The function of a table, step by step."""
        steps, results = node.attributes["steps"], list[str]()
        for number, step in enumerate(steps):
            function, *operands = step.split()
            label = node.name if number == len(steps) - 1 else f"{node.name}.{function}{number}"
            inputs = [
                x if one == "x" else results[int(one)] if one.isdigit() else self._number(f"{label}.{position}", one)
                for position, one in enumerate(operands)
            ]
            results.append(self._function(node, function, operands, inputs, label))

    def _number(self, name: str, value: str) -> str:
        """A float as an initialiser; nothing for an infinite one, which is how Clip leaves out a limit."""
        return self.constant(name, np.array(float(value), np.float32)) if math.isfinite(float(value)) else ""

    def _function(self, node: Node, function: str, operands: list[str], inputs: list[str], name: str) -> str:
        """One function of a table. Raises :class:`UnsupportedError` for one that this opset lacks."""
        match function:
            case "clip":
                return self.emit("Clip", inputs, name, name=name)
            case "leakyrelu":
                return self.emit("LeakyRelu", inputs[:1], name, name=name, alpha=float(operands[1]))
            case "gelu" | "gelu_tanh":
                kind = "none" if function == "gelu" else "tanh"
                return self.emit("Gelu", inputs, name, name=name, approximate=kind)
            case "silu":
                gate = self.emit("Sigmoid", inputs, f"{name}.gate", name=f"{name}.gate")
                return self.emit("Mul", [*inputs, gate], name, name=name)
            case "square":
                return self.emit("Mul", [*inputs, *inputs], name, name=name)
            case "rsqrt":
                root = self.emit("Sqrt", inputs, f"{name}.root", name=f"{name}.root")
                return self.emit("Reciprocal", [root], name, name=name)
            case _ if function in _PLAIN:
                return self.emit(_PLAIN[function], inputs, name, name=name)
            case _:
                raise UnsupportedError(
                    f"ONNX opset {OPSET} has no function '{function}'",
                    where=node.where,
                    hint="Export networks whose every operator runs on the accelerator.",
                )

    def _movement(self, node: Node, x: str) -> None:
        name, attributes = node.name, node.attributes
        _, channels, height, width = self.graph.shape_of(node.inputs[0])

        def shaped(source: str, label: str, extents: tuple[int, ...]) -> str:
            shape = self.constant(f"{name}.{label}.shape", np.array(extents, np.int64))
            return self.emit("Reshape", [source, shape], f"{name}.{label}", name=f"{name}.{label}")

        match node.op:
            case "pixel_unshuffle":
                r = attributes["downscale_factor"]
                split = shaped(x, "split", (1, channels, height // r, r, width // r, r))
                turned = self.emit("Transpose", [split], f"{name}.turn", name=f"{name}.turn", perm=[0, 1, 3, 5, 2, 4])
                shape = self.constant(f"{name}.shape", np.array(node.shape, np.int64))
                self.emit("Reshape", [turned, shape], name, name=name)
            case "repeat" if channels > 1:
                times = attributes["repeats"]
                thin = shaped(x, "thin", (1, channels, 1, height, width))
                counts = self.constant(f"{name}.counts", np.array([1, 1, times, 1, 1], np.int64))
                wide = self.emit("Tile", [thin, counts], f"{name}.wide", name=f"{name}.wide")
                shape = self.constant(f"{name}.shape", np.array(node.shape, np.int64))
                self.emit("Reshape", [wide, shape], name, name=name)
            case "repeat" | "tile":
                times = attributes["repeats"] if node.op == "repeat" else attributes["repeats"][1]
                counts = self.constant(f"{name}.counts", np.array([1, times, 1, 1], np.int64))
                self.emit("Tile", [x, counts], name, name=name)
            case "strided_slice":
                axes = attributes["axes"]
                strides = attributes.get("strides") or (1,) * len(axes)
                columns = (attributes["begin"], attributes["end"], axes, strides)
                labels = ("begin", "end", "axes", "strides")
                operands = [
                    self.constant(f"{name}.{label}", np.array(column, np.int64))
                    for label, column in zip(labels, columns, strict=True)
                ]
                self.emit("Slice", [x, *operands], name, name=name)
