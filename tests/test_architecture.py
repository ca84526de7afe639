"""ARCHITECTURE.md matches the tree: every folder of code has its line, and every file that it names exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("codesign", "compile", "sim", "kernels", "hw", "tests", "benchmarks")
MOST_FILES = 12
"""Most Python files in a folder, except in folders of independent files."""

ONE_FILE_A_THING = ("compile/operators", "compile/referee", "hw/commands", "codesign/networks", "tests", "benchmarks")


def _rows() -> dict[str, list[str]]:
    table = re.findall(r"^\| `([\w/]+)/` \| .* \| (.+) \|$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    return {folder: re.findall(r"`([\w./]+)`", begin) for folder, begin in table}


def _folders() -> set[str]:
    found = set()
    for room in ROOMS:
        for folder, _, files in os.walk(ROOT / room):  # the links to the rooms are not followed
            if any(name.endswith(".py") for name in files):
                found.add(str(Path(folder).relative_to(ROOT)))
    return found


def test_every_folder_of_code_has_a_line() -> None:
    told = set(_rows())
    inner = {folder for folder in _folders() if folder.split("/")[0] in ("tests", "benchmarks") and "/" in folder}
    assert _folders() - inner - {"sim/cocotb"} <= told, "add it to ARCHITECTURE.md"


def test_every_file_that_is_named_is_there() -> None:
    for folder, files in _rows().items():
        assert files
        for name in files:
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"


def test_no_folder_is_a_heap() -> None:
    for folder in _folders():
        if not folder.startswith(ONE_FILE_A_THING):
            files = [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files: divide it"
