"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codesign.hw.errors import InputError


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes ``path``'s place, on failure nothing changes.

    Raises :class:`InputError` when the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
    except OSError as error:
        raise InputError(
            f"cannot write here ({error.strerror})", where=str(target), hint="Choose an existing, writable folder."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"writing failed ({error.strerror}); an earlier file of this name is untouched",
            where=str(target),
            hint="Free some disk space or choose another folder.",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)
