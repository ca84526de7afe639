"""An exported torch program becomes a graph: by TVM's importer where it knows an operator, else by torch's own."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import tvm
from torch.fx.traceback import preserve_node_meta
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from codesign.compile.graph.graph import Graph
from codesign.compile.importing.pt2_replay import layer_of
from codesign.compile.importing.spelling.exported import respell
from codesign.compile.importing.spelling.resize import Rule, resized
from codesign.compile.ir import engine
from codesign.compile.ir.aten import find_operator
from codesign.compile.ir.relax import from_module
from codesign.hw.errors import CodesignError, UnsupportedError


def import_program(program: torch.export.ExportedProgram, where: str) -> Graph:
    """The graph of ``program``, of static shapes.

    Raises :class:`UnsupportedError`, naming the operator, for what neither TVM nor torch can compute, and for what
    draws random numbers.
    """
    importer = _NamingImporter()
    try:
        with quiet(), torch.no_grad(), preserve_node_meta():
            program = program.run_decompositions(_decompositions())
            _check_determined(program)
            respell(program)
            module = importer.from_exported_program(program, False, False, False, None)
    except CodesignError:
        raise
    except Exception as error:  # the importer raises assertions, value errors and TVM's own alike
        named = f"{importer.refused.target} '{user_name(importer.refused)}'" if importer.refused is not None else ""
        reason = " ".join(str(error).split())[:300]
        raise UnsupportedError(
            f"an operator that cannot be imported ({reason})",
            where=named or where,
            hint="Write it with supported operators, or leave it out of the exported network.",
        ) from error
    return from_module(module, importer.names)


_PLACED = ("layout", "device", "memory_format")
"""Arguments that say where and how a tensor lies, not what it holds."""


class _Converters(dict[Any, Any]):
    """TVM's converters by operator, and another for what it lacks."""

    def __init__(self, known: dict[Any, Any], other: Callable[[Any], Any]) -> None:
        super().__init__(known)
        self._other = other

    def __missing__(self, name: Any) -> Callable[[Any], Any]:
        return self._other


