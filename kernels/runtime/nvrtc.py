"""CUDA text compiled to machine code by NVRTC without a GPU, with the compiler's report of each kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.hw.errors import CodesignError, InputError

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a")

SOURCES = Path(__file__).parents[1] / "cuda"


@dataclass(frozen=True)
class Kernel:
    """The compiler's report of one kernel."""

    name: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True)
class Binary:
    """Machine code for one architecture."""

    arch: str
    code: bytes = field(repr=False)
    kernels: tuple[Kernel, ...]


def check_architecture(arch: str) -> None:
    """Raises :class:`InputError` for an architecture that this project does not know."""
    if arch not in ARCHITECTURES:
        raise InputError(
            f"unknown GPU architecture {arch!r}", where="--arch", hint=f"Choose one of {', '.join(ARCHITECTURES)}."
        )


def compile_cuda_text(source: str, arch: str) -> Binary:
    """Compile ``source``, which may include this package's headers, for ``arch``.

    Raises :class:`InputError` for an unknown architecture and :class:`CodesignError`, naming the kernel, for a
    text that does not compile.
    """
    from cuda.bindings import nvrtc

    check_architecture(arch)

    def checked(result: tuple[Any, ...]) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CodesignError(f"NVRTC failed: {result[0].name}", where="cuda")
        return result[1] if len(result) > 1 else None

    headers = sorted(SOURCES.glob("*.cuh"))
    program = checked(
        nvrtc.nvrtcCreateProgram(
            source.encode(),
            b"network.cu",
            len(headers),
            [path.read_bytes() for path in headers],
            [path.name.encode() for path in headers],
        )
    )
    options = [f"--gpu-architecture={arch}", "--std=c++17", "--ptxas-options=-v", *_includes()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
    log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    text = log.decode(errors="replace")
    code = b""
    if status == nvrtc.nvrtcResult.NVRTC_SUCCESS:
        code = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
        checked(nvrtc.nvrtcGetCUBIN(program, code))
    nvrtc.nvrtcDestroyProgram(program)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise _broken(source, text)
    return Binary(arch, code, _report(text))


def _report(log: str) -> tuple[Kernel, ...]:
    """Registers and spills of every kernel that the assembler reported."""
    return tuple(
        Kernel(name, int(registers), int(stores) + int(loads))
        for name, stores, loads, registers in re.findall(
            r"Function properties for (\w+)\s.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*?Used (\d+) registers",
            log,
            re.DOTALL,
        )
    )


def _broken(source: str, log: str) -> CodesignError:
    """The first error, and the kernel around it."""
    match = re.search(r"(\w+\.cuh?)\((\d+)\): (?:catastrophic )?error: (.*)", log)
    if match is None:
        return CodesignError(f"CUDA kernels do not compile: {log.strip()[:400]}", where="cuda")
    if match[1] != "network.cu":
        return CodesignError(f"does not compile: {match[3]}", where=f"{match[1]}, line {match[2]}")
    before = "\n".join(source.splitlines()[: int(match[2])])
    names = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s)?(\w+)\(", before)
    kernel = names[-1] if names else "before the first kernel"
    return CodesignError(f"does not compile: {match[3]}", where=f"CUDA kernel {kernel}")


def _includes() -> list[str]:
    """Header folders of the CUDA wheels."""
    import nvidia

    folders = [folder for base in nvidia.__path__ for folder in Path(base).glob("*/include") if folder.is_dir()]
    return [f"--include-path={path}" for folder in folders for path in (folder, folder / "cccl") if path.is_dir()]
