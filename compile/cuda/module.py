"""Make a TVM module of launches: Relax calls a C function for each in order, which passes its tensors to the driver.

The module carries the kernels as machine code and opens the CUDA driver when it first runs. It needs TVM's runtime, but
nothing of CUDA's tool kit. Relax plans the memory between launches and shares it where lifetimes allow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from codesign.compile.cuda.launches import GpuPlan
from codesign.compile.ir.relax import binder, emit_inline
from codesign.kernels.runtime.launch import Launch

DRIVER = "libcuda.so.1"


def relax_module(plan: GpuPlan, binary: bytes, *, prefix: str, driver: str = DRIVER) -> tvm.IRModule:
    """The function ``main`` of ``plan``, with the code that launches the kernels of ``binary``.

    ``prefix`` begins the names of its C functions, which must differ between modules of one process. ``main`` first
    calls ``PREFIX_load``, so that nothing is loaded while a CUDA graph is captured.
    """
    graph = plan.graph
    builder = relax.BlockBuilder()
    source = plan.stored[graph.input]
    parameter = relax.Var(graph.input, relax.TensorType(source.shape, source.dtype))
    values: dict[str, Any] = {graph.input: parameter}

    bind = binder(builder)
    symbols = [f"{prefix}_load"]
    with builder.function("main", [parameter], attrs={"num_input": 1}):
        loaded = relax.Call(relax.ExternFunc(symbols[0]), [parameter], ty_args=[relax.TupleType([])])
        builder.emit(loaded)
        with builder.dataflow():
            for index, step in enumerate(plan.steps):
                if not isinstance(step, Launch):
                    operands = [
                        values[name] if name in values else _constant(graph.constants[name])
                        for name in step.node.inputs
                    ]
                    made = emit_inline(step.node, operands, bind)
                    if getattr(made.ty, "dtype", None) is not None and str(made.ty.dtype.dtype) == "float32":
                        made = bind(f"{step.output}.half", relax.op.astype(made, "float16"))  # summed in FP32
                    values[step.output] = made
                    continue
                symbols.append(f"{prefix}_{index}")
                types = [relax.TensorType(plan.stored[name].shape, plan.stored[name].dtype) for name in step.outputs]
                operands = [values[name] for name in step.inputs]
                if step.parameters:
                    operands.append(relax.const(np.frombuffer(step.parameters, np.uint8)))
                call = relax.call_dps_packed(symbols[-1], tuple(operands), out_ty=types if types[1:] else types[0])
                made = bind(".".join(step.outputs), call)
                for position, name in enumerate(step.outputs):
                    values[name] = bind(name, relax.TupleGetItem(made, position)) if types[1:] else made
            output = builder.emit_output(values[graph.output])
        builder.emit_func_output(output)
    module = builder.get()
    create = tvm.get_global_func("runtime.CSourceModuleCreate")
    launches = {index: step for index, step in enumerate(plan.steps) if isinstance(step, Launch)}
    text = c_source(launches, binary, prefix, driver)
    return module.with_attr("external_mods", [create(text, "c", symbols, [])])


def _constant(value: NDArray[Any]) -> Any:
    """A constant of an operator that TVM schedules, in halves like its other operands."""
    return relax.const(value.astype(np.float16) if value.dtype == np.float32 else value)


def build(module: tvm.IRModule, target: Any, *, on_gpu: bool) -> Any:
    """The executable; on a GPU, everything between the network's input and its result is captured as a CUDA graph."""
    config = {"relax.backend.use_cuda_graph": True} if on_gpu else {}
    with tvm.transform.PassContext(opt_level=3, config=config), target:
        return relax.build(module, target=target)


def c_source(launches: dict[int, Launch], binary: bytes, prefix: str, driver: str) -> str:
    """C code: ``PREFIX_load`` and one function per launch, ``PREFIX_<index>(inputs..., parameters, outputs...)``."""
    kernels = sorted({launch.kernel for launch in launches.values()})
    shared = {launch.kernel: 0 for launch in launches.values()}
    for launch in launches.values():
        shared[launch.kernel] = max(shared[launch.kernel], launch.shared_bytes)
    names = ", ".join(f'"{kernel}"' for kernel in kernels)
    sizes = ", ".join(str(shared[kernel]) for kernel in kernels)
    functions = "\n".join(
        _function(f"{prefix}_{index}", launch, kernels.index(launch.kernel)) for index, launch in launches.items()
    )
    prelude = _PRELUDE.format(
        binary=_literal(binary), driver=driver, names=names, sizes=sizes, count=len(kernels), prefix=prefix
    )
    return prelude + functions + _EPILOGUE


def _literal(data: bytes) -> str:
    # A string literal compiles many times faster than a list of numbers.
    text = "".join(f"\\{byte:03o}" for byte in data)
    return "\n".join(f'  "{text[at : at + 4000]}"' for at in range(0, len(text), 4000)) or '""'


