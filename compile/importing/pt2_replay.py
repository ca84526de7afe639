"""The network of a ``.pt2`` archive as a torch module that replays its graph, operator by operator.

Exporting the module again gives a program whose every name torch chose itself. Nothing that the archive holds becomes
source code: names are keys of a dictionary, and what it calls is looked up in :mod:`.pt2_operators`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.fx.traceback

from codesign.compile.importing.pt2_operators import called, is_known
from codesign.hw.errors import CodesignError, UnsupportedError

LAYER = "codesign.layer"
"""Key under which an exported node's annotations name the layer that it came from."""

MAX_CONSTANT_ELEMENTS = 2**27
"""Elements of all tensors together that the graph makes without looking at the image: four grids of 4096 x 4096."""

MAX_ELEMENTS, MAX_GROWTH = 2**27, 4096
"""Elements of any tensor of the graph, or how many times the image's: attention among 4096 tokens with eight heads."""

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Element types by their number in torch's schema."""

_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7

_UNDER_NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"

Values = dict[str, Any]


def replayable(target: str) -> bool:
    """Whether :class:`Replay` knows the operator."""
    return target == _UNDER_NO_GRAD or is_known(target)


class Replay(torch.nn.Module):
    """Replays ``graph`` (parsed JSON of torch's schema 8) on images.

    ``constants``: graph input -> tensor or number; ``images``: the graph inputs that the caller gives, in order.
    ``forward`` raises :class:`UnsupportedError`, naming operator and node, for what torch refuses, what is not replayed
    and where the graph is malformed.
    """

    def __init__(self, graph: Mapping[str, Any], constants: Mapping[str, Any], images: list[str]) -> None:
        super().__init__()
        self._graph, self._images = graph, images
        self._numbers: Values = {}
        self._tensors: dict[str, str] = {}
        for index, (name, value) in enumerate(constants.items()):
            if isinstance(value, torch.Tensor):
                self.register_buffer(f"weight{index}", value)
                self._tensors[name] = f"weight{index}"
            else:
                self._numbers[name] = value

    def forward(self, *images: torch.Tensor) -> Any:
        values: Values = dict(self._numbers)
        values |= {name: getattr(self, buffer) for name, buffer in self._tensors.items()}
        values |= dict(zip(self._images, images, strict=True))
        largest = max(MAX_ELEMENTS, MAX_GROWTH * max(image.numel() for image in images))
        replayed = _Replayed(values, set(self._images), largest)
        results = replayed.run(self._graph)
        return results[0] if len(results) == 1 else tuple(results)


def layer_of(node: torch.fx.Node) -> str:
    """Layer of the archive that an exported node came from; empty for nodes of other programs."""
    return str((node.meta.get("custom") or {}).get(LAYER, ""))


