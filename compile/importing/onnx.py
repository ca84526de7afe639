"""Reads ONNX: the model itself, its external data from nowhere but its own folder, its size pinned."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from codesign.compile.graph.graph import Graph
from codesign.compile.importing.limits import MAX_PARTS
from codesign.compile.importing.onnx_fold import with_sizes_folded
from codesign.compile.importing.spelling.onnx_normalise import (
    HALVES,
    graphs_of,
    sort_nodes,
    to_float32,
    with_explicit_pads,
)
from codesign.compile.importing.spelling.onnx_operators import converted
from codesign.compile.ir import engine
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import CodesignError, InputError, UnsupportedError


def import_onnx(path: Path, model: onnx.ModelProto, *, width: int, height: int, channels: int | None) -> Graph:
    """The graph of ``model``, read from ``path``, for images ``[1, channels, height, width]``; errors as
    :func:`load_model` says."""
    shape = _pinned(model, path, width, height, channels)
    (source,) = _inputs(model)
    _check_count(model, path)
    try:
        model = with_explicit_pads(with_sizes_folded(_in_float32(model), source.name, shape))
    except CodesignError:
        raise
    except Exception as error:  # shape inference raises several kinds
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the sizes of the model's tensors contradict each other ({reason})",
            where=str(path),
            hint="Check the requested size and channel count.",
        ) from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    _check_operators(model)
    importer = _NamingImporter(model, {source.name: list(shape)})
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            module = importer.from_onnx(model.graph, opset)
    except CodesignError:
        raise
    except Exception as error:  # the importer raises assertions, value errors and TVM's own alike
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedError(
            f"cannot be imported ({reason})",
            where=importer.current or str(path),
            hint="Simplify the model, or export it again with static sizes.",
        ) from error
    return from_module(module, importer.names)


def _check_count(model: onnx.ModelProto, path: Path) -> None:
    for parts, kind in ((model.graph.node, "operators"), (model.graph.initializer, "stored tensors")):
        if len(parts) > MAX_PARTS:
            raise UnsupportedError(
                f"the model has {len(parts)} {kind}",
                where=str(path),
                hint=f"At most {MAX_PARTS}: export it without unrolling its loops.",
            )


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    to_float32(model.graph)
    return model


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in ``path``, its weights with it. Raises :class:`InputError` for one that is damaged."""
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's decoder raises its own kinds
        raise InputError(
            "not a readable ONNX model", where=str(path), hint="Export or download the model again."
        ) from error
    if not model.graph.node:
        raise InputError("the model has no operators", where=str(path), hint="Export or download the model again.")
    for tensor in _external(model.graph):
        _check_location(path, tensor)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        sort_nodes(model.graph)
        onnx.checker.check_model(model)
    except Exception as error:  # the checker and the loader raise several kinds
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the model is damaged or incomplete ({reason})", where=str(path), hint="Export or download it again."
        ) from error
    try:
        for node in model.graph.node:
            node.name = node.name or node.output[0]
    except (UnicodeDecodeError, IndexError) as error:
        raise InputError(
            "the model is damaged: an operator has no name and no result that could be told",
            where=str(path),
            hint="Export or download it again.",
        ) from error
    return model