class _NamingImporter(ExportedProgramImporter):  # type: ignore[misc]
    """TVM's importer, which also remembers the user's name of each operator's variable."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str] = {}
        self.refused: Any = None  # the operator that torch's own engine was asked for last, and cannot compute either

    def _translate_fx_graph(self, graph_module: Any, nodes: Any, inputs_vars: Any, custom_ops: Any = None) -> Any:
        result = super()._translate_fx_graph(graph_module, nodes, inputs_vars, custom_ops)
        for node in nodes:
            variable = self.env.get(node)
            if node.op == "call_function" and isinstance(variable, tvm.relax.Var):
                # An identity returns its operand's variable, which has its name already.
                self.names.setdefault(variable.name, user_name(node))
        return result

    def _elu(self, node: Any) -> tvm.relax.Var:
        # TVM 0.27 leaves out the two scales that SELU and CELU have.
        given = tuple(node.args[1:])
        alpha, scale, input_scale = given + (1.0,) * (3 - len(given))
        if scale == input_scale == 1.0:
            return super()._elu(node)
        emit, x = self.block_builder.emit, self.env[node.args[0]]

        def number(value: float) -> Any:
            return tvm.relax.const(value, x.ty.dtype)

        raised = emit(tvm.relax.op.exp(emit(tvm.relax.op.multiply(x, number(input_scale)))))
        below = emit(tvm.relax.op.multiply(emit(tvm.relax.op.subtract(raised, number(1.0))), number(alpha)))
        bent = emit(tvm.relax.op.where(emit(tvm.relax.op.greater(x, number(0.0))), x, below))
        return emit(tvm.relax.op.multiply(bent, number(scale)))

    def create_convert_map(self) -> dict[str, Any]:
        # TVM 0.27 computes coordinates from the sizes alone, where torch takes the factor that it is given.
        modes = {
            "upsample_nearest2d": ("nearest", "asymmetric"),
            "_upsample_nearest_exact2d": ("nearest", "tf_half_pixel_for_nn"),
            "upsample_bilinear2d": ("linear", "half_pixel"),
            "upsample_bicubic2d": ("cubic", "half_pixel"),
            "_upsample_bilinear2d_aa": ("linear", "half_pixel"),
            "_upsample_bicubic2d_aa": ("cubic", "half_pixel"),
        }
        resizes = {
            f"{name}.{overload}": lambda node, how=how: self._resize(node, *how)
            for name, how in modes.items()
            for overload in ("vec", "default")
        }
        known = {**super().create_convert_map(), **resizes}
        return _Converters({name: self._guarded(convert) for name, convert in known.items()}, self._by_engine)

    def _check_unsupported_func_type(self, nodes: Any) -> None:
        """Nothing: what TVM does not know, torch computes."""

    def _guarded(self, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def converted(node: Any) -> Any:
            try:
                return convert(node)
            except CodesignError:
                raise
            except Exception:  # TVM's own and Python's, for what it does not take of an operator
                self.refused = node
                if find_operator(f"torch.ops.{node.target}") is None:
                    raise
                return self._by_engine(node)

        return converted

    def _by_engine(self, node: Any) -> tvm.relax.Var:
        """``node`` as an operator that torch computes."""
        self.refused = node
        operands: list[Any] = []

        def argument(value: Any) -> Any:
            if isinstance(value, torch.fx.Node):
                held = self.env[value]
                operands.append(held if isinstance(held, tvm.relax.Expr) else self._convert_torch_tensor_to_relax(held))
                return {"tensor": len(operands) - 1}
            if isinstance(value, torch.Tensor):
                operands.append(self._convert_torch_tensor_to_relax(value))
                return {"tensor": len(operands) - 1}
            if isinstance(value, list | tuple):
                return [argument(item) for item in value]
            if isinstance(value, torch.dtype):
                return {"dtype": str(value).removeprefix("torch.")}
            return value

        target = f"torch.ops.{node.target}"
        if find_operator(target) is None:
            raise ValueError(f"{node.target} is no operator of networks")
        names = [one.name for one in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        kept = {key: argument(value) for key, value in given.items() if key not in _PLACED}
        made = node.meta["val"]
        several = made if isinstance(made, list | tuple) else [made]
        types = [engine.tensor_type(one.shape, str(one.dtype).removeprefix("torch.")) for one in several]
        self.refused = None
        return self.block_builder.emit(engine.call(engine.torch_operator(target, kept), operands, types))

    def _resize(self, node: Any, mode: str, coordinates: str) -> tvm.relax.Var:
        given = {argument.name: argument.default_value for argument in node.target._schema.arguments}
        given |= dict(zip(given, node.args, strict=False)) | node.kwargs
        x = self.env[node.args[0]]
        height, width = (int(side) for side in node.meta["val"].shape[2:])
        factors = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
        antialias = node.target.__name__.split(".")[0].endswith("_aa")
        rules = tuple(
            Rule(
                mode,
                "align_corners" if given.get("align_corners") else coordinates,
                float(factor) if factor and not given.get("output_size") else new / int(old),
                "floor",
                -0.5 if antialias else -0.75,
                antialias=antialias,
                inverse=True,
            )
            for factor, new, old in zip(factors, (height, width), x.ty.shape.values[2:], strict=True)
        )
        return resized(self.block_builder.emit, x, (height, width), (rules[0], rules[1]))

    def _grid_sampler_2d(self, node: Any) -> tvm.relax.Var:
        # TVM 0.27 hands the grid over as torch has it, [N, H, W, 2], to an operator that takes [N, 2, H, W].
        emit, grid = self.block_builder.emit, self.env[node.args[1]]
        self.env[node.args[1]] = emit(tvm.relax.op.permute_dims(grid, (0, 3, 1, 2)))
        result = super()._grid_sampler_2d(node)
        self.env[node.args[1]] = grid
        return result


def user_name(node: Any) -> str:
    """The dotted path of the layer (``body.3``) when the operator is one, else torch's name of the operation."""
    if layer := layer_of(node):
        return layer
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    if stack:
        path, kind = list(stack.values())[-1]
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        if path and kind.startswith("torch.nn.modules."):
            return str(path).removeprefix("L['self'].")
    return str(node.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch warns of, prints and logs from the user: errors are told once, by ours."""
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _decompositions() -> Any:
    """torch's decompositions, but of resizes, which would become hundreds of gathered pixels."""
    table = torch.export.default_decompositions()
    for operator in [one for one in table if "upsample" in str(one)]:
        del table[operator]
    return table


def _check_determined(program: torch.export.ExportedProgram) -> None:
    """Refuse operators that draw random numbers: an import has no second run to be held against."""
    for node in program.graph.nodes:
        if node.op == "call_function" and _draws(node):
            raise UnsupportedError(
                "draws random numbers, so that no two runs give the same",
                where=f"{str(node.target).split('.')[1]} '{user_name(node)}'",
                hint="Export the network in evaluation mode, or give it the noise as channels of its image.",
            )


def _draws(node: torch.fx.Node) -> bool:
    target: Any = node.target
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    given = {argument.name: argument.default_value for argument in target._schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    # Dropout and attention are among them, and draw nothing in evaluation mode.
    if "dropout_p" in given:
        return bool(given["dropout_p"])
    return bool(given.get("train", True))
