"""Search on a GPU: candidates are built anywhere, measured on a machine with a driver, and the fastest are recorded.

:func:`prepare` compiles the candidates of stacks into a folder, to which the compiler adds those of TVM's operators
(``compile/cuda/tvm_operators.py``, :class:`Builds`). :func:`measure` times them on a GPU and appends to
``results.jsonl`` there; it needs only numpy and a driver (``python -m codesign.kernels.tuning.search FOLDER``) and
continues an interrupted run. :func:`collect` reads the winners. A candidate whose result differs from the others'
is reported and never wins.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import CodesignError, InputError
from codesign.hw.files import write_text
from codesign.kernels import implicit_gemm, stack_search
from codesign.kernels.implicit_gemm import GemmConv
from codesign.kernels.runtime.driver import Driver
from codesign.kernels.runtime.nvrtc import Binary, compile_cuda_text
from codesign.kernels.stack import Stack, grid, layout, pack, render, signature
from codesign.kernels.tuning.traces import TraceRecord
from codesign.kernels.tuning.tuned import Record, schedule_of

KERNEL = "candidate"
TOLERANCE = 1e-2
"""Largest relative distance of two candidates' FP16 results; INT8 results must be equal."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Task:
    """A stack to tune at a frame size."""

    stack: Stack
    height: int
    width: int

    @property
    def key(self) -> tuple[str, int, int]:
        return signature(self.stack), self.height, self.width


