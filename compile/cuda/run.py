"""Run an exported CUDA module on this machine's GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.runtime import vm

from codesign.hw.errors import UnsupportedError
from codesign.kernels.runtime.nvrtc import check_architecture


def check_gpu() -> str:
    """The architecture of the first GPU. Raises :class:`UnsupportedError` if there is none, or if it is unknown."""
    device = tvm.cuda(0)
    if not device.exist:
        raise UnsupportedError("this machine has no CUDA GPU", where="--target cuda", hint="Use --target cpu.")
    major, minor = (int(part) for part in str(device.compute_version).split("."))
    arch = "sm_90a" if (major, minor) == (9, 0) else f"sm_{major}{minor}"
    check_architecture(arch)
    return arch


def loaded(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The module's function: it takes and returns ``float32[1, C, H, W]`` and computes in FP16."""
    device = tvm.cuda(0)
    machine = vm.VirtualMachine(tvm.runtime.load_module(str(path)), device)

    def run(frame: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(machine["main"](tvm.runtime.tensor(frame.astype(np.float16), device)).numpy(), np.float32)

    return run
