"""The network of a ``.pt2`` archive as a torch module that replays its graph, operator by operator.

Exporting the module again gives a program whose every name torch chose itself. Nothing that the archive holds becomes
source code: names are keys of a dictionary, operators are looked up among torch's own, size arithmetic is done here.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.fx.traceback

from codesign.compile.importing.pt2_sizes import bounded, power
from codesign.hw.errors import CodesignError, UnsupportedError

LAYER = "codesign.layer"
"""Key under which an exported node's annotations name the layer that it came from."""

MAX_CONSTANT_ELEMENTS = 2**27
"""Elements of all tensors together that the graph makes without looking at the image: four grids of 4096 x 4096."""

MAX_ELEMENTS, MAX_GROWTH = 2**27, 4096
"""Elements of any tensor of the graph, or how many times the image's: attention among 4096 tokens with eight heads."""

_OPERATORS = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool2d add addcdiv addcmul addmm adjoint affine_grid_generator alias all alpha_dropout amax amin
    aminmax __and__ any arange argmax argmin argsort as_strided asin asinh _assert_async _assert_scalar
    _assert_tensor_metadata atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bitwise_and
    bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu
    channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im column_stack concat concatenate
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    copy cos cosh cumprod cumsum deg2rad detach diag diag_embed diagonal diff div divide dot dropout dsplit dstack
    einsum elu embedding empty empty_like empty_permuted eq equal erf erfc exp exp2 expand expand_as expm1 eye
    feature_alpha_dropout feature_dropout fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod frac
    full full_like gather ge gelu glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm
    gt hardshrink hardsigmoid hardswish hardtanh hsplit hstack hypot im2col index index_add index_copy index_fill
    index_put index_select instance_norm isfinite isin isinf isnan kthvalue l1_loss layer_norm le leaky_relu lerp
    less less_equal lift_fresh lift_fresh_copy linalg_cross linalg_norm linalg_vector_norm linear linspace log log10
    log1p log2 log_sigmoid _log_softmax log_softmax logaddexp logical_and logical_not logical_or logical_xor logit
    logsumexp lt mH mT masked_fill masked_scatter matmul max max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d maximum mean median meshgrid min minimum mish mm moveaxis movedim mse_loss mul multiply mv nan_to_num
    narrow native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training native_group_norm
    native_layer_norm ne neg negative new_empty new_full new_ones new_zeros norm not_equal numpy_T one_hot ones
    ones_like __or__ outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod rad2deg ravel reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as rms_norm roll rot90 round rrelu rsqrt
    rsub scalar_tensor scaled_dot_product_attention scatter scatter_add select select_scatter selu sgn sigmoid sign
    silu sin sinc sinh slice slice_scatter _softmax softmax softplus softshrink softsign sort split split_with_sizes
    sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_constrain_range
    sym_constrain_range_for_size sym_numel sym_size sym_stride t take take_along_dim tan tanh tensor_split threshold
    tile to _to_copy topk transpose tril triu true_divide trunc type_as unbind unflatten unfold _unsafe_view
    unsqueeze upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d
    upsample_trilinear3d var var_mean view view_as view_copy vsplit vstack _weight_norm where __xor__ zero zeros
    zeros_like
    """.split()  # noqa: SIM905
)
"""Operators of ``aten`` that networks of images are made of, by name; in place too. What is not here is refused: among
torch's three thousand there are some that open files, and some that crash on arguments that torch does not check."""

_STRINGS = {
    "approximate",
    "rounding_mode",
    "mode",
    "padding",
    "padding_mode",
    "interpolation_mode",
    "indexing",
    "equation",
    "reduce",
    "ord",
    "msg",
    "assert_msg",
}
"""Arguments of operators that may be texts: choices."""

_KINDS: Mapping[str, type] = {
    "dtype": torch.dtype,
    "out_dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
    "device": torch.device,
}
"""Arguments that must be of torch's own types: an integer there would be taken for a C++ enumerator, unchecked."""

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

_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.floordiv": operator.floordiv,
    "_operator.truediv": operator.truediv,
    "_operator.mod": operator.mod,
    "_operator.pow": power,
    "_operator.neg": operator.neg,
    "_operator.pos": operator.pos,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.le": operator.le,
    "_operator.lt": operator.lt,
    "_operator.ge": operator.ge,
    "_operator.gt": operator.gt,
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_sum": lambda *values: sum(values),
    "torch.sym_ite": lambda condition, yes, no: yes if condition else no,
    "torch._sym_sqrt": math.sqrt,
    "torch.sym_sqrt": math.sqrt,
}
"""Operators on sizes. They work on numbers alone, and what they make is bounded."""

_ASSERTIONS = ("_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size")
"""Operators on sizes alone that say what holds."""

_UNDER_NO_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"

Values = dict[str, Any]


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
                    result = _called(target, named)
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


def _called(target: str, named: list[tuple[str, Any]]) -> Any:
    """Result of ``target`` on arguments with their names."""
    values = [value for _, value in named]
    if target == "_operator.getitem":
        sequence, index = values
        return sequence[index]
    if target in _ARITHMETIC:
        numbers = values[0] if target == "torch.sym_sum" else values
        return bounded(_ARITHMETIC[target](*map(bounded, numbers)))
    operation = find_operator(target)
    if operation is None:
        raise ValueError("is not one of torch's own operators")
    known = {argument.name for argument in operation._schema.arguments}
    for name, value in named:
        if name not in known:
            raise ValueError("has an argument that torch does not know")
        if name in _KINDS and value is not None and not isinstance(value, _KINDS[name]):
            raise ValueError(f"{name} is no {_KINDS[name].__name__}")
    return operation(**dict(named))


def find_operator(target: str) -> torch._ops.OpOverload | None:
    """Operator ``torch.ops.aten.NAME.OVERLOAD`` that networks are made of; None for anything else."""
    parts = target.split(".")
    if len(parts) != 5 or parts[:3] != ["torch", "ops", "aten"] or not parts[4].isidentifier():
        return None
    if parts[3] not in _OPERATORS and parts[3].removesuffix("_") not in _OPERATORS:
        return None
    try:
        found = getattr(getattr(torch.ops.aten, parts[3]), parts[4])
    except (AttributeError, RuntimeError):
        return None
    if not isinstance(found, torch._ops.OpOverload):
        return None
    kinds = {str(argument.type) for argument in found._schema.arguments}
    texts = {argument.name for argument in found._schema.arguments if "str" in str(argument.type)}
    of_tensors = any("Tensor" in str(one.type) for one in (*found._schema.arguments, *found._schema.returns))
    # Overloads on numbers and lists alone are TorchScript's, and not all of them check their arguments.
    sound = of_tensors and texts <= _STRINGS and not kinds & {"Storage", "Stream"}
    return found if sound or parts[3] in _ASSERTIONS else None


def replayable(target: str) -> bool:
    """Whether :class:`Replay` knows the operator."""
    return target in _ARITHMETIC or target in ("_operator.getitem", _UNDER_NO_GRAD) or find_operator(target) is not None


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
