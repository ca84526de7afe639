"""Between Relax and :class:`~codesign.compile.graph.graph.Graph`, both ways and without loss.

An operator of :mod:`codesign.compile.operators` that Relax spells as several is one call there too: of a private
function with the attribute ``Composite``, the node's attributes beside it, and the operator's float meaning as body.
A function of TIR, as which an importer may write an operator that Relax lacks, is a node that carries it; an operator
of :mod:`codesign.compile.ir.engine` is one whose first operand is the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from codesign.compile.graph.graph import COPY, STATE, STEP, Array, Graph, Node, Shape
from codesign.compile.ir import engine
from codesign.compile.operators.registry import COMPOSITES
from codesign.hw.errors import UnsupportedError


def _plain(value: Any) -> Any:
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if isinstance(value, str):
        return str(value)  # TVM's own strings are a subclass
    if isinstance(value, int | float | bool) or value is None:
        return value
    if isinstance(value, relax.ShapeExpr):
        return tuple(_plain(item) for item in value.values)
    if isinstance(value, relax.Tuple):
        return tuple(_plain(item) for item in value.fields)
    if isinstance(value, Iterable):
        return tuple(_plain(item) for item in value)
    return str(value)


COMPOSITE = "Composite"
PREFIX = "scanline."
"""Begins the name of a composite function's operator."""

TIR = "tir."
"""Begins the operator of a node that calls a function of TIR, its attribute ``function``."""

_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "clip": ("min", "max"),
    "reshape": ("shape",),
    "broadcast_to": ("shape",),
    "image.resize2d": ("size",),
    "strided_slice": ("axes", "begin", "end", "strides"),
    "full": ("shape",),
}
"""Names of the operands that are not tensors; elsewhere they are called ``argument0``, ``argument1``, ..."""


def _attributes(op: str, call: relax.Call) -> dict[str, Any]:
    hidden = {"get_int", "get_int_tuple", "get_str", "id_", "is_", "same_as"}
    names = [] if call.attrs is None else [n for n in dir(call.attrs) if not n.startswith("_") and n not in hidden]
    attributes = {name: _plain(getattr(call.attrs, name)) for name in names}
    operands = [argument for argument in call.args if not _tensors(argument)]
    labels = _ARGUMENTS.get(op, ())
    for position, operand in enumerate(operands):
        label = labels[position] if position < len(labels) else f"argument{position}"
        attributes[label] = _plain(operand)
    return attributes


def _tensors(argument: Any) -> list[Any]:
    """The tensor operands within one argument, in order."""
    if isinstance(argument, relax.Tuple):
        return [leaf for item in argument.fields for leaf in _tensors(item)]
    if isinstance(argument, tvm.ir.GenericConst):
        return [argument]
    if isinstance(argument, relax.Var) and isinstance(argument.ty, relax.TensorType | relax.TupleType):
        return [argument]
    return []


def _shape(kind: Any, where: str) -> Shape:
    try:
        return tuple(int(extent) for extent in kind.shape.values)
    except (AttributeError, TypeError) as error:
        raise UnsupportedError(
            "a tensor without a static shape", where=where, hint="Pin the network's input with --size WxH."
        ) from error


def from_module(module: tvm.IRModule, names: Mapping[str, str] | None = None) -> Graph:
    """Read the function ``main`` of ``module``.

    ``names`` gives the user's name of a Relax variable, where the importer recorded one. Parameters after the first are
    states, of which there are as many as outputs after the first. Raises :class:`UnsupportedError` for control flow,
    other numbers of inputs and outputs, or shapes that are not static.
    """
    function = module["main"]
    parameter, *states = function.params
    reader = _Reader(_spread(function, names or {}), _composites(module), module)
    reader.known[parameter] = parameter.name
    reader.taken.add(parameter.name)
    for state in states:
        reader.state(parameter, state)
    for block in function.body.blocks:
        for binding in block.bindings:
            reader.binding(binding)
    output = reader.output(function.body.body, len(states))
    return Graph(
        input=parameter.name,
        input_shape=_shape(parameter.ty, parameter.name),
        input_dtype=str(parameter.ty.dtype.dtype),
        nodes=tuple(reader.nodes),
        constants=reader.constants,
        output=output,
    )


