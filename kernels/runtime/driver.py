"""A GPU through its driver alone: load kernels, launch, time. Needs ctypes and numpy, not the CUDA toolkit.

Tuning and benchmarks use it, so that they run on machines with little more than a driver. Compiled networks do not
need it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import CodesignError

LIBRARY = "libcuda.so.1"

_MULTIPROCESSORS, _L2_BYTES, _MAJOR, _MINOR = 16, 38, 75, 76  # CUdevice_attribute
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_CAPTURE_THREAD_LOCAL = 1


@dataclass(frozen=True)
class Function:
    """A loaded kernel."""

    handle: int = field(repr=False)
    name: str


class Driver:
    """The first GPU, its primary context and one stream. Raises :class:`CodesignError`, in words, when a call fails."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise CodesignError(
                "no CUDA driver on this machine", where=library, hint="Run on a machine with an NVIDIA GPU."
            ) from error
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 1)  # does not wait for the default stream
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.l2_bytes = self._attribute(_L2_BYTES)
        self.capability = self._attribute(_MAJOR), self._attribute(_MINOR)

    @property
    def name(self) -> str:
        """The GPU's name, reported by the driver."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        return text.value.decode()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorName(code, ctypes.byref(text))
            raise CodesignError(f"{name} failed: {(text.value or b'?').decode()}", where="GPU")

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def load(self, code: bytes, kernel: str, shared_bytes: int = 0) -> Function:
        """Kernel ``kernel`` of machine code ``code``, allowed ``shared_bytes`` of dynamic shared memory."""
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code))
        self._call("cuModuleGetFunction", ctypes.byref(handle), module, kernel.encode())
        if shared_bytes > 48 * 1024:
            self._call("cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED, shared_bytes)
        assert handle.value is not None
        return Function(handle.value, kernel)

    def allocate(self, data: NDArray[Any] | int) -> int:
        """Allocate device memory with a copy of ``data``, or of that many bytes; returns its address."""
        size = data if isinstance(data, int) else data.nbytes
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(16, size)))
        if not isinstance(data, int):
            self.upload(address.value, data)
        return address.value

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, data: NDArray[Any]) -> None:
        """Copy ``data`` to the device."""
        data = np.ascontiguousarray(data)
        size = ctypes.c_size_t(data.nbytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(data.ctypes.data), size)

    def download(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Copy from the device, after everything launched so far."""
        self.synchronise()
        result = np.empty(shape, dtype)
        size = ctypes.c_size_t(result.nbytes)
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(result.ctypes.data), ctypes.c_uint64(address), size)
        return result

    def launch(
        self,
        function: Function,
        grid: tuple[int, int, int],
        threads: int | tuple[int, int, int],
        shared_bytes: int,
        pointers: Sequence[int],
        integers: Sequence[int],
    ) -> None:
        """Start a kernel on this driver's stream."""
        values: list[Any] = [ctypes.c_uint64(pointer) for pointer in pointers]
        values += [ctypes.c_int(integer) for integer in integers]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        block = (threads, 1, 1) if isinstance(threads, int) else threads
        self._call(
            "cuLaunchKernel",
            ctypes.c_void_p(function.handle),
            *grid,
            *block,
            shared_bytes,
            self._stream,
            arguments,
            None,
        )

    def synchronise(self) -> None:
        """Wait for everything launched."""
        self._call("cuCtxSynchronize")

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record the launches of ``enqueue`` as a CUDA graph; calling the result starts it."""
        self._call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD_LOCAL)
        enqueue()
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        return lambda: self._call("cuGraphLaunch", executable, self._stream)

    def seconds(self, enqueue: Callable[[int], None], *, warm: int = 3, launches: int = 20, rounds: int = 7) -> float:
        """Median over ``rounds`` of the mean time of ``launches`` calls of ``enqueue(i)``, by events on the stream."""
        for index in range(warm):
            enqueue(index)
        begin, end = self._event(), self._event()
        found = []
        for _ in range(rounds):
            self._call("cuEventRecord", begin, self._stream)
            for index in range(launches):
                enqueue(index)
            self._call("cuEventRecord", end, self._stream)
            self._call("cuEventSynchronize", end)
            elapsed = ctypes.c_float()
            self._call("cuEventElapsedTime", ctypes.byref(elapsed), begin, end)
            found.append(elapsed.value * 1e-3 / launches)
        return float(np.median(found))

    def _event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        return event
