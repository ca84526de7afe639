"""A model's own engine: torch for modules and ``.pt2``, ONNX Runtime for ONNX. What is here runs in a child process."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from codesign.compile.graph.graph import Array
from codesign.compile.importing.check.child import ChildError, is_short_of_memory


@dataclass(frozen=True)
class Step:
    """One value that the engine computes on the way: the operator that makes it, and the values that it reads."""

    name: str
    operator: str
    value_of: str
    reads: tuple[str, ...]
    value: Array = field(repr=False)

    @property
    def where(self) -> str:
        return f"{self.operator} '{self.name}'"


class Original(Protocol):
    """A model as its own engine runs it."""

    @property
    def engine(self) -> str:
        """The engine's name and release."""

    @property
    def half(self) -> bool:
        """Whether the model computes in half precision somewhere."""

    def without_rounding(self) -> Original:
        """The same model with its activations clipped to the range of their codes, but not rounded to one."""

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        """The model's outputs, in order."""

    def steps(self, inputs: Sequence[Array]) -> Iterator[Step]:
        """Every value on the way that depends on ``inputs``, in the order of execution."""


@dataclass(frozen=True)
class TorchModel:
    """A module, and the program that it was exported as, for frames of one size."""

    module: torch.nn.Module = field(repr=False)
    program: torch.export.ExportedProgram = field(repr=False)
    name_of: Callable[[torch.fx.Node], str] = field(repr=False)
    """The user's name of a node."""

    @property
    def engine(self) -> str:
        return f"torch {torch.__version__.split('+')[0]}"

    @property
    def half(self) -> bool:
        made = (node.meta.get("val") for node in self.program.graph.nodes)
        return any(
            one.dtype in (torch.float16, torch.bfloat16)
            for value in made
            for one in pytree.tree_leaves(value)
            if isinstance(one, torch.Tensor)
        )

    def without_rounding(self) -> TorchModel:
        return self

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        with torch.no_grad():
            made = self.module(*(torch.from_numpy(one) for one in inputs))
        return [_array(one) for one in pytree.tree_leaves(made) if isinstance(one, torch.Tensor)]

    def steps(self, inputs: Sequence[Array]) -> Iterator[Step]:
        specs, nodes = self.program.graph_signature.input_specs, self.program.graph.nodes
        placed = [node for node in nodes if node.op == "placeholder"]
        given = {node for node, spec in zip(placed, specs, strict=True) if spec.kind is InputKind.USER_INPUT}
        recorder = _Recorder(self.program.graph_module, self.name_of, given)
        with torch.no_grad():
            recorder.run(*self._arguments(inputs))
        yield from recorder.steps

    def _arguments(self, inputs: Sequence[Array]) -> list[Any]:
        """The graph's operands: weights, constants, and ``inputs`` where the user's are due."""
        program, given = self.program, iter(inputs)
        held = {**program.constants, **program.state_dict}
        return [
            torch.from_numpy(next(given)) if spec.kind is InputKind.USER_INPUT else held[str(spec.target)]
            for spec in program.graph_signature.input_specs
        ]


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps every tensor that depends on an input."""

    def __init__(
        self, module: torch.fx.GraphModule, name_of: Callable[[torch.fx.Node], str], inputs: Collection[torch.fx.Node]
    ) -> None:
        super().__init__(module)
        self.name_of, self.moving = name_of, set(inputs)
        self.steps: list[Step] = []

    def run_node(self, n: torch.fx.Node) -> Any:
        made = super().run_node(n)
        if n.op == "call_function" and not self.moving.isdisjoint(n.all_input_nodes):
            self.moving.add(n)
            reads = tuple(node.name for node in n.all_input_nodes)
            operator = str(getattr(n.target, "__name__", n.target)).split(".")[0]
            name = self.name_of(n)
            if isinstance(made, torch.Tensor):
                # A copy: the next operator may write into its operand.
                self.steps.append(Step(name, operator, n.name, reads, _array(made.clone())))
            elif isinstance(made, tuple | list):  # a tuple: its parts are read one by one
                self.steps.append(Step(name, operator, n.name, reads, np.zeros(0)))
        return made


def _array(value: torch.Tensor) -> Array:
    value = value.detach()
    return (value.float() if value.dtype is torch.bfloat16 else value).cpu().contiguous().numpy()


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file, and what was read of it."""

    path: Path
    model: onnx.ModelProto = field(repr=False)
    smooth: bool = False
    """Whether activations are not rounded."""

    @property
    def engine(self) -> str:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__}"

    @property
    def half(self) -> bool:
        halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        casts = (one.i for node in self.model.graph.node for one in node.attribute if one.name in ("to", "dtype"))
        values = (*self.model.graph.input, *self.model.graph.output, *self.model.graph.value_info)
        return (
            any(tensor.data_type in halves for tensor in self.model.graph.initializer)
            or any(value.type.tensor_type.elem_type in halves for value in values)
            or any(kind in halves for kind in casts)
        )

    def without_rounding(self) -> OnnxModel:
        return replace(self, smooth=True)

    def outputs(self, inputs: Sequence[Array]) -> list[Array]:
        if self.smooth:
            model = _without_rounding(self.model)
            return _by_onnx_runtime(model.SerializeToString(), model, inputs)
        return _by_onnx_runtime(str(self.path), self.model, inputs)

    def steps(self, inputs: Sequence[Array]) -> Iterator[Step]:
        model = _without_rounding(self.model) if self.smooth else _copy(self.model)
        graph = model.graph
        del graph.output[:]
        names = [name for node in graph.node for name in node.output if name]
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        values = dict(zip(names, _by_onnx_runtime(model.SerializeToString(), model, inputs), strict=True))
        moving = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
        kinds = {node.name: node.op_type for node in self.model.graph.node}
        for node in graph.node:
            if moving.isdisjoint(node.input) or node.op_type in ("Shape", "Size"):
                continue
            moving.update(node.output)
            label = (node.name or node.output[0]).removesuffix(".low")
            for name in node.output:
                if name and isinstance(values[name], np.ndarray):
                    yield Step(label, kinds.get(label, node.op_type), name, tuple(node.input), values[name])


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())


