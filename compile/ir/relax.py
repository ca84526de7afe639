"""Between Relax and :class:`~codesign.compile.ir.graph.Graph`, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from codesign.compile.ir.graph import COPY, STATE, STEP, Array, Graph, Node, Shape
from codesign.compile.operators.correlations import displacements
from codesign.compile.operators.grids import grid_of_flow, grid_of_windows
from codesign.hw.errors import UnsupportedError


def _plain(value: Any) -> Any:
    if isinstance(value, tvm.tirx.IntImm):
        return int(value.value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value.value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, relax.ShapeExpr):
        return tuple(_plain(item) for item in value.values)
    if isinstance(value, relax.Tuple):
        return tuple(_plain(item) for item in value.fields)
    if isinstance(value, Iterable):
        return tuple(_plain(item) for item in value)
    return str(value)


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
    reader = _Reader(_spread(function, names or {}))
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


class _Reader:
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
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
        elif isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
            self.call(name, variable, value)
        else:
            raise UnsupportedError(
                f"{type(value).__name__} has no place in a dataflow graph",
                where=name,
                hint="Export the network without control flow.",
            )

    def call(self, name: str, variable: Any, call: relax.Call) -> None:
        op = call.op.name.removeprefix("relax.")
        leaves = [leaf for argument in call.args for leaf in _tensors(argument)]
        inputs = tuple(self.operand(leaf, name) for leaf in leaves)
        attributes = {**_attributes(op, call), "call": call}
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
    parameters = [relax.Var(graph.input, relax.TensorType(graph.input_shape, graph.input_dtype))]
    states = [node for node in graph.nodes if node.op == STATE]
    parameters += [relax.Var(node.name, relax.TensorType(node.shape, node.dtype)) for node in states]
    values: dict[str, Any] = {parameter.name: parameter for parameter in parameters}
    values.update({name: relax.const(value, str(value.dtype)) for name, value in graph.constants.items()})

    def bind(name: str, expression: Any) -> Any:
        # Through `emit_normalized` rather than `emit`, which would replace the characters of the user's names.
        expression = builder.normalize(expression)
        variable = relax.DataflowVar(name, expression.ty)
        builder.emit_normalized(relax.VarBinding(variable, expression))
        return variable

    last = graph.by_name.get(graph.output)
    with builder.function("main", parameters):
        with builder.dataflow():
            for node in graph.nodes:
                if node.op not in (STATE, STEP):
                    values[node.name] = emit_node(node, [values[name] for name in node.inputs], bind)
            results = last.inputs if last is not None and last.op == STEP else (graph.output,)
            outputs = [builder.emit_output(values[name]) for name in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    module = builder.get()
    relax.analysis.well_formed(module)
    return module


def emit_node(node: Node, inputs: list[Any], bind: Callable[[str, Any], Any]) -> Any:
    """Bind the Relax expression of ``node`` on ``inputs``; returns its variable."""
    attributes, x = node.attributes, inputs[0]
    match node.op:
        case "pixel_unshuffle":
            _, channels, height, width = node.shape
            factor = attributes["downscale_factor"]
            channels //= factor * factor
            x = bind(f"{node.name}.split", relax.op.reshape(x, (1, channels, height, factor, width, factor)))
            x = bind(f"{node.name}.turn", relax.op.permute_dims(x, (0, 1, 3, 5, 2, 4)))
            return bind(node.name, relax.op.reshape(x, node.shape))
        case "warp":
            scale, places = grid_of_flow(*node.shape[2:])
            grid = bind(f"{node.name}.scaled", relax.op.multiply(inputs[1], relax.const(scale)))
            grid = bind(f"{node.name}.grid", relax.op.add(grid, relax.const(places)))
            sampled = relax.op.image.grid_sample(
                x, grid, method="bilinear", layout="NCHW", align_corners=True, **attributes
            )
            return bind(node.name, sampled)
        case "correlation":
            _, channels, height, width = (int(extent) for extent in x.ty.shape.values)
            reach, count = attributes["reach"], node.shape[1]
            kernels = relax.const(displacements(channels, reach))
            moved = bind(f"{node.name}.moved", relax.op.nn.conv2d(inputs[1], kernels, padding=reach, groups=channels))
            first = bind(f"{node.name}.first", relax.op.repeat(x, count, axis=1))
            product = bind(f"{node.name}.product", relax.op.multiply(first, moved))
            spread = bind(f"{node.name}.all", relax.op.reshape(product, (1, channels, count, height, width)))
            return bind(node.name, relax.op.mean(spread, axis=1))
        case "pairs":
            frames = [[int(extent) for extent in value.ty.shape.values] for value in inputs]
            first, second = (
                bind(f"{node.name}.{which}", relax.op.reshape(value, (frame[1], frame[2] * frame[3])))
                for which, value, frame in zip(("first", "second"), inputs, frames, strict=True)
            )
            turned = bind(f"{node.name}.turned", relax.op.permute_dims(second, (1, 0)))
            product = bind(f"{node.name}.product", relax.op.matmul(turned, first))
            spread = bind(f"{node.name}.all", relax.op.reshape(product, node.shape))
            return bind(node.name, relax.op.multiply(spread, relax.const(attributes["factor"], "float32")))
        case "windows":
            return _windows(node, inputs, bind)
        case "nn.instance_norm" if len(inputs) == 1:
            ones, zeros = (np.full(node.shape[1], value, np.float32) for value in (1, 0))
            statistics = {"channel_axis": 1, "axes": [2, 3], "epsilon": attributes["epsilon"]}
            normal = relax.op.nn.instance_norm(x, relax.const(ones), relax.const(zeros), **statistics)
            return bind(node.name, normal)
        case "tuple_item":
            return bind(node.name, relax.TupleGetItem(x, attributes["index"]))
        case _ if "call" in attributes:
            return bind(node.name, _substituted(attributes["call"], inputs))
        case _:
            return bind(node.name, _built(node, inputs))


def _windows(node: Node, inputs: list[Any], bind: Callable[[str, Any], Any]) -> Any:
    """The operators of :mod:`codesign.compile.operators.window_form`."""
    (rows, columns), radius = node.attributes["map"], node.attributes["radius"]
    _, count, height, width = node.shape
    pixels, side = height * width, 2 * radius + 1

    def turned(what: str, value: Any, flat: tuple[int, int], shape: tuple[int, ...]) -> Any:
        value = bind(f"{node.name}.{what}.flat", relax.op.reshape(value, flat))
        value = bind(f"{node.name}.{what}.turned", relax.op.permute_dims(value, (1, 0)))
        return bind(f"{node.name}.{what}", relax.op.reshape(value, shape))

    constants = grid_of_windows((height, width), (rows, columns), radius, node.attributes["level"])
    scale, places, window = (relax.const(value) for value in constants)
    scaled = bind(f"{node.name}.scaled", relax.op.multiply(inputs[1], scale))
    grid = bind(f"{node.name}.grid", relax.op.add(scaled, places))
    middles = turned("middles", grid, (2, pixels), (pixels, 2, 1, 1))
    around = bind(f"{node.name}.around", relax.op.add(middles, window))
    maps = turned("maps", inputs[0], (rows * columns, pixels), (pixels, 1, rows, columns))
    how = {"method": "bilinear", "layout": "NCHW", "padding_mode": "zeros", "align_corners": False}
    sampled = bind(f"{node.name}.sampled", relax.op.image.grid_sample(maps, around, **how))
    flat = bind(f"{node.name}.flat", relax.op.reshape(sampled, (pixels, side * side)))
    rows_ = bind(f"{node.name}.turned", relax.op.permute_dims(flat, (1, 0)))
    return bind(node.name, relax.op.reshape(rows_, (1, count, height, width)))


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
