"""Files that are either complete or not there, and devices and links that stay what they are."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codesign.hw.errors import InputError


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; on success its content becomes ``path``'s, on failure nothing changes.

    A regular file is replaced at once, where a link leads to if ``path`` is one, and keeps its permissions. What is no
    regular file (a device, a FIFO, ``/dev/stdout``) is written in place, and stays. Raises :class:`InputError` when
    ``path`` is a folder, its folder is missing or not writable, or the disk is full.
    """
    if str(path).endswith("/"):
        raise InputError("is the name of a folder", where=str(path), hint="Give the name of a file.")
    if _is_written_in_place(path):
        with _written_in_place(Path(path)) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    try:
        if target.is_symlink():
            raise InputError("is a link that leads back to itself", where=str(path), hint="Give another name.")
        temporary = _created_beside(target)
    except OSError as error:
        raise InputError(
            f"cannot write here ({error.strerror})", where=str(path), hint="Choose an existing, writable folder."
        ) from error
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"writing failed ({error.strerror}); an earlier file of this name is untouched",
            where=str(path),
            hint="Free some disk space or choose another folder.",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_special(path: str | Path) -> bool:
    """Whether ``path`` is, or links to, a device, a FIFO or a socket. Raises :class:`InputError` for a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # not there yet, or a link that leads nowhere yet
        return False
    if stat.S_ISDIR(mode):
        raise InputError("is a folder", where=str(path), hint="Give the name of a file.")
    return not stat.S_ISREG(mode)


def _is_written_in_place(path: str | Path) -> bool:
    """Special files, and open files by their number (``/dev/stdout``, ``/proc/self/fd/3``), wherever they lead."""
    if is_special(path):
        return True
    step, seen = os.path.abspath(path), 0
    while os.path.islink(step) and seen < 40:
        folder = os.path.realpath(os.path.dirname(step))
        if folder.startswith("/proc/"):
            return True
        step, seen = os.path.join(folder, os.readlink(step)), seen + 1
    return False


@contextmanager
def _written_in_place(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        temporary = Path(folder) / f"content{path.suffix}"
        temporary.touch()
        yield temporary
        try:
            # Never truncated: a file that standard output leads to may hold other lines already.
            with temporary.open("rb") as content, open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as device:
                shutil.copyfileobj(content, device)
        except OSError as error:
            raise InputError(f"writing failed ({error.strerror})", where=str(path)) from error


def _created_beside(target: Path) -> Path:
    """An empty file in the folder of ``target``, with the permissions that ``target`` has or would get."""
    # Writers choose their format by the name's ending.
    ending = target.suffix if len(target.suffix) < 40 else ""
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{ending}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    with suppress(OSError):
        earlier = os.stat(target)
        os.chmod(temporary, earlier.st_mode & 0o777)
        os.chown(temporary, earlier.st_uid, earlier.st_gid)
    return temporary


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)
