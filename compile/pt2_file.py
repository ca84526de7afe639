"""Reads a ``.pt2`` archive without executing anything in it.

``torch.export.load`` trusts its file: it unpickles example inputs and odd weights, loads compiled libraries and hands
symbolic expressions to an evaluator. So the archive is read here, every member that could carry code is refused, the
expressions are checked against a small grammar, and only what remains is written to a new archive in memory, which
torch then reads.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from codesign.hw.errors import InputError

MAX_BYTES = 8 * 2**30
_EXPRESSION = re.compile(
    r"""(?: \s | [-+*/(),] | \d+(?:\.\d+)? | oo | int_oo | (?:positive|integer|negative|nonnegative|zero)=(?:True|False)
        | Symbol\('[a-z]\w*' | (?:Integer|Float|Rational|Mul|Add|Pow|Min|Max|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod
        |ModularIndexing|Eq|Ne|Le|Lt|Ge|Gt|FloorToInt|CeilToInt|IntTrueDiv|TruncToInt)(?=\() | [su]\d+ )+""",
    re.VERBOSE,
)
_TARGETS = re.compile(
    r"(?:torch\.ops\.(?:aten|prims?)\.\w+\.\w+|_operator\.(?:add|sub|mul|floordiv|getitem|eq|ge|le|gt|lt|neg|truediv|mod|pow)|math\.\w+|torch\.sym_\w+)"
)


def read_pt2(path: Path) -> torch.export.ExportedProgram:
    """The exported program in ``path``. Raises :class:`InputError` for anything but a plain, safe archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, NotImplementedError) as error:
        raise _refused(path, f"not a readable .pt2 archive ({error})") from error
    try:
        return torch.export.load(io.BytesIO(_rebuilt(members, path)))
    except InputError:
        raise
    except Exception as error:  # torch raises every kind on damaged archives
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refused(path, f"torch cannot read this program ({reason})") from error


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        what,
        where=str(path),
        hint="Save the network again with torch.export.save of this torch release, its weights plain tensors.",
    )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    """Member name below the archive's root folder -> content."""
    infos = archive.infolist()
    if sum(info.file_size for info in infos) > MAX_BYTES:
        raise _refused(path, "the archive unpacks to more than 8 GiB")
    members: dict[str, bytes] = {}
    for info in infos:
        name = info.filename.split("/", 1)[1] if "/" in info.filename else info.filename
        if name in members:
            raise _refused(path, f"the archive has two members called '{name}'")
        members[name] = archive.read(info)
    return members


def _rebuilt(members: dict[str, bytes], path: Path) -> bytes:
    """A new archive of the members that are plain data, each checked."""
    if "models/model.json" not in members:
        raise _refused(path, "the archive holds no exported program")
    program = json.loads(members["models/model.json"])
    for text in _strings(program, "expr_str"):
        if not _EXPRESSION.fullmatch(text):
            raise _refused(path, f"a size expression that is more than arithmetic: {text[:80]!r}")
    _check_operators(program, path)
    kept = {
        "archive_format": members.get("archive_format", b"pt2"),
        "archive_version": members.get("archive_version", b"0"),
        "byteorder": members.get("byteorder", b"little"),
        ".data/version": b"3\n",
        "models/model.json": members["models/model.json"],
        "data/sample_inputs/model.pt": b"",
    }
    for folder in ("weights", "constants"):
        listing = f"data/{folder}/model_{folder}_config.json"
        if listing not in members:
            raise _refused(path, f"the archive lists no {folder}")
        kept[listing] = members[listing]
        for name, payload in json.loads(members[listing])["config"].items():
            file = str(payload["path_name"])
            plain = file.startswith(("weight_", "tensor_")) and "/" not in file
            if payload.get("use_pickle") or not plain:
                raise _refused(path, f"'{name}' is stored as a pickle, which could run code")
            if f"data/{folder}/{file}" not in members:
                raise _refused(path, f"the data of '{name}' are missing")
            kept[f"data/{folder}/{file}"] = members[f"data/{folder}/{file}"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"model/{name}", content)
    return buffer.getvalue()


def _check_operators(program: Any, path: Path) -> None:
    graph = program["graph_module"]["graph"]
    for node in graph["nodes"]:
        if not _TARGETS.fullmatch(str(node["target"])):
            raise _refused(path, f"operator '{node['target']}' ('{node.get('name', '')}') is not one of torch's own")


def _strings(value: Any, key: str) -> Iterator[str]:
    """Every string under ``key``, at any depth of parsed JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key and isinstance(item, str):
                yield item
            else:
                yield from _strings(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
