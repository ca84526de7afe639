"""Runs a :class:`~codesign.compile.ir.graph.Graph` node by node in torch: calibration, fine-tuning and tests share it.

Convolutions, element-wise operators and data movement do not depend on the frame's size, so a graph made of them runs
on crops of any size. Whatever torch is not told about here runs as a TVM module of one operator, at the graph's own
size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
import tvm
from torch import Tensor
from tvm import relax

from codesign.compile.ir.graph import Array, Graph, Node
from codesign.compile.ir.relax import to_module
from codesign.hw.errors import UnsupportedError

Override = Callable[[Node, list[Tensor]], Tensor | None]

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
    | {"nn.pixel_shuffle", "pixel_unshuffle", "quantize", "dequantize", "permute_dims", "nn.pad", "warp", "correlation"}
    | {"nn.instance_norm"}
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


def _sliced(node: Node, x: Tensor) -> Tensor:
    attributes = node.attributes
    strides = attributes.get("strides") or [1] * len(attributes["axes"])
    index: list[slice] = [slice(None)] * x.dim()
    for axis, begin, end, stride in zip(
        attributes["axes"], attributes["begin"], attributes["end"], strides, strict=True
    ):
        index[axis] = slice(begin, end, stride)
    return x[tuple(index)]


def _windows(node: Node, volume: Tensor, flow: Tensor) -> Tensor:
    """Bilinear windows of every pixel's map; see :mod:`codesign.compile.operators.window_form`."""
    (rows, columns), radius = node.attributes["map"], int(node.attributes["radius"])
    _, _, height, width = volume.shape
    maps = volume.flatten(2)[0].T.reshape(height * width, 1, rows, columns)
    y, x = torch.meshgrid(torch.arange(height, dtype=flow.dtype), torch.arange(width, dtype=flow.dtype), indexing="ij")
    places = ((torch.stack((x, y)) + flow[0]) / 2.0 ** node.attributes["level"]).reshape(2, -1, 1, 1)
    span = torch.arange(-radius, radius + 1, dtype=flow.dtype)
    across, down = torch.meshgrid(span, span, indexing="ij")
    grid = torch.stack(((2 * (places[0] + across) + 1) / columns - 1, (2 * (places[1] + down) + 1) / rows - 1), 3)
    sampled = F.grid_sample(maps, grid, "bilinear", "zeros", False)
    return sampled.reshape(height * width, -1).T.reshape(1, -1, height, width)


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