def _external(graph: Any) -> list[Any]:
    """Tensors stored outside the file, sub-graphs included."""
    found = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for node in graph.node:
        for attribute in node.attribute:
            tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            found += [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
            graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for inner in graphs:
                found += _external(inner)
    return found


def _check_location(path: Path, tensor: Any) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    hint = "Keep a model's data file beside the model."
    where = f"{path}: tensor '{tensor.name}'"
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    if not location or PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or ".." in parts:
        raise InputError(f"external data '{location}' lie outside the model's folder", where=where, hint=hint)
    try:
        folder = path.parent.resolve()
        target = (path.parent / location).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name that none can have, links in a circle
        raise InputError(f"external data '{location}' cannot be read ({error})", where=where, hint=hint) from error
    if not target.is_relative_to(folder):
        raise InputError(f"external data '{location}' lead outside the model's folder", where=where, hint=hint)
    if not target.is_file():
        raise InputError(f"external data '{location}' are missing", where=where, hint=hint)


def _inputs(model: onnx.ModelProto) -> list[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _pinned(
    model: onnx.ModelProto, path: Path, width: int, height: int, channels: int | None
) -> tuple[int, int, int, int]:
    sources = _inputs(model)
    if len(sources) != 1:
        names = ", ".join(value.name for value in sources)
        raise UnsupportedError(
            f"the model has {len(sources)} inputs ({names})",
            where=str(path),
            hint="Networks with exactly one image input are supported.",
        )
    source = sources[0]
    where = f"input '{source.name}'"
    kind = source.type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.FLOAT, *HALVES):
        known = onnx.TensorProto.DataType.DESCRIPTOR.values_by_number
        name = known[kind.elem_type].name if kind.elem_type in known else f"of an unknown type ({kind.elem_type})"
        raise UnsupportedError(f"the input is {name}", where=where, hint="The network must take float32 images.")
    declared = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
    if kind.HasField("shape") and len(declared) != 4:
        raise UnsupportedError(f"the input has {len(declared)} dimensions", where=where, hint="Expected [1, C, H, W].")
    batch, depth, rows, columns = declared or (0, 0, 0, 0)
    if batch not in (0, 1):
        raise UnsupportedError(f"a batch of {batch}", where=where, hint="Export the network with batch 1.")
    if channels is not None and depth and channels != depth:
        raise InputError(
            f"the network takes {depth} channels, the image has {channels}",
            where=where,
            hint=f"Give an image of {depth} channels.",
        )
    if (rows and rows != height) or (columns and columns != width):
        raise InputError(
            f"the model is fixed to {columns or width}x{rows or height} pixels, not {width}x{height}",
            where=where,
            hint="Ask for that size, or export the model with dynamic height and width.",
        )
    if not depth and channels is None:
        depth = _first_convolution(model)
    return 1, depth or channels or 3, height, width


def _first_convolution(model: onnx.ModelProto) -> int:
    """The channels that the first convolution takes, or 0."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(shapes.get(node.input[1], ())) == 4:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return int(shapes[node.input[1]][1]) * int(groups)
    return 0


def _check_operators(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in _DRAWING or (node.op_type == "Dropout" and _trains(model, node)):
            raise UnsupportedError(
                "draws random numbers, so that no two runs give the same",
                where=f"{node.op_type} '{node.name}'",
                hint="Export the network in evaluation mode, or give it the noise as channels of its image.",
            )
        if node.op_type.startswith(("QLinear", "ConvInteger", "MatMulInteger")):
            raise UnsupportedError(
                "no importer for this operator",
                where=f"{node.op_type} '{node.name}'",
                hint="Quantised models must be in QDQ form (QuantizeLinear/DequantizeLinear around float operators).",
            )


_DRAWING = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def _trains(model: onnx.ModelProto, node: Any) -> bool:
    """Whether a Dropout is in training mode, or may be."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    mode = constants.get(node.input[2])
    return mode is None or bool(onnx.numpy_helper.to_array(mode).any())


class _NamingImporter(ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer, which also remembers the user's name of each operator's variable."""

    def __init__(self, model: onnx.ModelProto, shapes: dict[str, list[int]]) -> None:
        super().__init__(shapes, "float32", keep_params_in_input=False, sanitize=True)
        self.names: dict[str, str] = {}
        self.current = ""
        self._model = model
        counts = Counter(node.name for node in model.graph.node)
        self._alone = {node.name: node for node in model.graph.node if counts[node.name] == 1}

    def _check_for_unsupported_ops(self, graph: Any) -> None:
        """Nothing: what TVM does not know, ONNX Runtime computes."""

    def _convert_operator(self, op_name: str, inputs: Any, attrs: Any, opset: int) -> Any:
        name = str(attrs.get("tvm_custom", {}).get("name", ""))
        self.current = f"{op_name} '{name}'"
        value = converted(self.bb.emit, op_name, inputs, attrs, opset)
        if value is None:
            given = list(inputs)
            try:
                value = super()._convert_operator(op_name, inputs, attrs, opset)
            except CodesignError:
                raise
            except Exception as error:  # TVM's own and Python's, for what it does not take of an operator
                value = self._by_engine(self._alone.get(name), given)
                if value is None:
                    raise error
        # Bound at once, so that the operator's result has a variable to carry its name.
        if isinstance(value, relax.Call):
            value = self.bb.emit(self.bb.normalize(value))
            self.names[value.name] = name
        return value

    @cached_property
    def _types(self) -> dict[str, Any]:
        """Types of the model's tensors, as far as they can be inferred."""
        graph = onnx.shape_inference.infer_shapes(self._model, data_prop=True).graph
        return {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}

    def _by_engine(self, node: Any, given: Any) -> Any:
        """``node`` as an operator that ONNX Runtime computes; None where its results have no static shape."""
        if node is None or any(True for _ in graphs_of(node)):
            return None
        made = [self._types[name] for name in node.output if name in self._types]
        if len(made) < len(node.output) or not all(map(_is_static, made)):
            return None
        named = [(name, value) for name, value in zip(node.input, given, strict=False) if name and value is not None]
        operands = [_tensor(value) for _, value in named]
        values = [
            onnx.helper.make_tensor_value_info(name, _element_type(one.ty), [int(n) for n in one.ty.shape.values])
            for (name, _), one in zip(named, operands, strict=True)
        ]
        named_results = zip(node.output, made, strict=True)
        results = [onnx.helper.make_value_info(name, _typed(kind)) for name, kind in named_results]
        alone = onnx.helper.make_model(
            onnx.helper.make_graph([node], "operator", values, results), opset_imports=self._model.opset_import
        )
        alone.ir_version = self._model.ir_version
        types = [
            engine.tensor_type([n.dim_value for n in kind.shape.dim], str(_numpy_type(kind.elem_type))) for kind in made
        ]
        return engine.call(engine.onnx_operator(node.op_type, alone.SerializeToString()), operands, types)


def _is_static(kind: Any) -> bool:
    return kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)


def _typed(kind: Any) -> Any:
    return onnx.helper.make_tensor_type_proto(kind.elem_type, [dim.dim_value for dim in kind.shape.dim])


def _numpy_type(kind: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(kind)


def _element_type(kind: Any) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(str(kind.dtype.dtype))))


def _tensor(value: Any) -> Any:
    """An operand as a tensor: the importer keeps sizes as shapes."""
    if isinstance(value, relax.ShapeExpr):
        return relax.const(np.array([int(extent) for extent in value.values], np.int64), "int64")
    return value
