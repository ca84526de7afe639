"""The front door: a torch module, a saved ``.pt2`` or an ONNX file becomes one canonical Relax function.

Weights files come in by :mod:`codesign.compile.importing.published`, as modules.

The frame's size is pinned here. Models are data: nothing in a file is executed, and nothing outside an ONNX model's
folder is read.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import tvm
from torch.fx.traceback import preserve_node_meta

from codesign.compile.canonical.passes import canonicalise
from codesign.compile.graph.graph import STATE, Graph, Shape
from codesign.compile.graph.passes import passed
from codesign.compile.importing.check.check import Imported, check_import
from codesign.compile.importing.check.engines import OnnxModel, Original, TorchModel
from codesign.compile.importing.check.result import NOT_WANTED, ImportCheck
from codesign.compile.importing.exported import import_program, quiet, user_name
from codesign.compile.importing.limits import MAX_PARTS, most_values
from codesign.compile.importing.onnx import import_onnx, read_onnx
from codesign.compile.importing.pt2 import SavedProgram, read_pt2
from codesign.compile.importing.qdq import is_quantised, normalise_qdq
from codesign.compile.importing.spelling.onnx_qoperator import in_qdq_form
from codesign.compile.importing.value_range import Values, told_values
from codesign.compile.ir.relax import from_module, to_module
from codesign.hw.errors import CodesignError, InputError, UnsupportedError

MAX_SIDE = 65536
MAX_CHANNELS = 4096
MAX_PIXELS = 2**28


@dataclass(frozen=True)
class ImportedModel:
    """A network as one Relax function ``main`` of static shape, batch 1, NCHW, float32 in and out.

    ``quantised``: it already carries quantise/dequantise, normalised to the form of
    :mod:`codesign.compile.quantise.quantise`. ``check``: how far it agrees with the model that it came from.
    ``values``: those of its images, as far as its first operators tell. Shapes are ``(1, C, H, W)``.
    """

    module: tvm.IRModule
    name: str
    input_shape: Shape
    output_shape: Shape
    quantised: bool
    check: ImportCheck = NOT_WANTED
    values: Values | None = None


def load_model(
    source: torch.nn.Module | str | Path,
    *,
    width: int,
    height: int,
    channels: int | None = None,
    states: Sequence[tuple[int, int, int]] = (),
    check: bool = True,
) -> ImportedModel:
    """Import ``source`` for frames of ``width`` x ``height`` pixels, and hold it against its own engine.

    A torch module may be recurrent: beside the image it takes ``states``, (C, H, W) each, and it returns, after its
    result, as many tensors of the same shapes, which it is given with the next frame. The first finds zeros.

    ``channels`` is the image's channel count; without it the model says, or 1 and 3 are tried. Raises
    :class:`InputError` for a file that is missing, corrupt or not a model, for a size outside 1..65536 a side or above
    2**28 pixels and for a wrong channel count; :class:`UnsupportedError`, naming operator and node, for what cannot be
    imported, and for an import that computes something else than the model does. ``check=False`` leaves that open.
    """
    check_frame(width, height)
    if channels is not None and not 1 <= channels <= MAX_CHANNELS:
        raise InputError(
            f"{channels} channels", where="input", hint=f"An image has between 1 and {MAX_CHANNELS} channels."
        )
    with _in_words(source):
        name, door = _door(source, channels, states)
        model = door(width, height)
        checked = check_import(model, door, name) if check else NOT_WANTED
        graph = model.graph
        values = told_values(model.read)
    return ImportedModel(model.module, name, graph.input_shape, graph.output_shape, model.quantised, checked, values)


@contextlib.contextmanager
def _in_words(source: torch.nn.Module | str | Path) -> Iterator[None]:
    """Turn whatever a model makes the libraries raise into :class:`UnsupportedError`; its cause is kept.

    What is known of models is refused by name where it is found; this is for what is not.
    """
    try:
        yield
    except (CodesignError, OSError):
        raise
    except Exception as error:
        where = type(source).__name__ if isinstance(source, torch.nn.Module) else str(source)
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedError(
            f"cannot be imported ({type(error).__name__}{': ' * bool(reason)}{reason})",
            where=where,
            hint="Export the model again, with static sizes; if it runs elsewhere, please report it.",
        ) from error


def _door(
    source: torch.nn.Module | str | Path, channels: int | None, states: Sequence[tuple[int, int, int]]
) -> tuple[str, Callable[[int, int], Imported]]:
    """The model's name, and what imports it for one size."""
    if isinstance(source, torch.nn.Module):
        name, module = type(source).__name__.lower(), _evaluating(source)
        return name, lambda width, height: _from_module(module, width, height, channels, name, states)
    path = Path(source)
    _check_file(path)
    match path.suffix.lower():
        case ".onnx":
            model = in_qdq_form(read_onnx(path))
            return path.stem, lambda width, height: _from_onnx(path, model, width, height, channels)
        case ".pt2":
            saved = read_pt2(path)
            return path.stem, lambda width, height: _from_saved(saved, width, height, channels, path)
        case ".pt" | ".pth" | ".pkl" | ".pickle" | ".bin":
            raise InputError(
                "a pickled file is a program, and running it could do anything; it is not loaded",
                where=str(path),
                hint="Save the network with torch.export.save(torch.export.export(net, (example,)), 'net.pt2') or as "
                "ONNX; weights of a shipped network go through --weights, those of a published architecture end in "
                ".pth, .ckpt or .safetensors.",
            )
        case _:
            raise InputError(
                f"unknown kind of model file '{path.suffix}'",
                where=str(path),
                hint="Give a .pt2, .onnx, .pth, .ckpt or .safetensors file.",
            )


