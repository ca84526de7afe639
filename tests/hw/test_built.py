"""Libraries are loaded only as they were built, for the key that they were built for, from inside the cache."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hw_programs import program

from codesign.hw.built import built
from codesign.hw.errors import InputError, SimulationError, SpecError
from codesign.hw.program.program import Program
from codesign.hw.spec import TINY, AccelSpec, load_spec

COMPILER = shutil.which("g++") or "g++"


class Builds:
    """Builds a library that answers a number, and counts how often."""

    def __init__(self, answer: int) -> None:
        self.answer, self.count = answer, 0

    def __call__(self, target: Path) -> None:
        self.count += 1
        source = f'extern "C" int answer() {{ return {self.answer}; }}'
        command = [COMPILER, "-x", "c++", "-shared", "-fPIC", "-o", str(target), "-"]
        subprocess.run(command, input=source, text=True, check=True)


def _answer(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).answer())


def test_built_once(tmp_path: Path) -> None:
    build = Builds(7)
    path = built(tmp_path / "cache", "a.so", "key", build)
    assert built(tmp_path / "cache", "a.so", "key", build) == path
    assert (build.count, _answer(path)) == (1, 7)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "planted", "link", "no seal", "text seal", "other key"])
def test_what_was_not_built_here_is_built_again(tmp_path: Path, damage: str) -> None:
    evil, good = Builds(666), Builds(7)
    evil(tmp_path / "evil.so")
    path, key = built(tmp_path / "cache", "a.so", "key", good), "key"
    content = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(content[:100])
        case "empty":
            path.write_bytes(b"")
        case "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "planted":
            shutil.copy(tmp_path / "evil.so", path)
        case "link":
            path.rename(tmp_path / "same.so")
            path.symlink_to(tmp_path / "same.so")
        case "no seal":
            path.with_name("a.so.sha256").unlink()
        case "text seal":
            path.with_name("a.so.sha256").write_bytes(b"\xff\xfe nonsense")
        case "other key":
            key = "another key"
    again = built(tmp_path / "cache", "a.so", key, good)
    assert good.count == 2
    shutil.copy(again, tmp_path / f"{damage.replace(' ', '-')}.so")  # a loader may know the other path already
    assert _answer(tmp_path / f"{damage.replace(' ', '-')}.so") == 7
    assert not path.is_symlink()


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def failing(target: Path) -> None:
        target.write_bytes(b"half")
        raise SimulationError("no")

    with pytest.raises(SimulationError):
        built(tmp_path, "a.so", "key", failing)
    assert not [name for name in os.listdir(tmp_path) if not name.endswith(".lock")]


@pytest.mark.parametrize("name", ["../a.so", "a/b.so", "/a.so", "a.txt", "", "a\0.so", "a" * 200 + ".so"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        built(tmp_path, name, "key", Builds(1))


NAMES = [
    "",
    "../x",
    "a/b",
    "/abs",
    "..\\x",
    "a\nb",
    "a\0b",
    "x" * 65,
    "ü",
    "a b",
    "$HOME",
    "a;b",
    "a'b",
    "[/red]",
    "\x1b[31m",
]


@pytest.mark.parametrize("name", [*NAMES, 7, None, ["a"]])
def test_machines_with_such_names(tmp_path: Path, name: object) -> None:
    fields = {**TINY.to_dict(), "name": name}
    with pytest.raises(SpecError, match="a name has"):
        AccelSpec(**fields)
    if isinstance(name, str) and "\0" not in name:
        text = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\x1b", "\\u001b")
        (tmp_path / "m.toml").write_text(f'extends = "tiny"\nname = "{text}"\n')
        with pytest.raises(SpecError, match="a name has"):
            load_spec(tmp_path / "m.toml")


def test_program_files_with_such_names(tmp_path: Path) -> None:
    data = program().to_bytes()
    start = len(b"SCANLINE\x01") + 4
    size = int.from_bytes(data[start - 4 : start], "little")
    for name in [*NAMES, 7, None]:
        header = json.loads(data[start : start + size])
        header["spec"]["name"] = name
        text = json.dumps(header).encode()
        body = data[: start - 4] + len(text).to_bytes(4, "little") + text + data[start + size : -32]
        with pytest.raises(InputError, match="not a complete"):
            Program.from_bytes(body + hashlib.sha256(body).digest())


@pytest.mark.parametrize("stem", ["my machine", "ünïcode", "a" * 90, "x.y-z_1", "[red]"])
def test_a_file_s_name_becomes_a_machine_s(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.toml"
    path.write_text('extends = "tiny"\n')
    assert load_spec(path).name


@pytest.mark.parametrize(
    "text",
    [
        "co_lanes = 2147483648",
        "co_lanes = 1073741824",
        "pixel_lanes = 8192",
        f"clock_hz = {10**400}",
        f"scratchpad_bytes = {'9' * 5000}",
        "a = " + "[" * 20000,
        "clock_hz = nan",
        "clock_hz = inf",
        "clock_hz = -1.0",
        "queue_depth = 4611686018427387904",
        "extends = [1]",
        "bus_bytes = -8",
        "buffers = 1e3",
    ],
)
def test_machines_that_are_none(tmp_path: Path, text: str) -> None:
    start = "" if text.startswith("extends") else 'extends = "tiny"\n'
    (tmp_path / "m.toml").write_text(f"{start}{text}\n")
    with pytest.raises((SpecError, InputError)):
        load_spec(tmp_path / "m.toml")
