"""Builds everything that a GPU measurement needs into one folder, on a machine that needs no GPU.

``python benchmarks/gpu/prepare.py`` → ``.carry/gpu``: every network's launches and exported module in FP16 and INT8,
the inputs' seeds and the INT8 results' hashes, kernels that measure the machine's peaks, this package, TVM's runtime.
The folder alone then measures: ``python3 .carry/gpu/measure.py`` (``measure.py`` beside this file says what).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from codesign import cuda, networks
from codesign import simulate as verbs
from codesign.compile.gpu import CudaModule, compile_cuda, compile_cuda_int8
from codesign.compile.integer import evaluate
from codesign.hw.errors import CodesignError
from codesign.kernels.bundle import Bundle
from codesign.kernels.nvrtc import compile_cuda_text
from codesign.kernels.tuned import database

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ("espcn_x3", "fsrcnn_x2", "sesr_m5_x2", "abpn_x3", "quicksrnet_m_x3", "srvgg16_x4")
DEEP = ("rrdbnet_x4", "nafnet32", "dncnn17", "spynet")
SIZE = (1280, 720)
INT8_GMAC = 600  # above, the host's integer evaluation takes too long: INT8 is then checked on a smaller frame
SEED = 20

PEAK = """
#include "lanes.cuh"
extern "C" __global__ void __launch_bounds__(512) peak(char* to, int rounds) {
  const int lane = threadIdx.x % WARP;
  unsigned a[4], b[8][2];
  SUM sum[8][4] = {};
  for (int i = 0; i < 4; ++i) a[i] = (0x3c003c00u + lane * 0x00010001u) ^ i;
  for (int n = 0; n < 8; ++n) b[n][0] = b[n][1] = (0x2c002c00u + lane * 0x00010001u) ^ n;
#pragma unroll 1
  for (int round = 0; round < rounds; ++round)
#pragma unroll
    for (int n = 0; n < 8; ++n) multiply(sum[n], a, b[n][0], b[n][1]);
  SUM total = 0;
  for (int n = 0; n < 8; ++n)
    for (int i = 0; i < 4; ++i) total += sum[n][i];
  reinterpret_cast<SUM*>(to)[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
"""
"""Nothing but matrix products from registers: 8 independent chains a warp, four warps a tensor core."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Networks; all without.")] = None,
    arch: Annotated[str, typer.Option(help="Of the GPU that will measure.")] = "sm_90a",
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = ROOT / ".carry" / "gpu",
    size: Annotated[str, typer.Option(help="Of the frames.")] = "1280x720",
) -> None:
    """Build the folder; networks that are there already stay."""
    console = Console(stderr=True)
    width, height = map(int, size.split("x"))
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, Any] = {}
    for name in names or (*LIGHT, *DEEP):
        for precision in ("fp16", "int8"):
            try:
                entry = _network(folder, name, precision, arch, (width, height))
            except CodesignError as error:
                console.print(f"{name} {precision}: {error}", style="yellow", highlight=False)
                continue
            entries[f"{name}-{precision}"] = entry
            console.print(f"{name} {precision}: {entry['launches']} launches", highlight=False)
    for precision, sum_type in (("fp16", "float"), ("int8", "int")):
        binary = compile_cuda_text(PEAK.replace("SUM", sum_type), arch)
        (folder / f"peak-{precision}.cubin").write_bytes(binary.code)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    data = {"arch": arch, "width": width, "height": height, "seed": SEED, "commit": commit, "entries": entries}
    (folder / "manifest.json").write_text(json.dumps(data, indent=1))
    _package(folder)
    shutil.copy(Path(__file__).with_name("measure.py"), folder)
    console.print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.0f} MB")


def _network(folder: Path, name: str, precision: str, arch: str, size: tuple[int, int]) -> dict[str, Any]:
    network = networks.get(name)
    module = networks.load(name)
    tuned = database(arch).lookup
    entry: dict[str, Any] = {
        "network": name, "precision": precision, "channels": network.channels, "scale": network.scale,
        "macs": networks.count_macs(module, *size, network.channels),
    }  # fmt: skip
    source = verbs.find(name, None)
    if precision == "fp16":
        compiled = compile_cuda(verbs.import_source(source, size).module, arch=arch, tuned=tuned)
    else:
        quantised = verbs.compile_source(source, size=size).network
        layers = cuda.whole(quantised)
        compiled = compile_cuda_int8(layers, arch=arch, tuned=tuned)
        if entry["macs"] < INT8_GMAC * 1e9:
            first = layers.tensors[layers.inputs[0]]
            codes = int8_input(SEED, (first.channels, first.height, first.width))
            result = evaluate(quantised.quantised, codes[None])[0]
            entry["sha256"] = hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()
    plan = compiled.plan
    target = folder / f"{name}-{precision}"
    if plan is not None and len(plan.launches) == len(plan.steps):
        bundle = Bundle(
            tuple(plan.launches), plan.stored, plan.graph.input, plan.graph.output, _binary(compiled, arch)
        )  # fmt: skip
        bundle.save(target)
    target.mkdir(exist_ok=True)
    compiled.export(target / "net.so")
    out = plan.stored[plan.graph.output] if plan is not None else None
    return entry | {
        "launches": len(plan.launches) if plan is not None else 0, "kernels": len(compiled.kernels),
        "spilled_bytes": sum(kernel.spilled_bytes for kernel in compiled.kernels),
        "bundled": (target / "launches.json").is_file(),
        "modelled_seconds": plan.seconds if plan is not None else None,
        "output": list(out.shape) if out is not None else None,
    }  # fmt: skip


def _binary(compiled: CudaModule, arch: str) -> bytes:
    return compile_cuda_text(compiled.source, arch).code


def int8_input(seed: int, shape: tuple[int, ...]) -> Any:
    """The codes that the INT8 hash belongs to, ``int8[C, H, W]``."""
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def _package(folder: Path) -> None:
    """This package and TVM's runtime, as a folder for PYTHONPATH on Python 3.12."""
    import tvm

    target = folder / "python"
    shutil.rmtree(target, ignore_errors=True)
    (target / "codesign").mkdir(parents=True)
    shutil.copytree(ROOT / "codesign", target / "codesign", dirs_exist_ok=True)
    for room in ("compile", "hw", "kernels", "sim"):
        shutil.copytree(ROOT / room, target / "codesign" / room)
    installed = Path(tvm.__file__).parent
    skip = shutil.ignore_patterns("libtvm_compiler.so", "__pycache__", "*.pyc", "include", "3rdparty")
    shutil.copytree(installed, target / "tvm", ignore=skip)
    wheels = folder / "wheels"
    versions = [f"apache-tvm-ffi=={_version('apache-tvm-ffi')}", "ml_dtypes", "typing_extensions", "nvidia-ml-py"]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", "3.12", "--implementation", "cp", *platforms, "--platform=manylinux2014_x86_64",
         "-d", str(wheels), *versions], check=True,
    )  # fmt: skip
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, target, "zip")
    shutil.rmtree(wheels)


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    torch.set_num_threads(2)
    typer.run(main)
