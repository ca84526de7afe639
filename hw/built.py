"""Shared libraries that this project has built and keeps: loaded only if they are what was built, for the same key.

A library is code, so it is trusted no further than its seal: beside ``NAME.so`` lies ``NAME.so.sha256``, a digest over
the key and the library's content. A file that was cut, changed, planted or built for something else does not match,
and is built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from codesign.hw.errors import SimulationError
from codesign.hw.files import replaced, write_text

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}\.so")


def cache_folder() -> Path:
    """Folder of everything that this project keeps between runs, inside the user's own cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "codesign"


def built(folder: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The library ``name`` in ``folder``, built for ``key``: as it was kept, or by ``build``, which is told where to.

    Several processes may ask at once: one builds. Raises :class:`SimulationError` when the folder cannot be used, and
    what ``build`` raises.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of a library in a cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulationError(
            f"cannot keep what is built ({error.strerror})",
            where=str(folder),
            hint="Name a writable folder in XDG_CACHE_HOME.",
        ) from error
    target = folder / name
    if _is_sealed(target, key):
        return target
    with locked(folder / f"{name}.lock"):
        if not _is_sealed(target, key):
            for one in (target, _seal_of(target)):
                if one.is_symlink():  # what is written goes into the cache, not to where a link leads
                    one.unlink()
            with replaced(target) as temporary:
                build(temporary)
                seal = _digest(temporary, key)
                os.chmod(temporary, 0o755)
            write_text(_seal_of(target), seal + "\n")
    return target


def copied(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target``, and to the disk: a library that a crash has cut short would not load."""
    with source.open("rb") as content, target.open("wb") as copy:
        shutil.copyfileobj(content, copy)
        copy.flush()
        os.fsync(copy.fileno())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, alone among processes."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_sealed(target: Path, key: str) -> bool:
    """Whether ``target`` is a regular file, the user's own, with the content that was built for ``key``."""
    try:
        if target.is_symlink() or not target.is_file() or target.stat().st_uid not in (os.geteuid(), 0):
            return False
        return _seal_of(target).read_text().strip() == _digest(target, key)
    except (OSError, UnicodeDecodeError):
        return False


def _seal_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _digest(library: Path, key: str) -> str:
    digest = hashlib.sha256(f"{key}\0".encode())
    with library.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
