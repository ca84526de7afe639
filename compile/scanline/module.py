"""The runnable module: host operators compiled by TVM, accelerator regions as calls that carry their program.

A region becomes C code that holds the program's bytes and calls the global function ``codesign.scanline.execute`` with
them and the tensors. :func:`load` registers that function with the executor of the user's choice: nothing else is
registered, and the module itself needs neither simulator nor golden model.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax
from tvm.runtime import vm

from codesign.compile.graph.graph import STATE, STEP, Graph, Node
from codesign.compile.ir.relax import CompositeCalls
from codesign.compile.ir.runnable import runnable
from codesign.compile.scanline.partition import Partitioned, Region
from codesign.hw import numerics
from codesign.hw.errors import InputError
from codesign.hw.files import replaced
from codesign.hw.program.program import Program

CODEGEN = "scanline"
"""TVM's name for the code generator of regions."""

EXECUTE = "codesign.scanline.execute"

Int8 = NDArray[np.int8]
Executor = Callable[[Program, dict[str, Int8]], dict[str, Int8]]
"""Runs a program: inputs and outputs by name, ``int8[H, W, C]``."""


def build_module(partitioned: Partitioned, programs: dict[str, Program]) -> Any:
    """An exportable TVM executable of the whole network; ``programs`` by region symbol."""

    def generate(functions: Any, options: Any, constants: Any) -> list[Any]:
        del options, constants
        create = tvm.get_global_func("runtime.CSourceModuleCreate")
        modules = []
        for function in functions:
            symbol = str(function.attrs["global_symbol"])
            modules.append(create(_source(symbol, programs[symbol].to_bytes()), "c", [symbol], []))
        return modules

    # RunCodegen looks its generator up by name; it is there for this call only.
    name = f"relax.ext.{CODEGEN}"
    tvm_ffi.register_global_func(name, generate, override=True)
    try:
        lowered = relax.transform.RunCodegen()(relax_module(partitioned))
    finally:
        tvm_ffi.registry.remove_global_func(name)
    with tvm.transform.PassContext(opt_level=3):
        return relax.build(runnable(lowered), target="llvm")


def relax_module(partitioned: Partitioned) -> tvm.IRModule:
    """The network with every region as a function that the attribute ``Codegen`` leaves to our code generator."""
    graph, builder = partitioned.graph, relax.BlockBuilder()
    calls = CompositeCalls(builder, graph)
    functions = {region.symbol: _region_function(builder, calls, region) for region in partitioned.regions}
    states = [node for node in graph.nodes if node.op == STATE]
    parameters = [relax.Var(graph.input, relax.TensorType(graph.input_shape, graph.input_dtype))]
    parameters += [relax.Var(state.name, relax.TensorType(state.shape, state.dtype)) for state in states]
    values = {parameter.name: parameter for parameter in parameters} | _constants(graph, graph.nodes)
    last = graph.by_name[graph.output]
    with builder.function("main", parameters):
        with builder.dataflow():
            for step in partitioned.steps:
                if isinstance(step, Region):
                    made = calls.bind(step.symbol, relax.Call(functions[step.symbol], [values[n] for n in step.inputs]))
                    several = len(step.outputs) > 1
                    for position, name in enumerate(step.outputs):
                        values[name] = calls.bind(name, relax.TupleGetItem(made, position)) if several else made
                elif step.op not in (STATE, STEP):
                    values[step.name] = calls.emit(step, [values[name] for name in step.inputs])
            results = last.inputs if last.op == STEP else (last.name,)
            outputs = [builder.emit_output(values[name]) for name in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.get()


def _region_function(builder: relax.BlockBuilder, calls: CompositeCalls, region: Region) -> Any:
    graph = region.graph
    parameters = [
        relax.Var(name, relax.TensorType(graph.shape_of(name), graph.dtype_of(name))) for name in region.inputs
    ]
    values = dict(zip(region.inputs, parameters, strict=True)) | _constants(graph, region.nodes)
    attributes = {"Codegen": CODEGEN, "global_symbol": region.symbol}
    with builder.function(region.symbol, parameters, attrs=attributes):
        with builder.dataflow():
            for node in region.nodes:
                values[node.name] = calls.emit(node, [values[name] for name in node.inputs])
            outputs = [builder.emit_output(values[name]) for name in region.outputs]
        return builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))