def _function(symbol: str, launch: Launch, kernel: int) -> str:
    inputs, count = len(launch.inputs), launch.pointers
    # Relax passes inputs, parameters, outputs; the kernel takes inputs, outputs, parameters.
    blob = [inputs] if launch.parameters else []
    order = [*range(inputs), *range(inputs + len(blob), count), *blob]
    integers = ", ".join(str(value) for value in launch.integers)
    arguments = ", ".join(
        [f"&data[{index}]" for index in order] + [f"&integers[{index}]" for index in range(len(launch.integers))]
    )
    grid = ", ".join(f"{extent}u" for extent in launch.grid)
    return f"""
TVM_FFI_DLL_EXPORT int __tvm_ffi_{symbol}(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {{
  void* data[{count}];
  int integers[] = {{{integers}}};
  void* arguments[] = {{{arguments}}};
  int device = 0;
  (void)self;
  (void)result;
  if (addresses(args, count, {count}, data, &device)) return -1;
  return launch(device, {kernel}, {grid}, {launch.threads}u, {launch.shared_bytes}u, arguments);
}}
"""


_PRELUDE = """
#include <dlfcn.h>
#include <stdio.h>
#include <tvm/ffi/c_api.h>
#include <tvm/ffi/extra/c_env_api.h>
#ifdef __cplusplus
extern "C" {{
#endif

enum {{ KERNELS = {count}, DEVICES = 16, MAX_DYNAMIC_SHARED = 8 }};
static const char binary[] __attribute__((aligned(64))) =
{binary};
static const char* const names[] = {{{names}}};
static const int shared_bytes[] = {{{sizes}}};
static void* functions[DEVICES][KERNELS];
static int device_type[DEVICES];

typedef int (*LoadData)(void**, const void*);
typedef int (*GetFunction)(void**, void*, const char*);
typedef int (*SetAttribute)(void*, int, int);
typedef int (*LaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                            void**);
typedef int (*ErrorName)(int, const char**);
static LoadData load_data;
static GetFunction get_function;
static SetAttribute set_attribute;
static LaunchKernel launch_kernel;
static ErrorName error_name;

static int failed(const char* what, int code) {{
  char text[256];
  const char* name = 0;
  if (error_name && code) error_name(code, &name);
  snprintf(text, sizeof text, "%s (%s)", what, name ? name : "no CUDA driver here");
  TVMFFIErrorSetRaisedFromCStr("RuntimeError", text);
  return -1;
}}

static const DLTensor* tensor(const TVMFFIAny* value) {{
  if (value->type_index == kTVMFFIDLTensorPtr) return (const DLTensor*)value->v_ptr;
  if (value->type_index == kTVMFFITensor) return (const DLTensor*)((const char*)value->v_obj + sizeof(TVMFFIObject));
  return 0;
}}

static int addresses(const TVMFFIAny* args, int count, int expected, void** data, int* device) {{
  int i;
  if (count != expected) return failed("a kernel was called with the wrong number of tensors", 0);
  for (i = 0; i < count; i++) {{
    const DLTensor* one = tensor(&args[i]);
    if (!one) return failed("a kernel was called with something that is no tensor", 0);
    data[i] = (char*)one->data + one->byte_offset;
    *device = one->device.device_id;
    if (*device >= 0 && *device < DEVICES) device_type[*device] = (int)one->device.device_type;
  }}
  return 0;
}}

static int load(int device) {{
  void* module = 0;
  int i, code;
  if (device < 0 || device >= DEVICES) return failed("more GPUs than this module serves", 0);
  if (functions[device][0]) return 0;
  if (!launch_kernel) {{
    void* driver = dlopen("{driver}", RTLD_NOW | RTLD_GLOBAL);
    if (!driver) return failed("{driver} cannot be opened", 0);
    load_data = (LoadData)dlsym(driver, "cuModuleLoadData");
    get_function = (GetFunction)dlsym(driver, "cuModuleGetFunction");
    set_attribute = (SetAttribute)dlsym(driver, "cuFuncSetAttribute");
    error_name = (ErrorName)dlsym(driver, "cuGetErrorName");
    if (!load_data || !get_function || !set_attribute) return failed("the CUDA driver is not one", 0);
    launch_kernel = (LaunchKernel)dlsym(driver, "cuLaunchKernel");
    if (!launch_kernel) return failed("the CUDA driver is not one", 0);
  }}
  code = load_data(&module, binary);
  if (code) return failed("the kernels do not load: they were compiled for another GPU architecture", code);
  for (i = KERNELS - 1; i >= 0; i--) {{  // the first one last: it says that all are there
    void* function = 0;
    code = get_function(&function, module, names[i]);
    if (!code && shared_bytes[i] > 48 * 1024) code = set_attribute(function, MAX_DYNAMIC_SHARED, shared_bytes[i]);
    if (code) return failed(names[i], code);
    functions[device][i] = function;
  }}
  return 0;
}}

static int launch(int device, int kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
                  void** arguments) {{
  void* stream = TVMFFIEnvGetStream(device_type[device], device);
  int code = load(device);
  if (code) return code;
  code = launch_kernel(functions[device][kernel], x, y, z, threads, 1, 1, shared, stream, arguments, 0);
  return code ? failed(names[kernel], code) : 0;
}}

TVM_FFI_DLL_EXPORT int __tvm_ffi_{prefix}_load(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {{
  void* data[1];
  int device = 0;
  (void)self;
  (void)result;
  if (addresses(args, count, 1, data, &device)) return -1;
  return load(device);
}}
"""
_EPILOGUE = """
#ifdef __cplusplus
}
#endif
"""
