"""Builds everything that a GPU measurement needs into one folder, on a machine that needs no GPU.

``python benchmarks/gpu/prepare.py --part light`` → ``.carry/gpu-light`` (then ``deep``, ``flow``, ``wide``): every
network's launches in FP16 and INT8, light ones' exported modules with TVM's runtime too, the inputs' seeds and the
INT8 results' hashes, kernels that measure the machine's peaks, and this package. An interrupted build can be continued.
The folder is then measured on its own: ``python3 .carry/gpu-light/measure.py`` (see ``measure.py`` and ``README.md``
beside this file).
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

from codesign import networks
from codesign.compile.cuda.compile import CudaModule, compile_cuda, compile_cuda_int8
from codesign.compile.referee.integer import evaluate
from codesign.hw.errors import CodesignError
from codesign.kernels.runtime.bundle import Bundle
from codesign.kernels.runtime.nvrtc import compile_cuda_text
from codesign.kernels.tuning.traces import traces
from codesign.kernels.tuning.tuned import database
from codesign.workflows import gpu as cuda
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find, import_source

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ("espcn_x3", "fsrcnn_x2", "sesr_m5_x2", "abpn_x3", "quicksrnet_m_x3", "srvgg16_x4")
PARTS = {
    "light": (*LIGHT, "dncnn17", "flow_small", "spynet"),
    "deep": ("rrdbnet_x4", "raft_small"),
    "flow": ("raft", "pwcnet"),
    "wide": ("nafnet32",),
}
"""Folders that are carried separately, since weights are large."""

SIZES = {
    "flow_small": "1024x448",
    "spynet": "1024x448",
    "raft": "1024x440",
    "raft_small": "1024x440",
    "pwcnet": "1024x448",
    "nafnet32": "512x512",
}
"""Frame sizes other than --size: the published ones."""

NO_INT8 = ("flow_small", "spynet", "raft", "raft_small", "pwcnet", "nafnet32")
ENERGY = ("sesr_m5_x2", "srvgg16_x4", "dncnn17", "spynet", "rrdbnet_x4", "raft")
"""Networks whose energy is measured, in loops of tens of seconds each."""

MODULES = LIGHT
"""Networks that are also carried as TVM modules, which have a second copy of the weights."""

LIMIT_BYTES = 64 << 20
"""Largest size of a carried folder, in bytes."""

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
"""A kernel of matrix products from registers alone: 8 independent chains per warp, four warps per tensor core."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Networks; those of the part by default.")] = None,
    part: Annotated[str, typer.Option(help="light, deep, flow or wide.")] = "light",
    arch: Annotated[str, typer.Option(help="Architecture of the GPU that will measure.")] = "sm_90a",
    folder: Annotated[Path | None, typer.Option(help="Folder to write; .carry/gpu-PART by default.")] = None,
    size: Annotated[str, typer.Option(help="Size of the frames, except for flow networks.")] = "1280x720",
) -> None:
    """Build the folder; existing networks are kept."""
    console = Console(stderr=True)
    if part not in PARTS:
        raise typer.BadParameter(f"unknown part {part!r}: {', '.join(PARTS)}", param_hint="--part")
    width, height = map(int, size.split("x"))
    folder = folder or ROOT / ".carry" / f"gpu-{part}"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.json"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    data: dict[str, Any] = {"arch": arch, "width": width, "height": height, "seed": SEED, "commit": commit}
    before = json.loads(manifest.read_text()) if manifest.is_file() else {}
    same = all(before.get(key) == value for key, value in data.items())
    entries: dict[str, Any] = before["entries"] if same else {}
    for name in names or PARTS[part]:
        for precision in ("fp16",) if name in NO_INT8 else ("fp16", "int8"):
            if f"{name}-{precision}" in entries:
                continue
            columns, rows = map(int, SIZES.get(name, size).split("x"))
            try:
                entry = _network(folder, name, precision, arch, (columns, rows))
            except CodesignError as error:
                console.print(f"{name} {precision}: {error}", style="yellow", highlight=False)
                continue
            entries[f"{name}-{precision}"] = entry
            manifest.write_text(json.dumps(data | {"entries": entries}, indent=1))  # an interrupted build is continued
            console.print(f"{name} {precision}: {entry['launches']} launches", highlight=False)
    for precision, sum_type in (("fp16", "float"), ("int8", "int")):
        binary = compile_cuda_text(PEAK.replace("SUM", sum_type), arch)
        (folder / f"peak-{precision}.cubin").write_bytes(binary.code)
    manifest.write_text(json.dumps(data | {"entries": entries}, indent=1))
    _package(folder, with_tvm=any(folder.glob("*/net.so")))
    shutil.copy(Path(__file__).with_name("measure.py"), folder)
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    style = "red" if total > LIMIT_BYTES else None
    console.print(f"{folder}: {total / 2**20:.1f} MiB of {LIMIT_BYTES >> 20}", style=style, highlight=False)


