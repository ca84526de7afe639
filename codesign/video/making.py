"""The identity of an output video: everything its frames depend on, stored in its metadata, compared on --resume."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata, util
from pathlib import Path
from typing import Any

import codesign
from codesign.hw.errors import InputError
from codesign.hw.spec import load_spec
from codesign.video.targets import Device
from codesign.workflows.sources import Source

_WORDS = {
    "source": "another source",
    "network": "another network",
    "weights": "other weights",
    "values": "another range of values",
    "target": "another target",
    "accelerator": "another accelerator",
    "size": "another size",
    "tile": "another size of tiles",
    "release": "another release of this project or of the libraries that it computes with",
}
"""The fields compared, in the order in which a difference is reported."""

_LIBRARIES = ("torch", "numpy", "av", "apache-tvm")


def making_of_run(path: Path, source: Source, device: Device, size: tuple[int, int]) -> dict[str, Any]:
    """Everything that decides the frames of an output, as JSON values; contents by their SHA-256.

    ``size``: (width, height) of the output. Raises :class:`InputError` for a source or a specification that cannot be
    read. Reads the source once from end to end, which takes seconds per gigabyte.
    """
    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), hint="Check the file's permissions."
        ) from error
    spec = load_spec(device.accel) if device.target == "scanline-model" else None
    return {
        "source": digest,
        "network": source.name,
        "weights": _weights(source),
        "values": str(source.values),
        "target": device.target,
        "accelerator": None if spec is None else _digest(json.dumps(spec.to_dict(), sort_keys=True).encode()),
        "size": list(size),
        "tile": device.tile,
        "release": _release(),
    }


def difference(text: str | None, making: dict[str, Any]) -> str | None:
    """The first field of ``making`` that the stored ``text`` of an output contradicts, in words; None if none does."""
    try:
        kept = json.loads(text or "")
    except ValueError:
        kept = None
    if not isinstance(kept, dict) or not set(_WORDS) <= set(kept):
        return "something else than this release's restore"
    return next((words for key, words in _WORDS.items() if kept[key] != making[key]), None)


def _weights(source: Source) -> str:
    """Digest of all parameters and buffers, or of the model's file."""
    if source.module is None:
        assert source.path is not None
        return _digest(source.path.read_bytes())
    digest = hashlib.sha256()
    for name, tensor in sorted(source.module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _release() -> str:
    """This project's version and a digest of its code (an editable install changes without a new version)."""
    code = hashlib.sha256()
    for room in ("codesign", "codesign.compile", "codesign.hw", "codesign.kernels", "codesign.sim"):
        found = util.find_spec(room)
        for folder in (found and found.submodule_search_locations) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                code.update(path.read_bytes())
    versions = [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
    return f"codesign {codesign.__version__} {code.hexdigest()[:16]}, {', '.join(versions)}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