def tensor_bytes(task: Task) -> tuple[list[int], list[int]]:
    """Bytes of the inputs and outputs of a launch."""
    stack, pixels = task.stack, task.height * task.width

    def of(name: str, planar: bool, square: int = 1) -> int:
        channels = stack.channels(name)
        per_pixel = channels * stack.element_bytes if planar else -(-channels // square // stack.chunk) * 16 * square
        return per_pixel * pixels

    inputs = [of(item.name, item.format == "planar") for item in stack.inputs]
    return inputs, [of(out.name, out.format == "planar", out.shuffle**2) for out in stack.outputs]


def prepare(tasks: Sequence[Task], arch: str, folder: Path, *, limit: int = 12, say: Say = print) -> None:
    """Compile up to ``limit`` candidates of each task into ``folder``; existing ones are kept."""
    builds = opened(folder, arch)
    for number, task in enumerate(tasks):
        if builds.has(*task.key):
            continue
        say(f"build {number + 1} of {len(tasks)}: {task.key[0]}")
        inputs, outputs = tensor_bytes(task)
        item: dict[str, Any] = {
            "kind": "stack",
            "signature": task.key[0],
            "height": task.height,
            "width": task.width,
            "dtype": "float16" if task.stack.precision == "fp16" else "int8",
            "inputs": inputs,
            "outputs": outputs,
            "meaningful": _meaningful(task.stack),
        }
        arguments = [f"input_{i}" for i in range(len(inputs))] + [f"output_{i}" for i in range(len(outputs))]
        made = []
        for schedule in stack_search.candidates(task.stack, arch, task.height, task.width, limit=limit):
            binary = compile_cuda_text(render(task.stack, schedule, KERNEL), arch)
            placed = layout(task.stack, schedule)
            call = {
                "kernel": KERNEL,
                "arguments": [*arguments, "parameters"],
                "grid": grid(schedule, task.height, task.width),
                "threads": (placed.warps(task.stack) * 32, 1, 1),
                "shared_bytes": placed.shared_bytes,
                "integers": [task.height, task.width],
            }
            made.append(Build({"schedule": asdict(schedule)}, binary, (call,), pack(task.stack, schedule)[0]))
        builds.add(item, made)


@dataclass(frozen=True, eq=False)
class GemmTask:
    """A wide convolution to tune. ``size``: height and width of its input, then of its output before any shuffle."""

    wide: GemmConv
    size: tuple[int, int, int, int]

    @property
    def key(self) -> tuple[str, int, int]:
        return implicit_gemm.signature(self.wide), *self.size[2:]


def prepare_gemms(tasks: Sequence[GemmTask], arch: str, folder: Path, *, limit: int = 12, say: Say = print) -> None:
    """The same as :func:`prepare` for wide convolutions; schedules that spill registers are left out."""
    builds = opened(folder, arch)
    for number, task in enumerate(tasks):
        if builds.has(*task.key):
            continue
        say(f"build {number + 1} of {len(tasks)}: {task.key[0]}")
        wide, (height, width, rows, columns) = task.wide, task.size
        inputs = [planes * 16 * height * width for planes in wide.planes]
        inputs += [wide.add_planes * 16 * rows * columns] if wide.conv.add is not None else []
        square = wide.shuffle**2
        channels = wide.conv.channels // square
        chunked = wide.format == "chunked"
        per_pixel = -(-channels // wide.chunk) * 16 if chunked else channels * 16 // wide.chunk
        item: dict[str, Any] = {
            "kind": "gemm",
            "signature": task.key[0],
            "height": rows,
            "width": columns,
            "dtype": "float16" if wide.precision == "fp16" else "int8",
            "inputs": inputs,
            "outputs": [per_pixel * rows * columns * square],
            "meaningful": [[-(-channels // wide.chunk), wide.chunk, channels] if chunked else [1, 1, 1]],
        }
        made = []
        for schedule in implicit_gemm.candidates(wide, arch, rows, columns, limit=limit):
            binary = compile_cuda_text(implicit_gemm.render(wide, schedule, KERNEL), arch)
            if any(kernel.spilled_bytes for kernel in binary.kernels):
                continue
            call = {
                "kernel": KERNEL,
                "arguments": [*(f"input_{i}" for i in range(len(inputs))), "output_0", "parameters"],
                "grid": implicit_gemm.grid(wide, schedule, rows, columns),
                "threads": (schedule.threads, 1, 1),
                "shared_bytes": implicit_gemm.shared_bytes(wide, schedule),
                "integers": list(task.size),
            }
            made.append(Build({"schedule": asdict(schedule)}, binary, (call,), implicit_gemm.pack(wide, schedule)[0]))
        builds.add(item, made)


@dataclass(frozen=True)
class Build:
    """A candidate to be measured: its parameters, its machine code, its launches over named buffers.

    Buffers: ``input_N``, ``output_N``, ``parameters`` and those of ``scratch``, name to bytes.
    """

    choice: Mapping[str, Any]
    binary: Binary
    calls: Sequence[Mapping[str, Any]]
    parameters: bytes = field(default=b"", repr=False)
    scratch: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Builds:
    """A folder of candidates for one architecture: ``tasks.json``, and machine code and parameters of each."""

    folder: Path
    known: dict[str, Any]

    def has(self, signature_: str, height: int, width: int) -> bool:
        """Whether a task's candidates exist already."""
        key = signature_, height, width
        return any((item["signature"], item["height"], item["width"]) == key for item in self.known["tasks"])

    def add(self, item: Mapping[str, Any], builds: Sequence[Build]) -> None:
        """Write a task with its candidates."""
        entries = []
        for number, build in enumerate(builds):
            name = f"{len(self.known['tasks']):04d}-{number:02d}"
            (self.folder / f"{name}.cubin").write_bytes(build.binary.code)
            if build.parameters:
                (self.folder / f"{name}.bin").write_bytes(build.parameters)
            kernels = build.binary.kernels
            entries.append(
                {
                    "name": name,
                    **build.choice,
                    "launches": list(build.calls),
                    "scratch": dict(build.scratch),
                    "registers": max(kernel.registers for kernel in kernels),
                    "spilled_bytes": sum(kernel.spilled_bytes for kernel in kernels),
                }
            )
        self.known["tasks"].append({**item, "candidates": entries})
        write_text(self.folder / "tasks.json", json.dumps(self.known))


def opened(folder: Path, arch: str) -> Builds:
    """The folder, created if missing. Raises :class:`InputError` if it is for another architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tasks.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"arch": arch, "tasks": []}
    if known["arch"] != arch:
        raise InputError(f"holds candidates for {known['arch']}", where=str(folder), hint="Choose another folder.")
    return Builds(folder, known)


def _meaningful(stack: Stack) -> list[list[int]]:
    """Planes, channels of a chunk, and number of used channels of every output."""
    found = []
    for out in stack.outputs:
        channels = stack.channels(out.name) // out.shuffle**2
        found.append([1, 1, 1] if out.format == "planar" else [-(-channels // stack.chunk), stack.chunk, channels])
    return found


def measure(folder: Path, driver: Driver, *, say: Say = print, seconds: float | None = None) -> None:
    """Time every candidate of ``folder`` that has no result yet, for at most ``seconds``.

    Raises :class:`CodesignError` if the GPU has another architecture than the candidates.
    """
    known = json.loads((folder / "tasks.json").read_text())
    capability = "".join(map(str, driver.capability))
    if known["arch"].removeprefix("sm_").rstrip("a") != capability:
        raise CodesignError(
            f"is an sm_{capability}, the candidates are for {known['arch']}",
            where=driver.name,
            hint="Build candidates for this GPU's architecture.",
        )
    began = time.monotonic()
    results = folder / "results.jsonl"
    done = {json.loads(line)["name"] for line in results.read_text().splitlines()} if results.is_file() else set()
    for item in known["tasks"]:
        waiting = [candidate for candidate in item["candidates"] if candidate["name"] not in done]
        if not waiting:
            continue
        if seconds is not None and time.monotonic() - began > seconds:
            say("out of time; run again to go on")
            return
        for entry in _measure_task(folder, item, waiting, driver):
            with results.open("a") as file:
                file.write(json.dumps(entry | {"device": driver.name, "date": date.today().isoformat()}) + "\n")
        say(f"measured {item['signature'][:100]}")


def _measure_task(
    folder: Path, item: Mapping[str, Any], waiting: Sequence[Mapping[str, Any]], driver: Driver
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    dtype = np.dtype(item["dtype"])
    touched = sum(item["inputs"]) + sum(item["outputs"])
    sets = max(2, min(32, -(-2 * driver.l2_bytes // touched)))
    of_stack = item["kind"] != "operator"
    inputs = [[driver.allocate(_values(rng, size, dtype, of_stack)) for size in item["inputs"]] for _ in range(sets)]
    outputs = [[driver.allocate(size) for size in item["outputs"]] for _ in range(sets)]
    entries: list[dict[str, Any]] = []
    results: list[list[NDArray[Any]]] = []
    for candidate in waiting:
        code = (folder / f"{candidate['name']}.cubin").read_bytes()
        calls = [(driver.load(code, call["kernel"], call["shared_bytes"]), call) for call in candidate["launches"]]
        own = {name: driver.allocate(size) for name, size in candidate["scratch"].items()}
        path = folder / f"{candidate['name']}.bin"
        if path.is_file():
            own["parameters"] = driver.allocate(np.fromfile(path, np.uint8))
        places = [
            own
            | {f"input_{i}": at for i, at in enumerate(inputs[index])}
            | {f"output_{i}": at for i, at in enumerate(outputs[index])}
            for index in range(sets)
        ]

        def enqueue(index: int, calls: Any = calls, places: Any = places) -> None:
            for function, call in calls:
                driver.launch(
                    function,
                    tuple(call["grid"]),
                    tuple(call["threads"]),
                    call["shared_bytes"],
                    [places[index % sets][name] for name in call["arguments"]],
                    call["integers"],
                )

        for address, size in zip(outputs[0], item["outputs"], strict=True):
            driver.upload(address, np.full(size, 0xFF, np.uint8))  # NaN, so that an unwritten value shows
        enqueue(0)
        results.append(
            [
                _kept(driver.download(address, (size // dtype.itemsize,), dtype), *shape)
                for address, size, shape in zip(outputs[0], item["outputs"], item["meaningful"], strict=True)
            ]
        )
        entries.append({"name": candidate["name"], "seconds": driver.seconds(enqueue)})
        for address in own.values():
            driver.free(address)
    for entry, result in zip(entries, results, strict=True):
        entry["agrees"] = sum(_agree(result, other) for other in results) * 2 > len(results)
    for address in (a for group in (*inputs, *outputs) for a in group):
        driver.free(address)
    return entries


def _values(rng: np.random.Generator, size: int, dtype: np.dtype[Any], of_stack: bool) -> NDArray[Any]:
    """Random inputs; those of TVM's operators are positive, so that roots and logarithms are numbers."""
    if dtype == np.int8:
        return rng.integers(-128, 128, size).astype(np.int8)
    values = rng.normal(size=size // dtype.itemsize)
    return (values if of_stack else np.abs(values) + 0.1).astype(dtype)


def _kept(memory: NDArray[Any], planes: int, chunk: int, channels: int) -> NDArray[Any]:
    """Values without the unused channels of the last chunk."""
    cut = memory.reshape(planes, -1, chunk).transpose(0, 2, 1).reshape(planes * chunk, -1)
    return cut[:channels]


def _agree(one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> bool:
    for a, b in zip(one, other, strict=True):
        if a.dtype == np.int8:
            if not np.array_equal(a, b):
                return False
            continue
        left, right = a.astype(np.float32), b.astype(np.float32)
        distance = float(np.linalg.norm(left - right)) / max(1e-20, float(np.linalg.norm(right)))
        if not distance < TOLERANCE:  # NaN never agrees
            return False
    return True


def collect(folder: Path) -> tuple[str, list[Record], list[TraceRecord]]:
    """The architecture and the fastest candidates, of this project's kernels and of TVM's operators.

    Raises :class:`InputError` if nothing was measured.
    """
    results = folder / "results.jsonl"
    if not results.is_file():
        raise InputError("holds no measurements", where=str(folder), hint="Measure it on a GPU first.")
    known = json.loads((folder / "tasks.json").read_text())
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in results.read_text().splitlines():
        entry = json.loads(line)
        found[entry["name"].split("-")[0]].append(entry)
    kernels: list[Record] = []
    operators: list[TraceRecord] = []
    for number, item in enumerate(known["tasks"]):
        entries = [entry for entry in found[f"{number:04d}"] if entry["agrees"]]
        if not entries:
            continue
        best = min(entries, key=lambda entry: float(entry["seconds"]))
        by_name = {candidate["name"]: candidate for candidate in item["candidates"]}
        chosen = by_name[best["name"]]
        last = len(entries), best["device"], best["date"]
        if item["kind"] == "operator":
            default = [entry["seconds"] for entry in entries if by_name[entry["name"]]["trace"] is None]
            record = TraceRecord(
                item["signature"], chosen["trace"], best["seconds"], default[0] if default else None, *last
            )
            operators.append(record)
            continue
        schedule = schedule_of(chosen["schedule"])
        kernels.append(Record(item["signature"], item["height"], item["width"], schedule, best["seconds"], *last))
    return known["arch"], kernels, operators


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Driver(), seconds=float(sys.argv[2]) if len(sys.argv) > 2 else None)
