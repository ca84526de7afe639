"""Only text reaches a terminal: foreign names neither style nor steer it, and outputs destroy nothing."""

from __future__ import annotations

import io
import json
import os
import stat
import unicodedata
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from rich.table import Table
from rich.text import Text

from codesign.cli import app as cli
from codesign.cli import console
from codesign.cli.console import PlainConsole, plain

HOSTILE = (
    "[/red]",
    "[bold]x[/bold]",
    "[link=http://a]b[/link]",
    ":smiley:",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "a\rb",
    "a\bb",
    "\u202egnp.exe",
    "\u2066x",
    "\u200b",
    "\udc80",
    "\x00",
    "\x7f",
    "${HOME}",
    "%s%n",
    "{0}",
    "\u2028",
)


def test_text_that_steers_is_spelled_out() -> None:
    assert plain("größer, 4 µJ\n\tx → y") == "größer, 4 µJ\n\tx → y"
    assert plain("\x1b[31m\x9b\u202e\udc80") == "\\x1b[31m\\x9b\\u202e\\udc80"


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_is_shown_and_steers_nothing(text: str) -> None:
    shown = plain(text)
    shown.encode("utf-8")
    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]
    assert plain(shown) == shown


@pytest.mark.parametrize("name", HOSTILE)
def test_every_kind_of_output_is_text_only(name: str) -> None:
    stream = io.StringIO()
    terminal = PlainConsole()
    terminal.file = stream
    terminal._force_terminal = True
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name, Text(name), style="bold")
    for one in (name, Text(name), table, Text.assemble((name, "red"))):
        terminal.print(one)
    printed = stream.getvalue()
    printed.encode("utf-8")
    printed = printed.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[3m", "")
    printed = printed.replace("\x1b[1;31m", "").replace("\x1b[35m", "").replace("\x1b[32m", "").replace("\x1b[33m", "")
    assert plain(name) in printed
    assert "\x9b" not in printed
    assert name.isprintable() or name not in printed


def _onnx(path: Path, names: list[str], last: str = "Relu") -> Path:
    """A chain of convolutions of these names, and one more operator."""
    tensors = ["x", *(f"t{index}" for index in range(len(names)))]
    nodes = [
        helper.make_node("Conv", [tensors[index], "w"], [tensors[index + 1]], name=name, pads=[1, 1, 1, 1])
        for index, name in enumerate(names)
    ]
    nodes.append(helper.make_node(last, [tensors[-1]], ["y"], name=names[-1] + "last"))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 3, 3], [0.1] * 81)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "h", "w"])
    graph = helper.make_graph(nodes, "g", [image], [result], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_names_of_operators(run, tmp_path: Path) -> None:
    """Hostile names are harmless in tables, plans, simulations and errors."""
    names = [name for name in HOSTILE if "\udc80" not in name and "\x00" not in name]
    model = _onnx(tmp_path / "m.onnx", names)
    for command in (("compile",), ("compile", "--explain"), ("simulate", "--backend", "reference")):
        code, out, err = run(command[0], str(model), "--accel", "tiny", "--size", "12x8", *command[1:])
        assert code == 0, err
        assert plain(out) == out
        assert plain(err) == err
    for name in names:
        bad = _onnx(tmp_path / "bad.onnx", [name], "Det")
        code, out, err = run("compile", str(bad), "--accel", "tiny", "--size", "12x8")
        assert code == 1
        assert "Traceback" not in err
        assert plain(err) == err


def test_names_reach_no_generated_code(run, tmp_path: Path) -> None:
    """C, CUDA and LLVM texts are written for regions and kernels by number."""
    names = ["*/ #error x /*", '"; #error "', "\\", "a\n#error x\n", "{0}", "}}", "%s", "ünï", "int"]
    model = _onnx(tmp_path / "m.onnx", names)
    for options in (("--accel", "tiny"), ("--target", "cuda"), ("--target", "cuda", "--precision", "int8")):
        code, _, err = run("compile", str(model), "--size", "16x16", *options, "-o", str(tmp_path / "m.so"))
        assert code == 0, err
    code, _, err = run("simulate", str(model), "--size", "16x16", "--accel", "tiny", "--timeline", str(tmp_path / "t"))
    assert code == 0, err
    json.loads((tmp_path / "t").read_text())


@pytest.mark.parametrize("name", ["[/red]", "\x1b]0;title\x07", "\u202egnp", "\udc80", ":smiley: {0} %s"])
def test_names_of_files(run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = name.replace("/", "|")
    _onnx(tmp_path / "m.onnx", ["conv"]).rename(f"{name}.onnx")
    code, out, err = run("compile", f"{name}.onnx", "--accel", "tiny", "--size", "12x8", "-o", f"{name}.so")
    assert code == 0, err
    assert plain(out) == out
    assert plain(err) == err
    for wrong in (
        ("compile", f"./{name}.pt2"),
        ("simulate", name),
        ("compile", "bicubic_x2", "--accel", name),
        ("restore", name, "-o", f"{name}.mp4"),
        ("area", "--node", name),
        ("constants", "mac", "--json", f"no/{name}"),
        ("networks", name),
        ("compile", "bicubic_x2", f"--{name}"),
        ("simulate", "bicubic_x2", "--frames", name),
    ):
        code, out, err = run(*wrong)
        assert code != 0
        assert "Traceback" not in err
        assert plain(err) == err


def test_errors_keep_their_lines_and_warnings_their_colour() -> None:
    with console.err.capture() as captured:
        console.fail(ValueError("x: [bold]y[/]\n  do z"))
        console.warn("w")
    assert captured.get() == "error: x: [bold]y[/]\n  do z\nWarning: w\n"


OUTPUTS = (
    ("constants", "mac", "--json"),
    ("networks", "--json"),
    ("compile", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--json"),
    ("compile", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "-o"),
    ("compile", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--program"),
    ("compile", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--export-qdq"),
    ("simulate", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--save"),
    ("simulate", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--timeline"),
    ("simulate", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--window", "0:50", "--waves"),
    ("simulate", "bicubic_x2", "--accel", "tiny", "--size", "8x8", "--checkpoint"),
    ("explore", "bicubic_x2", "--size", "32x32", "--vary", "scratchpad_bytes=128Ki:256Ki:3", "--csv"),
    ("compare", "bicubic_x2", "--size", "8x8", "--report"),
)
ENDINGS = {"-o": ".so", "--export-qdq": ".onnx", "--save": ".png", "--csv": ".csv", "--waves": ".vcd"}
FOLDERS = ("--checkpoint", "--report")


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: " ".join((command[0], command[-1])))
def test_outputs_follow_links_and_keep_devices(run, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Every option that names an output: a link stays a link and its target is written; a device stays a device."""
    option = command[-1]
    link, real = tmp_path / f"link{ENDINGS.get(option, '')}", tmp_path / f"real{ENDINGS.get(option, '')}"
    if option in FOLDERS:
        real.mkdir()
    link.symlink_to(real)
    code, _, err = run(*command, str(link))
    assert code == 0, err
    assert link.is_symlink()
    assert list(real.iterdir()) if option in FOLDERS else real.stat().st_size > 0
    device = tmp_path / f"null{ENDINGS.get(option, '')}"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_text("x")
    except OSError:
        pytest.skip("only root may make a device, and not everywhere")
    code, _, err = run(*command, str(device))
    assert "Traceback" not in err
    assert code == (1 if option in FOLDERS else 0), err
    assert stat.S_ISCHR(device.stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {link.name, real.name, device.name}


def test_every_output_option_is_among_them() -> None:
    """A new option that takes a path to write to must be added above (those of other tests are named here)."""
    import click
    import typer

    by_write_json = "compare simulate restore explore synth area calibrate tune film-hour int8 temporal stabilise"
    elsewhere = {(name, "--json") for name in by_write_json.split()}
    elsewhere |= {("restore", "-o"), ("tune", "--folder"), ("stabilise", "--save")}
    known = {(command[0], command[-1]) for command in OUTPUTS} | elsewhere
    reads = {"--image", "--input", "--images", "--weights", "--clip", "--results", "--accel", "--data"}

    def walk(command: click.Command) -> list[tuple[str, str]]:
        if isinstance(command, click.Group):
            return [found for one in command.commands.values() for found in walk(one)]
        found = []
        for one in command.params:
            takes_path = isinstance(one.type, click.Path) or type(one.type).__name__ == "TyperPath"
            if isinstance(one, click.Option) and (takes_path or "--json" in one.opts):
                found.append((str(command.name), one.opts[0]))
        return found

    unknown = {(name, option) for name, option in walk(typer.main.get_command(cli.app)) if option not in reads} - known
    assert not unknown


def test_json_on_standard_output_is_ascii(run, tmp_path: Path) -> None:
    model = _onnx(tmp_path / "m.onnx", ["\x1b]0;x\x07\u202e"])
    code, out, err = run("compile", str(model), "--accel", "tiny", "--size", "12x8", "--json", "-")
    assert code == 0, err
    assert plain(out) == out
    assert any("\x1b" in row["name"] for row in json.loads(out)["operators"])