def _without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with its activations clipped where they were rounded; constants keep their codes."""
    model = _copy(model)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    moving = {value.name for value in graph.input} - constants.keys()
    nodes: list[Any] = []
    for node in graph.node:
        if not moving.isdisjoint(node.input):
            moving.update(node.output)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] not in moving:
            nodes.append(node)
        elif node.op_type == "DequantizeLinear":
            nodes.append(onnx.helper.make_node("Identity", node.input[:1], node.output, name=node.name))
        else:
            scale, *zero = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:] if name)
            limits = np.iinfo(zero[0].dtype if zero else np.uint8)
            offset = int(zero[0].reshape(-1)[0]) if zero else 0
            for kind, bound in (("low", limits.min), ("high", limits.max)):
                value = np.float32(bound - offset) * scale.astype(np.float32)
                graph.initializer.append(onnx.numpy_helper.from_array(value, f"{node.output[0]}.{kind}"))
            above, below = (f"{node.output[0]}.{kind}" for kind in ("low", "high"))
            nodes.append(
                onnx.helper.make_node("Max", [node.input[0], above], [f"{above}.done"], name=f"{node.name}.low")
            )
            nodes.append(onnx.helper.make_node("Min", [f"{above}.done", below], node.output, name=node.name))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


def _by_onnx_runtime(model: str | bytes, read: onnx.ModelProto, inputs: Sequence[Array]) -> list[Array]:
    """Outputs by ONNX Runtime, its own rewriting switched off; by ``onnx.reference`` where it lacks an operator.

    Raises :class:`ChildError` for a model that ONNX Runtime refuses.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Lacking

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Lacking as error:
        return _by_reference(read, inputs, str(error))
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise ChildError("refused", _plain(error)) from error
    try:
        given = zip(session.get_inputs(), inputs, strict=True)
        found: list[Array] = session.run(
            None,
            {one.name: x.astype(np.float16) if one.type == "tensor(float16)" else x for one, x in given},
        )
    except Exception as error:  # it raises several kinds
        if is_short_of_memory(str(error)):
            raise MemoryError from error
        raise ChildError("fails", _plain(error)) from error
    return [value.astype(np.float32) if value.dtype == np.float16 else value for value in found]


def _by_reference(model: onnx.ModelProto, inputs: Sequence[Array], lacking: str) -> list[Array]:
    """Outputs by the reference evaluator of the onnx package, which has some operators more."""
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(model)
        found: list[Array] = evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=False)))
    except Exception as error:  # it raises many kinds
        raise ChildError("lacks", " ".join(lacking.split())[:300]) from error
    return found


def _plain(error: Exception) -> str:
    """What ONNX Runtime says, without its codes and places in its source."""
    return re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(cc|h):\d+ [^:]*: ?", "", " ".join(str(error).split()))[
        :300
    ]
