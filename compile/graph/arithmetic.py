"""Float meaning of plain Relax operators, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codesign.compile.graph.graph import Graph, Node
from codesign.hw.errors import UnsupportedError

UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nn.relu": torch.relu,
    "nn.gelu": F.gelu,
    "nn.gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "nn.silu": F.silu,
    "nn.softplus": F.softplus,
    "nn.selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "erf": torch.erf,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "negative": torch.neg,
    "sin": torch.sin,
    "cos": torch.cos,
    "log": torch.log,
    "sign": torch.sign,
}

BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "power": torch.pow,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
}

SIZE_FREE = frozenset(
    {*UNARY, *BINARY}
    | {"nn.conv2d", "nn.conv2d_transpose", "nn.leakyrelu", "nn.prelu", "clip", "where", "concat", "repeat", "tile"}
    | {"nn.pixel_shuffle", "quantize", "dequantize", "permute_dims", "nn.pad"}
)
"""Operators whose attributes do not mention the frame's size."""


def per_axis(value: Tensor, like: Tensor, axis: int) -> Tensor:
    """``value: [C]`` or a scalar, shaped to broadcast along ``axis`` of ``like``."""
    if value.numel() == 1:
        return value.reshape(())
    shape = [1] * like.dim()
    shape[axis] = value.numel()
    return value.reshape(shape)