def _from_module(
    module: torch.nn.Module,
    width: int,
    height: int,
    channels: int | None,
    name: str,
    states: Sequence[tuple[int, int, int]],
) -> Imported:
    program = _export(module, width, height, channels, name, states)
    return _finished(import_program(program, name), TorchModel(module, program, user_name), name, len(states))


def _from_saved(saved: SavedProgram, width: int, height: int, channels: int | None, path: Path) -> Imported:
    program = _exported(saved, width, height, channels)
    return _finished(import_program(program, str(path)), TorchModel(saved.module, program, user_name), path.stem)


def _from_onnx(path: Path, model: onnx.ModelProto, width: int, height: int, channels: int | None) -> Imported:
    graph = import_onnx(path, model, width=width, height=height, channels=channels)
    return _finished(graph, OnnxModel(path, model), path.stem)


def check_frame(width: int, height: int) -> None:
    """Raise :class:`InputError` for a frame that has no pixels or too many."""
    if width < 1 or height < 1:
        raise InputError(
            f"a frame of {width}x{height} has no pixels", where="--size", hint="Give WIDTHxHEIGHT, both ≥ 1."
        )
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputError(
            f"a frame of {width}x{height} is too large",
            where="--size",
            hint=f"At most {MAX_SIDE} a side and {MAX_PIXELS} pixels; cut larger frames into tiles.",
        )


def _check_file(path: Path) -> None:
    if not path.exists():
        raise InputError("no such file", where=str(path), hint="Check the path of the model.")
    if not path.is_file():
        raise InputError("not a file", where=str(path), hint="Give the model file itself.")
    try:
        empty = path.stat().st_size == 0
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), hint="Check its permissions."
        ) from error
    if empty:
        raise InputError("the file is empty", where=str(path), hint="Export or download the model again.")


def _finished(graph: Graph, original: Original, name: str, states: int = 0) -> Imported:
    """``graph`` in canonical form, if it is a network as this project takes them."""
    read = graph
    found = [node.name for node in graph.nodes if node.op == STATE]
    if len(found) != states:
        raise UnsupportedError(
            f"the network has {1 + len(found)} inputs ({', '.join([graph.input, *found])})",
            where="main",
            hint="Networks with exactly one image input are supported, and torch modules that are recurrent.",
        )
    for after, state in graph.carried:
        if graph.shape_of(after) != graph.shape_of(state):
            raise InputError(
                f"is {list(graph.shape_of(state))} and is left as {list(graph.shape_of(after))}",
                where=f"state '{state}'",
                hint="A network must leave what it takes.",
            )
    if len(graph.input_shape) != 4 or graph.input_shape[0] != 1 or graph.input_dtype != "float32":
        raise UnsupportedError(
            f"the input is {graph.input_dtype}{list(graph.input_shape)}",
            where=f"input '{graph.input}'",
            hint="The network must take float32 images as [1, C, H, W].",
        )
    _check_values(graph)
    graph = canonicalise(passed("imported", graph))
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.constants and graph.constants[name].dtype.kind not in "biuf":
                raise UnsupportedError(
                    f"reads constants of type {graph.constants[name].dtype}",
                    where=node.where,
                    hint="Export the model in float32, or quantise it to int8.",
                )
    empty = next((node for node in graph.nodes if min(node.shape, default=1) < 1), None)
    if empty is not None:
        raise UnsupportedError(
            f"makes a tensor without values, {list(empty.shape)}",
            where=empty.where,
            hint="Check its sizes, or give a larger frame.",
        )
    quantised = is_quantised(graph)
    if quantised:
        graph = normalise_qdq(graph)
    if not graph.nodes:
        raise UnsupportedError("the network computes nothing", where=name, hint="Its output is its input.")
    module = to_module(graph)
    return Imported(read, module, from_module(module), quantised, original)