class _Replayed:
    """One run through a graph: names and their values, and which of them depend on an image."""

    def __init__(self, values: Values, moving: set[str], largest: int) -> None:
        self.values, self.moving, self.largest = values, moving, largest
        self.constants = 0

    def run(self, graph: Mapping[str, Any]) -> list[Any]:
        for node in graph["nodes"]:
            self._node(node)
        try:
            return [self._argument(output, []) for output in graph["outputs"]]
        except Exception as error:  # a malformed graph can fail anywhere
            raise _refused("output", "", _said(error)) from error

    def _node(self, node: Mapping[str, Any]) -> None:
        target, name = str(node["target"]), str(node.get("name") or "")
        read: list[str] = []
        try:
            if target == _UNDER_NO_GRAD:
                result = self._nested(node)
                read = list(self.moving)  # its operators have been looked at one by one
            else:
                named = [(str(one["name"]), self._argument(one["arg"], read)) for one in node["inputs"]]
                with torch.fx.traceback.annotate({LAYER: _layer(node)}):
                    result = called(target, named)
            moves = not self.moving.isdisjoint(read)
            self._check_elements(result, moves)
            for key, value in self._bindings(node, result):
                self.values[key] = value
                if moves:
                    self.moving.add(key)
        except CodesignError:
            raise
        except Exception as error:  # torch raises every kind, and a malformed graph can fail anywhere
            raise _refused(target, name, _said(error)) from error

    def _check_elements(self, result: Any, moves: bool) -> None:
        for one in _tensors(result):
            if moves and one.numel() > self.largest:
                raise ValueError(f"makes a tensor of {one.numel()} elements")
            if not moves:
                self.constants += one.numel()
                if self.constants > MAX_CONSTANT_ELEMENTS:
                    raise ValueError(f"makes constants of {self.constants} elements")

    def _nested(self, node: Mapping[str, Any]) -> list[Any]:
        """Replay the graph that ``torch.no_grad`` wraps; it has its own names for the operands."""
        _, (inner, *operands) = node["inputs"][0], [one["arg"] for one in node["inputs"][1:]]
        graph = inner["as_graph"]["graph"]
        values: Values = {}
        moving: set[str] = set()
        for formal, actual in zip(graph["inputs"], operands, strict=True):
            read: list[str] = []
            key = _name(formal)
            values[key] = self._argument(actual, read)
            if not self.moving.isdisjoint(read):
                moving.add(key)
        return _Replayed(values, moving, self.largest).run(graph)

    def _bindings(self, node: Mapping[str, Any], result: Any) -> Iterator[tuple[str, Any]]:
        outputs = node["outputs"]
        if len(outputs) == 1:
            (output,) = outputs
            if isinstance(result, (list, tuple)) and set(output) <= {"as_tensor", "as_sym_int"}:
                (result,) = result  # a nested graph returns a list
            yield from _bound(output, result)
            return
        for output, value in zip(outputs, result if outputs else (), strict=True):
            yield from _bound(output, value)

    def _argument(self, argument: Mapping[str, Any], read: list[str]) -> Any:
        """Value of an argument; names of the tensors and sizes in it are appended to ``read``."""
        ((kind, value),) = argument.items()

        def named(one: Mapping[str, Any]) -> Any:
            name = str(one["name"])
            if name not in self.values:
                raise ValueError(f"it reads '{name[:80]}', which nothing before it computes")
            read.append(name)
            return self.values[name]

        def size(one: Mapping[str, Any]) -> Any:
            if "as_name" in one:
                return named({"name": one["as_name"]})
            ((_, number),) = one.items()
            return _number(number)

        match kind:
            case "as_none":
                return None
            case "as_tensor":
                return named(value)
            case "as_tensors":
                return [named(one) for one in value]
            case "as_optional_tensor":
                return self._argument(value, read)
            case "as_optional_tensors":
                return [self._argument(one, read) for one in value]
            case "as_nested_tensors":
                return [[named(one) for one in some] for some in value]
            case "as_int" | "as_float" | "as_bool":
                return _number(value)
            case "as_ints" | "as_floats" | "as_bools":
                return [_number(one) for one in value]
            case "as_int_lists" | "as_float_lists":
                return [[_number(one) for one in some] for some in value]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool":
                return size(value)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools":
                return [size(one) for one in value]
            case "as_complex":
                return complex(_number(value["real"]), _number(value["imag"]))
            case "as_string":
                return str(value)
            case "as_scalar_type":
                return DTYPES[value]
            case "as_memory_format":
                return _MEMORY_FORMATS[value]
            case "as_layout" if value == _STRIDED:
                return torch.strided
            case "as_device":  # wherever it was exported: it is replayed here
                return torch.device("cpu")
        raise ValueError(f"an argument of kind {kind[:40]!r}, which is not replayed")


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _refused(target: str, name: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"an operator that cannot be replayed ({reason})",
        where=f"operator '{target[:80]}' ('{name[:80]}')",
        hint="Export the network again with this torch release, with operators of torch's own and sizes that fit.",
    )


def _layer(node: Mapping[str, Any]) -> str:
    """:func:`_name_of_layer`, in characters that every text can hold."""
    return _name_of_layer(node).encode("utf-8", "backslashreplace").decode()


def _name_of_layer(node: Mapping[str, Any]) -> str:
    """Dotted path of the module (``body.3``) where the operator is a layer of torch's, else the node's name."""
    stack = str((node.get("metadata") or {}).get("nn_module_stack", ""))
    last = stack.rsplit(";", 1)[-1].split(",")
    if len(last) == 3 and last[1] and last[2].startswith("torch.nn.modules."):
        return last[1].removeprefix("L['self'].")
    return str(node.get("name") or _output_name(node))


def _output_name(node: Mapping[str, Any]) -> str:
    for output in node["outputs"]:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return _name(output)
    return str(node["target"])


def _name(argument: Mapping[str, Any]) -> str:
    """Name that an input or output of a graph binds."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_tensor":
            return str(value["name"])
        case "as_sym_int" | "as_sym_float" | "as_sym_bool":
            return str(value["as_name"])
    raise ValueError(f"a value of kind {kind[:40]!r} where a tensor or a size is due")


def _bound(output: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    ((kind, names),) = output.items()
    if kind == "as_none":
        return
    if kind in ("as_tensors", "as_sym_ints"):
        for one, part in zip(names, value, strict=True):
            yield str(one.get("name", one.get("as_name"))), part
        return
    yield _name(output), value


def _number(value: Any) -> int | float | bool:
    """A number of the JSON; what JSON cannot say is spelled out by torch."""
    if isinstance(value, str) and value in ("Infinity", "-Infinity", "NaN"):
        return float(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise ValueError("a number beyond 64 bits, or none at all")


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