def _spread(function: relax.Function, names: Mapping[str, str]) -> dict[str, str]:
    """The user's names, also for the helper variables that an importer binds before an operator's own."""
    spread: dict[str, str] = {}
    waiting: list[str] = []
    for block in function.body.blocks:
        for binding in block.bindings:
            waiting.append(binding.var.name)
            if binding.var.name in names:
                spread.update(dict.fromkeys(waiting, names[binding.var.name]))
                waiting = []
    return spread


def _composites(module: tvm.IRModule) -> dict[Any, tuple[str, dict[str, Any]]]:
    """Operator and attributes of every composite function, by its global variable."""
    found = {}
    for variable, function in module.functions_items():
        attributes = dict(function.attrs.items()) if function.attrs else {}
        name = str(attributes.pop(COMPOSITE, ""))
        if isinstance(function, relax.Function) and name.startswith(PREFIX):
            found[variable] = name.removeprefix(PREFIX), {key: _plain(value) for key, value in attributes.items()}
    return found


_CALL_TIR = tvm.ir.Op.get("relax.call_tir")


class _Reader:
    def __init__(
        self, names: Mapping[str, str], composites: Mapping[Any, tuple[str, dict[str, Any]]], module: tvm.IRModule
    ) -> None:
        self.names = names
        self.composites = composites
        self.module = module
        self.nodes: list[Node] = []
        self.constants: dict[str, Array] = {}
        self.known: dict[Any, str] = {}
        self.tuples: dict[Any, Any] = {}
        self.taken: set[str] = set()

    def _unique(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.taken:
            candidate, count = f"{name}{COPY}{count}", count + 1
        self.taken.add(candidate)
        return candidate

    def operand(self, leaf: Any, reader: str) -> str:
        if isinstance(leaf, tvm.ir.GenericConst):
            name = self._unique(f"{reader}.constant")
            self.constants[name] = leaf.value.numpy()
            return name
        return self.known[leaf]

    def binding(self, binding: Any) -> None:
        value, variable = binding.value, binding.var
        name = self.names.get(variable.name, variable.name)
        if isinstance(value, relax.Var):
            self.known[variable] = self.known.get(value, "")
            self.tuples[variable] = self.tuples.get(value, value)
        elif isinstance(value, relax.Tuple):
            self.tuples[variable] = value
        elif isinstance(value, tvm.ir.GenericConst):
            self.known[variable] = self.operand(value, name)
        elif isinstance(value, relax.TupleGetItem):
            source = self.tuples.get(value.tuple_value)
            if isinstance(source, relax.Tuple):
                self.known[variable] = self.operand(source.fields[value.index], name)
                return
            inputs = (self.known[value.tuple_value],)
            shape = _shape(variable.ty, name)
            name = self._unique(name)
            self.known[variable] = name
            self.nodes.append(
                Node(name, "tuple_item", inputs, {"index": int(value.index)}, shape, str(variable.ty.dtype.dtype))
            )
        elif isinstance(value, relax.Call) and value.op == _CALL_TIR and len(value.args) == 2:
            called = value.args[0]
            self.call(name, variable, value, f"{TIR}{called.name_hint}", {"function": self.module[called]})
        elif isinstance(value, relax.Call) and (foreign := engine.name_of(value)):
            self.call(name, variable, value, f"{engine.PREFIX}{foreign}", {"call": value})
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            op = value.op.name.removeprefix("relax.")
            self.call(name, variable, value, op, {**_attributes(op, value), "call": value})
        elif isinstance(value, relax.Call) and value.op in self.composites:
            self.call(name, variable, value, *self.composites[value.op])
        else:
            raise UnsupportedError(
                f"{type(value).__name__} has no place in a dataflow graph",
                where=name,
                hint="Export the network without control flow.",
            )

    def call(self, name: str, variable: Any, call: relax.Call, op: str, attributes: dict[str, Any]) -> None:
        leaves = [leaf for argument in call.args for leaf in _tensors(argument)]
        inputs = tuple(self.operand(leaf, name) for leaf in leaves)
        several = isinstance(variable.ty, relax.TupleType)
        shape = () if several else _shape(variable.ty, f"{op} '{name}'")
        dtype = "tuple" if several else str(variable.ty.dtype.dtype)
        name = self._unique(name)
        self.known[variable] = name
        self.nodes.append(Node(name, op, inputs, attributes, shape, dtype))

    def state(self, parameter: Any, state: Any) -> None:
        name = self._unique(state.name)
        self.known[state] = name
        shape = _shape(state.ty, f"state '{state.name}'")
        self.nodes.append(Node(name, STATE, (parameter.name,), {}, shape, str(state.ty.dtype.dtype)))

    def output(self, body: Any, states: int) -> str:
        value = self.tuples.get(body, body)
        fields = list(value.fields) if isinstance(value, relax.Tuple) else [value]
        if len(fields) != 1 + states:
            raise UnsupportedError(
                f"the network has {1 + states} inputs and {len(fields)} outputs",
                where="main",
                hint="One image goes in and one comes out; a recurrent network takes and returns its states besides.",
            )
        names = [self.operand(one, "output") for one in fields]
        if not states:
            return names[0]
        kind = fields[0].ty
        step = Node(self._unique(STEP), STEP, tuple(names), {}, _shape(kind, "output"), str(kind.dtype.dtype))
        self.nodes.append(step)
        return step.name


def to_module(graph: Graph) -> tvm.IRModule:
    """The Relax module of ``graph``, checked for well-formedness."""
    builder = relax.BlockBuilder()
    calls = CompositeCalls(builder, graph)
    parameters = [relax.Var(graph.input, relax.TensorType(graph.input_shape, graph.input_dtype))]
    states = [node for node in graph.nodes if node.op == STATE]
    parameters += [relax.Var(node.name, relax.TensorType(node.shape, node.dtype)) for node in states]
    values: dict[str, Any] = {parameter.name: parameter for parameter in parameters}
    values.update({name: relax.const(value, str(value.dtype)) for name, value in graph.constants.items()})
    last = graph.by_name.get(graph.output)
    with builder.function("main", parameters):
        with builder.dataflow():
            for node in graph.nodes:
                if node.op not in (STATE, STEP):
                    values[node.name] = calls.emit(node, [values[name] for name in node.inputs])
            results = last.inputs if last is not None and last.op == STEP else (graph.output,)
            outputs = [builder.emit_output(values[name]) for name in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    module = builder.get()
    relax.analysis.well_formed(module)
    return module


def operator_module(node: Node, operands: Sequence[tuple[Shape, str]]) -> tvm.IRModule:
    """A module whose function ``main`` computes ``node`` of ``operands``, by their shapes and types."""
    builder = relax.BlockBuilder()
    names = tuple(f"operand{i}" for i in range(len(operands)))
    parameters = [relax.Var(name, relax.TensorType(*kind)) for name, kind in zip(names, operands, strict=True)]
    single = replace(node, name="result", inputs=names)
    calls = CompositeCalls(builder, Graph("", (), (single,), {}, "result"))
    with builder.function("main", parameters):
        with builder.dataflow():
            result = builder.emit_output(calls.emit(single, list(parameters)))
        builder.emit_func_output(result)
    return builder.get()


def binder(builder: relax.BlockBuilder) -> Callable[[str, Any], Any]:
    """What binds an expression to a dataflow variable of exactly the name given.

    ``BlockBuilder.emit`` would replace the characters of users' names that Python's identifiers lack.
    """

    def bind(name: str, expression: Any) -> Any:
        expression = builder.normalize(expression)
        variable = relax.DataflowVar(name, expression.ty)
        builder.emit_normalized(relax.VarBinding(variable, expression))
        return variable

    return bind


class CompositeCalls:
    """Emits nodes into functions of ``builder``, the composite ones and those of TIR as calls.

    The functions they call are made at once, while no other function is being built; nodes alike share one.
    """

    def __init__(self, builder: relax.BlockBuilder, graph: Graph) -> None:
        self.bind = binder(builder)
        self._functions: dict[str, Any] = {}
        shared: dict[Any, Any] = {}
        for node in graph.nodes:
            if node.op in COMPOSITES:
                operands = tuple((graph.shape_of(name), graph.dtype_of(name)) for name in node.inputs)
                key = (node.op, tuple(sorted(node.attributes.items())), node.shape, node.dtype, operands)
                if key not in shared:
                    shared[key] = _composite(builder, node, operands, f"{node.op}_{len(shared)}")
                self._functions[node.name] = shared[key]
            elif node.op.startswith(TIR):
                self._functions[node.name] = builder.add_func(node.attributes["function"], node.op.removeprefix(TIR))

    def emit(self, node: Node, inputs: list[Any]) -> Any:
        """Bind the expression of ``node`` on ``inputs``; returns its variable."""
        function = self._functions.get(node.name)
        if function is None:
            return emit_inline(node, inputs, self.bind)
        if node.op.startswith(TIR):
            return self.bind(node.name, relax.call_tir(function, inputs, relax.TensorType(node.shape, node.dtype)))
        return self.bind(node.name, relax.Call(function, inputs))


def _composite(builder: relax.BlockBuilder, node: Node, operands: Sequence[tuple[Shape, str]], name: str) -> Any:
    """The global variable of a new private function ``name`` that does what ``node`` does."""
    parameters = [relax.Var(f"x{i}", relax.TensorType(*operand)) for i, operand in enumerate(operands)]
    attributes = {COMPOSITE: f"{PREFIX}{node.op}", **{key: _listed(value) for key, value in node.attributes.items()}}
    with builder.function(name, parameters, attrs=attributes, private=True):
        with builder.dataflow():
            result = builder.emit_output(emit_inline(replace(node, name=node.op), list(parameters), binder(builder)))
        return builder.emit_func_output(result)


def _listed(value: Any) -> Any:
    """``value`` with lists in place of tuples, as function attributes take it."""
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def emit_inline(node: Node, inputs: list[Any], bind: Callable[[str, Any], Any]) -> Any:
    """Bind ``node`` on ``inputs`` in plain operators of Relax; returns its variable."""
    if (composite := COMPOSITES.get(node.op)) is not None:
        return composite.body(node, inputs, bind)
    if node.op == "tuple_item":
        return bind(node.name, relax.TupleGetItem(inputs[0], node.attributes["index"]))
    if "call" in node.attributes:
        return bind(node.name, _substituted(node.attributes["call"], inputs))
    return bind(node.name, _built(node, inputs))


def _built(node: Node, inputs: list[Any]) -> Any:
    """The Relax expression of a node that a pass of ours made."""
    attributes = node.attributes
    match node.op:
        case "concat":
            return relax.op.concat(inputs, **attributes)
        case "strided_slice":
            return relax.op.strided_slice(inputs[0], *(attributes[key] for key in ("axes", "begin", "end", "strides")))
        case op:
            function: Any = relax.op
            for part in op.split("."):
                function = getattr(function, part)
            return function(*inputs, **attributes)


def _substituted(call: relax.Call, inputs: list[Any]) -> relax.Call:
    """``call`` as the importer wrote it, its tensors replaced in order by ``inputs``."""
    remaining = list(inputs)

    def replaced(argument: Any) -> Any:
        if not _tensors(argument):
            return argument
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([replaced(item) for item in argument.fields])
        return remaining.pop(0)

    return relax.Call(call.op, [replaced(argument) for argument in call.args], call.attrs, call.ty_args)
