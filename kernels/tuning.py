"""Search on a GPU: candidates are built anywhere, measured where there is a driver, and the winners recorded.

:func:`prepare` compiles the candidates of stacks into a folder. :func:`measure` times them on a GPU and appends to
``results.jsonl`` there; it needs numpy and a driver alone (``python -m codesign.kernels.tuning FOLDER``) and goes on
where it was interrupted. :func:`collect` reads the winners. A candidate whose result differs from the others' is
reported and never wins.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import CodesignError, InputError
from codesign.hw.files import write_text
from codesign.kernels import stack_search
from codesign.kernels.driver import Driver
from codesign.kernels.nvrtc import compile_cuda_text
from codesign.kernels.stack import Schedule, Stack, grid, layout, pack, render, signature
from codesign.kernels.tuned import Record

KERNEL = "candidate"
TOLERANCE = 1e-2
"""Relative distance of two candidates' FP16 results; INT8 results must be equal."""

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
    """Compile up to ``limit`` candidates of each task into ``folder``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tasks.json"
    known: dict[str, Any] = {"arch": arch, "tasks": []}
    if path.is_file():
        known = json.loads(path.read_text())
    if known["arch"] != arch:
        raise InputError(f"holds candidates for {known['arch']}", where=str(folder), hint="Take another folder.")
    done = {(item["signature"], item["height"], item["width"]) for item in known["tasks"]}
    for number, task in enumerate(tasks):
        if task.key in done:
            continue
        say(f"build {number + 1} of {len(tasks)}: {task.key[0]}")
        inputs, outputs = tensor_bytes(task)
        item: dict[str, Any] = {
            "signature": task.key[0], "height": task.height, "width": task.width, "precision": task.stack.precision,
            "inputs": inputs, "outputs": outputs, "meaningful": _meaningful(task.stack), "candidates": [],
        }  # fmt: skip
        for schedule in stack_search.candidates(task.stack, arch, task.height, task.width, limit=limit):
            binary = compile_cuda_text(render(task.stack, schedule, KERNEL), arch)
            name = f"{len(known['tasks']):04d}-{len(item['candidates']):02d}"
            (folder / f"{name}.cubin").write_bytes(binary.code)
            (folder / f"{name}.bin").write_bytes(pack(task.stack, schedule)[0])
            placed = layout(task.stack, schedule)
            item["candidates"].append(
                {"name": name, "schedule": asdict(schedule), "threads": placed.warps(task.stack) * 32,
                 "grid": grid(schedule, task.height, task.width), "shared_bytes": placed.shared_bytes,
                 "registers": binary.kernels[0].registers, "spilled_bytes": binary.kernels[0].spilled_bytes}
            )  # fmt: skip
        known["tasks"].append(item)
        write_text(path, json.dumps(known))


def _meaningful(stack: Stack) -> list[list[int]]:
    """Of every output: planes, channels of a chunk, and how many of them mean something."""
    found = []
    for out in stack.outputs:
        channels = stack.channels(out.name) // out.shuffle**2
        found.append([1, 1, 1] if out.format == "planar" else [-(-channels // stack.chunk), stack.chunk, channels])
    return found


def measure(folder: Path, driver: Driver, *, say: Say = print, seconds: float | None = None) -> None:
    """Time every candidate of ``folder`` that has no result yet, for at most ``seconds``.

    Raises :class:`CodesignError` when the GPU is not of the candidates' architecture.
    """
    known = json.loads((folder / "tasks.json").read_text())
    capability = "".join(map(str, driver.capability))
    if known["arch"].removeprefix("sm_").rstrip("a") != capability:
        raise CodesignError(f"is an sm_{capability}, the candidates are for {known['arch']}", where=driver.name)
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
    half = item["precision"] == "fp16"
    touched = sum(item["inputs"]) + sum(item["outputs"])
    sets = max(2, min(32, -(-2 * driver.l2_bytes // touched)))
    inputs = [[driver.allocate(_values(rng, size, half)) for size in item["inputs"]] for _ in range(sets)]
    outputs = [[driver.allocate(size) for size in item["outputs"]] for _ in range(sets)]
    entries: list[dict[str, Any]] = []
    results: list[list[NDArray[Any]]] = []
    for candidate in waiting:
        blob = driver.allocate(np.fromfile(folder / f"{candidate['name']}.bin", np.uint8))
        function = driver.load((folder / f"{candidate['name']}.cubin").read_bytes(), KERNEL, candidate["shared_bytes"])

        def enqueue(index: int, function: Any = function, blob: int = blob, c: Mapping[str, Any] = candidate) -> None:
            which = index % sets
            driver.launch(
                function, tuple(c["grid"]), c["threads"], c["shared_bytes"],
                [*inputs[which], *outputs[which], blob], [item["height"], item["width"]],
            )  # fmt: skip

        for address, size in zip(outputs[0], item["outputs"], strict=True):
            driver.upload(address, np.full(size, 0xFF, np.uint8))  # NaN, so that an unwritten value shows
        enqueue(0)
        dtype = np.float16 if half else np.int8
        results.append(
            [
                _kept(driver.download(address, (size // np.dtype(dtype).itemsize,), dtype), *shape)
                for address, size, shape in zip(outputs[0], item["outputs"], item["meaningful"], strict=True)
            ]
        )
        entries.append({"name": candidate["name"], "seconds": driver.seconds(enqueue)})
        driver.free(blob)
    for entry, result in zip(entries, results, strict=True):
        entry["agrees"] = sum(_agree(result, other) for other in results) * 2 > len(results)
    for address in (a for group in (*inputs, *outputs) for a in group):
        driver.free(address)
    return entries


def _values(rng: np.random.Generator, size: int, half: bool) -> NDArray[Any]:
    if half:
        return rng.normal(size=size // 2).astype(np.float16)
    return rng.integers(-128, 128, size).astype(np.int8)


def _kept(memory: NDArray[Any], planes: int, chunk: int, channels: int) -> NDArray[Any]:
    """Without what only fills up the last chunk: its values are nobody's."""
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
        if not distance < TOLERANCE:  # NaN is no agreement
            return False
    return True


def collect(folder: Path) -> tuple[str, list[Record]]:
    """The architecture and the winners; raises :class:`InputError` where nothing was measured."""
    results = folder / "results.jsonl"
    if not results.is_file():
        raise InputError("holds no measurements", where=str(folder), hint="Measure it on a GPU first.")
    known = json.loads((folder / "tasks.json").read_text())
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in results.read_text().splitlines():
        entry = json.loads(line)
        found[entry["name"].split("-")[0]].append(entry)
    records = []
    for number, item in enumerate(known["tasks"]):
        entries = [entry for entry in found[f"{number:04d}"] if entry["agrees"]]
        if not entries:
            continue
        best = min(entries, key=lambda entry: float(entry["seconds"]))
        schedule = next(c["schedule"] for c in item["candidates"] if c["name"] == best["name"])
        splits = tuple((int(a), int(c)) for a, c in schedule["splits"])
        records.append(
            Record(
                item["signature"], item["height"], item["width"], Schedule(**{**schedule, "splits": splits}),
                best["seconds"], len(entries), best["device"], best["date"],
            )
        )  # fmt: skip
    return known["arch"], records


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Driver(), seconds=float(sys.argv[2]) if len(sys.argv) > 2 else None)
