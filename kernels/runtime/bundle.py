"""A network's launches as files, to run on a machine with little more than a driver: benchmarks and remote checks.

``launches.json`` lists the launches and their tensors, ``kernels.cubin`` is the machine code, ``parameters.bin`` the
launches' parameters, concatenated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.errors import InputError
from codesign.kernels.runtime.driver import Driver
from codesign.kernels.runtime.launch import Launch, Stored


@dataclass(frozen=True)
class Bundle:
    """Launches in order over named tensors; ``input`` and ``output`` are the network's."""

    launches: tuple[Launch, ...] = field(repr=False)
    stored: Mapping[str, Stored] = field(repr=False)
    input: str
    output: str
    binary: bytes = field(repr=False)

    def save(self, folder: Path) -> None:
        """Write the three files."""
        folder.mkdir(parents=True, exist_ok=True)
        entries, blob = [], bytearray()
        for launch in self.launches:
            entry = {key: value for key, value in vars(launch).items() if key not in ("source", "parameters")}
            entries.append(entry | {"first": len(blob), "bytes": len(launch.parameters)})
            blob += launch.parameters + bytes(-len(launch.parameters) % 256)
        (folder / "kernels.cubin").write_bytes(self.binary)
        (folder / "parameters.bin").write_bytes(blob)
        tensors = [asdict(tensor) for tensor in self.stored.values()]
        data = {"input": self.input, "output": self.output, "tensors": tensors, "launches": entries}
        (folder / "launches.json").write_text(json.dumps(data))

    @staticmethod
    def load(folder: Path) -> Bundle:
        """Read a folder written by :meth:`save`. Raises :class:`InputError` for any other."""
        try:
            data = json.loads((folder / "launches.json").read_text())
            blob, binary = (folder / "parameters.bin").read_bytes(), (folder / "kernels.cubin").read_bytes()
        except OSError as error:
            raise InputError(
                f"is not a bundle ({error})", where=str(folder), hint="Give a folder written by Bundle.save."
            ) from error
        launches = []
        for entry in data["launches"]:
            first, size = entry.pop("first"), entry.pop("bytes")
            lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
            launches.append(Launch(**{**entry, **lists}, source="", parameters=blob[first : first + size]))
        stored = {item["name"]: Stored(**item) for item in data["tensors"]}
        return Bundle(tuple(launches), stored, data["input"], data["output"], binary)


class Loaded:
    """A bundle on a GPU, with its parameters and intermediate tensors allocated."""

    def __init__(self, bundle: Bundle, driver: Driver) -> None:
        self.bundle, self.driver = bundle, driver
        shared: dict[str, int] = {}
        for launch in bundle.launches:
            shared[launch.kernel] = max(shared.get(launch.kernel, 0), launch.shared_bytes)
        self._functions = {name: driver.load(bundle.binary, name, size) for name, size in shared.items()}
        self._parameters = [
            driver.allocate(np.frombuffer(launch.parameters or bytes(16), np.uint8)) for launch in bundle.launches
        ]
        ends = (bundle.input, bundle.output)
        self._inner = {n: driver.allocate(t.bytes) for n, t in bundle.stored.items() if n not in ends}

    def enqueue(self, source: int, result: int) -> None:
        """Launch the network from device address ``source`` to ``result``."""
        at = self._inner | {self.bundle.input: source, self.bundle.output: result}
        for launch, parameters in zip(self.bundle.launches, self._parameters, strict=True):
            addresses = [at[name] for name in (*launch.inputs, *launch.outputs)]
            self.driver.launch(
                self._functions[launch.kernel],
                launch.grid,
                launch.threads,
                launch.shared_bytes,
                [*addresses, parameters] if launch.parameters else addresses,
                launch.integers,
            )

    def graphs(self, pairs: Sequence[tuple[int, int]]) -> list[Callable[[], None]]:
        """One CUDA graph of the whole network per (source, result)."""
        return [self.driver.capture(lambda pair=pair: self.enqueue(*pair)) for pair in pairs]  # type: ignore[misc]

    def run(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Run one frame, given and returned in memory layout; the result's memory is poisoned first."""
        out = self.bundle.stored[self.bundle.output]
        source, result = self.driver.allocate(frame), self.driver.allocate(np.full(out.bytes, 0xFF, np.uint8))
        self.enqueue(source, result)
        value = self.driver.download(result, out.shape, out.dtype)
        self.driver.free(source)
        self.driver.free(result)
        return value
