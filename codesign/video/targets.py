"""A network as a function from planes to planes, on the target of the user's choice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.importing.check.result import ImportCheck
from codesign.compile.importing.value_range import UNIT
from codesign.compile.scanline.module import LoadedModule
from codesign.hw.errors import InputError
from codesign.hw.model import reference
from codesign.video.tiles import Run, tile_size, tiled
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.simulate import host_module
from codesign.workflows.sources import Source
from codesign.workflows.watch import Say, silent

Target = Literal["cpu", "cuda", "scanline-model"]
TARGETS: tuple[Target, ...] = ("cpu", "cuda", "scanline-model")


@dataclass(frozen=True)
class Device:
    """A target, the accelerator that ``scanline-model`` stands for, and the largest side of a frame's tiles."""

    target: Target = "cpu"
    accel: str = "base"
    tile: int | None = None


def check_target(text: str) -> Target:
    """``text`` as a target. Raises :class:`InputError` for an unknown one."""
    if text not in TARGETS:
        raise InputError(f"unknown target {text!r}", where="--target", hint=f"Choose one of {', '.join(TARGETS)}.")
    return text


@contextlib.contextmanager
def running(
    source: Source,
    device: Device,
    size: tuple[int, int],
    say: Say = silent,
    imported: Callable[[ImportCheck], object] = silent,
) -> Iterator[Run]:
    """Prepare ``source`` for frames of ``size`` (width, height); yields a function that runs it.

    Frames are padded to sides that the network takes, and fed in its values; results come back cut and in [0, 1].
    ``imported`` is told how far the import agrees with the model, where the target needs one.

    ``cpu``: FP32 by torch. ``scanline-model``: the machine's golden model, whose bits are the RTL's. ``cuda``: the
    compiled module in FP16. Raises :class:`InputError` for a model file on the CPU and for a missing GPU.
    """
    size = tile_size(size, device.tile)
    if device.target == "cpu":
        if source.module is None:
            raise InputError("a model file has no torch module to run", where=source.name, hint="Use scanline-model.")
        yield _fitted(source, device, _by_torch(source.module))
    elif device.target == "scanline-model":
        compiled = compile_source(source, device.accel, FrameChoice(size), say=say)
        imported(compiled.network.source.check)
        with host_module(compiled, say) as path:
            module = LoadedModule(path, lambda program, inputs: reference.run(program, inputs))
            yield _fitted(source, device, lambda planes: module.run(planes[None])[0])
    else:
        from codesign.compile.cuda.run import check_gpu, loaded
        from codesign.workflows import gpu as cuda

        arch = check_gpu()
        with TemporaryDirectory(prefix="codesign-") as folder:
            path = Path(folder) / "network.so"
            for_gpu = cuda.compile_for_gpu(source, source.sides.padded(size), arch=arch, say=say)
            imported(for_gpu.check)
            for_gpu.module.export(path)
            run = loaded(path)
            yield _fitted(source, device, lambda planes: run(planes[None])[0])


def _fitted(source: Source, device: Device, run: Run) -> Run:
    """``run`` for frames of any size in [0, 1]."""
    sides, values = source.sides, source.values or UNIT

    def fitted(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        height, width = planes.shape[1:]
        fed = values.encode(sides.pad(planes))
        made = values.decode(run(fed))
        scale = made.shape[2] // fed.shape[2]
        return made if fed.shape == planes.shape else made[:, : scale * height, : scale * width]

    return tiled(fitted, device.tile)


def _by_torch(module: torch.nn.Module) -> Run:
    def run(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = module(torch.from_numpy(planes[None]))[0].numpy()
        return result

    return run
