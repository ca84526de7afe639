"""Operators that the model's own engine computes: what TVM cannot import travels as data and is called back.

In Relax such an operator is a call of the packed function :data:`SYMBOL`, whose first operand is the operator itself: a
line of JSON, and for ONNX a model of one node behind it. Nothing in it is code: torch's operators are found by name
among those of networks (:mod:`codesign.compile.ir.aten`), and ONNX Runtime reads data alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

from codesign.hw.errors import InputError

SYMBOL = "codesign.engine.run"
PREFIX = "engine."
"""Begins the operator of a node that the model's own engine computes."""

TORCH, ONNX = "torch", "onnx"
Array = NDArray[Any]


def torch_operator(target: str, arguments: dict[str, Any]) -> bytes:
    """Operator ``target`` (``torch.ops.aten.NAME.OVERLOAD``) as data.

    ``arguments``, by name: numbers, texts, None, lists of them, ``{"tensor": i}`` for operand ``i``, and
    ``{"dtype": "float32"}``.
    """
    return _data({"engine": TORCH, "name": target.split(".")[3], "operator": target, "arguments": arguments})


def onnx_operator(name: str, model: bytes) -> bytes:
    """An operator as the one node of a serialised ``model``."""
    return _data({"engine": ONNX, "name": name}) + model


def _data(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True).encode() + b"\n"


def call(operator: bytes, operands: Sequence[Any], results: Sequence[Any]) -> Any:
    """A Relax call of ``operator``; ``results`` are tensor types, and several make a tuple."""
    data = relax.const(np.frombuffer(operator, np.uint8).copy(), "uint8")
    return relax.op.call_dps_packed(SYMBOL, relax.Tuple([data, *operands]), list(results))


def name_of(expression: Any) -> str | None:
    """The name of a Relax call's operator if the model's own engine computes it."""
    function = expression.args[0] if expression.args else None
    if not isinstance(function, relax.ExternFunc) or str(function.global_symbol) != SYMBOL:
        return None
    return str(_header(expression.args[1].fields[0].value.numpy().tobytes())[0]["name"])


@lru_cache(maxsize=256)
def _header(operator: bytes) -> tuple[dict[str, Any], bytes]:
    line, _, body = operator.partition(b"\n")
    return json.loads(line), body


def _run(data: Any, *tensors: Any) -> None:
    """Compute an operator; the last ``tensors`` receive its results."""
    # Several results come as one list.
    tensors = tuple(one for item in tensors for one in ([item] if hasattr(item, "numpy") else item))
    made = computed(data.numpy().tobytes(), [tensor.numpy() for tensor in tensors])
    for tensor, value in zip(tensors[len(tensors) - len(made) :], made, strict=True):
        tensor.copyfrom(np.ascontiguousarray(value).reshape(tensor.shape))


def computed(operator: bytes, values: Sequence[Array]) -> list[Array]:
    """Results of ``operator``; values behind its operands are not looked at."""
    header, body = _header(operator)
    return _by_torch(header, values) if header["engine"] == TORCH else _by_onnx_runtime(body, values)


def _by_torch(header: dict[str, Any], values: Sequence[Array]) -> list[Array]:
    try:
        import torch

        from codesign.compile.ir import aten
    except ImportError as error:
        raise _missing(header["name"], TORCH) from error

    def argument(value: Any) -> Any:
        if isinstance(value, list):
            return [argument(item) for item in value]
        if isinstance(value, dict):
            kind, item = next(iter(value.items()))
            return getattr(torch, item) if kind == "dtype" else torch.from_numpy(np.array(values[item]))
        return value

    with torch.no_grad():
        made = aten.called(header["operator"], [(key, argument(item)) for key, item in header["arguments"].items()])
    return [one.contiguous().numpy() for one in (made if isinstance(made, list | tuple) else [made])]


def _by_onnx_runtime(model: bytes, values: Sequence[Array]) -> list[Array]:
    session = _session(model)
    given = zip(session.get_inputs(), values, strict=False)
    return list(session.run(None, {one.name: value for one, value in given}))


@lru_cache(maxsize=64)
def _session(model: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("an operator", "onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _missing(name: str, package: str) -> InputError:
    return InputError(
        f"{name} is computed by {package}, which is not installed",
        where="module",
        hint=f"Install {package}, or compile a network whose operators the host's compiler knows.",
    )


tvm_ffi.register_global_func(SYMBOL, _run, override=True)


def tensor_type(shape: Sequence[int], dtype: str) -> Any:
    return relax.TensorType([int(extent) for extent in shape], dtype)