def _network(folder: Path, name: str, precision: str, arch: str, size: tuple[int, int]) -> dict[str, Any]:
    network = networks.get(name)
    module = networks.load(name)
    tuned = database(arch).lookup
    entry: dict[str, Any] = {
        "network": name,
        "precision": precision,
        "channels": network.channels,
        "scale": network.scale,
        "width": size[0],
        "height": size[1],
        "energy": name in ENERGY,
        "macs": networks.count_macs(module, *size, network.channels),
    }
    source = find(name, None)
    if precision == "fp16":
        compiled = compile_cuda(import_source(source, size).module, arch=arch, tuned=tuned, traces=traces(arch))
    else:
        quantised = compile_source(source, choice=FrameChoice(size)).network
        layers = cuda.whole(quantised)
        compiled = compile_cuda_int8(layers, arch=arch, tuned=tuned)
        if entry["macs"] < INT8_GMAC * 1e9:
            first = layers.tensors[layers.inputs[0]]
            codes = int8_input(SEED, (first.channels, first.height, first.width))
            result = evaluate(quantised.partitioned.graph, codes[None])[0]
            entry["sha256"] = hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()
    plan = compiled.plan
    target = folder / f"{name}-{precision}"
    if plan is not None and len(plan.launches) == len(plan.steps):
        bundle = Bundle(tuple(plan.launches), plan.stored, plan.graph.input, plan.graph.output, _binary(compiled, arch))
        bundle.save(target)
    target.mkdir(exist_ok=True)
    if name in MODULES or not (target / "launches.json").is_file():
        compiled.export(target / "net.so")
    out = plan.stored[plan.graph.output] if plan is not None else None
    return entry | {
        "launches": len(plan.launches) if plan is not None else 0,
        "kernels": len(compiled.kernels),
        "spilled_bytes": sum(kernel.spilled_bytes for kernel in compiled.kernels),
        "bundled": (target / "launches.json").is_file(),
        "modelled_seconds": plan.seconds if plan is not None else None,
        "output": list(out.shape) if out is not None else None,
    }


def _binary(compiled: CudaModule, arch: str) -> bytes:
    return compile_cuda_text(compiled.source, arch).code


def int8_input(seed: int, shape: tuple[int, ...]) -> Any:
    """Input codes of the INT8 hash, ``int8[C, H, W]``."""
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def _package(folder: Path, *, with_tvm: bool) -> None:
    """This package, and TVM's runtime, as a folder for PYTHONPATH on Python 3.12."""
    import tvm

    target = folder / "python"
    shutil.rmtree(target, ignore_errors=True)
    (target / "codesign").mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "codesign", target / "codesign", dirs_exist_ok=True, ignore=skip)
    if with_tvm:
        installed = Path(tvm.__file__).parent
        skip = shutil.ignore_patterns(
            "libtvm_compiler.so", "__pycache__", "*.pyc", "include", "3rdparty", "*_testing.so"
        )
        shutil.copytree(installed, target / "tvm", ignore=skip)
    wheels = folder / "wheels"
    versions = ["nvidia-ml-py"]
    if with_tvm:
        versions += [f"apache-tvm-ffi=={_version('apache-tvm-ffi')}", "ml_dtypes", "typing_extensions"]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.12",
            "--implementation",
            "cp",
            *platforms,
            "--platform=manylinux2014_x86_64",
            "-d",
            str(wheels),
            *versions,
        ],
        check=True,
    )
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, target, "zip")
    shutil.rmtree(wheels)


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    torch.set_num_threads(2)
    typer.run(main)