def _constants(graph: Graph, nodes: Iterable[Node]) -> dict[str, Any]:
    names = {name for node in nodes for name in node.inputs if name in graph.constants}
    return {name: relax.const(graph.constants[name], str(graph.constants[name].dtype)) for name in names}


def export(executable: Any, path: str | Path) -> None:
    """Write the module as a shared library, whole or not at all."""
    if Path(path).suffix != ".so":
        raise InputError("a module is written as a shared library", where=str(path), hint="Give a name ending in .so.")
    with replaced(path) as temporary:
        executable.export_library(str(temporary), cc="g++")


class LoadedModule:
    """A network ready to run: ``run`` takes and returns ``float32[1, C, H, W]``.

    Several may run at once, each in a thread of its own. What the executor raises, ``run`` raises.
    """

    def __init__(self, path: str | Path, executor: Executor) -> None:
        if not Path(path).is_file():
            raise InputError("no such module", where=str(path), hint="Compile the network first.")
        self._executor = executor
        self._programs: dict[int, Program] = {}
        self._failure: BaseException | None = None
        self._machine = vm.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())

    def run(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        _running.module, self._failure = self, None
        try:
            result = self._machine["main"](tvm.runtime.tensor(np.ascontiguousarray(frame, np.float32)))
        except Exception:
            if self._failure is not None:  # TVM hands on a text alone
                raise self._failure from None
            raise
        finally:
            del _running.module
        return np.asarray(result.numpy())

    def _execute(self, address: Any, size: int, *tensors: Any) -> None:
        key = int(getattr(address, "value", address))
        if key not in self._programs:
            self._programs[key] = Program.from_bytes(ctypes.string_at(key, int(size)), where="embedded program")
        program = self._programs[key]
        inputs = {slot.name: _pixels(tensor.numpy()) for slot, tensor in zip(program.inputs, tensors, strict=False)}
        outputs = self._executor(program, inputs)
        for slot, tensor in zip(program.outputs, tensors[len(program.inputs) :], strict=True):
            pixels: NDArray[Any] = outputs[slot.name]
            if str(tensor.dtype) == "int16":
                pixels = numerics.from_byte_planes(pixels)
            tensor.copyfrom(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))


def _pixels(tensor: NDArray[Any]) -> Int8:
    """``int8[1, C, H, W]`` as the machine has it, ``int8[H, W, C]``; int16 in byte planes."""
    pixels = np.ascontiguousarray(tensor[0].transpose(1, 2, 0))
    return numerics.byte_planes(pixels) if pixels.dtype == np.int16 else pixels


_running = threading.local()


def _execute(*arguments: Any) -> None:
    """Call the executor of the module that runs in this thread; a module's code calls this."""
    module: LoadedModule = _running.module
    try:
        module._execute(*arguments)
    except BaseException as error:
        module._failure = error
        raise


tvm_ffi.register_global_func(EXECUTE, _execute, override=True)


def _source(symbol: str, program: bytes) -> str:
    # A string literal compiles many times faster than a list of numbers.
    literal = "".join(f"\\{byte:03o}" for byte in program)
    lines = "\n".join(f'  "{literal[at : at + 4000]}"' for at in range(0, len(literal), 4000))
    return f"""
#include <tvm/ffi/c_api.h>
#ifdef __cplusplus
extern "C" {{
#endif
static const char program_{symbol}[] =
{lines};
TVM_FFI_DLL_EXPORT int __tvm_ffi_{symbol}(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {{
  static TVMFFIObjectHandle execute = 0;
  TVMFFIAny packed[34];
  int32_t i;
  (void)self;
  if (count > 32) return -1;
  if (execute == 0) {{
    TVMFFIByteArray name = {{"{EXECUTE}", {len(EXECUTE)}}};
    int code = TVMFFIFunctionGetGlobal(&name, &execute);
    if (code != 0 || execute == 0) return -1;
  }}
  packed[0].type_index = kTVMFFIOpaquePtr;
  packed[0].zero_padding = 0;
  packed[0].v_ptr = (void*)program_{symbol};
  packed[1].type_index = kTVMFFIInt;
  packed[1].zero_padding = 0;
  packed[1].v_int64 = {len(program)};
  for (i = 0; i < count; i++) packed[i + 2] = args[i];
  return TVMFFIFunctionCall(execute, packed, count + 2, result);
}}
#ifdef __cplusplus
}}
#endif
"""
