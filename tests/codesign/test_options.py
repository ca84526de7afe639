"""Groups of options: a command takes a dataclass whose fields are its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click
import pytest
import typer
from typer.testing import CliRunner

from codesign.cli import app as commands
from codesign.cli.console import with_groups
from codesign.workflows.simulate import _Cancelled, _in_background


@dataclass(frozen=True)
class Shape:
    name: Annotated[str, typer.Argument(help="What to draw.")]
    sides: Annotated[int, typer.Option(help="How many.", min=3)] = 4
    fill: Annotated[Path | None, typer.Option(help="A picture.")] = None


def called(*arguments: str) -> tuple[int, list[Any]]:
    """Exit status, and what the command got."""
    app, got = typer.Typer(), []

    @app.command()
    @with_groups
    def draw(*, shape: Shape, twice: Annotated[bool, typer.Option("--twice")] = False) -> None:
        """Draw a shape."""
        got.extend((shape, twice))

    return CliRunner().invoke(app, list(arguments)).exit_code, got


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["square"], (Shape("square"), False)),
        (["square", "--twice"], (Shape("square"), True)),
        (["star", "--sides", "5", "--fill", "a.png"], (Shape("star", 5, Path("a.png")), False)),
    ],
)
def test_a_group_is_one_value(arguments: list[str], wanted: tuple[Shape, bool]) -> None:
    assert called(*arguments) == (0, list(wanted))


@pytest.mark.parametrize("arguments", [[], ["square", "--sides", "2"], ["square", "--sides", "four"], ["a", "b"]])
def test_the_fields_are_checked_as_options(arguments: list[str]) -> None:
    status, got = called(*arguments)
    assert status == 2
    assert got == []


def test_no_command_has_an_option_twice() -> None:
    """Groups share names only with themselves."""
    pending: list[click.Command] = [typer.main.get_command(commands.app)]
    while pending:
        command = pending.pop()
        names = [name for parameter in command.params for name in parameter.opts]
        assert len(names) == len(set(names)), command.name
        pending += getattr(command, "commands", {}).values()


def test_leaving_early_cancels_work_in_the_background() -> None:
    went: list[BaseException | None] = []

    def work(going: Any) -> None:
        try:
            while True:
                going(0.0)
        except BaseException as error:
            went.append(error)
            raise

    with pytest.raises(ValueError, match="early"), _in_background(work):
        raise ValueError("early")
    assert isinstance(went[0], _Cancelled)
    with _in_background(lambda going: 7) as result:
        assert result() == 7