def apply(node: Node, inputs: list[Tensor]) -> Tensor:
    """One node on torch tensors; differentiable where torch is."""
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
        case "concat":
            return torch.cat(inputs, attributes["axis"])
        case "repeat" if attributes.get("axis") is not None:
            return x.repeat_interleave(attributes["repeats"], attributes["axis"])
        case "tile":
            return x.repeat(*attributes["repeats"])
        case "nn.pixel_shuffle":
            return F.pixel_shuffle(x, attributes["upscale_factor"])
        case "pixel_unshuffle":
            return F.pixel_unshuffle(x, attributes["downscale_factor"])
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
        case "take" if attributes["axis"] is not None and inputs[1].dim() == 1:
            return x.index_select(attributes["axis"], inputs[1].long())
        case "state":  # before the first frame
            return torch.zeros(node.shape, dtype=x.dtype)
        case "step":
            return x
        case "warp":
            rows, columns = x.shape[2:]
            across = torch.arange(columns, dtype=x.dtype) + inputs[1][:, 0]
            down = torch.arange(rows, dtype=x.dtype)[:, None] + inputs[1][:, 1]
            grid = torch.stack((2 * across / max(columns - 1, 1) - 1, 2 * down / max(rows - 1, 1) - 1), 3)
            return F.grid_sample(x, grid, "bilinear", attributes["padding_mode"], True)
        case "correlation":
            reach, (rows, columns) = attributes["reach"], x.shape[2:]
            around, window = F.pad(inputs[1], (reach,) * 4), range(2 * reach + 1)
            moved = (around[:, :, dy : dy + rows, dx : dx + columns] for dy in window for dx in window)
            return torch.cat([(x * one).mean(1, keepdim=True) for one in moved], 1)
        case "windows":
            return _windows(node, x, inputs[1])
        case "pairs":
            first, second = (value.flatten(2)[0] for value in inputs)
            product: Tensor = (second.T @ first) * attributes["factor"]
            return product.reshape(1, -1, *x.shape[2:])
        case "image.grid_sample" if attributes["layout"] == "NCHW":
            return F.grid_sample(
                x, inputs[1].permute(0, 2, 3, 1), attributes["method"], attributes["padding_mode"],
                attributes["align_corners"],
            )  # fmt: skip
        case "nn.softmax":
            return x.softmax(int(attributes["axis"]))
        case "nn.pad" if attributes["pad_mode"] == "constant":
            pairs = list(zip(attributes["pad_width"][::2], attributes["pad_width"][1::2], strict=True))
            return F.pad(x, [int(side) for pair in reversed(pairs) for side in pair], value=attributes["pad_value"])
        case "nn.instance_norm" if len(x) == 1:
            centred = x - x.mean((2, 3), keepdim=True)
            normal = centred * torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + attributes["epsilon"])
            return normal if len(inputs) == 1 else normal * per_axis(inputs[1], x, 1) + per_axis(inputs[2], x, 1)
        case "image.resize2d" if _plain_resize(node):
            aligned = _RESIZES[attributes["coordinate_transformation_mode"]]
            return F.interpolate(x, tuple(node.shape[2:]), mode="bilinear", align_corners=aligned)
        case "mean" | "sum" if attributes["axis"] is not None:
            reduce = torch.mean if node.op == "mean" else torch.sum
            return reduce(x, tuple(attributes["axis"]), keepdim=bool(attributes["keepdims"]))
        case "nn.avg_pool2d" if _plain_pool(node):
            return F.avg_pool2d(x, tuple(attributes["pool_size"]), tuple(attributes["strides"]))
        case _:
            return _by_tvm(node, inputs)


def _by_tvm(node: Node, inputs: list[Tensor]) -> Tensor:
    """One operator through TVM's own code generator: the definition of whatever torch is not told about here."""
    names = [f"operand{i}" for i in range(len(inputs))]
    constants: dict[str, Array] = {name: x.detach().numpy() for name, x in zip(names[1:], inputs[1:], strict=True)}
    single = Graph(
        names[0],
        tuple(inputs[0].shape),
        (Node(node.name, node.op, tuple(names), node.attributes, node.shape, node.dtype),),
        constants,
        node.name,
        str(inputs[0].dtype).removeprefix("torch."),
    )
    try:
        executable = relax.build(to_module(single), "llvm")
        result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(inputs[0].detach().numpy()))
        return torch.from_numpy(result.numpy())
    except Exception as error:  # TVM raises its own and Python's exceptions alike
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise UnsupportedError(
            f"this operator cannot be evaluated here ({reason})",
            where=node.where,
            hint="Calibrate at the network's own size, or export the network without it.",
        ) from error


def trace(graph: Graph, x: Tensor, override: Override | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield ``(name, value)`` of the input and of every node in turn; values are dropped after their last reader.

    ``x: float32[1, C, H, W]``, of any size if the graph is :func:`size_free`. ``override`` may compute a node in its
    own way (return ``None`` for the usual one).
    """
    remaining = {name: len(nodes) for name, nodes in graph.consumers().items()}
    values: dict[str, Tensor] = {name: torch.from_numpy(value.copy()) for name, value in graph.constants.items()}
    values[graph.input] = x
    yield graph.input, x
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        own = override(node, inputs) if override else None
        value = apply(node, inputs) if own is None else own
        values[node.name] = value
        yield node.name, value
        for name in node.inputs:
            remaining[name] -= 1
            if remaining[name] == 0:
                del values[name]


def run(graph: Graph, x: Tensor, override: Override | None = None) -> Tensor:
    """The graph's output on ``x: float32[1, C, H, W]``."""
    result = x
    for name, value in trace(graph, x, override):
        if name == graph.output:
            result = value
    return result


def size_free(graph: Graph) -> bool:
    """Whether the graph runs on frames of any size."""

    def free(node: Node) -> bool:
        return node.op in SIZE_FREE or (node.op == "strided_slice" and set(node.attributes["axes"]) <= {1})

    return all(free(node) for node in graph.nodes)