def _check_values(graph: Graph) -> None:
    """Raise :class:`UnsupportedError` for a network, or a tensor of it, that nobody could compute."""
    if len(graph.nodes) > MAX_PARTS:
        raise UnsupportedError(
            f"the network has {len(graph.nodes)} operators", where="main", hint=f"At most {MAX_PARTS} can be compiled."
        )
    _, depth, height, width = graph.input_shape
    if depth > MAX_CHANNELS:
        raise UnsupportedError(
            f"the input has {depth} channels",
            where=f"input '{graph.input}'",
            hint=f"An image has between 1 and {MAX_CHANNELS} channels.",
        )
    for node in graph.nodes:
        if math.prod(node.shape) > most_values(width, height):
            raise UnsupportedError(
                f"makes a tensor of {'x'.join(map(str, node.shape))} values",
                where=node.where,
                hint="Check its sizes and factors; export the model again.",
            )


def _exported(program: SavedProgram, width: int, height: int, channels: int | None) -> torch.export.ExportedProgram:
    """``program`` exported for frames of one size."""
    _, depth, rows, columns = program.fixed
    if channels is not None and depth is not None and channels != depth:
        raise InputError(
            f"the network takes {depth} channels, the image has {channels}",
            where=program.where,
            hint=f"Give an image of {depth} channels.",
        )
    if rows not in (None, height) or columns not in (None, width):
        raise InputError(
            f"the program is fixed to {columns or width}x{rows or height} pixels, not {width}x{height}",
            where=program.where,
            hint="Ask for that size, or export it again with dynamic height and width (torch.export.Dim.AUTO).",
        )
    count = channels or depth or 3
    program.check_extents((1, count, height, width))
    return _export(program.module, width, height, count, program.where)


def _first_weight_channels(module: torch.nn.Module) -> list[int]:
    """Channel counts worth trying: what the first convolution takes, then luma and RGB."""
    found = [layer.in_channels for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)][:1]
    return list(dict.fromkeys([*found, 1, 3]))


def _export(
    module: torch.nn.Module,
    width: int,
    height: int,
    channels: int | None,
    where: str,
    states: Sequence[tuple[int, int, int]] = (),
) -> torch.export.ExportedProgram:
    candidates = [channels] if channels is not None else _first_weight_channels(module)
    failure: Exception | None = None
    for count in candidates:
        examples = (torch.zeros(1, count, height, width), *(torch.zeros(1, *shape) for shape in states))
        try:
            with quiet(), torch.no_grad(), preserve_node_meta():
                return torch.export.export(module, examples)
        except CodesignError:
            raise
        except Exception as error:  # torch.export raises many kinds, user code any
            failure = failure or error
    reason = " ".join(str(failure).split())[:300]
    listed = " or ".join(str(count) for count in candidates)
    raise InputError(
        f"the network does not take a float32 image [1, {listed}, {height}, {width}] ({reason})",
        where=where,
        hint="Check the channel count and the size; a program exported for one fixed size must be exported again with "
        "that size or with dynamic height and width.",
    ) from failure


def _evaluating(module: torch.nn.Module) -> torch.nn.Module:
    """``module`` in evaluation mode; the caller's own is left in training mode."""
    return copy.deepcopy(module).eval() if module.training else module.eval()
