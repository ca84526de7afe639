"""Files are complete or do not exist."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.hw.errors import InputError
from codesign.hw.files import replaced, write_bytes, write_text


def test_written_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größer")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "größer"
    write_bytes(tmp_path / "a.txt", b"\x00\x01")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"writing failed.*untouched"), replaced(path), open("/dev/full", "w") as full:
        full.write("x" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write here"):
        write_text(tmp_path / "absent" / "a.txt", "")


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    (tmp_path / "between").symlink_to("real/a.txt")
    link.symlink_to("between")
    write_text(link, "new")  # to a file that is not there yet
    assert real.read_text() == "new"
    real.chmod(0o600)
    write_text(link, "newer")
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("newer", 0o600)
    assert link.is_symlink()
    assert (tmp_path / "between").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["between", "link.txt", "real"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError):
        write_text(tmp_path / "loop", "lost")
    assert (tmp_path / "loop").is_symlink()


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "")
    (tmp_path / "real").write_text("x")
    for name in ("real/", "absent/"):
        with pytest.raises(InputError, match="folder"):
            write_text(f"{tmp_path}/{name}", "")
    with pytest.raises(InputError, match="cannot write here"):
        write_text(tmp_path / ("a" * 300), "")


def test_pipes_are_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
            write_text(tmp_path / name, name)
            content, _ = reader.communicate()
        assert content == name.encode()
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_devices_are_written_in_place(tmp_path: Path) -> None:
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_text("x")
    except OSError:
        pytest.skip("only root may make a device, and not everywhere")
    write_text(null, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert os.listdir(tmp_path) == ["null"]
    full = tmp_path / "full"
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    with pytest.raises(InputError, match="writing failed"):
        write_text(full, "x")
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs Linux's /dev/stdout")
def test_standard_output_by_its_name(tmp_path: Path) -> None:
    """Piped, and redirected to a file: other lines stay, and the file is not replaced under the shell's hands."""
    code = """import sys; from codesign.hw.files import write_text
print("before", flush=True); write_text("/dev/stdout", "figures\\n"); print("after")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("before\nfigures\nafter\n", "")
    with (tmp_path / "all.txt").open("a") as output:
        subprocess.run([sys.executable, "-c", code], stdout=output, check=True)
    assert (tmp_path / "all.txt").read_text() == "before\nfigures\nafter\n"


def test_the_process_keeps_its_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads create files meanwhile."""
    asked: list[int] = []
    monkeypatch.setattr(os, "umask", asked.append)
    write_text(tmp_path / "a.txt", "")
    assert not asked


@pytest.mark.parametrize("name", ["a" * 255, "a." + "b" * 253, ".hidden", "x.tar.gz", "ü" * 127])
def test_any_name(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]
