"""A folder of simulations: snapshots from which interrupted ones continue, and results of finished ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.files import replaced, write_bytes
from codesign.hw.program.program import Program
from codesign.sim.model import Dram, Model

_HEADER = struct.Struct("<qd")  # first cycle, seconds


@dataclass(frozen=True)
class Checkpoint:
    """One simulation's files in the folder; their name depends on program, frame, memory behaviour and build."""

    folder: Path
    key: str

    @staticmethod
    def of(
        folder: Path, program: Program, memory: NDArray[np.uint8], dram: Dram, library: Path, timeline: bool
    ) -> Checkpoint:
        """Raises :class:`InputError` if the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot keep simulations here ({error.strerror})", where=str(folder), hint="Choose another folder."
            ) from error
        digest = hashlib.sha256(program.to_bytes())
        digest.update(memory.tobytes())
        digest.update(repr((dataclasses.astuple(dram), library.name, timeline)).encode())
        return Checkpoint(folder, f"{program.spec.name}-{digest.hexdigest()[:16]}")

    @property
    def _result(self) -> Path:
        return self.folder / f"{self.key}.npz"

    @property
    def _state(self) -> Path:
        return self.folder / f"{self.key}.state"

    def finished(self) -> dict[str, Any] | None:
        """The fields of a finished run's result."""
        if not self._result.exists():
            return None
        with np.load(self._result) as kept:
            notes = json.loads(str(kept["notes"]))
            outputs = {name: kept[f"output {name}"] for name in notes.pop("outputs")}
            activity = kept.get("activity", None)
        return {**notes, "outputs": outputs, "counters": Counters(**notes["counters"]), "activity": activity}

    def keep(self, result: dict[str, Any]) -> None:
        """Keep a finished run's result and remove its snapshot."""
        outputs: dict[str, Any] = result["outputs"]
        notes = {
            "outputs": list(outputs),
            "counters": dataclasses.asdict(result["counters"]),
            "wall_seconds": result["wall_seconds"],
            "started_at": result["started_at"],
        }
        arrays = {f"output {name}": value for name, value in outputs.items()}
        if result["activity"] is not None:
            arrays["activity"] = result["activity"]
        with replaced(self._result) as temporary:
            np.savez(temporary, notes=np.array(json.dumps(notes)), **arrays)
        self._state.unlink(missing_ok=True)

    def save(self, model: Model, first: int, seconds: float) -> None:
        """Keep an unfinished run: the model, its first cycle and its seconds so far."""
        content = _HEADER.pack(first, seconds) + model.save()
        write_bytes(self._state, hashlib.sha256(content).digest() + content)

    def restore(self, model: Model) -> tuple[int, float] | None:
        """Restore ``model`` to the point of interruption; returns its first cycle and its seconds so far, or None."""
        try:
            data = self._state.read_bytes()
        except OSError:
            return None
        content = data[32:]
        if len(content) < _HEADER.size or hashlib.sha256(content).digest() != data[:32]:
            return None
        first, seconds = _HEADER.unpack(content[: _HEADER.size])
        model.restore(content[_HEADER.size :])
        return first, seconds