def _quantize(node: Node, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    axis = node.attributes["axis"]
    codes = torch.round(x / per_axis(scale, x, axis)) + per_axis(zero_point, x, axis).to(x.dtype)
    limits = torch.iinfo(getattr(torch, node.dtype))
    return codes.clamp(limits.min, limits.max).to(getattr(torch, node.dtype))


def _dequantize(node: Node, q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    axis = node.attributes["axis"]
    return (q.to(scale.dtype) - per_axis(zero_point, q, axis).to(scale.dtype)) * per_axis(scale, q, axis)


def _convolved(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    attributes = node.attributes
    top, left, bottom, right = attributes["padding"]
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    strides, dilation = tuple(attributes["strides"]), tuple(attributes["dilation"])
    return F.conv2d(x, weight, None, strides, (top, left), dilation, attributes["groups"])


def _convolved_transposed(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    attributes = node.attributes
    top, left, bottom, right = attributes["padding"]
    full = F.conv_transpose2d(
        x,
        weight,
        None,
        tuple(attributes["strides"]),
        0,
        tuple(attributes["output_padding"]),
        attributes["groups"],
        tuple(attributes["dilation"]),
    )
    # torch's own `padding` is symmetrical; cropping says the same for every case.
    return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]


def _split(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """The parts: only ``tuple_item`` reads them."""
    axis, sections = int(node.attributes["axis"]), node.attributes["indices_or_sections"]
    extent = x.shape[axis]
    cuts = range(0, extent, -(-extent // sections))[1:] if isinstance(sections, int) else map(int, sections)
    return x.tensor_split(list(cuts), axis)


def _sliced(node: Node, x: Tensor) -> Tensor:
    attributes = node.attributes
    strides = attributes.get("strides") or [1] * len(attributes["axes"])
    index: list[slice] = [slice(None)] * x.dim()
    for axis, begin, end, stride in zip(
        attributes["axes"], attributes["begin"], attributes["end"], strides, strict=True
    ):
        index[axis] = slice(begin, end, stride)
    return x[tuple(index)]


def _generated(node: Node) -> Tensor:
    """What an operator without operands makes."""
    if node.op != "arange":
        raise UnsupportedError("an operator without operands", where=node.where, hint="Write its value as a constant.")
    first, end, step = (node.attributes[f"argument{i}"] for i in range(3))
    return torch.arange(first, end, step, dtype=getattr(torch, node.dtype))


_RESIZES: Mapping[str, bool] = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
"""Coordinate transformation modes of a bilinear resize that torch has, and whether they align corners."""


def _plain_resize(node: Node) -> bool:
    """Whether a resize is torch's bilinear one."""
    attributes = node.attributes
    how = attributes["coordinate_transformation_mode"]
    alike = how != "pytorch_half_pixel" or 1 not in node.shape[2:]
    return attributes["method"] == "linear" and attributes["layout"] == "NCHW" and how in _RESIZES and alike


def _plain_pool(node: Node) -> bool:
    """Whether an average pool is torch's with its defaults."""
    attributes = node.attributes
    tidy = not any(attributes["padding"]) and set(attributes["dilation"]) == {1} and not attributes["ceil_mode"]
    return tidy and attributes["layout"] == "NCHW"


def computed(node: Node, inputs: list[Tensor]) -> Tensor | None:
    """The result of one plain operator of Relax on torch tensors, or None for an operator that torch is not told about.

    Differentiable where torch is.
    """
    attributes = node.attributes
    if not inputs:
        return _generated(node)
    x = inputs[0]
    if node.op in UNARY:
        return UNARY[node.op](x)
    if node.op in BINARY:
        return BINARY[node.op](x, inputs[1])
    match node.op:
        case "nn.conv2d":
            return _convolved(node, x, inputs[1])
        case "nn.conv2d_transpose":
            return _convolved_transposed(node, x, inputs[1])
        case "clip":
            return x.clamp(float(attributes["min"]), float(attributes["max"]))
        case "nn.leakyrelu":
            return F.leaky_relu(x, attributes["alpha"])
        case "nn.prelu":
            return torch.where(x < 0, x * per_axis(inputs[1], x, attributes["axis"]), x)
        case "where":
            return torch.where(x, inputs[1], inputs[2])
        case "split":
            return _split(node, x)  # type: ignore[return-value]
        case "tuple_item" if isinstance(x, tuple):
            item: Tensor = x[node.attributes["index"]]
            return item
        case "concat":
            return torch.cat(inputs, attributes["axis"])
        case "repeat" if attributes.get("axis") is not None:
            return x.repeat_interleave(attributes["repeats"], attributes["axis"])
        case "tile":
            return x.repeat(*attributes["repeats"])
        case "nn.pixel_shuffle":
            return F.pixel_shuffle(x, attributes["upscale_factor"])
        case "quantize":
            return _quantize(node, x, inputs[1], inputs[2])
        case "dequantize":
            return _dequantize(node, x, inputs[1], inputs[2])
        case "reshape" | "broadcast_to":
            shape = attributes["shape"]
            return x.reshape(shape) if node.op == "reshape" else x.broadcast_to(shape)
        case "expand_dims":
            for axis in attributes["axis"]:
                x = x.unsqueeze(axis)
            return x
        case "squeeze":
            return x.reshape(node.shape)
        case "permute_dims":
            return x.permute(*attributes["axes"]) if attributes["axes"] else x.permute(*reversed(range(x.dim())))
        case "astype":
            return x.to(getattr(torch, node.dtype))
        case "strided_slice":
            return _sliced(node, x)
        case "full":
            return x.expand(node.shape)
        case "flip":
            return x.flip(int(attributes["axis"]))
        case "take" if attributes["axis"] is not None and inputs[1].dim() == 1:
            return x.index_select(attributes["axis"], inputs[1].long())
        case "state":  # before the first frame
            return torch.zeros(node.shape, dtype=x.dtype)
        case "step":
            return x
        case "image.grid_sample" if attributes["layout"] == "NCHW":
            return F.grid_sample(
                x,
                inputs[1].permute(0, 2, 3, 1),
                attributes["method"],
                attributes["padding_mode"],
                attributes["align_corners"],
            )
        case "matmul":
            return torch.matmul(x, inputs[1])
        case "nn.softmax":
            return x.softmax(int(attributes["axis"]))
        case "nn.pad" if attributes["pad_mode"] == "constant":
            pairs = list(zip(attributes["pad_width"][::2], attributes["pad_width"][1::2], strict=True))
            return F.pad(x, [int(side) for pair in reversed(pairs) for side in pair], value=attributes["pad_value"])
        case "image.resize2d" if _plain_resize(node):
            aligned = _RESIZES[attributes["coordinate_transformation_mode"]]
            return F.interpolate(x, tuple(node.shape[2:]), mode="bilinear", align_corners=aligned)
        case "mean" | "sum" if attributes["axis"] is not None:
            reduce = torch.mean if node.op == "mean" else torch.sum
            return reduce(x, tuple(attributes["axis"]), keepdim=bool(attributes["keepdims"]))
        case "nn.avg_pool2d" if _plain_pool(node):
            return F.avg_pool2d(x, tuple(attributes["pool_size"]), tuple(attributes["strides"]))
        case _:
            return None


def evaluated(graph: Graph, order: list[Node], known: Mapping[str, Tensor], wanted: str) -> NDArray[np.float64] | None:
    """``wanted`` in float64, from what is ``known`` and constants alone; None when that is not enough.

    ``order``: the nodes that may be computed on the way, operands first.
    """
    values = dict(known)
    for node in order:
        if node.name in values:
            continue
        operands: list[Tensor] = []
        for name in node.inputs:
            if name in graph.constants:
                constant = torch.from_numpy(np.array(graph.constants[name]))
                operands.append(constant.double() if constant.dtype == torch.float32 else constant)
            elif name in values:
                operands.append(values[name])
        if len(operands) == len(node.inputs) and node.dtype != "tuple":
            value = computed(node, operands)
            if value is not None:
                values[node.name] = value
    found = values.get(wanted)
    return None if found is None else np.asarray(found.numpy(), np.float64)
