"""ONNX models of quantised operators (``QLinearConv`` and its like) respelled as float operators between roundings.

ONNX Runtime's quantiser writes them with ``QuantFormat.QOperator``. Each reads codes with their scale and zero point,
and makes codes of a given scale: what ``DequantizeLinear``, the float operator and ``QuantizeLinear`` do. Operators
that move codes, or choose among them, have no scales of their own: they keep those of what they read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CODES = (TensorProto.UINT8, TensorProto.INT8)

Operands = list[tuple[str, str, str]]
"""Codes, scale and zero point; the last two are empty for what is no code."""


@dataclass(frozen=True)
class _Spelling:
    """The float operator that a quantised one stands for, and where its operands are."""

    operator: str
    operands: Callable[[list[str]], Operands]
    result: Callable[[list[str]], tuple[str, str]]
    """Scale and zero point of what it makes."""


def _triples(count: int) -> Callable[[list[str]], Operands]:
    return lambda names: [(names[at], names[at + 1], names[at + 2]) for at in range(0, 3 * count, 3)]


def _at(place: int) -> Callable[[list[str]], tuple[str, str]]:
    return lambda names: (names[place], names[place + 1])


_UNARY = (_triples(1), _at(3))
_BINARY = (_triples(2), _at(6))
_SPELLINGS = {
    "QLinearConv": _Spelling("Conv", *_BINARY),
    "QLinearMatMul": _Spelling("MatMul", *_BINARY),
    "QLinearAdd": _Spelling("Add", *_BINARY),
    "QLinearMul": _Spelling("Mul", *_BINARY),
    "QLinearSigmoid": _Spelling("Sigmoid", *_UNARY),
    "QLinearLeakyRelu": _Spelling("LeakyRelu", *_UNARY),
    "QLinearSoftmax": _Spelling("Softmax", *_UNARY),
    "QLinearGlobalAveragePool": _Spelling("GlobalAveragePool", *_UNARY),
    "QLinearAveragePool": _Spelling("AveragePool", *_UNARY),
    "QLinearConcat": _Spelling(
        "Concat",
        lambda names: [(names[at], names[at + 1], names[at + 2]) for at in range(2, len(names), 3)],
        _at(0),
    ),
}
_OWN_ATTRIBUTES = ("channels_last", "opset")
"""Attributes that the float operators do not have; their other value than 0 is refused with the operator's name."""


def in_qdq_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with quantised operators respelled; the same object if it has none."""
    if not any(node.op_type in _SPELLINGS for node in model.graph.node):
        return model
    model = onnx.ModelProto.FromString(model.SerializeToString())
    writer = _Writer(model.graph)
    for node in model.graph.node:
        writer.take(node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(writer.nodes)
    model.graph.initializer.extend(writer.constants)
    return model


@dataclass
class _Writer:
    """The nodes written so far, and the scale and zero point of every tensor of codes."""

    graph: Any
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    formats: dict[str, tuple[str, str]] = field(default_factory=dict)
    held: dict[str, Any] = field(init=False)
    real: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held = {tensor.name: tensor for tensor in self.graph.initializer}

    def take(self, node: Any) -> None:
        """Write ``node``, in float if it works on codes."""
        spelling = _SPELLINGS.get(node.op_type)
        if spelling is not None and not _lays_out_anew(node) and _complete(node, spelling):
            names = list(node.input)
            operands = spelling.operands(names)
            read = [self._opened(*operand, node) for operand in operands]
            if node.op_type == "QLinearConv" and len(names) > 8 and names[8]:
                read.append(self._bias(names[8], operands[0][1], operands[1][1], node))
            self._rounded(node, spelling.operator, read, spelling.result(names))
        elif node.op_type == "QuantizeLinear":
            self.formats[node.output[0]] = (node.input[1], node.input[2] if len(node.input) > 2 else "")
            self.nodes.append(node)
        elif node.op_type != "DequantizeLinear" and any(name in self.formats for name in node.input):
            kept = next(self.formats[name] for name in node.input if name in self.formats)
            read = [
                self._opened(name, *self.formats.get(name, kept), node) if self._is_code(name) else name
                for name in node.input
            ]
            self._rounded(node, node.op_type, read, kept)
        else:
            self.nodes.append(node)

    def _is_code(self, name: str) -> bool:
        return name in self.formats or (name in self.held and self.held[name].data_type in _CODES)

    def _opened(self, codes: str, scale: str, zero_point: str, node: Any) -> str:
        """The real value of ``codes``."""
        key = codes, scale, zero_point
        if key not in self.real:
            self.real[key] = name = f"{codes}.real{len(self.real)}"
            operands = [codes, scale, *([zero_point] if zero_point else [])]
            # One scale for each output of a convolution.
            axis = {"axis": 0} if codes in self.held and node.op_type == "QLinearConv" else {}
            self.nodes.append(helper.make_node("DequantizeLinear", operands, [name], f"{node.name}.{codes}", **axis))
        return self.real[key]

    def _bias(self, codes: str, source: str, weights: str, node: Any) -> str:
        """A convolution's bias, which is in units of the products of both scales."""
        held = [self.held.get(name) for name in (codes, source, weights)]
        if any(tensor is None for tensor in held):
            return codes  # computed: the importer says so
        integers, *scales = (numpy_helper.to_array(tensor).astype(np.float64).reshape(-1) for tensor in held)
        name = f"{codes}.real.{node.name}"
        self.constants.append(numpy_helper.from_array((integers * scales[0] * scales[1]).astype(np.float32), name))
        return name

    def _rounded(self, node: Any, operator: str, read: list[str], to: tuple[str, str]) -> None:
        """``operator`` on ``read``, each of its results rounded ``to`` a scale and zero point."""
        made = [f"{name}.float" if name else "" for name in node.output]
        written = helper.make_node(operator, read, made, node.name)
        written.attribute.extend(one for one in node.attribute if one.name not in _OWN_ATTRIBUTES)
        self.nodes.append(written)
        for name, real in zip(node.output, made, strict=True):
            if name:
                operands = [real, to[0], *([to[1]] if to[1] else [])]
                self.nodes.append(helper.make_node("QuantizeLinear", operands, [name], f"{name}.rounded"))
                self.formats[name] = to


def _complete(node: Any, spelling: _Spelling) -> bool:
    """Whether ``node`` has the operands that its operator demands."""
    try:
        spelling.operands(list(node.input))
        spelling.result(list(node.input))
    except IndexError:
        return False
    return True


def _lays_out_anew(node: Any) -> bool:
    return any(one.name == "channels_last" and one.i for one in node.attribute)
